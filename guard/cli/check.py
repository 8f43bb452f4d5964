"""`guardtrail check`: what would the guard say to this call? Nothing runs, nothing is used up, nothing is recorded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.files import load_layers, read_stdin, read_token
from guard.cli.output import NO, YES, CannotAnswer, Json, WrongUsage, answers, columns, dump, note, say, styled, terminal
from guard.cli.trust import trusted
from guard.errors import ConfigError, Denied
from guard.model import Decision, Delegation, Finding, ToolCall
from guard.ops import Applied, Op, Refused
from guard.ports import StateStore
from guard.record import ListSink
from guard.runtime import Guard
from guard.state import open_state

__all__ = ["check"]

_MOST_CALL = 16 << 20
_DEADLINE = timedelta(seconds=10)


@answers
def check(
    policy: Annotated[
        list[Path], typer.Option("--policy", "-p", help="The policy; several are layers.", metavar="FILE", show_default=False)
    ],
    token: Annotated[str | None, typer.Option(help="The token itself, or `@file`.", metavar="TOKEN|@FILE", show_default=False)] = None,
    call: Annotated[
        str | None, typer.Option(help="The call as JSON; without it, standard input.", metavar="JSON", show_default=False)
    ] = None,
    state: Annotated[str, typer.Option(help="Judge at this state: `sqlite:PATH`. It is only read.")] = "memory:",
    local: Annotated[bool, typer.Option("--local", help="Trust the development issuer whose key is here (the default).")] = False,
    issuer: Annotated[str | None, typer.Option(help="Trust this issuer: its exact `iss`.", metavar="URL", show_default=False)] = None,
    audience: Annotated[str | None, typer.Option(help="For whom its tokens must be meant.", metavar="NAME", show_default=False)] = None,
    keys: Annotated[
        str | None,
        typer.Option(help="Its keys: a JWKS file, or the address of one; else by its metadata.", metavar="FILE|URL", show_default=False),
    ] = None,
    as_json: Json = False,
) -> int:
    """Ask what the guard would say to one call, without making it.

    The call is a JSON object `{"tool": ..., "args": {...}, "id": ...}`. Nothing runs, nothing is used up, nothing is recorded.

    \b
    echo '{"tool": "refund", "args": {"order": "A-17", "amount": "20"}}' | guardtrail check --policy policy.yaml --token @task.jwt
    guardtrail check -p policy.yaml --token @task.jwt --call '{"tool": "refund", "args": {"order": "A-17"}}'

    \b
    --json: {"verdict", "mode", "code", "tool", "fix", "findings": [{"judge", "says", "code", "rule", "where", "text"}], "task",
             "policy", "credential", "issuer": "local" | URL, "origin", "actors"}
    Exit 0: allow; 1: deny or ask; 2: the call is not of that form; 3: could not answer (policy, keys, state).
    """
    if call is None and terminal(sys.stdin):
        note("reading the call as JSON from standard input")
    wanted = _call(call if call is not None else read_stdin("the call", most=_MOST_CALL))
    text = read_token(token) if token is not None else None
    guard = Guard(
        load_layers(policy),
        trust=trusted(text, issuer, audience, keys, local),
        state=_Reading(_store(state)),
        sinks=[ListSink()],
        deadline=_DEADLINE,
    )
    decision, delegation = _ask(guard, text, wanted)
    if as_json:
        dump(_dict(decision, delegation))
    else:
        _show(decision, delegation)
    return NO if decision.blocks else YES


# -- the call ------------------------------------------------------------------------------------------------------------------


def _call(text: str) -> ToolCall:
    try:
        given = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _Twice) else "nested too deeply" if isinstance(error, RecursionError) else "it does not parse"
        raise WrongUsage(f'the call is not JSON of the form {{"tool": ..., "args": {{...}}}}: {why}') from None
    if not isinstance(given, dict):
        raise WrongUsage('the call is one JSON object: {"tool": ..., "args": {...}}')
    for name in given:
        if name not in ("tool", "args", "id"):
            raise WrongUsage(f"the call has a member `{name[:60]}`; it may have `tool`, `args` and `id`")
    tool, args, own = given.get("tool"), given.get("args", {}), given.get("id", "")
    if not isinstance(tool, str) or not tool or not isinstance(args, dict) or not isinstance(own, str):
        raise WrongUsage("of the call, `tool` and `id` are text and `args` is an object")
    return ToolCall(tool, args, own)


class _Twice(ValueError):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Twice("a member stands twice")
    return members


# -- asking --------------------------------------------------------------------------------------------------------------------


class _Reading:
    """A store that is only read: every question is a trial. Opening the task to look at it must not open or end it for others."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self.inline = getattr(store, "inline", False)
        self.born: datetime | None = getattr(store, "born", None)

    def apply(self, ops: Sequence[Op], *, now: datetime, commit: bool = True) -> Applied | Refused:
        return self._store.apply(ops, now=now, commit=False)


