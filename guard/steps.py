"""What the flows share: a draft of what is being decided, ports asked without raising, the clock and the identity.

An answer of a port is a value, or a `Failure`. A port that never blocks (`inline`) is asked here and now; any other through the driver,
which waits for it under the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic

from guard.drive import INTERRUPTS, Failure, Flow, Need
from guard.errors import TokenRefused
from guard.house import House, TaskState
from guard.model import Bound, Delegation, Finding, Outcome, ToolCall, quick
from guard.ops import Add, Mark, Op, Take
from guard.ports import Clock
from guard.reasons import REASONS, ReasonCode
from guard.workflow.limits import Claim
from guard.workflow.plan import Plan

__all__ = ["Draft", "Taken", "failed", "forbid", "identify", "read_clock", "refunds"]

_NOTHING: Mapping[str, object] = {}
_finding = quick(Finding)


def forbid(judge: str, code: ReasonCode, text: str = "", fix: str | None = None) -> Finding:
    """A refusal; without a text the code's own meaning."""
    return Finding(judge, "forbid", code, text=text or REASONS[code].meaning, fix=fix)  # type: ignore[arg-type]


class Taken:
    """What a call took from the shared state: the operations, from `first` on those that count, and the second of it."""

    __slots__ = ("at", "first", "ops")

    def __init__(self, ops: list[Op], first: int, at: int) -> None:
        self.ops = ops
        self.first = first
        self.at = at


def refunds(taken: Taken, *, marks: bool = True) -> tuple[Op, ...]:
    """What takes it back: marks are taken, counts are refunded. The step number stays used."""
    undone: list[Op] = [Take(op.key, need=False) for op in taken.ops[: taken.first] if type(op) is Mark] if marks else []
    undone += [Add(op.key, -op.amount, None, op.window, op.by, taken.at) for op in taken.ops[taken.first :] if type(op) is Add]
    return tuple(undone)


class Draft:
    """What one flow knows so far."""

    __slots__ = (
        "at", "bound", "call", "call_key", "claims", "deadline", "dry", "findings", "id", "interrupt", "now", "plan", "replay", "step", "taken", "task",
    )  # fmt: skip

    def __init__(self, house: House, task: TaskState | None, call: ToolCall, dry: bool) -> None:
        self.id = house.ids()
        self.deadline = monotonic() + house.seconds
        self.task = task
        self.call = call
        self.dry = dry
        self.findings: list[Finding] = []
        self.claims: list[Claim] = []
        self.bound: Bound | None = None
        self.plan: Plan | None = None
        self.now: datetime | None = None
        self.at = 0
        self.step = 0
        self.call_key: str | None = None
        self.taken: Taken | None = None
        self.replay: Outcome | None = None
        self.interrupt: BaseException | None = None

    def ask(
        self, port: object, question: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object] = _NOTHING
    ) -> object:
        """The answer, or a `Failure`, or a `Need` that the caller must yield: `if type(answer) is Need: answer = yield answer`."""
        if getattr(port, "inline", False) is not True:
            return Need(port, question, args, kwargs)
        try:
            answer = question(*args, **kwargs)
        except INTERRUPTS as error:
            self.interrupt = self.interrupt or error
            return Failure(error, interrupted=True)
        except BaseException as error:  # a panic of a native library is not an Exception and must not pass (fail-open row F12)
            return Failure(error)
        if monotonic() > self.deadline:
            return Failure(None, late=True, answer=answer)
        return answer


def failed(answer: object, judge: str, code: ReasonCode) -> Finding:
    """A port that gave no usable answer: its code, or the deadline's, or the interrupt's."""
    if type(answer) is Failure:
        if answer.interrupted:
            return forbid(judge, ReasonCode.CALL_CANCELLED)
        if answer.late:
            return forbid(judge, code, f"{REASONS[code].meaning}: no answer within the guard's deadline")
    return forbid(judge, code)


def _both(clock: Clock) -> tuple[object, object]:
    return clock.now(), clock.monotonic()


def read_clock(house: House, draft: Draft) -> Flow[Finding | None]:
    """Now, into the draft: never earlier than any time this guard has seen. Attack: a clock set back revives an expired token."""
    answer = draft.ask(house.clock, _both, (house.clock,))
    if type(answer) is Need:
        answer = yield answer
    wall, steady = answer if type(answer) is tuple else (None, None)
    if type(wall) is not datetime or wall.tzinfo is None or type(steady) is not float:
        return failed(answer, "task", ReasonCode.CLOCK_UNAVAILABLE)
    at = wall.timestamp()
    if abs((at - house.wall0) - (steady - house.steady0)) > 60:
        return forbid("task", ReasonCode.CLOCK_DRIFT, fix="restart the process once the clock is right")
    if at < house.high:
        at = house.high
        wall = datetime.fromtimestamp(at, UTC)
    else:
        house.high = at
    draft.now = wall
    draft.at = int(at * 1_000_000)
    return None


def identify(house: House, draft: Draft, token: str) -> Flow[Delegation | Finding]:
    """Token to delegation, and nothing revoked. The answer None of the revocation list, and only None, means not revoked."""
    now = {"now": draft.at // 1_000_000}
    answer = draft.ask(house.verifier, house.verifier.verify, (token,), now)
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is not Delegation:
        if type(answer) is Failure and isinstance(answer.error, TokenRefused) and not answer.late:
            return Finding("token", "forbid", answer.error.reason, text=str(answer.error))
        return failed(answer, "token", ReasonCode.KEYS_UNAVAILABLE)
    revoked = draft.ask(house.revocations, house.revocations.find, (answer,), now)
    if type(revoked) is Need:
        revoked = yield revoked
    if revoked is None:
        return answer
    if type(revoked) is str and revoked:
        return forbid("token", ReasonCode.TOKEN_REVOKED, f"{revoked} was revoked", "a new token, from an identity that was not revoked")
    return failed(revoked, "token", ReasonCode.REVOCATION_UNAVAILABLE)
