"""RFC 9396 `authorization_details`: the task and the grants a token carries.

| type         | members                                                   | meaning                                    |
|--------------|-----------------------------------------------------------|--------------------------------------------|
| `agent_task` | `intent`, `params` (object, may be left out)              | at most one: the kind of task              |
| `agent_tool` | `tool`, `args` (path -> constraint), `limit: {calls: n}`  | one permission; several for a tool: any    |

Everything else is refused: an entry we do not understand may be the one that was meant to restrict.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from guard.constraints import Constraint, ConstraintError, parse
from guard.errors import TokenRefused
from guard.model import Delegation, Grant
from guard.reasons import ReasonCode
from guard.tokens.text import is_name

__all__ = ["MAX_CALLS", "MAX_ENTRIES", "Details", "details_of", "read_details"]

_grant_of: Any = Grant.__new__

MAX_ENTRIES = 64
MAX_ARGS = 64
MAX_CALLS = 1_000_000_000

_TASK = frozenset({"type", "intent", "params"})
_TOOL = frozenset({"type", "tool", "args", "limit"})


class Details(NamedTuple):
    """`grants` None: no `agent_tool` entry."""

    intent: str | None
    params: Mapping[str, object]
    grants: Mapping[str, tuple[Grant, ...]] | None


_NONE: Mapping[str, Constraint] = {}
NOTHING = Details(None, MappingProxyType({}), None)


def read_details(claims: Mapping[str, object], known: Mapping[str, tuple[Grant, ...]] | None = None) -> Details:
    """The claim `authorization_details`. Absent: no details. An empty list means no tool at all, never all tools.

    `known`: the parent's grants. A constraint that is written as it is there is not read anew.
    """
    if "authorization_details" not in claims:
        return NOTHING
    entries = claims["authorization_details"]
    if type(entries) is not list:
        _refuse("is not a list")
    if not entries:
        raise TokenRefused(ReasonCode.TOKEN_NO_GRANT)
    if len(entries) > MAX_ENTRIES:
        _refuse(f"has more than {MAX_ENTRIES} entries")
    intent: str | None = None
    params: Mapping[str, object] = MappingProxyType({})
    grants: dict[str, list[Grant]] = {}
    for at, entry in enumerate(entries):
        kind = entry.get("type") if type(entry) is dict else None
        if kind == "agent_tool":
            grant = _grant(entry, at, known)
            grants.setdefault(grant.tool, []).append(grant)
        elif kind == "agent_task" and intent is None:
            intent, params = _task(entry, at)
        else:
            _refuse(f"[{at}] is of a type that is not known here, or a second agent_task")
    return Details(intent, params, MappingProxyType({tool: tuple(several) for tool, several in grants.items()}) if grants else None)


def details_of(delegation: Delegation) -> list[dict[str, object]]:
    """The entries a delegation was read from, or their equal."""
    found: list[dict[str, object]] = []
    if delegation.intent is not None:
        found.append({"type": "agent_task", "intent": delegation.intent, "params": dict(delegation.params)})
    for grants in (delegation.grants or {}).values():
        for grant in grants:
            entry: dict[str, object] = {"type": "agent_tool", "tool": grant.tool}
            if grant.args is not None:
                entry["args"] = {path: constraint.raw for path, constraint in grant.args.items()}
            if grant.calls is not None:
                entry["limit"] = {"calls": grant.calls}
            found.append(entry)
    return found


def _task(entry: Mapping[str, object], at: int) -> tuple[str, Mapping[str, object]]:
    intent, params = entry.get("intent"), entry.get("params", {})
    if not entry.keys() <= _TASK:
        _refuse(f"[{at}] has an unknown member")
    if not is_name(intent) or not isinstance(intent, str):
        _refuse(f"[{at}] has no valid `intent`")
    if type(params) is not dict or len(params) > MAX_ARGS or not all(map(is_name, params)):
        _refuse(f"[{at}] has no valid `params`")
    return intent, MappingProxyType(params)


def _grant(entry: Mapping[str, object], at: int, known: Mapping[str, tuple[Grant, ...]] | None) -> Grant:
    tool = entry.get("tool")
    if not entry.keys() <= _TOOL:
        _refuse(f"[{at}] has an unknown member")
    if not is_name(tool) or not isinstance(tool, str):
        _refuse(f"[{at}] has no valid `tool`")
    above = known.get(tool) if known is not None else None
    args = _args(entry["args"], at, (above[0].args if above is not None else None) or _NONE) if "args" in entry else None
    grant: Grant = _grant_of(Grant, tool, args, _calls(entry["limit"], at) if "limit" in entry else None)
    return grant


def _args(raw: object, at: int, known: Mapping[str, Constraint]) -> Mapping[str, Constraint]:
    """A mapping, also an empty one, closes the world: an argument that is not named is denied."""
    if type(raw) is not dict or len(raw) > MAX_ARGS or not all(map(is_name, raw)):
        _refuse(f"[{at}] has no valid `args`")
    try:
        args = {path: _parsed(constraint, known.get(path)) for path, constraint in raw.items()}
    except ConstraintError:
        args = None
    if args is None or any(constraint.params for constraint in args.values()):
        _refuse(f"[{at}] has an unknown or invalid constraint")  # outside the handler: its text may quote the token
    return MappingProxyType(args)


def _parsed(raw: object, known: Constraint | None) -> Constraint:
    # By their texts: True equals 1, and is another literal.
    return known if known is not None and repr(known.raw) == repr(raw) else parse(raw, origin="token")


def _calls(raw: object, at: int) -> int:
    calls = raw.get("calls") if type(raw) is dict and len(raw) == 1 else None
    if type(calls) is not int or not 0 < calls <= MAX_CALLS:
        _refuse(f"[{at}] has no valid `limit`: {{calls: n}}, n from 1")
    return calls


def _refuse(what: str) -> NoReturn:
    raise TokenRefused(ReasonCode.TOKEN_DETAILS, f"`authorization_details` {what}")
