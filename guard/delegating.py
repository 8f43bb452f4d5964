"""Handing on: a narrower task of the same `txn` for another actor, by an exchange at the issuer (RFC 8693).

| step                                                           | what can go wrong                | what then                 |
|----------------------------------------------------------------|----------------------------------|---------------------------|
| clock, identity, revocation, life of the task                  | as with a call                   | the same codes            |
| what is asked for is inside what there is                      | it is not                        | `delegation.widened`      |
| the issuer is asked                                            | it says no; it does not answer   | `delegation.refused`; `delegation.unavailable` |
| its answer is verified like any token, and not revoked         | it does not verify               | `token.*`                 |
| it is compared with what was asked, not with what is said of it | it is wider, of another task, of another actor | `delegation.widened` |
| recorded                                                       | a required sink fails            | `record.unavailable`; the token is dropped |

The narrowing rule is ours: RFC 8693 does not oblige an issuer to narrow anything. A retry never asks for more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from time import monotonic

from guard.constraints import ConstraintError, canonical
from guard.decide import Ruling, decide
from guard.drive import INTERRUPTS, Failure, Flow, Need
from guard.errors import ConfigError, GuardError
from guard.flow import finish_flow
from guard.handed import remember
from guard.house import House, TaskState
from guard.model import Bound, Decision, Delegation, ExchangeRequest, Finding, Judge, Outcome, ToolCall
from guard.ops import Add, Applied, Refused
from guard.ports import Exchanger
from guard.reasons import REASONS, ReasonCode
from guard.steps import Draft, failed, forbid, identify, life_said, read_clock
from guard.tokens.asking import Asked, Tools, Wider, asked_of
from guard.tokens.claims import SKEW
from guard.tokens.details import read_details
from guard.tokens.narrow import widened
from guard.tokens.text import is_name
from guard.writing import conclude

__all__ = ["DELEGATE", "delegate_flow", "requested"]

DELEGATE = "task.delegate"
_TTL = re.compile(r"([1-9][0-9]{0,5})([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_SPEAKS: tuple[Judge, ...] = ("task",)


def delegate_flow(house: House, state: TaskState, actor: str, tools: Tools | None, seconds: int | None) -> Flow[str | Decision]:
    """The child's token, or the recorded refusal. Raises ConfigError where the issuer was given no way to be asked."""
    exchanger = house.exchanger(state.delegation.issuer)
    if exchanger is None:
        raise ConfigError(
            f"the issuer {state.delegation.issuer} cannot be asked for a narrower token: give it a client, "
            "`Issuer(..., client=Client(...))`"
        )
    shown: dict[str, object] = {"actor": actor, "tools": sorted(tools) if tools is not None else [], "seconds": seconds or 0}
    draft = Draft(house, state, ToolCall(DELEGATE, shown), dry=False)
    draft.bound = Bound(DELEGATE, shown, shown, canonical(shown))
    token = ""
    try:
        answer = yield from _child(house, draft, state, exchanger, actor, tools, seconds)
        if isinstance(answer, str):
            token = answer
            draft.findings = [Finding("task", "permit", ReasonCode.PERMIT, text="handed on, and not wider")]
            ruling = decide(draft.findings, _SPEAKS)
        else:
            ruling = _stopped(draft, answer)
    except INTERRUPTS:
        raise
    except BaseException as error:  # as with a call: a denial with one code, and never a foreign exception (`decide_flow`)
        ruling = _stopped(draft, forbid("guard", ReasonCode.GUARD_ERROR, f"an unexpected {type(error).__name__} inside the guard"))
    draft.deadline = monotonic() + house.seconds
    ticket = yield from conclude(house, draft, ruling)
    if ticket.decision.blocks:
        return ticket.decision
    yield from finish_flow(house, ticket, Outcome("ok"))
    return token


def _stopped(draft: Draft, finding: Finding) -> Ruling:
    draft.findings = [finding]
    return decide(draft.findings, ())


