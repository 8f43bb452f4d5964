"""The things: plain frozen data that every floor above hands around. No effects, no decisions.

One word per idea (see `docs/words.md`): a *call* of a tool is made under a *delegation* (the verified content of a token) for a
*task*; judges answer with *findings*; the *decision* is what follows from them; the *outcome* is what the body did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from guard.frozen import frozen
from guard.reasons import REASONS, ReasonCode

if TYPE_CHECKING:
    from guard.constraints import Constraint
    from guard.policy.data import AskRule

__all__ = [
    "NO_SCOPE", "Approval", "Bound", "Credential", "CredentialRequest", "Decision", "Delegation", "ExchangeRequest", "Finding", "Grant", "Issued", "Judge", "Outcome",
    "Rejection", "Request", "Signal", "ToolCall", "Unmet", "Verdict",
]  # fmt: skip

Verdict = Literal["allow", "deny", "ask"]
Says = Literal["permit", "forbid", "ask"]
Mode = Literal["enforce", "monitor"]
# The order is the order in which findings are listed, and in which the first forbid names the code.
Judge = Literal["task", "token", "call", "grants", "intent", "flow", "asked", "rules", "external", "state", "record", "guard"]
NO_SCOPE: Final = "guardtrail"
"""`scope` is REQUIRED in a transaction token. This word stands where the subject token has none; no policy maps it, and it grants nothing."""


@frozen
class ToolCall:
    """One tool invocation as a framework hands it over. `id` "": the guard makes one (and then cannot recognise a repeat).

    `proof`: of possession of the key the token names (`guard-pop+jwt`), for this very call; "": none came with it.
    """

    tool: str
    args: Mapping[str, object] = field(default_factory=dict)
    id: str = ""
    proof: str = field(default="", repr=False)


@frozen
class Bound:
    """A call bound to its tool: what policy sees is what runs.

    `args`: keyword arguments for the body, paths already resolved. `values`: the same, typed and normalised, as constraints
    see them. `canonical`: RFC 8785 bytes of `values`.
    """

    tool: str
    args: Mapping[str, object]
    values: Mapping[str, object]
    canonical: bytes


@frozen
class Grant:
    """One `agent_tool` permission of a token (RFC 9396). `args` None: adds no argument constraint; a mapping: closed world.

    `calls`: how often it may be used, counted per root token; None: not limited.
    """

    tool: str
    args: Mapping[str, Constraint] | None = None
    calls: int | None = None


@frozen
class Credential:
    """Which credential this is, never its text. `thumbprint`: RFC 7638 of the bound key, None for a bearer token."""

    issuer: str
    jti: str
    kid: str
    thumbprint: str | None = None

    def __str__(self) -> str:
        return f"{self.issuer}/{self.jti}"


@frozen
class Delegation:
    """The verified content of one token: who the work is for, who acts, on what, until when.

    `origin`: `sub`. `actors`: from the opener of the task to who acts now (RFC 8693 `act`, outermost last here). Only the last
    one and the origin drive decisions; the inner ones are evidence. `task`: (tenant, issuer, `txn`). Times are seconds since the
    epoch. `grants`: None where the token has no `agent_tool` entry.
    """

    kind: str  # typ: at+jwt | txntoken+jwt | guard-att+jwt
    tenant: str
    issuer: str
    txn: str
    credential: Credential
    origin: str
    origin_kind: Literal["person", "workload"]
    actors: tuple[str, ...]
    issued_at: int
    expires_at: int
    audience: str
    intent: str | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] | None = None
    scopes: frozenset[str] = frozenset()
    workload: str | None = None
    person: str | None = None
    session: str | None = None
    local: bool = False
    above: tuple[Delegation, ...] = ()
    """The hops before this one, root first, each with `above` empty: asked wherever this is. Empty: a token that stands alone."""
    bound: Literal["", "jkt", "x5t#S256"] = ""
    """By what the holder must prove itself (`credential.thumbprint`). "": whoever has the token may use it."""
    may_act: str | None = None
    """Who may take it over next (RFC 8693 section 4.4). None: it does not say, and its issuer decides; "": nobody."""

    def hands_to(self, actor: str) -> bool:
        """Does `may_act` let `actor` take it over?"""
        return self.may_act is None or (self.may_act == actor and actor != "")

    @property
    def task(self) -> tuple[str, str, str]:
        return (self.tenant, self.issuer, self.txn)

    @property
    def actor(self) -> str:
        """Who acts now."""
        return self.actors[-1]

    @property
    def depth(self) -> int:
        """Number of actors after the first; the task's opener is depth 0."""
        return len(self.actors) - 1


