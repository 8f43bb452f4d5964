"""Sources, labels and checks looked at as a whole: rows that are missing, labels nobody sets, expressions that do not compile."""

from __future__ import annotations

from typing import Final

from guard.policy import cel
from guard.policy.data import Rule, Tool
from guard.policy.draft import Draft
from guard.policy.lint_intents import open_arguments
from guard.policy.problems import Mark, suggest

__all__ = ["lint_checks", "lint_sources"]

_UNTRUSTED: Final = "untrusted"
_TEXTS: Final = frozenset({"text", "name", "command", "any"})


def lint_sources(draft: Draft) -> None:
    _labels(draft)
    for rule in draft.rules:
        _excused(draft, rule)
    for tool in draft.tools.values() if not draft.pack else ():
        _carries(draft, tool)
    if draft.flow is not None and not draft.vague and not draft.blind:
        for tool in draft.tools.values():
            _row(draft, tool)


def _labels(draft: Draft) -> None:
    """A rule that waits for a label needs a tool that sets it. A result nobody declared is `untrusted`."""
    if draft.blind or draft.shapeless:
        return
    known = {_UNTRUSTED for tool in draft.tools.values() if tool.returns is None}
    for tool in draft.tools.values():
        if tool.returns is not None:
            known.update(tool.returns.labels, *(variant.labels for variant in tool.returns.variants))
    for rule in draft.rules:
        for number, item in enumerate(rule.after.items if rule.after is not None else ()):
            if item.label is not None and item.label not in known:
                at = draft.at("rules", rule.id, "forbid_after", str(number))
                text = f"rule `{rule.id}` waits for label `{item.label}`, which no tool sets"
                draft.report.error("unknown-label", at, text, suggest(item.label, known) or "`returns: {labels: [...]}` sets one")


def _excused(draft: Draft, rule: Rule) -> None:
    if rule.unless is not None and rule.unless.several and not draft.blind and not draft.vague:
        _several(draft, rule)
    flow = rule.unless.flow if rule.unless is not None else None
    if flow is None:
        return
    at = draft.at("rules", rule.id, "unless")
    if "endorsed" in flow:
        text = f"rule `{rule.id}`: an approval of one value excuses the call from the whole rule"
        draft.report.warn("unless-endorsed", at, text, "an endorsement satisfies `flow`, seldom a rule")
    table = draft.flow if draft.base is None else draft.base.flow
    effects = {effect for tool in draft.about(rule.when) for effect in tool.effects}
    if not table or not effects or any(effect not in table for effect in effects):
        return
    if not any(table[effect].cells.get(source, "deny") != "deny" for effect in effects for source in flow):
        names = ", ".join(f"`{source}`" for source in sorted(flow))
        text = f"rule `{rule.id}`: `unless` excuses values from {names}, which `flow` denies"
        draft.report.error("never-matches", at, text, "leave `unless` out")


def _several(draft: Draft, rule: Rule) -> None:
    """What the prompt says is known of the classes that `asked` lists."""
    asked = draft.asked if draft.base is None else draft.base.asked
    listed = asked.not_asked if asked is not None else {}
    for tool in draft.about(rule.when):
        if not set(tool.effects) & set(listed):
            text = (
                f"rule `{rule.id}`: the prompt is not looked at for `{tool.name}` ({', '.join(tool.effects)}), so nothing would excuse it"
            )
            draft.report.error(
                "never-matches", draft.at("rules", rule.id, "unless", "asked"), text, "name the class in `asked: {not_asked: ...}`"
            )
            return


def _carries(draft: Draft, tool: Tool) -> None:
    if not tool.carries or tool.name in draft.doubtful:
        return
    if not any(kind in _TEXTS for path, kind in tool.types.items() if path not in tool.control):
        text = f"tool `{tool.name}` has no data text that could carry anything"
        draft.report.error("never-matches", draft.at("tools", tool.name, "carries"), text, "declare the text under `data`")


def _row(draft: Draft, tool: Tool) -> None:
    """Each effect of a tool in use has a row, unless every intent that allows it pins what it reaches."""
    table = draft.flow or {}
    lacking = [effect for effect in tool.effects if effect not in table]
    for effect in lacking:
        using = [intent for intent in draft.intents.values() if tool.name in intent.allow]
        loose = [(intent, paths) for intent in using if (paths := open_arguments(tool, intent.allow[tool.name], origins=False))]
        if loose or (using and tool.carries):
            why = f"intent `{loose[0][0].name}` leaves `{loose[0][1][0]}` open" if loose else "what its text carries would have no cell"
            text = f"`flow` has no row `{effect}` for tool `{tool.name}`, and {why}"
            draft.report.error(
                "no-flow-row", draft.at("tools", tool.name), text, f"write a row `{effect}`, or pin it with `eq` or `one_of`"
            )


# --- CEL


def lint_checks(draft: Draft) -> None:
    try:
        _checks(draft)
    except _Missing as missing:  # said once, however many there are
        draft.report.error("check", missing.at, "`check` needs CEL, which is not installed here", cel.INSTALL)


class _Missing(Exception):
    def __init__(self, at: Mark) -> None:
        super().__init__()
        self.at = at


def _checks(draft: Draft) -> None:
    if not draft.pack:
        for intent in draft.intents.values():
            for permission in intent.allow.values():
                tool = draft.tools.get(permission.tool)
                if permission.check is not None and tool is not None:
                    _compiles(draft, permission.check, draft.at("intents", intent.name, "allow", tool.name, "", "check"), tool)
    for rule in draft.rules:
        for tool in draft.about(rule.when) if rule.check is not None and not draft.blind else ():
            if not _compiles(draft, rule.check or "", draft.at("rules", rule.id, "check"), tool):
                break


def _compiles(draft: Draft, expression: str, at: Mark, tool: Tool) -> bool:
    if tool.name in draft.doubtful:
        return True
    try:
        cel.compile(expression, tool.types, tool.control)
    except cel.CelMissing:
        raise _Missing(at) from None
    except cel.CelError as error:
        hint = (
            suggest(error.unknown, {f"args.{path.partition('.')[0].removesuffix('[]')}" for path in tool.types}) if error.unknown else None
        )
        if "(double, int)" in str(error) or "(int, double)" in str(error):
            hint = "a decimal is compared with a number with a point, as `1000.0`"
        draft.report.error("check", _inside(draft, at, error), f"`check` of tool `{tool.name}`: {error}", hint)
        return False
    return True


def _inside(draft: Draft, at: Mark, error: cel.CelError) -> Mark:
    """The place of an error in an expression that stands on one line."""
    line = draft.report.lines[at.line - 1] if at.line <= len(draft.report.lines) else ""
    first = line[at.column - 1 : at.column]
    if error.line != 1 or first in ("|", ">"):
        return at
    return Mark(at.line, at.column + error.column - 1 + (1 if first in ("'", '"') else 0), 1)
