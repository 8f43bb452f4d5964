"""What the flows share: a draft of what is being decided, ports asked without raising, the clock and the identity.

An answer of a port is a value, or a `Failure`. A port that never blocks (`inline`) is asked here and now; any other through the driver,
which waits for it under the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from guard.drive import BEGUN, INTERRUPTS, Failure, Flow, Need
from guard.errors import GuardError, KeysWanted, TokenRefused
from guard.house import House, SystemClock, TaskState
from guard.model import Approval, Bound, Delegation, Finding, Outcome, Signal, ToolCall
from guard.ops import Add, Applied, Lookup, Mark, Op, Pin, Put, Refused, Take, Tally
from guard.ports import Clock
from guard.reasons import REASONS, ReasonCode
from guard.workflow.atoms import Live
from guard.workflow.limits import Claim
from guard.workflow.plan import Plan, Weighed

if TYPE_CHECKING:
    from guard.workflow.ledger import Masks

__all__ = [
    "NO_SIGNALS", "Draft", "Taken", "actor_of", "both", "clock_said", "failed", "forbid", "gone", "identify", "life_said", "read_clock", "refunds",
    "revocation_said", "token_said", "with_keys",
]  # fmt: skip

NO_SIGNALS: Mapping[str, Signal] = {}
_NOTHING: Mapping[str, object] = {}
_NOTHING_SAID: Mapping[str, str] = {}


def forbid(judge: str, code: ReasonCode, text: str = "", fix: str | None = None) -> Finding:
    """A refusal; without a text the code's own meaning."""
    return Finding(judge, "forbid", code, text=text or REASONS[code].meaning, fix=fix)  # type: ignore[arg-type]


class Taken(NamedTuple):
    """What a call took from the shared state: the operations, from `first` on those that count, the second of it, and what it left.

    `left`: None where it left nothing that would be taken back.
    """

    ops: list[Op]
    first: int
    at: int
    left: Weighed | None = None


def refunds(taken: Taken, *, marks: bool = True) -> tuple[Op, ...]:
    """What takes it back: marks are taken, counts are refunded. The step number stays used.

    `marks` False: the body ran and its error means that nothing happened; the call id and the labels stay.
    """
    left = taken.left
    undone: list[Op] = []
    if marks:  # the mark of the call's id; marks of rules are among `unmark`, and a proof is used up
        undone += [Take(op.key, need=False) for op in taken.ops[1:3] if type(op) is Mark and not op.key.startswith("proof|")]
    if left is not None:
        undone += left.unmark if marks else left.forget
        undone += [hold.undo for hold in left.holds if hold.undo is not None]
    for op in taken.ops[taken.first :]:
        if type(op) is Add:
            undone.append(Add(op.key, -op.amount, None, op.window, op.by, taken.at))
        elif type(op) is Tally:
            undone += [Add(key, -1, None, None, op.by, taken.at) for key in op.keys[1:]]  # the first counts steps
    return tuple(undone)


class Draft:
    """What one flow knows so far. With slots, all of them filled: what is only on the class is searched for at every read."""

    __slots__ = (
        "adds", "agreed", "answers", "approvals", "at", "bound", "call", "call_key", "claims", "cleared", "deadline", "dry", "endorses", "findings", "id",
        "interrupt", "judged", "life", "live", "looked", "mark", "masks", "now", "numbered", "order", "plan", "read_at", "replay", "request", "signals",
        "step", "taken", "task", "weighed",
    )  # fmt: skip

    agreed: tuple[Finding, ...] | None
    """The findings, where they are those of the plan (`Plan.agreed`) and the reservation was granted."""
    answers: Sequence[object]
    approvals: Sequence[Approval]
    bound: Bound | None
    call_key: str | None
    claims: Sequence[Claim]
    cleared: Mapping[str, str]
    interrupt: BaseException | None
    judged: tuple[int, int] | None
    life: Pin | None
    live: Live | None
    looked: Sequence[object]
    """Answers of what would refuse, read together with `answers`."""
    mark: str | None
    """Of the proof that came with the call: taken with the reservation."""
    masks: Masks | None
    now: datetime | None
    numbered: int
    """Where in the reservation the commit number of the tenant stands."""
    order: int
    """As `DecisionRecord.order`."""
    plan: Plan | None
    replay: Outcome | None
    request: Pin | None
    """The mark of the proof that came with the HTTP request, pinned to it with the reservation."""
    signals: Mapping[str, Signal]
    taken: Taken | None
    weighed: Weighed | None

    def __init__(self, house: House, task: TaskState | None, call: ToolCall, dry: bool) -> None:
        self.id = house.ids()
        self.deadline = monotonic() + house.seconds
        self.task = task
        self.call = call
        self.dry = dry
        self.findings: list[Finding] = []
        self.adds = self.endorses = False
        self.at = self.order = self.read_at = self.step = 0
        self.numbered = -1
        self.answers = self.approvals = self.claims = self.looked = ()
        self.cleared, self.signals = _NOTHING_SAID, NO_SIGNALS
        self.agreed = self.bound = self.call_key = self.interrupt = self.judged = self.life = self.live = self.mark = self.masks = (
            self.now
        ) = None
        self.plan = self.replay = self.request = self.taken = self.weighed = None

    @property
    def late(self) -> bool:
        """The deadline has passed: whatever was found, it came too late."""
        return monotonic() > self.deadline

    def ask(
        self, port: object, question: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object] = _NOTHING
    ) -> object:
        """The answer, or a `Failure`, or a `Need` that the caller must yield: `if type(answer) is Need: answer = yield answer`."""
        if getattr(port, "inline", False) is not True:
            return Need(port, question, args, kwargs)
        try:
            return question(*args, **kwargs)
        except BaseException as error:
            return self.raised(error)

    def raised(self, error: BaseException) -> Failure:
        """What a port raised, as an answer. A panic of a native library is not an Exception and must not pass (fail-open row F12)."""
        if isinstance(error, INTERRUPTS):
            self.interrupt = self.interrupt or error
            return Failure(error, interrupted=True)
        return Failure(error)