def _child(
    house: House, draft: Draft, state: TaskState, exchanger: Exchanger, actor: str, tools: Tools | None, seconds: int | None
) -> Flow[str | Finding]:
    if state.closed:
        return forbid("task", ReasonCode.TASK_ENDED)
    state.under(house)
    stop = yield from read_clock(house, draft)
    if stop is not None:
        return stop
    parent = yield from identify(house, draft, state.token)
    if isinstance(parent, Finding):
        return parent
    dead = yield from _numbered(house, draft, state)
    if dead is not None:
        return dead
    if not parent.hands_to(actor):  # attack A074: the issuer should say so, and is not asked
        return _wider("the token names in `may_act` who may take it over, and not this actor")
    declared = {name: tuple(tool.types) for name, tool in house.layers[0].tools.items()}
    try:
        asked = asked_of(parent, tools, declared, house.layers[0].scopes)
        widest = _widest(parent, asked, draft.at // 1_000_000, seconds)
    except Wider as error:
        return _wider(str(error))
    except ConstraintError as error:
        return forbid("grants", ReasonCode.TOKEN_DETAILS, f"a constraint of `tools` is not one: {error}")
    made = yield Need(exchanger, exchanger.exchange, (ExchangeRequest(state.token, parent, actor, asked.scopes, asked.details, seconds),))
    if type(made) is not str:
        return _said(made)
    stop = yield from read_clock(house, draft)  # time has passed while the issuer was asked
    if stop is not None:
        return stop
    child = yield from identify(house, draft, made)
    if isinstance(child, Finding):
        return child
    lost = yield from remember(house, draft, state, parent, child)
    if lost is not None:
        return lost
    more = widened(widest, child, scopes=house.layers[0].scopes)
    if more is None and child.actor != actor:
        more = "it is for another actor than was asked for"
    return made if more is None else _wider(more)


def _numbered(house: House, draft: Draft, state: TaskState) -> Flow[Finding | None]:
    """Its step in the chain, if the task is still open."""
    for _ in range(3):
        ops = (state.life, Add(state.step_key, 1, None, None, draft.id))
        answer = yield Need(house.store, house.store.apply, (ops,), {"now": draft.now})
        if type(answer) is Applied:
            draft.step = answer.values[1] if type(answer.values[1]) is int else 0
            return None
        if type(answer) is not Refused or answer.index != 0:
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        dead = yield from life_said(house, draft, state.life, answer)
        if dead is not None:
            return dead
    return forbid("state", ReasonCode.CALL_CONTENDED)


def _widest(parent: Delegation, asked: Asked, now: int, seconds: int | None) -> Delegation:
    """The widest delegation that what was asked for can mean. The answer is compared with it, so that an issuer that ignores a
    parameter is found out.
    """
    expires = parent.expires_at if seconds is None else min(parent.expires_at, now + seconds + SKEW)
    if asked.details is None:
        return replace(parent, expires_at=expires)
    grants = read_details({"authorization_details": list(asked.details)}).grants
    return replace(parent, grants=grants, scopes=asked.scopes, expires_at=expires)


def _wider(text: str) -> Finding:
    return Finding("grants", "forbid", ReasonCode.DELEGATION_WIDENED, text=text, fix="ask for what the parent has, or less")


def _said(answer: object) -> Finding:
    """An issuer that gave no token."""
    if type(answer) is Failure and not answer.late and not answer.interrupted and isinstance(answer.error, GuardError):
        for code in (ReasonCode.DELEGATION_REFUSED, ReasonCode.DELEGATION_UNAVAILABLE):
            if answer.error.code == code:
                return forbid("task", code, f"{REASONS[code].meaning}: {answer.error}")
    return failed(answer, "task", ReasonCode.DELEGATION_UNAVAILABLE)


def requested(actor: object, tools: object, ttl: object) -> tuple[str, Tools | None, int | None]:
    """The arguments of `task.delegate`, as the flow takes them. Raises ConfigError: misuse is no denial."""
    if not is_name(actor) or not isinstance(actor, str):
        raise ConfigError("delegate: `actor` is a visible name of at most 256 characters")
    if tools is not None:
        if (
            isinstance(tools, str)
            or not isinstance(tools, Sequence | Mapping)
            or not tools
            or not all(isinstance(tool, str) for tool in tools)
        ):
            raise ConfigError("delegate: `tools` is a list of tool names, or a mapping of tool name to the constraints that are added")
        if isinstance(tools, Mapping) and not all(isinstance(args, Mapping) for args in tools.values()):
            raise ConfigError("delegate: `tools` maps each tool to its constraints, e.g. {'send_email': {'to': {'eq': 'a@b.example'}}}")
    return actor, tools, None if ttl is None else _seconds(ttl)


def _seconds(ttl: object) -> int:
    if isinstance(ttl, timedelta):
        seconds = int(ttl.total_seconds())
    else:
        match = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
        seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= 24 * 3600:
        raise ConfigError("delegate: `ttl` is written as `30s`, `10m` or `1h`, or a timedelta, up to 24 hours")
    return seconds
