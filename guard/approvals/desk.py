"""`Approvals`: requests are kept here, persons answer them here, and the guard finds the answers here.

| who           | does                                     | checked                                                                                   |
|---------------|------------------------------------------|-------------------------------------------------------------------------------------------|
| the guard     | `ask`, `find`, `take`, `forget`          | at `find`: signature, `exp`, request open, approver of an issuer that is trusted here, same tenant |
| a person      | `approve`, `reject` (and `aapprove`, ...)| token by the strict verifier, in person, same tenant, bound tokens proven, may answer, not twice |
| a page, a CLI | `pending`, `open`, `wait`                | nothing: whoever may read the desk's key may read what is asked                            |

**Who signs.** The desk does, with its own key, once it has verified the approver's token: a token is never kept, so nobody could verify it again, and what
is kept must be worth something by itself. Where the approver's token is bound to a key, the proof by that key over request and arguments stands in
the answer besides, and is looked at again: whoever holds the desk's key, and not theirs, cannot make one.

**A no.** Whoever may answer may say no, also after a yes and until it is used; that closes the request, and the call is denied as long as a yes would hold.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from secrets import token_urlsafe
from threading import Condition
from typing import TYPE_CHECKING

from guard.approvals.answers import about, belongs, unsaid, with_args
from guard.approvals.drawer import Drawer, Held
from guard.approvals.pending import Answered, AnswerRefused, Pending
from guard.approvals.sealing import Seal
from guard.approvals.trust import Trust
from guard.constraints import canonical
from guard.errors import ConfigError, StateUnavailable, TokenRefused
from guard.events import ApprovalRecord
from guard.model import Approval, Delegation, Rejection, Request
from guard.reasons import ReasonCode
from guard.record.files import directory
from guard.state import MemoryState, open_state
from guard.tokens.approval import APPROVAL, APPROVE, REJECT, REJECTION, Answer, approver_claims, read_answer, to_prove
from guard.tokens.proof import verify_pop
from guard.tokens.text import is_name
from guard.workflow.approvals import answerable, met

if TYPE_CHECKING:
    from guard.house import House
    from guard.identity import Issuer, LocalIssuer
    from guard.ports import Blinds, Revocations, Sink, StateStore

__all__ = ["Approvals"]

_JUST = 5
"""Seconds within which an answer may have come between the guard's look and its question."""
_SOONEST, _LATEST = 0.05, 1.0
"""Seconds between two looks of whoever waits for an answer: they double."""


