"""What a guard is wired from, and the state of one open task. Data and wiring; the flow is in `guard/flow.py`."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from itertools import count
from os import urandom
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from guard.constraints import Binder, Shape
from guard.decide import ALLOW, decide
from guard.drive import Failure
from guard.model import Bound, Decision, Delegation, Finding, Outcome
from guard.ops import Op, Pin
from guard.ports import (
    Approvals,
    Blinds,
    Clock,
    Credentials,
    Exchanger,
    Proofs,
    Prover,
    Registrations,
    Revocations,
    Signals,
    Sink,
    StateStore,
    Verifier,
)  # fmt: skip
from guard.reasons import ReasonCode
from guard.workflow.atoms import Live
from guard.workflow.limits import Context
from guard.workflow.plan import Plan, make_plan
from guard.workflow.rules import uses_sources

if TYPE_CHECKING:
    from guard.policy import Policy
    from guard.shown import Shown

__all__ = ["House", "Ids", "SystemClock", "TaskState", "Ticket", "named", "owner_of"]

_steady: Callable[[], float]
try:  # A laptop that slept is not a clock that was moved: count the time asleep, where the platform can.
    from time import CLOCK_BOOTTIME, clock_gettime

    _steady = partial(clock_gettime, CLOCK_BOOTTIME)
except ImportError:  # pragma: no cover - not on this platform
    _steady = monotonic


class SystemClock:
    """The machine's clocks."""

    inline = True

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return _steady()

    def __init__(self) -> None:
        self._second = (-1, datetime.fromtimestamp(0, UTC))

    def read(self) -> tuple[datetime, float, float]:
        """Wall time as the state keeps it, in whole seconds; steady time; wall time as it is. One datetime serves a whole second."""
        at = time()
        second, wall = self._second
        if second != int(at):
            second = int(at)
            wall = datetime.fromtimestamp(second, UTC)
            self._second = (second, wall)
        return wall, _steady(), at


_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford base 32, as in ULID: sorts by time, no I L O U
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)


class Ids:
    """Decision ids: 26 characters, sorting by time: 10 of milliseconds, 8 drawn per process, 8 counted."""

    def __init__(self, clock: Callable[[], float] = time) -> None:
        self._clock = clock
        self._drawn = "".join(_ALPHABET[b & 31] for b in urandom(8))
        self._head = (-1, "")
        self._count = count(int.from_bytes(urandom(2), "big"))

    def __call__(self) -> str:
        p = _PAIRS
        ms = int(self._clock() * 1000)
        n = next(self._count)
        known, head = self._head
        if known != ms:
            head = p[ms >> 40 & 1023] + p[ms >> 30 & 1023] + p[ms >> 20 & 1023] + p[ms >> 10 & 1023] + p[ms & 1023] + self._drawn
            self._head = (ms, head)
        return f"{head}{n & 0xFFFFFFFF:08X}"


def hmac_under(key: bytes) -> Callable[[bytes], str]:
    """Half of HMAC-SHA256 under `key` (up to 64 bytes), as hex. The two blocks that hold the key (RFC 2104) are hashed once and not for
    every message: a third of the time of `hmac.digest`, which asks OpenSSL for its algorithm anew each time."""
    if len(key) > 64:
        raise ValueError("key")
    padded = key.ljust(64, b"\0")
    inner, outer = sha256(bytes(byte ^ 0x36 for byte in padded)), sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(message: bytes) -> str:
        within, around = inner.copy(), outer.copy()
        within.update(message)
        around.update(within.digest())
        return around.hexdigest()[:32]

    return digest


_loads = count(1)


