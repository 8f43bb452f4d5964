"""A guard, its desk, and persons with tokens: what the tests of approvals stand on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.approvals import Answered, AnswerRefused, Approvals
from guard.approvals.sealing import Seal
from guard.errors import Denied
from guard.identity import HolderKey
from guard.model import Decision, Outcome
from guard.ops import Applied, Lookup, Mark
from guard.record import ListSink
from guard.state import MemoryState, SqliteState
from guard.testing import FrozenClock
from guard.tokens.jose import b64url_decode

POLICY = Policy.from_text(
    """
guardtrail: 1
name: desk
owner: tests@acme.example
tools:
  pay: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}
  give: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}
intents:
  work:
    description: Anything.
    allow:
      pay: {args: {amount: {range: {min: "0"}}, to: {len: {max: 30}}}}
      give: {args: {amount: {range: {min: "0"}}, to: {len: {max: 30}}}}
rules:
  - {id: big, when: {effect: pay, args: {amount: {range: {above: "100"}}}}, then: ask}
  - {id: huge, when: {effect: pay, args: {amount: {range: {above: "1000"}}}}, then: ask}
  - {id: never, when: {effect: pay, args: {to: {eq: mallory}}}, then: deny}
asks:
  default: {by: origin, within: 15m}
  huge: {by: {group: treasury, not: [origin, actors]}, count: 2, within: 1h}
  most: 1000
