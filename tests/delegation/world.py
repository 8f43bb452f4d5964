"""Two "processes" over one state file and one audit log, what everybody holds, and what must hold: the ground `machine.py` stands on."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from guard import Guard, LocalIssuer, Policy, ToolCall
from guard.errors import Denied, StateUnavailable
from guard.identity.holder import HolderKey
from guard.identity.revoked import StoreRevocations
from guard.model import ExchangeRequest
from guard.ops import Applied, Op, Refused
from guard.record import AuditFile, verify_log
from guard.state import SqliteState
from tests.delegation.model import POLICY, SKEW, TOOLS, Node, Used, Work, claims_of, lineage, records

LOADED = Policy.from_text(POLICY)
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
ORIGINS, ACTORS = ("alice", "bob"), tuple("abcdefgh")
LIES = ("", "", "", "", "", "", "", "", "exp", "tool", "limit", "txn", "sub", "actor", "unbound", "sid", "intent")
TTLS = ("5s", "10m", "24h", "24h")
KEYS = tuple(HolderKey.generate(alg) for alg in ("ES256", "Ed25519", "ES256", "Ed25519", "ES256", "Ed25519", "Ed25519", "Ed25519"))


class Clock:
    """Wall time and steady time; the wall can be set."""

    inline = True

    def __init__(self) -> None:
        # Younger than the state file, however long that takes to be made, and older than its tokens.
        self.start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
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


class Held(RuleBasedStateMachine):
    """The world of the machine, and what must hold in it; no rules yet."""

    seen: ClassVar[Counter[str]] = Counter()
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
        self.begin()

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

    def begin(self) -> None:
        """Both processes end; the state and the log are opened anew. The guards that come know what stands there, and nothing else."""
        self._let_go()
        self.store = self.door.store = SqliteState(Path(self.folder.name) / "state.db", timeout=20)
        self.sink = AuditFile(self.audit, patience=timedelta(seconds=20))
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
                deadline=timedelta(
                    seconds=20
                ),  # as with the store and the log: a busy machine is no answer: it would be told as a difference
                revocations=index,
            )
            for index in self.indexes
        ]
        self.open: dict[tuple[int, str], Context] = {}

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
        mine = [
            one for one in self.taken if any((kind, value) == one[:2] and one.before > issued for kind, value, issued in node.dies_by())
        ]
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
            self.seen["used up: " + " and ".join(self.used.full(node, call.tool))] += 1
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
        # The allow before a denial of the same id came too late, or something was taken back while it was written.
        denied = {one["id"] for one in found if one["kind"] == "decision" and one["verdict"] != "allow"}
        allows = [one for one in found if one["kind"] == "decision" and one["verdict"] == "allow" and one["id"] not in denied]
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

    def _some(self, data: st.DataObject, fit: Callable[[Node], bool] = lambda _: True) -> Node:
        """One of the last tokens; more often than not one that lives and fits."""
        last = self.nodes[-6:]
        alive = [one for one in last if fit(one) and not self._stopped(0, one)]
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