class Plans(dict[str, Plan]):
    """Plans of one load of the policies (`House.load`), by tool. Whoever began under it goes on with it."""

    __slots__ = ("load", "since")

    def __init__(self, load: int = 0, since: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.load, self.since = load, since or {}


@dataclass(slots=True, eq=False, repr=False)
class TaskState:
    """One open delegation of one task, in this process. `key` prefixes every state key of the task.

    `plans` belong to `delegation`: a refreshed token brings a new one and new plans.
    """

    token: str
    delegation: Delegation
    key: str
    context: Context
    hmac_key: bytes
    origin: str
    opened: int
    first: bool
    incomplete: bool
    prompt: str | None = None
    plans: Plans = field(default_factory=Plans)
    tickets: dict[str, Ticket] = field(default_factory=dict)
    closed: bool = False
    handed: tuple[Delegation, ...] = ()
    """What its token descends from by exchanges, root first (`guard/handed.py`)."""
    generation: str = ""
    """The policies that judge it: what its life in the store must say."""
    step_key: str = ""
    credential: str = ""
    life: Pin = field(init=False)
    args_hmac: Callable[[bytes], str] = field(init=False)
    """Canonical arguments -> what records say of them."""
    ran: dict[str, list[bool]] = field(default_factory=dict)
    """Tools whose counters stand; in it, whether a call rests on them without having added its own (`rests`, `takes_back`)."""
    settled: set[str] = field(default_factory=set)
    """Tools whose good end stands."""
    subject: str = ""
    """Pseudonym of the token's subject, where `origin` is that of the person it names besides."""
    pending: list[Op] = field(default_factory=list)
    """For the next list of a settling: room in the ledger that was claimed and not needed, and its mark where a result was not learnt."""
    holder: Prover | None = None
    """Makes the proofs of a bound token in process; None: they come with the calls."""
    shown: Shown | None = None
    """What came with the HTTP request that opened it: its proof, or its certificate."""
    owner: str = ""
    """Who answers for who acts, as the registry says; "": nobody, or there is no registry. For records."""
    unlearnt: bool = False
    """The store did not take what a result held."""

    def __post_init__(self) -> None:
        self.step_key = f"{self.key}|step"
        self.life = Pin(f"{self.key}|life", self.generation)
        self.credential = str(self.delegation.credential)
        self.args_hmac = hmac_under(self.hmac_key)

    def under(self, house: House) -> Plans:
        """The plans of the policies `house` has loaded. A call that began under older ones ends with plans of its own.

        Attack: a call in flight while the policies are loaded anew leaves its old plan to all that come after.
        """
        plans = self.plans
        if plans.load == house.load:
            return plans
        made = Plans(house.load, house.since)
        if plans.load < house.load:
            if self.generation:  # loaded anew: what was left out because nobody asked may be asked for now
                self.ran, self.settled = {}, set()
            self.generation, self.life = house.generation, Pin(f"{self.key}|life", house.generation)
            self.plans = made  # last: who sees them sees the rest
        return made

    def renew(self, delegation: Delegation) -> None:
        """The same task under a delegation that was verified anew."""
        self.delegation, self.plans = delegation, Plans(self.plans.load, self.plans.since)
        self.credential = str(delegation.credential)

    def rests(self, tool: str) -> bool:
        """May this call rest on the counters another one added? Said before it reserves, and looked at again: in between, that call may
        have begun to take them back. Attack: two calls in flight, one fails to be recorded, and the other has never happened.
        """
        stands = self.ran.get(tool)
        if stands is None:
            return False
        stands[0] = True
        return self.ran.get(tool) is stands

    def takes_back(self, tool: str) -> bool:
        """The call that added them does not run. False: another may rest on them, so they stay (too high is the safe side)."""
        stands = self.ran.pop(tool, None)
        if stands is None or not stands[0]:
            return True
        self.ran.setdefault(tool, stands)
        return False

    def plan(self, house: House, tool: str) -> Plan:
        """The plan for `tool` under the policies of `house`."""
        plans = self.under(house)
        plan = plans.get(tool)
        if plan is None:
            known: tuple[Finding, ...] = ()
            if house.registry is not None:
                known, self.owner = _known(house.registry, self.delegation), owner_of(house.registry, self.delegation)
            plan = make_plan(house.layers, self.delegation, tool, self.context, plans.since, known)
            if plan.agreed is not None and decide(plan.agreed.granted, plan.all_required) is not ALLOW:
                plan = replace(plan, agreed=None)
            if len(plans) < 4096:  # tool names come from a model: unknown ones must not fill the memory
                plans[tool] = plan
        return plan


@dataclass(slots=True, eq=False, repr=False)
class Ticket:
    """A decided call between its decision and its outcome."""

    decision: Decision
    bound: Bound | None
    task: TaskState | None
    plan: Plan | None
    taken: Any = None
    """What it took from the shared state (`guard.steps.Taken`)."""
    call_key: str | None = None
    live: Live | None = None
    """Its values with what was asked of them."""
    masks: Any = None
    """Where its values came from (`guard.workflow.ledger.Masks`)."""
    streamed: bool = False
    """Its body hands out its result in parts."""
    span: Any = None
    started: float = 0.0
    lent: Any = None
    """The credential its body is lent (`guard.lending.Lent`)."""
    replay: Outcome | None = None
    """Set where the call was decided and run before: its outcome, to be handed out again. Nothing runs and nothing is recorded."""


class Outcomes:
    """Outcomes of recent calls with an id, so that a resumed call gets its result and its body runs once. Bounded, in process."""

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        self._held: OrderedDict[str, Outcome] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> Outcome | None:
        with self._lock:
            return self._held.get(key)

    def put(self, key: str, outcome: Outcome) -> None:
        with self._lock:
            self._held[key] = outcome
            while len(self._held) > self._most:
                self._held.popitem(last=False)


class Refusals:
    """Refusals before authentication, counted per (code, minute): a flood of bad tokens writes one record a minute per code."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def count(self, code: str, minute: int) -> int:
        """0: counted, write nothing. Else: write one record that stands for this many (this one and those swallowed since the last)."""
        with self._lock:
            at, swallowed = self._seen.get(code, (-1, 0))
            if at == minute:
                self._seen[code] = (at, swallowed + 1)
                return 0
            self._seen[code] = (minute, 0)
            return swallowed + 1


@dataclass(slots=True, eq=False, repr=False)
class House:
    """Everything one guard is wired from."""

    layers: tuple[Policy, ...]
    policy: str
    verifier: Verifier
    revocations: Revocations
    store: StateStore
    sinks: tuple[Sink, ...]
    clock: Clock
    blinds: Blinds
    spans: Any
    resolve: Callable[[str], str] | None
    seconds: float
    generation: str = ""
    """`g:` and the digest of all layers."""
    load: int = field(default_factory=_loads.__next__)
    """Which load of policies it is, counted in this process: the same policies loaded again are another."""
    since: Mapping[str, int] | None = None
    """Shape of a rule -> the second from which it is counted. None: not asked yet."""
    windows: tuple[int | None, ...] = (None,)
    """Over which times denials are counted: ever, and each window a rule names."""
    most_asks: int = 10
    """So many asks a task may make; the next one denies."""
    tracks: bool = False
    """Some policy asks where values come from, or what the prompt asks for."""
    approvals: Approvals | None = None
    signals: Signals | None = None
    proofs: Proofs | None = None
    registry: Registrations | None = None
    credentials: Credentials | None = None
    ids: Ids = field(default_factory=Ids)
    binders: dict[str, Binder] = field(default_factory=dict)
    """Tool -> what binds a call by name."""
    fitted: list[tuple[str, Shape, Binder]] = field(default_factory=list)
    """Tool, shape and binder of each guarded function, in the order they were decorated."""
    outcomes: Outcomes = field(default_factory=Outcomes)
    refusals: Refusals = field(default_factory=Refusals)
    wall0: float = 0.0
    steady0: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        self.generation = "g:" + sha256("\n".join(layer.digest for layer in self.layers).encode()).hexdigest()[:12]
        denied = {rule.limit.window for layer in self.layers for rule in layer.rules if rule.limit is not None and rule.limit.denied}
        self.windows = (None, *sorted(window for window in denied if window is not None))
        self.most_asks = min(layer.most_asks for layer in self.layers)
        self.tracks = uses_sources(self.layers) or any(layer.asked is not None for layer in self.layers)
        if self.tracks:  # now, and not within the deadline of the first call
            import guard.workflow.asked
            import guard.workflow.observe
            import guard.workflow.sources  # noqa: F401

    def under(self, layers: tuple[Policy, ...]) -> House:
        """The same house under other policies: same state, records, clock and outcomes; calls in flight end under the old ones."""
        types = {name: tool.types for name, tool in layers[0].tools.items()}
        fitted = [(tool, shape, binder.under(types.get(tool, {}))) for tool, shape, binder in self.fitted]
        binders = {
            name: self.binders[name].under(kinds) if name in self.binders else Binder(name, None, kinds) for name, kinds in types.items()
        }
        return replace(self, layers=layers, policy=named(layers), since=None, load=next(_loads), binders=binders, fitted=fitted)

    def exchanger(self, issuer: str) -> Exchanger | None:
        """Whom to ask for a narrower token of this issuer; None: nobody."""
        find = getattr(self.verifier, "exchanger", None)
        return None if find is None else find(issuer)

    def lender(self, issuer: str) -> Credentials | None:
        """Whom to ask for what a tool needs downstream, under a token of this issuer; None: nobody."""
        if self.credentials is not None:
            return self.credentials
        find = getattr(self.verifier, "lender", None)
        return None if find is None else find(issuer)

    def orphan(self, failure: Failure, refund: Callable[[object, datetime], object]) -> None:
        """A state answer that comes after its call was denied: take back what it applied, whenever it comes."""
        pending = failure.pending
        if pending is not None:
            pending.add_done_callback(lambda future: None if future.cancelled() or future.exception() else _quiet(refund, future.result()))


def _known(registry: Registrations, delegation: Delegation) -> tuple[Finding, ...]:
    try:
        return tuple(registry.findings(delegation))
    except Exception:
        return (Finding("token", "forbid", ReasonCode.IDENTITY_UNAVAILABLE),)


def owner_of(registry: Registrations, delegation: Delegation) -> str:
    """Who answers for who acts under `delegation`; "": nobody, or the registry does not say."""
    try:
        found = registry.owner(delegation)
    except Exception:
        return ""
    return found if type(found) is str else ""


def named(layers: Sequence[Policy]) -> str:
    """Policies as records name them: name@digest."""
    return ",".join(f"{layer.name}@{layer.digest[:12]}" for layer in layers)


def _quiet(refund: Callable[[object, datetime], object], answer: object) -> None:
    try:
        refund(answer, datetime.now(UTC))
    except Exception:  # noqa: S110 - the store is failing; what stays counted is counted too high, which is the safe side
        pass


def frozen_details(task: TaskState | None, bound: Bound | None) -> Mapping[str, object]:
    """What `Decision.explain` shows besides names: in process only."""
    if task is None:
        return {}
    d = task.delegation
    who = " > ".join((d.origin, *d.actors))
    details: dict[str, object] = {"who": f"{who}   credential {d.credential}{' (local issuer)' if d.local else ''}   workload {d.workload}"}
    if bound is not None:
        details["args"] = dict(bound.values)
    return details
