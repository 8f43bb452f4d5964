"""Grants and intents: one judge. An intent compiles to the same checks as a token's grants, with its parameters bound.

A permission is compiled once per (delegation, tool) and then asked on every call; nothing here grows with the number of tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Final

from guard.constraints import Constraint, ValueRefused, compile_args, normalise
from guard.frozen import frozen
from guard.model import Delegation, Finding, Grant, Judge
from guard.reasons import ReasonCode

if TYPE_CHECKING:
    from guard.policy.data import Intent, PolicyData, Tool

__all__ = ["CHECK", "ArgsCheck", "Check", "bind_params", "grant_checks", "identifiers", "intent_check", "judge", "refused"]

ArgsCheck = Callable[[Mapping[str, object]], tuple[str, Constraint | None] | None]

CHECK: Final = "check()"
_TOO_LARGE: Final = "check(size)"
"""What fails where it is not an argument: no argument is called so. They stand in records (`atoms`), so they stay."""


@frozen
class Check:
    """One compiled permission. `test` None: the arguments do not matter. `permit`: said, as it is, when the test finds nothing."""

    judge: Judge
    code: ReasonCode
    test: ArgsCheck | None
    permit: Finding
    of: str
    fix: str | None
    where: str | None
    at: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Argument path -> where its constraint stands, and what would help."""
    calls: int | None = None
    """How often this permission may be used in the task; None: not limited here."""


def judge(checks: tuple[Check, ...], values: Mapping[str, object]) -> Check | Finding:
    """The first of the alternatives that admits the call, else the first one's refusal, naming the argument."""
    first: Finding | None = None
    if len(checks) == 1:  # the ordinary case
        check = checks[0]
        failed = check.test(values) if check.test is not None else None
        return check if failed is None else _refuse(check, *failed)
    for check in checks:
        failed = check.test(values) if check.test is not None else None
        if failed is None:
            return check
        first = first or _refuse(check, *failed)
    return first or Finding("guard", "forbid", ReasonCode.DEFAULT_DENY, text="no permission to judge by")


def refused(check: Check, path: str) -> Finding:
    """The refusal at `path`, where its constraint is not at hand: in a replay."""
    if CHECK in check.at and path in (CHECK, _TOO_LARGE):
        return _unchecked(check, path)
    text = f"argument {path} is not inside {check.of}"
    return Finding(check.judge, "forbid", check.code, where=check.where, text=text, fix=check.fix)


def _unchecked(check: Check, path: str) -> Finding:
    where, fix = check.at[CHECK]
    if path == _TOO_LARGE:
        text = f"the arguments are too large for the `check` of {check.of}"
        return Finding(check.judge, "forbid", ReasonCode.ARGS_SIZE, where=where, text=text, fix="smaller arguments")
    text = f"`check` of {check.of} is not true of these arguments"
    return Finding(check.judge, "forbid", ReasonCode.ARGS_CHECK, where=where, text=text, fix=fix)


def _refuse(check: Check, path: str, constraint: Constraint | None) -> Finding:
    if CHECK in check.at and path in (CHECK, _TOO_LARGE):
        return _unchecked(check, path)
    must = constraint.text if constraint is not None else "is not named there, and what is not named is not granted"
    text = f"argument {path} {must} of {check.of}"
    where, fix = check.at.get(path, (check.where, check.fix))
    return Finding(check.judge, "forbid", check.code, where=where, text=text, fix=fix)


def grant_checks(delegation: Delegation, tool: str, scopes: Mapping[str, tuple[str, ...]]) -> tuple[Check, ...] | Finding:
    """The hop's own permission for `tool`: its `agent_tool` grants, else a mapped scope, else the task it was given for.

    | agent_tool names the tool | a scope maps to it | token has agent_task only | answer                    |
    |---------------------------|--------------------|---------------------------|---------------------------|
    | yes                       | -                  | -                         | its grants (any of them)  |
    | no                        | yes                | -                         | permit by the scope       |
    | no                        | no                 | yes                       | permit: the intent speaks |
    | no                        | no                 | no                        | forbid `grant.tool`       |

    An `agent_tool` entry for the tool is never widened by a scope that also maps to it.
    """
    hop = f"hop {len(delegation.actors)} ({delegation.actor})"
    grants = (delegation.grants or {}).get(tool)
    if grants:
        return tuple(_grant_check(hop, grant) for grant in grants)
    mapped = [scope for scope in sorted(delegation.scopes) if tool in scopes.get(scope, ())]
    if mapped:
        return (_constant("grants", f"scope `{mapped[0]}` of {hop}"),)
    restricted = delegation.grants is not None or any(scope in scopes for scope in delegation.scopes)
    if delegation.intent is not None and not restricted:
        return (_constant("grants", f"{hop} was given the task itself"),)
    giver = delegation.actors[-2] if len(delegation.actors) > 1 else delegation.issuer
    return Finding(
        "grants", "forbid", ReasonCode.GRANT_TOOL, text=f"{hop} was not granted it by {giver}", fix=f"a token that grants `{tool}`"
    )