@frozen
class ExchangeRequest:
    """What is asked of an issuer (RFC 8693 section 2.1): a token for `actor`, never wider than `token`.

    `delegation`: the verified content of `token`. `scopes`: those to keep. `details`: the `authorization_details` asked for (RFC 9396); None: no others than the
    token's own. `seconds`: the lifetime asked for; None: the issuer's choice.
    """

    token: str = field(repr=False)
    delegation: Delegation
    actor: str
    scopes: frozenset[str]
    details: tuple[Mapping[str, object], ...] | None = None
    seconds: int | None = None


@frozen
class CredentialRequest:
    """What is asked of an issuer for one call of `tool`: a token for `resource` (RFC 8707) with `scopes`, for `seconds` at most.

    `token`: of the task, `delegation` its verified content. `details`: the `authorization_details` asked for; None: the token has none.
    """

    token: str = field(repr=False)
    delegation: Delegation
    tool: str
    resource: str
    scopes: frozenset[str]
    seconds: int
    details: tuple[Mapping[str, object], ...] | None = None


@frozen
class Issued:
    """What an issuer answered, as it said it; nothing of it was compared yet. `seconds`: `expires_in`; `scopes`: None where it named none.

    `kind`: `issued_token_type`. `scheme`: `token_type`. `more`: other tokens that came along.
    """

    token: str = field(repr=False)
    kind: str
    scheme: str
    seconds: int | None = None
    scopes: frozenset[str] | None = None
    more: tuple[str, ...] = field(default=(), repr=False)
    client: str = ""
    """The client it was issued to: who may take it back."""


@frozen
class Finding:
    """What one judge says about one call. `text` carries names, never values. `where`: `policy.yaml:12:31`.

    `mode` "monitor": recorded, never entering the verdict. `fix`: the smallest change that would make this judge permit.
    """

    judge: Judge
    says: Says
    code: ReasonCode
    rule: str | None = None
    where: str | None = None
    text: str = ""
    mode: Mode = "enforce"
    fix: str | None = None
    witnesses: tuple[str, ...] = ()


