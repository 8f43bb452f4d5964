"""The one machine over everything delegated: a real guard in two "processes" on one state file and one audit log, driven at random.

Rules: mint, exchange (by an issuer that may lie), attenuate, call (in good faith, or as a thief), replay of a proof and of a call's id,
revoke, time passing, the clock set, restart, death in the middle of a call, calls in parallel.

What must hold, after every step and over the records at the end:
- no call after revocation and staleness (1 s where the index answers, 15 s where it does not), after expiry, or without its proof;
- used <= the smallest budget on the chain;
- every allow has exactly one record, and one outcome unless its process died;
- every allow has an unbroken chain to its origin, by the records alone;
- and where nothing speaks against a call, it runs: a guard that denies everything would hold all the others.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied, StateUnavailable
from guard.identity.holder import HolderKey
from guard.identity.revoked import StoreRevocations
from guard.model import ExchangeRequest
from guard.ops import Applied, Op, Refused
from guard.record import AuditFile, verify_log
from guard.state import SqliteState
from guard.tokens.effects import ALWAYS
from tests.delegation.model import POLICY, SKEW, TOOLS, Node, Used, Work, claims_of, lineage, records

LOADED = Policy.from_text(POLICY)
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a folder of its own is made in it
ORIGINS, ACTORS = ("alice", "bob"), tuple("abcdefgh")
LIES = ("", "", "", "", "exp", "tool", "limit", "txn", "sub", "actor", "unbound", "sid", "intent")
TTLS = ("5s", "10m", "24h", "24h")
KEYS = tuple(HolderKey.generate(alg) for alg in ("ES256", "Ed25519", "ES256", "Ed25519", "ES256", "Ed25519", "Ed25519", "Ed25519"))


class Clock:
    """Wall time and steady time; the wall can be set."""

    inline = True

    def __init__(self) -> None:
        self.start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)  # younger than the state file, older than its tokens
        self.steady, self.off = 0.0, 0.0

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.steady + self.off)

    def monotonic(self) -> float:
        return self.steady

    def seconds(self) -> float:
        return self.now().timestamp()

    def right(self) -> float:
        """What everybody else's clock says: issuers, and who holds a key."""
        return self.start.timestamp() + self.steady


class Door:
    """The state file as the readers of the index see it: with a switch."""

    inline = True

    def __init__(self) -> None:
        self.store: SqliteState | None = None
        self.off = False

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        if self.off or self.store is None:
            raise StateUnavailable("off")
        return self.store.apply(ops, now=now, commit=commit)


class Iam(LocalIssuer):
    """An issuer that keeps sessions, binds what it exchanges as the parent was bound, and lies when it is told to."""

    lie = ""
    key: HolderKey | None = None

    def given(self, text: str, **more: object) -> str:
        return self.sign(json.dumps({**claims_of(text), **more}).encode())

    def exchange(self, request: ExchangeRequest) -> str:
        d = request.delegation
        held = replace(request, delegation=replace(d, workload=d.workload or "local"))  # it takes chains, which it should not
        claims = claims_of(super().exchange(held))
        if d.bound and self.key is not None and self.lie != "unbound":
            claims |= {"cnf": {"jwk": dict(self.key.public)}, "mdp": 2}
        details = claims.get("authorization_details", [])
        if self.lie == "exp":
            claims["exp"] += 100
        elif self.lie == "tool":
            claims["authorization_details"] = [*details, {"type": "agent_tool", "tool": "wipe"}]
        elif self.lie == "limit":
            claims["authorization_details"] = [{name: value for name, value in one.items() if name != "limit"} for one in details]
        elif self.lie == "intent":
            claims["authorization_details"] = [one for one in details if one["type"] != "agent_task"]
        elif self.lie == "actor":
            claims["act"] = {"sub": "mallory", "act": claims["act"]["act"]}
        elif self.lie in ("txn", "sub", "sid"):
            claims[self.lie] = "another"
        return self.sign(json.dumps(claims).encode())


