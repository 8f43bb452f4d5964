"""Handing on: a narrower task of the same `txn` for another actor, by an exchange at the issuer (RFC 8693) or by a hop of the holder's own.

| what the task has                                             | then                                                              |
|---------------------------------------------------------------|-------------------------------------------------------------------|
| a token, an issuer that can be asked                          | an exchange                                                       |
| a token, its key, and an issuer that cannot be asked, or would bind the child to no key | a hop, where the root grants depth; else `delegation.refused` |
| a chain and the key of its leaf                               | a hop: no issuer knows what holders have narrowed (it would exchange the root, which is wider) |
| a chain without its key                                       | `delegation.refused`                                              |

A hop is for a key that is made here and goes with the child's task. It cannot carry scopes.

| step                                                           | what can go wrong                | what then                 |
|----------------------------------------------------------------|----------------------------------|---------------------------|
| clock, identity, revocation, life of the task                  | as with a call                   | the same codes            |
| what is asked for is inside what there is                      | it is not                        | `delegation.widened`      |
| the issuer is asked, or the hop is signed                      | it says no, or no depth is granted; it does not answer | `delegation.refused`; `delegation.unavailable` |
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
from guard.ports import Exchanger, Prover
from guard.reasons import REASONS, ReasonCode
from guard.steps import Draft, failed, forbid, identify, life_said, read_clock
from guard.tokens.asking import Asked, Tools, Wider, asked_of
from guard.tokens.claims import MAX_ACTORS, SKEW
from guard.tokens.details import details_of, read_details
from guard.tokens.narrow import widened
from guard.tokens.text import is_name
from guard.writing import conclude

__all__ = ["DELEGATE", "delegate_flow", "requested"]

DELEGATE = "task.delegate"
_TTL = re.compile(r"([1-9][0-9]{0,5})([smh])")
_UNITS = {"s": 1, "m": 60, "h": 3600}
_SPEAKS: tuple[Judge, ...] = ("task",)


Made = tuple[str, Prover | None]
"""The child's token or chain, and the key it is bound to where that was made here."""


def delegate_flow(house: House, state: TaskState, actor: str, tools: Tools | None, seconds: int | None) -> Flow[Made | Decision]:
    """The child's token and key, or the recorded refusal. Raises ConfigError where nobody can hand on."""
    exchanger = house.exchanger(state.delegation.issuer)
    if _offline(state, exchanger, actor):
        exchanger = None
    elif exchanger is None:
        raise ConfigError(
            f"the issuer {state.delegation.issuer} cannot be asked for a narrower token: give it a client, "
            "`Issuer(..., client=Client(...))`; or open the task with its key, `guard.task(token, key=...)`"
        )
    shown: dict[str, object] = {"actor": actor, "tools": sorted(tools) if tools is not None else [], "seconds": seconds or 0}
    draft = Draft(house, state, ToolCall(DELEGATE, shown), dry=False)
    draft.bound = Bound(DELEGATE, shown, shown, canonical(shown))
    made: Made = "", None
    try:
        answer = yield from _child(house, draft, state, exchanger, actor, tools, seconds)
        if isinstance(answer, tuple):
            made = answer
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
    return made


def _offline(state: TaskState, exchanger: Exchanger | None, actor: str) -> bool:
    """Is it the holder's to hand on?"""
    if "~" in state.token:
        return True
    if getattr(state.holder, "hand_on", None) is None:
        return False
    holder = getattr(exchanger, "holder", None)
    try:
        return exchanger is None or (holder is not None and holder(actor) is None)
    except Exception:  # somebody's own exchanger; asked again where a failure is a denial
        return False


def _stopped(draft: Draft, finding: Finding) -> Ruling:
    draft.findings = [finding]
    return decide(draft.findings, ())


def _child(
    house: House, draft: Draft, state: TaskState, exchanger: Exchanger | None, actor: str, tools: Tools | None, seconds: int | None
) -> Flow[Made | Finding]:
    if state.closed:
        return forbid("task", ReasonCode.TASK_ENDED)
    state.under(house)
    stop = yield from read_clock(house, draft)
    if stop is not None:
        return stop
    parent = yield from identify(house, draft, state.token)
    if isinstance(parent, Finding):
        return parent
    if state.shown is not None:
        stop = yield from state.shown.takes(house, draft, state)
        if stop is not None:
            return stop
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
    key: Prover | None = None
    if exchanger is None:
        hop = _hop(state, parent, actor, asked, seconds)
        if isinstance(hop, Finding):
            return hop
        made, key = hop
    else:
        request = ExchangeRequest(state.token, parent, actor, asked.scopes, asked.details, seconds)
        given = yield Need(exchanger, exchanger.exchange, (request,))
        if type(given) is not str:
            return _said(given)
        made = given
        holder = getattr(exchanger, "holder", None)
        key = None if holder is None else holder(actor)
    stop = yield from read_clock(house, draft)  # time has passed while the issuer was asked
    if stop is not None:
        return stop
    child = yield from identify(house, draft, made)
    if isinstance(child, Finding):
        return child
    more = widened(widest, child, scopes=house.layers[0].scopes)
    if key is not None and (child.bound != "jkt" or child.credential.thumbprint != key.thumbprint):
        # Attack: the answer is another's token, or one that whoever sees it may use.
        return forbid("task", ReasonCode.DELEGATION_UNAVAILABLE, "the token that was made is not bound to the key it was asked for")
    if more is None and child.actor != actor:
        more = "it is for another actor than was asked for"
    if more is not None:
        return _wider(more)
    # Last: what is refused may be another one's child, of which the store knows better whom it descends from.
    lost = yield from remember(house, draft, state, parent, child)
    return (made, key) if lost is None else lost


def _hop(state: TaskState, parent: Delegation, actor: str, asked: Asked, seconds: int | None) -> Made | Finding:
    """Signed by the holder; verified after that like anybody's."""
    hand_on = getattr(state.holder, "hand_on", None)
    if hand_on is None:
        return _refused(
            "a chain is handed on by the holder of its last key, and this task does not have it", "`guard.task(token, key=...)`"
        )
    persons = (parent.origin, parent.person) if parent.origin_kind == "person" else ()
    if actor in (*parent.actors, *persons) or len(parent.actors) >= MAX_ACTORS:
        return _refused("the actor is in the chain already, or the chain has as many as it may", "another actor")
    details = asked.details if asked.details is not None else tuple(details_of(parent))
    if not details:
        return _refused("scopes cannot be handed on offline, and the token grants nothing else", "`tools` of the token itself")
    try:
        chain, key = hand_on(state.token, actor, details, seconds)
    except ConfigError as error:
        return _refused(str(error).removeprefix("attenuate: "), "a root token that allows hops (`mdp`), or an issuer that can be asked")
    return chain, key


def _refused(text: str, fix: str) -> Finding:
    return forbid("task", ReasonCode.DELEGATION_REFUSED, text, fix)


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