def _constant(judge: Judge, text: str) -> Check:
    return Check(judge, ReasonCode.GRANT_TOOL, None, Finding(judge, "permit", ReasonCode.PERMIT, text=text), text, None, None)


def _grant_check(hop: str, grant: Grant) -> Check:
    test = None if grant.args is None else compile_args(grant.args, closed=True)
    permit = Finding("grants", "permit", ReasonCode.PERMIT, text=f"granted to {hop}")
    return Check(
        "grants",
        ReasonCode.GRANT_ARGS,
        test,
        permit,
        f"the grant of {hop}",
        "arguments inside the grant, or a token that grants them",
        None,
        calls=grant.calls,
    )


def bind_params(intent: Intent, given: Mapping[str, object]) -> dict[str, object] | Finding:
    """The token's parameters as the intent declares them: all of them, no other, each of its type."""
    unknown = sorted(set(given) - set(intent.params))
    missing = sorted(set(intent.params) - set(given))
    if unknown or missing:
        text = f"intent {intent.name} {'has no parameter `' + unknown[0] + '`' if unknown else 'needs parameter `' + missing[0] + '`'}"
        return Finding("intent", "forbid", ReasonCode.INTENT_PARAMS, where=intent.where, text=text)
    bound: dict[str, object] = {}
    for name, kind in intent.params.items():
        try:
            bound[name] = normalise(kind, given[name])
        except ValueRefused:
            text = f"parameter `{name}` of intent {intent.name} is not of type {kind}"
            return Finding("intent", "forbid", ReasonCode.INTENT_PARAMS, where=intent.where, text=text)
    return bound


def identifiers(delegation: Delegation) -> tuple[str, ...]:
    """What `$me` stands for: the origin's own identifiers."""
    return tuple(sorted({delegation.origin, *([delegation.person] if delegation.person else [])}))


def _bind(constraint: Constraint, params: Mapping[str, object], me: tuple[str, ...]) -> Constraint:
    """With the task's parameters; `$me` in the normal form of the argument's type, without identifiers that are none of that type."""
    if "me" not in constraint.params:
        return constraint.bind(params)
    own: list[object] = []
    for identifier in me:
        try:
            own.append(normalise(constraint.kind, identifier) if constraint.kind is not None else identifier)
        except ValueRefused:
            continue
    return constraint.bind({**params, "me": own})


def intent_check(policy: PolicyData, delegation: Delegation, intent: Intent, params: Mapping[str, object], tool: str) -> Check | Finding:
    """What the intent says of `tool`: compiled with this task's parameters."""
    permission = intent.allow.get(tool)
    if permission is None:
        text = f"{intent.name} does not use {tool}"
        return Finding("intent", "forbid", ReasonCode.INTENT_TOOL, where=intent.where, text=text, fix="none: not part of this task")
    me = identifiers(delegation)
    bound = {path: _bind(constraint, params, me) for path, constraint in permission.args.items()}
    facts = [f"{path} {constraint.fact}" for path, constraint in permission.args.items()]
    test: ArgsCheck | None = compile_args(bound, closed=False) if bound else None
    if permission.check is not None:
        facts.append("`check` is true")
        test = _checked(test, permission.check, policy.tools[tool])
    permit = Finding("intent", "permit", ReasonCode.PERMIT, where=permission.where, text="; ".join(facts) or f"intent {intent.name}")
    of = f"intent {intent.name}"
    at = {path: (permission.at.get(path, permission.where), _fix(constraint)) for path, constraint in permission.args.items()}
    if CHECK in permission.at:  # also where replay leaves the expression itself out
        at[CHECK] = permission.at[CHECK], _TRUE
    return Check("intent", ReasonCode.ARGS_CONSTRAINT, test, permit, of, _INSIDE, permission.where, at)


def _checked(test: ArgsCheck | None, expression: str, tool: Tool) -> ArgsCheck:
    """The argument tests, and then the expression: it narrows, so it is not asked of what is refused already.

    Compiled once in the process (`cel.compile` keeps it), by lint. Raises where CEL is gone since then, which denies.
    """
    from guard.policy import cel

    holds = cel.compile(expression, tool.types, tool.control)

    def both(values: Mapping[str, object]) -> tuple[str, Constraint | None] | None:
        failed = test(values) if test is not None else None
        if failed is not None or holds(values):
            return failed
        return (_TOO_LARGE if holds.too_large(values) else CHECK), None

    return both


_TRUE = "arguments of which it is true"
_INSIDE = "arguments inside what the intent allows"


def _fix(constraint: Constraint) -> str:
    """What the smallest change is: another task where parameters decide, else other arguments."""
    params = sorted(constraint.params - {"me"})
    return "a task for the other " + " and ".join(params) if params else _INSIDE