def failed(answer: object, judge: str, code: ReasonCode) -> Finding:
    """A port that gave no usable answer: its code, or the deadline's, or the interrupt's."""
    if type(answer) is Failure:
        if answer.interrupted:
            return forbid(judge, ReasonCode.CALL_CANCELLED)
        if answer.late:
            return forbid(judge, code, f"{REASONS[code].meaning}: no answer within the guard's deadline")
    return forbid(judge, code)


def both(clock: Clock) -> tuple[object, object, object]:
    """Wall time, steady time, and the wall time in seconds where the clock knows it already."""
    if type(clock) is SystemClock:
        return clock.read()
    return clock.now(), clock.monotonic(), None


def clock_said(house: House, draft: Draft, answer: object) -> Finding | None:
    """Now, into the draft: never earlier than any time this guard has seen. Attack: a clock set back revives an expired token."""
    wall, steady, at = answer if type(answer) is tuple else (None, None, None)
    if type(wall) is not datetime or wall.tzinfo is None or type(steady) is not float:
        return failed(answer, "task", ReasonCode.CLOCK_UNAVAILABLE)
    if type(at) is not float:
        at = wall.timestamp()
    drift = (at - house.wall0) - (steady - house.steady0)
    if drift > 60 or drift < -60:
        return forbid("task", ReasonCode.CLOCK_DRIFT, fix="restart the process once the clock is right")
    if at < house.high:
        at = house.high
        wall = datetime.fromtimestamp(at, UTC)
    else:
        house.high = at
    draft.now = wall
    draft.at = int(at * 1_000_000)
    return None


def token_said(answer: object) -> Finding:
    """What it means that the verifier gave no delegation."""
    if type(answer) is Failure and isinstance(answer.error, TokenRefused) and not answer.late:
        return Finding("token", "forbid", answer.error.reason, text=str(answer.error))
    return failed(answer, "token", ReasonCode.KEYS_UNAVAILABLE)