class Taken(NamedTuple):
    """`before`: in epoch seconds. `at`: steady time at which it was written."""

    kind: str
    value: str
    before: float
    at: float


class Call(NamedTuple):
    """A call that was made, as it can be made again."""

    node: Node
    call: ToolCall


class Delegating(RuleBasedStateMachine):
    seen: Counter[str] = Counter()
    """What came of all calls of all machines: a run that lets nothing through shows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.seen["runs"] += 1
        self.folder = tempfile.TemporaryDirectory(dir=FAST)
        self.audit = Path(self.folder.name) / "audit"
        self.door = Door()
        self.store: SqliteState | None = None
        self.sink: AuditFile | None = None
        self.clock = Clock()
        self.iam = Iam("acme-dev", clock=self.clock.right)
        self.works: list[Work] = []
        self.nodes: list[Node] = []
        self.taken: list[Taken] = []
        self.used = Used()
        self.bodies: dict[str, Node] = {}
        self.runs: Counter[str] = Counter()
        self.lost: set[str] = set()
        self.proofs: set[str] = set()
        self.made: list[Call] = []
        self.calls = 0
        self.high = 0.0
        self.up_since = 0.0
        self.shown: int | None = None
        """Steps since the clock was set."""
        self.restart()

    @invariant()
    def a_step(self) -> None:
        self.seen["steps"] += 1
        self.shown = None if self.clock.off == 0 else (self.shown or 0) + 1
        if self.shown is not None and self.shown > 3:  # somebody notices: with the clock wrong for long nothing else is shown
            self.clock.off, self.shown = 0.0, None

    def teardown(self) -> None:
        try:
            self._let_go()
            self._records_hold()
        finally:
            self.folder.cleanup()

    def _let_go(self) -> None:
        if self.store is not None and self.sink is not None:
            self.sink.close()
            self.store.close()

    # -- what happens ------------------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """Both processes end; the state and the log are opened anew. The guards that come know what stands there, and nothing else."""
        self._let_go()
        self.store = self.door.store = SqliteState(Path(self.folder.name) / "state.db")
        self.sink = AuditFile(self.audit)
        self.clock.off = 0.0
        if self.door.off:
            self.door.off, self.up_since = False, self.clock.steady
        self.indexes = [StoreRevocations(self.door, clock=self.clock.seconds, steady=self.clock.monotonic) for _ in range(2)]
        self.guards = [
            Guard(
                LOADED,
                trust=self.iam,
                sinks=[self.sink],
                state=self.store,
                clock=self.clock,
                deadline=timedelta(seconds=20),  # a busy machine is no answer: it would be told as a difference
                revocations=index,
            )
            for index in self.indexes
        ]
        self.open: dict[tuple[int, str], Context] = {}

    @rule(
        again=st.booleans(),
        origin=st.sampled_from(ORIGINS),
        intent=st.booleans(),
        actor=st.sampled_from(ACTORS),
        tools=st.sets(st.sampled_from(TOOLS), min_size=1),
        limit=st.sampled_from((None, 1, 2, 3)),
        key=st.sampled_from((None, *KEYS)),
        depth=st.integers(1, 4),
        ttl=st.sampled_from(TTLS),
    )
    def mint(
        self, again: bool, origin: str, intent: bool, actor: str, tools: set[str], limit: int | None, key: HolderKey | None, depth: int, ttl: str
    ) -> None:
        """A login, or a second token of a task there is."""
        n = len(self.works)
        work = self.works[-1] if again and self.works else Work(f"t-{n}", origin, f"s-{n}", "work" if intent else None)
        if work not in self.works:
            self.works.append(work)
        limits = {tool: limit if tool != "look" else None for tool in sorted(tools)}
        text = self.iam.mint(
            origin=work.origin, actor=actor, intent=work.intent, txn=work.txn, ttl=ttl, tools=sorted(tools),
            limits={tool: most for tool, most in limits.items() if most is not None},
            key=None if key is None else key.public, depth=depth if key is not None else 0,
        )  # fmt: skip
        self.nodes.append(Node(self.iam.given(text, sid=work.session), work, (actor,), limits, key, kid=self.iam.kid))

    @precondition(lambda self: self.nodes)
    @rule(
        data=st.data(), actor=st.sampled_from(ACTORS), key=st.sampled_from(KEYS), fewer=st.booleans(), limit=st.sampled_from((None, None, 1, 2)),
        ttl=st.sampled_from((None, None, "5s", "10m")), depth=st.sampled_from((None, None, 0, 1)),
    )  # fmt: skip
    def attenuate(
        self, data: st.DataObject, actor: str, key: HolderKey, fewer: bool, limit: int | None, ttl: str | None, depth: int | None
    ) -> None:
        """Offline: nobody is asked. (What a holder signs that is wider is `test_chain.py`'s.)"""
        parent = self._some(data)
        if parent.depth < 1 or parent.key is None or actor in parent.actors or any(one.key is key for one in parent.line):
            return
        tools = sorted(parent.limits)[:1] if fewer else sorted(parent.limits)
        limits = {tool: most if limit is None or tool == "look" else min(limit, most or limit) for tool, most in parent.limits.items() if tool in tools}  # fmt: skip
        given = {tool: most for tool, most in limits.items() if most is not None}
        parent.key.clock = self.clock.right
        text = parent.key.attenuate(parent.text, actor=actor, key=key, tools=tools, limits=given, ttl=ttl, depth=depth)
        self.nodes.append(Node(text, parent.work, (*parent.actors, actor), limits, key, parent.line, kid=parent.key.thumbprint))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), actor=st.sampled_from(ACTORS), fewer=st.booleans(), ttl=st.sampled_from((None, "10m")), lie=st.sampled_from(LIES))  # fmt: skip
    def exchange(self, data: st.DataObject, by: int, actor: str, fewer: bool, ttl: str | None, lie: str) -> None:
        parent = self._some(data)
        tools = sorted(parent.limits)[:1] if fewer else None
        lies = self._lies(parent, tools, lie)
        self.iam.lie, self.iam.key = lie, next(one for one in KEYS if all(one is not held.key for held in parent.line))
        calm, stopped = self._calm(by, parent), self._stopped(by, parent)
        self.high = max(self.high, self.clock.seconds())
        try:
            context = self._context(by, parent)
            text = context.run(lambda: self.guards[by].current().delegate(actor, tools=tools, ttl=ttl).token)
        except Denied as denied:
            self.seen[f"exchange {denied.code}"] += 1
            assert not calm or lies or parent.above or actor in parent.actors, denied
            return
        self.seen["exchange"] += 1
        assert not parent.above, "its hops' budgets and revocations would be lost"
        assert not stopped, stopped
        assert not lies, lie
        limits = {tool: most for tool, most in parent.limits.items() if tools is None or tool in tools}
        key = self.iam.key if "cnf" in claims_of(text) else None
        child = Node(text, parent.work, (*parent.actors, actor), limits, key, parent=parent, kid=self.iam.kid)
        told = {one["tool"]: one.get("limit", {}).get("calls") for one in child.claims["authorization_details"] if one["type"] == "agent_tool"}
        assert told == limits
        assert child.ends <= parent.ends
        assert child.key is not None or parent.key is None
        self.nodes.append(child)

    @staticmethod
    def _lies(parent: Node, tools: list[str] | None, lie: str) -> bool:
        """Does it make the answer wider than what was asked?"""
        limits = [most for tool, most in parent.limits.items() if tools is None or tool in tools]
        return {"": False, "limit": any(limits), "unbound": parent.key is not None, "intent": parent.work.intent is not None}.get(lie, True)

    @precondition(lambda self: len(self.nodes) > 2 and self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 1))
    def revoke(self, data: st.DataObject, by: int) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        names = sorted({(kind, value) for kind, value, _ in node.dies_by() if value != self.iam.kid})
        kind, value = data.draw(st.sampled_from(names))
        before = self.clock.seconds() if kind == "origin" else ALWAYS
        writer: Any = self.indexes[by] if not self.door.off else StoreRevocations(self.store, clock=self.clock.seconds)  # type: ignore[arg-type]
        writer.revoke(kind, value, at=None if kind != "origin" else before)
        self.taken.append(Taken(kind, value, before, self.clock.steady))

    @precondition(lambda self: self.calls > 25 and self.clock.off == 0)
    @rule()
    def revoke_the_issuers_key(self) -> None:
        StoreRevocations(self.store, clock=self.clock.seconds).revoke("key", self.iam.kid)  # type: ignore[arg-type]
        self.taken.append(Taken("key", self.iam.kid, ALWAYS, self.clock.steady))

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 14.0, 16.0, 61.0, 700.0]))
    def passes(self, seconds: float) -> None:
        self.clock.steady += seconds

    @rule(seconds=st.sampled_from([-7200.0, -61.0, -30.0, 30.0, 61.0, 7200.0]))
    def jumps(self, seconds: float) -> None:
        """Somebody sets the clock. (What is written meanwhile would bear that time; nobody writes.)"""
        self.clock.off = seconds

    @rule()
    def is_set_right(self) -> None:
        self.clock.off = 0.0

    @rule(down=st.booleans())
    def index_is(self, down: bool) -> None:
        if self.door.off and not down:
            self.up_since = self.clock.steady
        self.door.off = down

    # -- calls -------------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS), fails=st.sampled_from((False, False, True)))
    def call(self, data: st.DataObject, by: int, tool: str, fails: bool) -> None:
        """By who holds the token, in good faith."""
        node = self._some(data)
        self._checked(by, node, self._fresh(node, tool), good=True, fails=fails)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS), how=st.sampled_from(("nothing", "key", "tool", "args", "token", "old")))
    def steal(self, data: st.DataObject, by: int, tool: str, how: str) -> None:
        """By who has the token's text, and not its key; or a proof that was made for something else."""
        node = self._some(data)
        call = self._fresh(node, tool)
        if node.key is None:
            proof = KEYS[0].prove(node.text, tool, call.args)
        elif how == "nothing":
            proof = ""
        elif how == "key":
            proof = next(one for one in KEYS if one is not node.key).prove(node.text, tool, call.args)
        elif how == "tool":
            proof = self._proof(node, "note" if tool != "note" else "pay", call.args)
        elif how == "args":
            proof = self._proof(node, tool, {"order": "other"})
        elif how == "token":
            other = next((one for one in self.nodes if one.text != node.text), None)
            proof = "" if other is None else node.key.prove(other.text, tool, call.args)
        else:
            proof = self._proof(node, tool, call.args, ago=67)
        said = self._checked(by, node, ToolCall(tool, call.args, call.id, proof), good=False)
        assert said != "ran", how

    @precondition(lambda self: self.made)
    @rule(data=st.data(), by=st.integers(0, 1), what=st.sampled_from(("call", "proof", "id")))
    def replay(self, data: st.DataObject, by: int, what: str) -> None:
        """A call that was made before: whole, its proof under another id, or its id with a fresh proof."""
        node, call = data.draw(st.sampled_from(self.made[-8:]))
        if what == "proof":
            self.calls += 1
            again = ToolCall(call.tool, call.args, f"c-{self.calls}", call.proof)
        elif what == "id":
            again = ToolCall(call.tool, call.args, call.id, self._proof(node, call.tool, call.args) if node.key is not None else "")
        else:
            again = call
        before = self.runs[call.id]
        proven = node.key is None or again.proof not in self.proofs
        said = self._checked(by, node, again, good=proven)
        if before and again.id == call.id:
            assert said != "ran", "the same call ran twice"

    @precondition(lambda self: self.nodes and self.clock.off == 0)
    @rule(data=st.data(), tool=st.sampled_from(TOOLS), same=st.sampled_from(("nothing", "nothing", "proof", "id")))
    def in_parallel(self, data: st.DataObject, tool: str, same: str) -> None:
        """Both processes at once, under one token: three calls, or one proof, or one call's id, three times."""
        node = self._some(data)
        first = self._fresh(node, tool)
        calls = [first, *(self._fresh(node, tool) for _ in range(2))]
        if same == "proof" and node.key is not None:
            calls = [ToolCall(tool, first.args, one.id, first.proof) for one in calls]
        elif same == "id":
            calls = [ToolCall(tool, first.args, first.id, one.proof if one is first or node.key is None else self._proof(node, tool, first.args)) for one in calls]  # fmt: skip
        contexts = [self._opened(n % 2, node) for n in range(3)]
        if any(context is None for context in contexts):
            return
        stopped, room = [self._stopped(by, node) for by in (0, 1)], self.used.room(node, tool) if tool in node.limits else 0
        self.high = max(self.high, self.clock.seconds())
        start, ran = Barrier(3), list[ToolCall]()

        def one(context: Context, guard: Guard, call: ToolCall) -> None:
            start.wait()
            try:
                context.copy().run(guard.call, call, lambda order: ran.append(call))
            except Denied:
                pass

        threads = [Thread(target=one, args=(contexts[n], self.guards[n % 2], call)) for n, call in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for call in ran:
            self._has_run(node, call)
        assert len(ran) <= room
        assert not ran or not all(stopped), stopped
        self.seen["parallel"] += len(ran)
        self.seen["parallel, none left"] += len(ran) == room
        if same == "id" or (same == "proof" and node.key is not None):
            assert len(ran) <= 1, f"one {same}, and {len(ran)} ran"
        self.made += [Call(node, call) for call in ran]

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), tool=st.sampled_from(("pay", "pay", "note")))
    def uses_it_up(self, data: st.DataObject, tool: str) -> None:
        """All that is left, and one more: now under this token, now under another of the same work, in one process and in the other."""
        node = self._some(data)
        others = [one for one in self.nodes if one.work is node.work and tool in one.limits] or [node]
        for n in range(6):
            one = node if n % 2 else data.draw(st.sampled_from(others[-4:]))
            if self._checked(n % 2, one, self._fresh(one, tool), good=True) != "ran" and one is node:
                break

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS))
    def dies_in_a_call(self, data: st.DataObject, by: int, tool: str) -> None:
        """The process ends between the decision and the outcome: the body may have run."""
        node = self._some(data)
        call = self._fresh(node, tool)
        context = self._opened(by, node)
        if context is None:
            return
        stopped, calm = self._speaks_against(by, node, call, good=True), self._calm(by, node)
        self.high = max(self.high, self.clock.seconds())
        decision = context.run(self.guards[by].before, call)
        if decision.blocks:
            assert not calm or stopped, decision.code
        else:
            assert not stopped, stopped
            self._has_run(node, call)
            self.lost.add(call.id)
            self.made.append(Call(node, call))
        self.restart()

    @precondition(lambda self: self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS), hops=st.integers(0, 2), seconds=st.sampled_from((1.0, 14.0, 16.0)), restarts=st.booleans())  # fmt: skip
    def called_revoked_and_called_again(self, data: st.DataObject, by: int, tool: str, hops: int, seconds: float, restarts: bool) -> None:
        """What chance makes too seldom: a live chain is taken back where the guard, or a new one, has to find out by itself."""
        if self.door.off:
            self.door.off, self.up_since = False, self.clock.steady
            self.clock.steady += 1
        n = len(self.works)
        work = Work(f"t-{n}", f"o-{n}", f"s-{n}", None)
        self.works.append(work)
        self._minted(work, f"a-{n}", KEYS[0], hops)
        node = self.nodes[-1]
        said = self._checked(by, node, self._fresh(node, tool), good=True)
        assert said == "ran" or not self._calm(by, node), said
        names = sorted({(kind, value) for kind, value, _ in node.dies_by() if value != self.iam.kid and value not in {key.thumbprint for key in KEYS}})
        kind, value = data.draw(st.sampled_from(names))
        at = self.clock.seconds() + 1 if kind == "origin" else ALWAYS
        StoreRevocations(self.store, clock=self.clock.seconds).revoke(kind, value, at=at)  # type: ignore[arg-type]
        self.taken.append(Taken(kind, value, at, self.clock.steady))
        if restarts:
            self.clock.steady += 700
            self.restart()
        else:
            self.door.off = True
        self.clock.steady += seconds
        self._checked(by, node, self._fresh(node, tool), good=True)

    def _minted(self, work: Work, actor: str, key: HolderKey, hops: int) -> None:
        text = self.iam.mint(origin=work.origin, actor=actor, intent=None, txn=work.txn, ttl="24h", tools=TOOLS, key=key.public, depth=4)
        limits = dict.fromkeys(TOOLS)
        node = Node(self.iam.given(text, sid=work.session), work, (actor,), limits, key, kid=self.iam.kid)
        self.nodes.append(node)
        for n in range(hops):
            assert node.key is not None
            node.key.clock = self.clock.right
            text = node.key.attenuate(node.text, actor=f"{actor}-{n}", key=KEYS[n + 1])
            node = Node(text, work, (*node.actors, f"{actor}-{n}"), limits, KEYS[n + 1], node.line, kid=node.key.thumbprint)
            self.nodes.append(node)

    # -- what must hold ----------------------------------------------------------------------------------------------------------

    def _checked(self, by: int, node: Node, call: ToolCall, *, good: bool, fails: bool = False) -> str:
        """`ran`, or the code of the refusal; held against what the model says."""
        against, calm = self._speaks_against(by, node, call, good=good), self._calm(by, node)
        self.high = max(self.high, self.clock.seconds())
        ran: list[str] = []

        def body(order: str) -> str:
            ran.append(order)
            if fails:
                raise LookupError
            return order

        said = self._made(by, node, call, body)
        if not ran:
            assert not calm or against, f"{said}, and nothing speaks against it"
            self.seen[said] += 1
            return said
        assert not against, against
        if not (fails and call.tool == "note"):  # its errors have no effect, so it gives back what it took
            self.used.ran(node, call.tool)
        self._counted(node, call)
        self.seen["ran"] += 1
        self.made.append(Call(node, call))
        return "ran"

    def _made(self, by: int, node: Node, call: ToolCall, body: Callable[..., object]) -> str:
        try:
            context = self._context(by, node)
            context.run(self.guards[by].call, call, body)
        except Denied as denied:
            return str(denied.code)
        except LookupError:
            return "error"
        return "replayed"

    def _has_run(self, node: Node, call: ToolCall) -> None:
        self.used.ran(node, call.tool)
        self._counted(node, call)

    def _counted(self, node: Node, call: ToolCall) -> None:
        self.runs[call.id] += 1
        self.bodies[call.id] = node
        assert self.runs[call.id] == 1, "one call, and its body ran twice"
        if call.proof:
            assert call.proof not in self.proofs, "one proof, and two calls"
            self.proofs.add(call.proof)

    def _stopped(self, by: int, node: Node) -> str:
        """Why nothing at all may run under this token now; "": nothing that the guard must know by now."""
        mine = [one for one in self.taken if any((kind, value) == one[:2] and one.before > issued for kind, value, issued in node.dies_by())]
        now, up = self.clock.steady, not self.door.off
        if any(now - one.at > 15 for one in mine):
            return "taken back more than 15 s ago"
        if up and any(one.at <= now - 1 and self.up_since <= now - 1 for one in mine):
            return "taken back a second ago"
        if self.clock.seconds() >= node.ends + SKEW:
            return "over"
        if abs(self.clock.off) > 60:
            return "the clock was set"
        return ""

    def _speaks_against(self, by: int, node: Node, call: ToolCall, *, good: bool) -> str:
        if call.tool not in node.limits:
            return "not granted"
        if not good:
            return "not proven"
        if self.runs[call.id]:
            return "has run"
        if self.used.room(node, call.tool) < 1:
            return "used up"
        return self._stopped(by, node)

    def _calm(self, by: int, node: Node) -> bool:
        """Is there nothing at all that may speak against the token? Where this says no, either answer may be right."""
        mine = any((kind, value) == one[:2] and one.before > issued for one in self.taken for kind, value, issued in node.dies_by())
        issued = max(int(one.claims["iat"]) for one in node.line)
        alive = issued <= self.clock.seconds() < node.ends
        index = not self.door.off and self.up_since <= self.clock.steady - 1
        return not mine and alive and self.clock.off == 0 and self.high <= self.clock.seconds() and index

    def _records_hold(self) -> None:
        if not self.audit.exists():
            assert not self.runs
            return
        verified = verify_log(self.audit)
        assert verified.ok, verified.problems
        found = records(self.audit)
        allows = [one for one in found if one["kind"] == "decision" and one["verdict"] == "allow"]
        ours = [one for one in allows if one["tool"] in TOOLS]
        assert Counter(one["call"] for one in ours) == self.runs, "every allow has exactly one record"
        ended = Counter(one["decision"] for one in found if one["kind"] == "outcome" and one["status"] != "not_executed")
        assert ended == Counter(one["id"] for one in allows if one["call"] not in self.lost), "every allow has exactly one outcome"
        handed = [one for one in allows if one["tool"] == "task.delegate"]
        names: dict[str, str] = {}
        for one in ours:
            node = self.bodies[one["call"]]
            assert (one["task"], one["credential"], one["actors"]) == (node.work.txn, f"acme-dev/{node.path}", list(node.actors))
            assert lineage(one, handed) == [one["origin"], *node.actors]
            assert names.setdefault(node.work.origin, one["origin"]) == one["origin"], "one person, two pseudonyms"
        assert len(set(names.values())) == len(names), "two persons, one pseudonym"

    def _some(self, data: st.DataObject) -> Node:
        """One of the last tokens; more often than not one that lives."""
        last = self.nodes[-6:]
        alive = [one for one in last if not self._stopped(0, one)]
        return data.draw(st.sampled_from(alive if alive and data.draw(st.sampled_from((True, True, True, False))) else last))

    # -- hands -------------------------------------------------------------------------------------------------------------------

    def _fresh(self, node: Node, tool: str) -> ToolCall:
        self.calls += 1
        args = {"order": f"A-{self.calls}"}
        return ToolCall(tool, args, f"c-{self.calls}", "" if node.key is None else self._proof(node, tool, args))

    def _proof(self, node: Node, tool: str, args: Mapping[str, object], *, ago: float = 0) -> str:
        assert node.key is not None
        node.key.clock = lambda: self.clock.right() - ago
        return node.key.prove(node.text, tool, args)

    def _context(self, by: int, node: Node) -> Context:
        """Where the task is open. Raises Denied."""
        context = self.open.get((by, node.text))
        if context is None:
            context = copy_context()
            context.run(self.guards[by].task(node.text).__enter__)
            self.open[by, node.text] = context
        return context

    def _opened(self, by: int, node: Node) -> Context | None:
        try:
            return self._context(by, node)
        except Denied:
            return None
