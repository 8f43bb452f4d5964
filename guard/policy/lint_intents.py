"""Intents looked at as a whole: constraints nothing can meet, tools left wide open, `from` of a tool that is not allowed."""

from __future__ import annotations

from collections.abc import Iterator

from guard.constraints import Constraint
from guard.policy.data import Intent, Permission, Tool
from guard.policy.draft import Draft
from guard.policy.problems import suggest

__all__ = ["lint_intents", "open_arguments", "speaks_of"]


def lint_intents(draft: Draft) -> None:
    for intent in draft.intents.values():
        _intent(draft, intent)


def _intent(draft: Draft, intent: Intent) -> None:
    used: set[str] = set()
    for name, permission in intent.allow.items():
        tool = draft.tools.get(name)
        for path, constraint in permission.args.items():
            used |= set(constraint.params)
            at = draft.at("intents", intent.name, "allow", name, path)
            if why := constraint.never_matches:
                draft.report.error("never-matches", at, f"intent `{intent.name}`, tool `{name}`, argument `{path}`: {why}")
            if tool is not None and tool.types.get(path) == "decimal" and _open_below(constraint):
                text = f"intent `{intent.name}`: the range of `{path}` of `{name}` has no lower bound; a negative amount fits"
                draft.report.warn("no-lower-bound", at, text, 'add `min: "0"`')
        used |= _origins(draft, intent, permission)
        if tool is not None:
            _unconstrained(draft, intent, tool)
            _no_flow(draft, intent, tool, permission)
    for param in sorted(set(intent.params) - used) if not draft.report.failed else ():
        text = f"intent `{intent.name}`: no constraint uses parameter `${param}`"
        draft.report.warn("unused", draft.at("intents", intent.name, "params", param), text)


def _origins(draft: Draft, intent: Intent, permission: Permission) -> set[str]:
    """The parameters that `where` uses. The tool a value must come from must be allowed, or nothing could ever come from it."""
    used: set[str] = set()
    for path, origin in permission.origins.items():
        used |= {value[1:] for value in origin.where.values() if isinstance(value, str) and value.startswith("$")}
        if origin.tool not in intent.allow:
            at = draft.at("intents", intent.name, "allow", permission.tool, path, "from")
            text = (
                f"intent `{intent.name}`: `{path}` of `{permission.tool}` must come from `{origin.tool}`, which the intent does not allow"
            )
            draft.report.error("from", at, text, suggest(origin.tool, intent.allow) or f"allow `{origin.tool}` too")
    return used


def _open_below(constraint: Constraint) -> bool:
    raw = constraint.raw
    bounded = raw.get("range") if isinstance(raw, dict) else None
    return isinstance(bounded, dict) and constraint.lower_bound() is None and not {"min", "above"} & set(bounded)


def _unconstrained(draft: Draft, intent: Intent, tool: Tool) -> None:
    """A tool that does more than read, with a control argument the intent says nothing about."""
    effects = [effect for effect in tool.effects if effect != "read"]
    if not effects:
        return
    free = _unspoken(draft, intent, tool)
    if free:
        names = ", ".join(f"`{path}`" for path in free)
        text = f"intent `{intent.name}` allows `{tool.name}` ({', '.join(effects)}) with no constraint on {names}"
        draft.report.warn("unconstrained", draft.at("intents", intent.name, "allow", tool.name), text)


def _unspoken(draft: Draft, intent: Intent, tool: Tool) -> list[str]:
    written = draft.written.get((intent.name, tool.name), ())
    return [path for path in sorted(tool.control) if not any(speaks_of(one, path) for one in written)]


def _no_flow(draft: Draft, intent: Intent, tool: Tool, permission: Permission) -> None:
    """Without `flow`, what an irreversible tool reaches is as free as its constraints leave it, wherever the value came from."""
    if draft.flow is not None or tool.reversible or "flow" not in draft.report.parts or draft.report.failed:
        return
    loose = [path for path in open_arguments(tool, permission) if path not in _unspoken(draft, intent, tool)]
    if loose:
        names = ", ".join(f"`{path}`" for path in loose)
        text = f"intent `{intent.name}`: {names} of `{tool.name}`, which cannot be taken back, may come from anywhere: the policy has no `flow`"
        hint = "write `flow`, or pin it with `eq`, `one_of` or `from`"
        draft.report.warn("no-flow", draft.at("intents", intent.name, "allow", tool.name), text, hint)


def open_arguments(tool: Tool, permission: Permission, *, origins: bool = True) -> list[str]:
    """Control arguments that the intent does not pin to named values (with `origins`: nor to an origin)."""
    pinned = {path for path, constraint in permission.args.items() if constraint.pins}
    pinned |= set(permission.origins) if origins else set()
    return [path for path in sorted(tool.control) if not any(one == path or one in _above(path) for one in pinned)]


def speaks_of(written: str, path: str) -> bool:
    """Whether a constraint at `written` says something about the argument `path`."""
    return written == path or path in _above(written) or written in _above(path)


def _above(path: str) -> Iterator[str]:
    """`to[].email` -> `to[]`, `to`"""
    while path:
        if path.endswith("[]"):
            path = path[:-2]
        elif "." in path:
            path = path.rpartition(".")[0]
        else:
            return
        yield path