""",
    file="desk.yaml",
)


class World:
    """`folder` None: everything in memory. Issuers: `acme-dev` (tasks and persons), `sister` (same tenant), `foreign` (another tenant)."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.clock = FrozenClock()
        seconds = lambda: self.clock.now().timestamp()  # noqa: E731
        self.iam = LocalIssuer("acme-dev", clock=seconds)
        self.others = {name: LocalIssuer(name, clock=seconds) for name in ("sister", "foreign", "unknown")}
        self.others["sister"]._rules = replace(self.others["sister"]._rules, tenant="acme-dev")
        self.key, self.other = HolderKey.generate(clock=seconds), HolderKey.generate(clock=seconds)
        self.store: Any = MemoryState() if folder is None else f"sqlite:{folder / 'approvals.db'}"
        self.state: Any = MemoryState()
        if folder is not None:
            self.state = SqliteState(folder / "state.db", timeout=20)
            self.state.born = self.clock.now()  # made before anything happened: the clock is the test's
        self.sink = ListSink()
        self.seal: Any = None
        self.asked: list[str] = []
        self.open: dict[str, Any] = {}
        self.start()

    def start(self) -> None:
        """The process begins, or begins again."""
        trust = [self.iam, self.others["sister"], self.others["foreign"]]
        self.desk = Approvals(self.store, trust=trust, folder=self.folder)
        if self.folder is not None:
            self.desk._drawer.store.timeout = 20  # type: ignore[attr-defined]
        if self.folder is None:  # the key is on no disk: what a file would do
            self.seal = self.seal or self.desk._seal
            self.desk._seal = self.desk._drawer._seal = self.seal
        self.guard = Guard(
            POLICY,
            trust=self.iam,
            state=self.state,
            sinks=[self.sink],
            clock=self.clock,
            approvals=self.desk,
            deadline=timedelta(seconds=60),
        )
        self.open = {}

    def task(self, name: str = "t") -> Any:
        if name not in self.open:
            token = self.iam.mint(origin="alice", actor="payer", intent="work", txn=name, ttl="24h")
            self.open[name] = self.guard.task(token)
            self.open[name].__enter__()
            self.guard._openers.clear()  # this process is not the only one: the task goes on without it
        return self.open[name]

    def pay(self, amount: object, to: str = "bob", tool: str = "pay", task: str = "t") -> Decision:
        with self.task(task):
            decision = self.guard.before(ToolCall(tool, {"to": to, "amount": str(amount)}))
            if not decision.blocks:
                self.guard.after(decision, Outcome("ok"))
        if decision.verdict == "ask":
            self.asked.append(str(decision.request()["id"]))
        return decision

    def said(self, decision: Decision) -> str:
        if decision.verdict == "ask":
            return f"ask {','.join(str(one) for one in decision.request()['asks'])}"  # type: ignore[attr-defined]
        return "allow" if decision.verdict == "allow" else f"deny {decision.code}"

    def token(
        self, by: str = "", groups: tuple[str, ...] = (), more: Mapping[str, Any] = {}, issuer: str = "", key: str = "", ages: int = 0
    ) -> str:
        found = self.others[issuer] if issuer else self.iam
        bound = {"key": self.key.public} if key in ("own", "none", "other") else {}
        clock, found.clock = found.clock, lambda: self.clock.now().timestamp() - ages
        try:
            whole = found.login(by, groups=groups, **bound, **{name: value for name, value in more.items() if name != "groups"})
            if "groups" not in more:
                return whole
            claims = json.loads(b64url_decode(whole.split(".")[1].encode())) | more
            found._header, header = whole.split(".")[0], found._header
            whole, found._header = found.sign(json.dumps(claims).encode()), header
            return whole
        finally:
            found.clock = clock

    def answer(
        self, verb: str, *, by: str = "", request: int = -1, token: str | None = None, changed: bool = False, key: str = "",
        proves: str = "", proves_of: str = "", **what: Any,
    ) -> str:  # fmt: skip
        id = self.asked[request] if self.asked else "01M8GP739Y6VRW9HZ8000067E5"
        text = self.token(by, key=key, **what) if token is None else self.task().token if token == "task" else token
        if changed:
            head, payload, signature = text.split(".")
            text = f"{head}.{payload}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
        proof = ""
        if key and key != "none":
            holder = self.other if key == "other" else self.key
            about = self.desk.to_prove(id) if not proves_of else {"request": "01M8GP739Y6VRW9HZ8000067E5", "args_digest": "x"}
            proof = holder.prove(text, proves or f"guardtrail.{verb}", about)
        try:
            done = (self.desk.approve if verb == "approve" else self.desk.reject)(id, text, proof=proof)
        except AnswerRefused as refused:
            return str(refused.code)
        assert isinstance(done, Answered)
        return "ok"

    # -- what somebody with a hand on the store may do ----------------------------------------------------------------------------

    def row(self, key: str) -> str | None:
        answer = self.desk._drawer.store.apply((Lookup(key),), now=self.clock.now(), commit=False)
        assert isinstance(answer, Applied)
        value = answer.values[0]
        return value if isinstance(value, str) else None

    def put(self, key: str, value: str) -> None:
        assert isinstance(self.desk._drawer.store.apply((Mark(key, value=value, ttl=3600),), now=self.clock.now()), Applied)

    def opened(self, request: str, place: int = 0) -> str | None:
        """An answer as who has the desk's key reads it."""
        held = self.desk._drawer.read(request, now=int(self.clock.now().timestamp()))
        locked = self.row(f"ap|a|{request}|{place}")
        raw = self.seal_now().unlock(held.salt, f"answer|{request}", locked) if held is not None and locked is not None else None
        return raw.decode() if raw is not None else None

    def slip_in(self, request: str, place: int, text: str) -> None:
        """Put an answer there, as who has the desk's key can."""
        held = self.desk._drawer.read(request, now=int(self.clock.now().timestamp()))
        assert held is not None
        self.put(f"ap|a|{request}|{place}", self.seal_now().lock(held.salt, f"answer|{request}", text.encode()))

    def seal_now(self) -> Seal:
        return self.desk._seal

    def forge(
        self,
        by: str = "",
        typ: str = "guard-approval+jwt",
        claims: Mapping[str, Any] = {},
        approver: Mapping[str, Any] = {},
        without: str = "",
    ) -> None:
        text = self.opened(self.asked[0])
        assert text is not None
        made = json.loads(b64url_decode(text.split(".")[1].encode())) | claims
        made["approver"] = made["approver"] | approver
        made.pop(without, None)
        self.slip_in(self.asked[0], 0, (Seal(None) if by == "other" else self.desk._seal).sign(typ, made))

    def now(self) -> Any:
        return self.clock.now().astimezone(UTC)


def ended(world: World) -> None:
    try:
        world.task().end()
    except Denied as refused:
        raise AssertionError(refused) from None