def with_keys(house: House, draft: Draft, token: str, answer: object) -> Flow[object]:
    """`answer`: what the verifier said of `token`. Where it wants keys that are not here they are waited for, and it is asked once more.

    A server that is slow is waited for until the deadline; the fetch goes on, and the next call finds its keys.
    """
    error = answer.error if type(answer) is Failure and not answer.late else None
    fetch = getattr(house.verifier, "fetch", None)
    if not isinstance(error, KeysWanted) or fetch is None:
        return answer
    got = yield Need(BEGUN, fetch, (error,))
    if type(got) is Failure:
        return got
    again = draft.ask(house.verifier, house.verifier.verify, (token,), {"now": draft.at // 1_000_000})
    if type(again) is Need:
        again = yield again
    return again


def life_said(house: House, draft: Draft, life: Pin, answer: Refused, *, renew: bool = True) -> Flow[Finding | None]:
    """What it means that another life of the task stands than the one this guard would pin; None: it is ours now, judge again.

    | stands               | then                                                                     |
    |----------------------|--------------------------------------------------------------------------|
    | `ended:DECISION`     | `task.ended`                                                             |
    | `suspended:RULE`     | `task.suspended`                                                         |
    | policies, older      | the newest loaded policies govern the next call: ours are put (not dry)  |
    | policies, newer      | `policy.older`: a process that was not reloaded must not judge on        |
    | anything else        | `state.unavailable`                                                      |
    """
    stood, witnesses = answer.value, (answer.by,) if answer.by else ()
    word, _, rest = stood.partition(":") if type(stood) is str else ("", "", "")
    if word == "ended":
        return forbid("task", ReasonCode.TASK_ENDED)
    if word == "suspended":
        text = f"rule {rest} suspended the task"
        return Finding("task", "forbid", ReasonCode.TASK_SUSPENDED, rest, text=text, fix="a new task", witnesses=witnesses)
    if word != "g":
        return forbid("state", ReasonCode.STATE_UNAVAILABLE)
    mine = life.value
    looks = (Lookup(f"gen|{mine}"), Lookup(f"gen|{stood}"))
    numbers = draft.ask(house.store, house.store.apply, (looks,), {"now": draft.now, "commit": False})
    if type(numbers) is Need:
        numbers = yield numbers
    if type(numbers) is not Applied or len(numbers.values) != 2:
        return failed(numbers, "state", ReasonCode.STATE_UNAVAILABLE)
    ours, theirs = (int(one) if type(one) is str and one.isdigit() else None for one in numbers.values)
    if ours is None or (theirs is not None and theirs > ours):
        return forbid("task", ReasonCode.POLICY_OLDER, fix="load the newer policy here")
    if not renew:
        return None
    if draft.dry:  # the call itself would put ours; the trial goes on from the life that stands
        draft.life = Pin(life.key, str(stood))
        return None
    # Only over the one that was seen: somebody may have ended the task meanwhile.
    swap = (Pin(life.key, str(stood)), Put(life.key, mine, draft.id))
    put = draft.ask(house.store, house.store.apply, (swap,), {"now": draft.now})
    if type(put) is Need:
        put = yield put
    if type(put) in (Refused, Applied):
        return None
    return failed(put, "state", ReasonCode.STATE_UNAVAILABLE)


def revocation_said(answer: object) -> Finding | None:
    """None, and only None, means that nothing of the delegation was revoked."""
    if answer is None:
        return None
    if type(answer) is str and answer:
        what, _, by = answer.partition("\t")  # no name has a tab in it
        text = f"{what} was revoked by {by}" if by else f"{what} was revoked"
        return forbid("token", ReasonCode.TOKEN_REVOKED, text, "a new token, from an identity that was not revoked")
    error = answer.error if type(answer) is Failure and not answer.late else None
    if isinstance(error, GuardError) and error.code == ReasonCode.REVOCATION_UNAVAILABLE:  # names the file and the line to repair
        return forbid("token", ReasonCode.REVOCATION_UNAVAILABLE, str(error))
    return failed(answer, "token", ReasonCode.REVOCATION_UNAVAILABLE)


def gone(house: House, draft: Draft, state: TaskState) -> Flow[Finding | None]:
    """Whether something was taken back that the task's token descends from by exchanges (`guard/handed.py`)."""
    for one in state.handed:
        answer = draft.ask(house.revocations, house.revocations.find, (one,), {"now": draft.at // 1_000_000})
        if type(answer) is Need:
            answer = yield answer
        said = revocation_said(answer)
        if said is not None:
            return said
    return None


def read_clock(house: House, draft: Draft) -> Flow[Finding | None]:
    """Ask the clock."""
    answer = draft.ask(house.clock, both, (house.clock,))
    if type(answer) is Need:
        answer = yield answer
    return clock_said(house, draft, answer)


def actor_of(house: House, draft: Draft, d: Delegation) -> Flow[str | None]:
    """Which actor has proven to be one; nobody where the port fails or is late, and nobody unproven differs from anybody."""
    if house.proofs is None:
        return None
    proven = draft.ask(house.proofs, house.proofs.actor, (d,))
    if type(proven) is Need:
        proven = yield proven
    return proven if type(proven) is str and proven else None


def identify(house: House, draft: Draft, token: str) -> Flow[Delegation | Finding]:
    """Token to delegation, and nothing of it revoked."""
    now = {"now": draft.at // 1_000_000}
    answer = draft.ask(house.verifier, house.verifier.verify, (token,), now)
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is not Delegation:
        answer = yield from with_keys(house, draft, token, answer)
    if type(answer) is not Delegation:
        return token_said(answer)
    revoked = draft.ask(house.revocations, house.revocations.find, (answer,), now)
    if type(revoked) is Need:
        revoked = yield revoked
    said = revocation_said(revoked)
    if said is None and draft.task is not None and draft.task.handed:
        said = yield from gone(house, draft, draft.task)
    return said or answer