class Approvals:
    """`guard.ports.Approvals` that keeps requests and takes answers. One line: `Guard(..., approvals=Approvals(trust=...))`."""

    def __init__(
        self,
        store: StateStore | str | None = None,
        *,
        trust: Issuer | LocalIssuer | Sequence[Issuer | LocalIssuer] | None = None,
        groups: str | Mapping[str, str] = "groups",
        clients: Sequence[str] | None = None,
        folder: str | Path | None = None,
        revocations: Revocations | None = None,
        sinks: Sequence[Sink] | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`store`: where requests lie, `sqlite:PATH` or `memory:`; None: `approvals.db` in `folder`. `folder`: where the keys lie; None:
        `$GUARDTRAIL_DIR`, else `.guardtrail`. `trust`: whose tokens approvers show, with an audience of their own; None: as each request says,
        which is enough to answer and not to ask. `groups`: the claim with a person's groups, or issuer -> claim.
        `clients`: the `client_id`s of the pages where persons log in to approve; None: any. Say them where an agent could exchange a person's token.

        What a guard has (`sinks`, `revocations`, its clock), this takes over from it; without a guard answers go to the audit file in `folder`.
        """
        home = (Path(folder) if folder is not None else directory()).absolute()
        given = store if store is not None else f"sqlite:{home / 'approvals.db'}"
        memory = isinstance(given, MemoryState) or given == "memory:"
        try:
            self._seal = Seal(None if memory else home)
        except (OSError, ValueError) as error:
            raise ConfigError(f"Approvals: the key {home / 'keys' / 'approvals.key'} cannot be used: {error}") from None
        self._drawer = Drawer(open_state(given) if isinstance(given, str) else given, self._seal)
        self._trust = None if trust is None else Trust(trust, groups, clients)
        self._plain = [] if self._trust is None else self._trust.plain()
        self.home = None if memory else home
        """Where its keys lie; a guard without an audit file has those of its keyed hashes there too: an answer must find the call again after a restart."""
        self._revocations, self._sinks, self._clock = revocations, sinks, clock
        self._blinds: Blinds | None = None
        self._changed, self._changes = Condition(), 0

    def __repr__(self) -> str:
        return f"Approvals({self._drawer.store!r}, {self._seal.kid})"

    @property
    def jwks(self) -> str:
        """The public key its answers are signed with, as a JWK Set."""
        return self._seal.jwks

    def attach(self, house: House, trust: object) -> None:
        """A guard takes this as its desk. `trust`: whose tokens open its tasks. Raises ConfigError where those could approve."""
        if self._trust is None:
            raise ConfigError("Approvals: a guard needs `trust=`: whose tokens approvers show")
        self._trust.apart(trust)
        self._revocations = self._revocations if self._revocations is not None else house.revocations
        if self._sinks is None:
            self._sinks, self._blinds = house.sinks, house.blinds
        if self._clock is None:
            self._clock = lambda: house.clock.now().timestamp()

    # -- what the guard asks -----------------------------------------------------------------------------------------------------

    @property
    def inline(self) -> bool:
        """As its store."""
        return getattr(self._drawer.store, "inline", False) is True

    def ask(self, request: Request, *, now: int) -> str:
        """Keep a request; the id under which persons see it. Raises where nobody could ever answer it."""
        if not self._plain:
            raise ConfigError("Approvals: without `trust=` nobody could answer")

        def answered(held: Held) -> bool:
            answers = self._answers(held, now)
            if held.closed:
                answers = [each for each in answers if not each.yes]
            elif self._left(held.request, answers, now):
                return False
            return any(each.said.at >= now - _JUST for each in answers)

        return self._drawer.put(request, self._plain, now=now, answered=answered)

    def find(self, task: str, tool: str, args_hmac: str, *, now: int) -> Sequence[Approval | Rejection]:
        """The good answers about this very call. A forged, expired or closed one is left out; a no is handed out as what it is."""
        held = self._drawer.about(task, tool, args_hmac, now=now)
        if held is None or held.closed not in ("", "rejected"):
            return ()
        answers = [each for each in self._answers(held, now) if self._known(each.said.issuer, held.request.tenant)]
        if held.closed:
            return tuple(Rejection(about(each, held.request)) for each in answers if not each.yes)
        return tuple(about(each, held.request) for each in answers if each.yes)

    def take(self, approvals: Sequence[Approval], decision: str, *, now: int) -> bool:
        """Use up the approvals a call rests on, all or none; False where one was used, or its request closed, meanwhile."""
        taken = self._drawer.take(approvals, decision, now=now)
        self._tell()
        return taken

    def forget(self, tenant: str, issuer: str, txn: str, *, now: int) -> None:
        """The task has ended: its requests cannot be read any more, here or in a copy."""
        self._drawer.forget(tenant, issuer, txn, now=now)
        self._tell()

    # -- what persons and pages do -----------------------------------------------------------------------------------------------

    def pending(self, *, every: bool = False) -> Iterator[Pending]:
        """Requests that can be answered, the newest first; `every`: the others too, as long as they are kept. Raises StateUnavailable."""
        now = self._now()
        for each in self._drawer.ids(now=now):
            held = self._drawer.read(each, now=now)
            if held is not None and ((found := self._pending(held, now)).state == "open" or every):
                yield found

    def open(self, id: str) -> Pending:
        """One request, with its arguments while they are there. `id`: of a decision that asked. Raises AnswerRefused `approval.unknown`."""
        now = self._now()
        return self._pending(self._held(id, now), now)

    def approve(self, id: str, token: str, *, proof: str = "") -> Answered:
        """A person says yes to what of the request they may answer. `token`: the person's own. `proof`: where the token is bound to a key: by
        `HolderKey.prove(token, "guardtrail.approve", {"request": id, "args_digest": ...})`, see `to_prove`.

        Raises AnswerRefused where it does not count, StateUnavailable where it could not be kept.
        """
        return self._answer(id, token, proof, yes=True)

    def reject(self, id: str, token: str, *, proof: str = "") -> Answered:
        """A person says no: the request is closed. Raises as `approve`; the proof is for `guardtrail.reject`."""
        return self._answer(id, token, proof, yes=False)

    async def aapprove(self, id: str, token: str, *, proof: str = "") -> Answered:
        """`approve`, awaited."""
        import asyncio

        return await asyncio.to_thread(self.approve, id, token, proof=proof)

    async def areject(self, id: str, token: str, *, proof: str = "") -> Answered:
        """`reject`, awaited."""
        import asyncio

        return await asyncio.to_thread(self.reject, id, token, proof=proof)

    def to_prove(self, id: str) -> dict[str, str]:
        """What the holder of a bound token proves: the arguments of the proof."""
        request = self._held(id, self._now()).request
        return to_prove(request.id, request.args_digest)

    def wait(self, id: str, seconds: float) -> str:
        """The request's state once it is no longer open, or `open` after so many seconds. Looks at once a second, at once where it is answered here."""
        for pause in _pauses(seconds):
            seen = self._changes
            state = self._state(id)
            if state != "open":
                return state
            with self._changed:  # not while the store is looked at: calls want it too
                if self._changes == seen:
                    self._changed.wait(pause)
        return self._state(id)

    async def await_answer(self, id: str, seconds: float) -> str:
        """`wait`, awaited: no thread is held meanwhile."""
        import asyncio

        for pause in _pauses(seconds):
            state = await asyncio.to_thread(self._state, id)
            if state != "open":
                return state
            await asyncio.sleep(pause)
        return await asyncio.to_thread(self._state, id)

    # -- answering ---------------------------------------------------------------------------------------------------------------

    def _answer(self, id: str, token: str, proof: str, *, yes: bool) -> Answered:
        now = self._now()
        held = self._held(id, now)
        request = held.request
        person, groups = self._approver(held, token, now)
        claims: dict[str, object] = {
            "jti": token_urlsafe(16),
            "iss": self._seal.desk,
            "aud": request.tenant,
            "iat": now,
            "request": request.id,
            "task": {"iss": request.issuer, "txn": request.task},
            "tool": request.tool,
            "args_digest": request.args_digest,
            "approver": approver_claims(person),
            "groups": sorted(groups),
            "pop": self._proof(person, token, proof, request, now, yes=yes),
        }
        said = unsaid(claims, person, groups, now)
        asks = answerable(request.asks, request, said)
        if not asks:
            raise AnswerRefused("this person may not answer what the call asks", code="approval.person")
        self._still(held, now, yes=yes)
        within = min(rule.within for ask in request.asks if ask.name in asks for rule in ask.rules)
        text = self._seal.sign(APPROVAL if yes else REJECTION, {**claims, "asks": list(asks), "exp": now + within})
        answer = read_answer(text, self._seal.key, desk=self._seal.desk, tenant=request.tenant, now=now)  # what cannot be read is not kept
        last = not self._left(request, [*self._answers(held, now), answer], now)
        self._keep(held, text, answer, last=last, now=now)
        last = last or (yes and self._complete(request.id, now))
        self._tell()
        state = "rejected" if not yes else "approved" if last else "open"
        return Answered(answer.said.id, request.id, yes, said.approver, asks, now + within, state)

    def _approver(self, held: Held, token: str, now: int) -> tuple[Delegation, frozenset[str]]:
        trust = self._trust or Trust.from_plain(held.trust)
        try:
            person, groups = trust.read(token, now=now)
        except TokenRefused as refused:
            code, text = refused.reason, str(refused)
        else:
            if person.tenant != held.request.tenant:
                raise AnswerRefused("the approver is of another tenant than the task", code="approval.tenant")
            self._revoked(person, now)
            return person, groups
        raise AnswerRefused(f"the approver's token: {text}", code=code)  # outside the handler: a cause could hold its text

    def _revoked(self, person: Delegation, now: int) -> None:
        if self._revocations is None:
            return
        try:
            what = self._revocations.find(person, now=now)
        except Exception:
            raise AnswerRefused(
                "whether the approver's token was revoked could not be asked", code=ReasonCode.REVOCATION_UNAVAILABLE
            ) from None
        if what is not None:
            raise AnswerRefused("the approver's token was revoked", code=ReasonCode.TOKEN_REVOKED)

    def _proof(self, person: Delegation, token: str, proof: str, request: Request, now: int, *, yes: bool) -> str:
        """The approver's own signature, where the token names a key; a token that is bound and not proven is anybody's."""
        if not person.bound and not proof:
            return ""
        try:
            verify_pop(
                proof, person, token, tool=APPROVE if yes else REJECT, args=canonical(to_prove(request.id, request.args_digest)), now=now
            )
            return proof
        except TokenRefused as refused:
            text = str(refused)
        raise AnswerRefused(f"the approver's token: {text}", code=ReasonCode.TOKEN_PROOF)

    def _still(self, held: Held, now: int, *, yes: bool) -> None:
        if held.closed:
            raise AnswerRefused(f"the request is closed: {held.closed}", code="approval.closed")
        if not now < held.request.until:
            raise AnswerRefused("the request waits no more", code="approval.expired")
        if yes and not held.readable:
            raise AnswerRefused("the request is answered", code="approval.closed")

    def _keep(self, held: Held, text: str, answer: Answer, *, last: bool, now: int) -> None:
        """Looked at, recorded, kept: in this order, so that no answer counts that no record names."""
        said = answer.said
        names = sorted(said.names)
        for commit in (False, True):
            why = self._drawer.answer(held, text, names, yes=answer.yes, ends=answer.expires_at, last=last, now=now, commit=commit)
            if why:
                words = {"twice": "this person has approved already", "full": "the request has as many answers as it may have"}
                raise AnswerRefused(words.get(why, "the request was closed meanwhile"), code=f"approval.{why.replace('gone', 'closed')}")
            if not commit:
                self._note(held.request, answer, now)

    def _complete(self, id: str, now: int) -> bool:
        """Two who answer at once do not see each other's answer; who looks once more does."""
        try:
            held = self._drawer.read(id, now=now)
            if held is None or self._left(held.request, self._answers(held, now), now):
                return False
            self._drawer.answered(id, now=now)
        except StateUnavailable:  # kept it is
            return False
        return True

    def _note(self, request: Request, answer: Answer, now: int) -> None:
        said = answer.said
        if self._sinks is None:
            from guard.record import AuditFile

            self._sinks = (AuditFile(self.home or directory()),)
        if self._blinds is None:
            from guard.record import Blinds

            self._blinds = Blinds(self.home)
        try:
            by = self._blinds.origin(request.tenant, said.approver)
            what = "approved" if answer.yes else "rejected"
            note = ApprovalRecord(now * 1_000_000, request.task, what, by, said.id, request.tool, request=request.id, asks=said.asks)  # type: ignore[arg-type]
            for sink in self._sinks:
                tell = getattr(sink, "note", None)
                if tell is not None:
                    tell(note)
        except Exception:
            raise AnswerRefused("the answer could not be recorded; none counts unrecorded", code=ReasonCode.RECORD_UNAVAILABLE) from None

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def _held(self, id: str, now: int) -> Held:
        held = self._drawer.read(id, now=now) if is_name(id) else None
        if held is None:
            raise AnswerRefused("there is no such request: it has lapsed, its task has ended, or it never was", code="approval.unknown")
        return held

    def _known(self, issuer: str, tenant: str) -> bool:
        """Would this desk have taken a token of that issuer? Attack: somebody with the key, and not the configuration, lets in an issuer of theirs."""
        return self._trust is None or self._trust.tenant(issuer) == tenant

    def _answers(self, held: Held, now: int) -> list[Answer]:
        """Those that verify, are about this request and have not expired."""
        found = []
        for text in held.answers:
            try:
                answer = read_answer(text, self._seal.key, desk=self._seal.desk, tenant=held.request.tenant, now=now)
            except TokenRefused:
                continue
            if belongs(answer, held.request):
                found.append(answer)
        return found

    def _left(self, request: Request, answers: Sequence[Answer], now: int) -> tuple[str, ...]:
        """The asks that are not answered yet."""
        given = [each.said for each in answers if each.yes]
        cleared = met({ask.name: ask.rules for ask in request.asks}, request, given, now).asks
        return tuple(ask.name for ask in request.asks if ask.name not in cleared)

    def _pending(self, held: Held, now: int) -> Pending:
        request, answers = held.request, self._answers(held, now)
        left = self._left(request, answers, now)
        state = held.closed or ("approved" if not left else "open" if now < request.until and held.readable else "expired")
        args = self._drawer.args(held, now=now) if held.readable and not held.closed and now < request.until else None
        return Pending(with_args(request, args or b""), state, tuple(answers), left)

    def _state(self, id: str) -> str:
        try:
            return self.open(id).state
        except AnswerRefused:
            return "expired"

    def _now(self) -> int:
        return int(self._clock() if self._clock is not None else time.time())

    def _tell(self) -> None:
        with self._changed:
            self._changes += 1
            self._changed.notify_all()


def _pauses(seconds: float) -> Iterator[float]:
    """How long to wait between two looks, until so many seconds are over."""
    end, pause = time.monotonic() + seconds, _SOONEST
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(_LATEST, 2 * pause)