@frozen
class Decision:
    """What follows from the findings. Branch on `blocks` and on nothing else.

    `code` is that of the deciding finding, `default.deny` when nothing spoke. `findings`: every judge, in the order hops, intent,
    flow, asked, rules, external. `witnesses`: decision ids of the earlier steps that made a rule fire. `mode` is "monitor" only
    for an allow with a monitored finding. `policy`: name@digest. `step`: position in the task, from 1; 0 where none was taken.
    """

    id: str
    verdict: Verdict
    mode: Mode
    code: ReasonCode
    findings: tuple[Finding, ...]
    fix: str | None
    witnesses: tuple[str, ...]
    task: str
    step: int
    tool: str
    args_hmac: str
    policy: str
    # In process only: never compared, shown, recorded or pickled. What `explain` reads.
    _details: Callable[[], Mapping[str, object]] | None = field(default=None, compare=False, repr=False)

    @property
    def blocks(self) -> bool:
        """True unless the verdict is exactly allow. (`mode` never lets a deny through: a monitored finding has no part in the verdict.)"""
        return self.verdict != "allow"

    def __bool__(self) -> NoReturn:
        # The attack this stops: `if guard.check(call): run()` is true for any object, also for a deny.
        raise TypeError("a Decision is neither true nor false; use `decision.blocks`")

    @property
    def deciding(self) -> Finding | None:
        """The finding that gave the verdict its code; None for `default.deny` with no finding at all."""
        for finding in self.findings:
            if finding.code == self.code and finding.mode == "enforce":
                return finding
        return None

    def text(self) -> str:
        """One line: what was refused, why, code last in brackets."""
        finding = self.deciding
        why = (finding.text if finding and finding.text else "") or REASONS[self.code].meaning
        word = {"allow": "allowed", "deny": "denied", "ask": "needs approval"}[self.verdict]
        return f"{self.tool or 'call'} {word}: {why} [{self.code}]"

    def for_model(self) -> str:
        """One sentence that is safe to put into a conversation; it names the fix where there is one."""
        return self.text() + (f" Instead: {self.fix}." if self.fix and not self.fix.startswith("none") else "")

    def request(self) -> dict[str, object]:
        """What persons are asked for this decision, without a value. `id`: what `guardtrail approve` takes."""
        asks = [f.rule or str(f.code) for f in self.findings if f.says == "ask" and f.mode == "enforce"]
        return {"id": self.id, "task": self.task, "tool": self.tool, "args_hmac": self.args_hmac, "asks": asks, "decision": self.id}

    def explain(self) -> str:
        """Several lines for a person, with values. Not for logs or models."""
        details = self._details() if self._details is not None else {}
        lines = [
            f"{self.verdict}{' (monitor)' if self.mode == 'monitor' else ''}  {self.code}  {self.tool}",
            f"  task    {self.task}, step {self.step}",
        ]
        for name, value in details.items():
            lines.append(f"  {name:7} {value}")
        for f in self.findings:
            mark = " (monitor)" if f.mode == "monitor" else ""
            lines.append(f"  {f.says:7} {f.code}{mark}  {f.text}" + (f"  {f.where}" if f.where else ""))
        if self.fix:
            lines.append(f"  fix     {self.fix}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, object]:
        """The record's form of the decision: names, codes and keyed hashes, no argument values."""
        return {
            "id": self.id,
            "verdict": self.verdict,
            "mode": self.mode,
            "code": str(self.code),
            "findings": [finding_dict(f) for f in self.findings],
            "fix": self.fix,
            "witnesses": list(self.witnesses),
            "task": self.task,
            "step": self.step,
            "tool": self.tool,
            "args_hmac": self.args_hmac,
            "policy": self.policy,
        }

    def model_dump_json(self) -> str:
        """`to_dict` as compact JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.id, self.verdict, self.mode, self.code, self.findings, self.fix, self.witnesses)
        return (Decision, (*fields, self.task, self.step, self.tool, self.args_hmac, self.policy))


def finding_dict(f: Finding) -> dict[str, object]:
    """A finding as it stands in a record: empty members left out."""
    out: dict[str, object] = {"judge": f.judge, "says": f.says, "code": str(f.code)}
    if f.rule:
        out["rule"] = f.rule
    if f.where:
        out["where"] = f.where
    if f.text:
        out["text"] = f.text
    if f.mode != "enforce":
        out["mode"] = f.mode
    if f.witnesses:
        out["witnesses"] = list(f.witnesses)
    return out


@frozen
class Outcome:
    """What the body did. `unknown`: it may have run (crash, timeout, cancelled midway)."""

    status: Literal["not_executed", "ok", "error", "unknown"]
    value: object = None
    error: BaseException | None = None


@frozen
class Approval:
    """What a person answered to a request: this very call (`task`, `tool`, `args_hmac`), these `asks` (rule ids or codes), once.

    `approver`: the person, `groups`: theirs, as the port has verified them. `at`: epoch seconds. `request`: the decision that asked.
    `names`: every name the person's token gave (`sub`, `person`); `issuer`: whose token it was, "" where the port does not say; `credential`: the
    token itself as revocations are asked about it, None where there was none.
    """

    id: str
    task: str
    tool: str
    args_hmac: str
    asks: tuple[str, ...]
    approver: str
    groups: frozenset[str]
    at: int
    request: str
    names: frozenset[str] = frozenset()
    issuer: str = ""
    credential: Delegation | None = None


@frozen
class Rejection:
    """A person said no. `said`: by whom and to what, as an approval has it; it approves nothing."""

    said: Approval


@frozen
class Unmet:
    """One ask of a request. `name`: its rule, else its code. `rules`: who may answer, of each layer that says it; all must be met."""

    name: str
    code: str
    text: str
    rules: tuple[AskRule, ...]


@frozen
class Request:
    """What persons are asked: every unmet ask of one call at once. `id`: of the decision that asked. Times are epoch seconds.

    `args`: canonical arguments, the only values here; `args_digest`: base64url SHA-256 of them, for what is signed and for nothing else. `control`:
    the names of its control arguments. `until`: from then on it cannot be answered any more. `origin`, `person`, `actors`: for whom and by whom the call is made.
    """

    id: str
    at: int
    until: int
    tenant: str
    issuer: str
    task: str
    tool: str
    args_hmac: str
    args_digest: str
    asks: tuple[Unmet, ...]
    origin: str
    person: str | None
    actors: tuple[str, ...]
    policy: str
    control: tuple[str, ...] = ()
    args: bytes = field(default=b"", repr=False)


@frozen
class Signal:
    """What somebody outside said of a device, a person or a session. `at`: epoch seconds; stale after 15 minutes or a rule's `within`."""

    value: object
    at: int
