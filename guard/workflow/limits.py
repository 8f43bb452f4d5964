"""Limits as keyed state operations, and what is said when one is used up.

A `Claim` is one thing a call takes from the shared state. Hard claims refuse in the store's own transaction, so a limit holds
under any number of parallel callers; soft claims (monitor, alert) only count and are compared afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from guard.constraints import canonical
from guard.frozen import frozen
from guard.model import Finding, Judge, Mode
from guard.ops import Add, Refused, units
from guard.reasons import ReasonCode
from guard.workflow.atoms import Values
from guard.workflow.reach import reach

if TYPE_CHECKING:
    from guard.policy.data import Limit

__all__ = ["Claim", "Context", "LimitSource", "describe"]


@frozen
class Context:
    """What keys are made of: the task key, the tenant, who acts for whom.

    `person`, `actor_proven`: who is proven to act, None where nobody is. `tenant_key`, `task_key`: the keys of hashes of values.
    `depth`: actors after the first. `opened`: when the task was, epoch seconds.
    """

    task: str
    tenant: str
    origin: str
    actor: str
    tenant_key: bytes = b""
    task_key: bytes = b""
    person: str | None = None
    actor_proven: str | None = None
    depth: int = 0
    opened: int = 0


@frozen
class LimitSource:
    """One compiled limit. `says`: what it says when used up (`forbid`, `ask`; `permit` for an alert). `unit`: what is counted."""

    limit: Limit
    name: str
    judge: Judge
    code: ReasonCode
    says: str
    rule: str | None
    where: str | None
    unit: str
    until: int | None = None
    """Epoch seconds until which the limit only monitors; None: it enforces."""

    def claim(self, context: Context, tool: str, values: Values, decision: str, now: int) -> Claim | Finding:
        """The claim of one call, or a forbid where its amount is not one."""
        amount = 1
        if self.limit.sum is not None:
            path = self.limit.sum
            summed = values.ask(f"{self.rule or self.name}.sum", lambda found: _amount(path, found))
            if type(summed) is not int or summed < 0:
                # The attack: a negative or huge amount that makes room under the sum.
                return Finding(
                    self.judge, "forbid", self.code, self.rule, self.where, f"argument {self.limit.sum} is not an amount that can be summed"
                )
            amount = summed
        mode: Mode = "monitor" if self.until is not None and now < self.until else "enforce"
        soft = mode == "monitor" or self.says == "permit"
        top = _top(self.limit)
        key = self._key(context, tool, lambda per: str(values.ask(f"{self.name}.{per}", lambda found: _hash(per, found))))
        return Claim(Add(key, amount, None if soft else top, self.limit.window, decision), self, mode, soft)

    def cleared(self, asks: Mapping[str, str]) -> bool:
        """Was its ask answered? Then it counts and refuses nothing."""
        return self.says == "ask" and self.rule in asks

    def fixed(self, context: Context, tool: str) -> tuple[str, int, int | None] | None:
        """Key and maximum where neither depends on the call: a hard limit on the number of calls; None otherwise."""
        if self.limit.sum is not None or self.until is not None or self.says == "permit":
            return None
        if any(per.startswith("args.") for per in self.limit.per):
            return None
        return self._key(context, tool, str), _top(self.limit), self.limit.window

    def _key(self, context: Context, tool: str, hashed: Callable[[str], str]) -> str:
        if not self.limit.per:
            return f"{context.task}|{self.name}"
        return "|".join([f"{context.tenant}|{self.name}", *(_part(per, context, tool, hashed) for per in self.limit.per)])

    def finding(self, used: object, by: str, mode: Mode) -> Finding:
        """The limit is used up: `used` of `max`, last by decision `by`."""
        limit = self.limit
        if limit.sum is None:
            text = f"{min(_int(used), _int(limit.max))} of {limit.max} {self.unit} used"
        else:
            text = f"the sum of {limit.sum} would pass {limit.max}"
        if limit.window is not None:
            text += f" within {describe(limit.window)}"
        elif not limit.per:
            text += " in this task"
        if self.rule is not None:
            text = f"rule {self.rule}, {text}"
        fix = f"wait until the last {describe(limit.window)} have less" if limit.window else "a new task" if not limit.per else None
        witnesses = (by,) if by else ()
        says = self.says if self.says in ("forbid", "ask", "permit") else "forbid"
        return Finding(self.judge, says, self.code, self.rule, self.where, text, mode, fix, witnesses)  # type: ignore[arg-type]


class Claim(NamedTuple):
    """One operation of a call's reservation and where it comes from."""

    op: Add
    source: LimitSource
    mode: Mode
    soft: bool
    silent: bool = False
    """It counts, and says nothing: `unless` excuses the call, or an approval covers it."""

    @property
    def told(self) -> bool:
        """It refuses nothing, and says where it went over."""
        return self.soft and not self.silent

    def silenced(self) -> Claim:
        return Claim(self.op._replace(max=None), self.source, self.mode, True, True)

    def refused(self, answer: Refused) -> Finding:
        return self.source.finding(answer.value, answer.by, self.mode)

    def applied(self, value: object, by: str = "") -> Finding | None:
        """A soft claim that went over (`by`: who took the last of it before), or what an intent's own limit has left; None where there is nothing to say."""
        limit = self.source.limit
        if self.silent:
            return None
        if self.soft:
            return self.source.finding(limit.max, by, self.mode) if _int(value) > _top(limit) else None
        if self.source.rule is None and limit.sum is None:
            return Finding(
                self.source.judge, "permit", ReasonCode.PERMIT, where=self.source.where, text=f"{value} of {limit.max} {self.source.unit}"
            )
        return None


def _top(limit: Limit) -> int:
    if limit.sum is None:
        return int(limit.max)
    top = units(limit.max)
    return top if top is not None else 0  # lint refuses such a maximum; without lint nothing passes


def _int(value: object) -> int:
    return value if type(value) is int else int(value) if isinstance(value, Decimal) else 0


def _amount(path: str, values: Mapping[str, object]) -> int | None:
    """The amount at `path` in units; several values add up; None where any is missing or not a number."""
    total = 0
    found = reach(path, values)
    if not found:
        return None
    for value in found:
        if type(value) is int:
            one = units(value)
        elif type(value) is str:
            try:
                one = units(Decimal(value))
            except ArithmeticError:
                return None
        else:
            return None
        if one is None:
            return None
        total += one
    return total


def _part(per: str, context: Context, tool: str, hashed: Callable[[str], str]) -> str:
    if per == "origin":
        return f"origin={context.origin}"
    if per == "actor":
        return f"actor={context.actor}"
    if per == "tool":
        return f"tool={tool}"
    path = per.removeprefix("args.")
    return f"{path}={hashed(path)}"


def _hash(path: str, values: Mapping[str, object]) -> str:
    """A key must not carry an argument value. An absent value is a key of its own, so leaving it out buys no fresh count."""
    return sha256(canonical(reach(path, values))).hexdigest()[:32]


def describe(seconds: int | None) -> str:
    """`86400` as `24h`, `600` as `10m`."""
    if seconds is None:
        return "for ever"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % size == 0 and (seconds // size > 1 or size != 86400):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