def _store(spec: str) -> StateStore:
    kind, _, path = spec.partition(":")
    if kind == "sqlite" and path and not Path(path).is_file():
        raise CannotAnswer(f"there is no state at {path}")
    try:
        return open_state(spec)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _ask(guard: Guard, token: str | None, call: ToolCall) -> tuple[Decision, Delegation | None]:
    if token is None:
        return guard.check(call), None
    try:
        with guard.task(token) as task:
            return guard.check(call), task.delegation
    except Denied as denied:
        return denied.decision, None


# -- showing it ----------------------------------------------------------------------------------------------------------------

_ARGUMENT = re.compile(r"argument (\S+) (.+?)(?: of (intent \S+|the grant of .+))?")


def _show(decision: Decision, delegation: Delegation | None) -> None:
    monitored = " (monitor)" if decision.mode == "monitor" else ""
    say(styled(decision.verdict), f"{monitored}  {decision.code}  {decision.tool}")
    rows = [row for finding in decision.findings if (row := _row(finding, decision)) is not None]
    if delegation is not None:
        rows.append(["token", f"{delegation.credential}{' (local issuer)' if delegation.local else ''}", _grants(decision, delegation)])
    for line in columns([[f"{label:7}", *rest] for label, *rest in rows], gap=1):
        say(line)
    if decision.fix:
        say(f"  fix     {decision.fix}")


def _row(finding: Finding, decision: Decision) -> list[str] | None:
    """One line of the table: what it is about, what must be, who says so and where."""
    if finding.says == "permit":
        if finding.judge == "intent" and decision.verdict == "allow" and finding.mode == "enforce":
            return ["intent", finding.text, finding.where or ""]
        return None
    argument = _ARGUMENT.fullmatch(finding.text)
    if argument is not None:
        label, text, of = argument.group(1), argument.group(2), argument.group(3) or ""
    else:
        label, text, of = (finding.judge if finding.judge != "rules" else "rule"), finding.text, ""
    if finding.rule:
        of = f"rule {finding.rule}"
    if finding.mode == "monitor":
        label, text = "monitor", f"would {'ask' if finding.says == 'ask' else 'deny'}: {text}"
    if str(finding.code) != str(decision.code) and finding.mode == "enforce":
        of = f"{finding.code}  {of}".rstrip()
    return [label, text, "  ".join(part for part in (of, finding.where) if part)]


def _grants(decision: Decision, delegation: Delegation) -> str:
    refused = any(finding.judge == "grants" and finding.says != "permit" for finding in decision.findings)
    return f"grants: hop {len(delegation.actors)} {delegation.actor} {'no' if refused else 'yes'}"


def _dict(decision: Decision, delegation: Delegation | None) -> dict[str, Any]:
    shown = {name: value for name, value in decision.to_dict().items() if name not in ("id", "step", "args_hmac", "witnesses")}
    if delegation is None:
        return {**shown, "credential": None, "issuer": None, "origin": None, "actors": []}
    issuer = "local" if delegation.local else delegation.issuer
    return {
        **shown,
        "credential": str(delegation.credential),
        "issuer": issuer,
        "origin": delegation.origin,
        "actors": list(delegation.actors),
    }
