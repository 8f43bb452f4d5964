"""`guardtrail approve`, `guardtrail reject`, `guardtrail approvals`: what waits for a person, shown whole; and a person's answer."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.cli.files import read_token
from guard.cli.output import NO, YES, CannotAnswer, Json, WrongUsage, answers, columns, count, dump, note, say, styled, table, terminal
from guard.errors import ConfigError
from guard.record import directory

if TYPE_CHECKING:
    from guard.approvals import Answered, Approvals, Pending
    from guard.ports import Revocations

__all__ = ["app", "approve", "reject"]

app = typer.Typer(help="What waits for a person.", no_args_is_help=True, rich_markup_mode=None)

_Id = Annotated[
    str, typer.Argument(help="The request: the id of the decision that asked, or its beginning.", metavar="ID", show_default=False)
]
_Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Where requests lie (default: approvals.db in $GUARDTRAIL_DIR, .guardtrail).",
        metavar="sqlite:PATH",
        show_default=False,
    ),
]
_Token = Annotated[
    str,
    typer.Option("--token", help="Your own access token, `@file`, or `-` for standard input.", metavar="TOKEN|@FILE", show_default=False),
]
_Key = Annotated[
    Path | None, typer.Option("--key", help="Your private key, where your token is bound to one.", metavar="FILE", show_default=False)
]
_State = Annotated[
    str | None,
    typer.Option(
        "--state", help="Look there, too, whether your token was revoked: the guards' state.", metavar="sqlite:PATH", show_default=False
    ),
]
_YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask once more on a terminal.")]


@app.callback()
def _verbs() -> None:
    """What waits for a person: calls that a policy asks about. `guardtrail approve ID` and `guardtrail reject ID` answer."""


@app.command("list")
@answers
def list_(
    every: Annotated[bool, typer.Option("--all", help="Answered and expired ones too, as long as they are kept.")] = False,
    store: _Store = None,
    as_json: Json = False,
) -> int:
    """List the requests that wait for an answer, the newest first. Arguments are shown by `guardtrail approvals show`.

    \b
    guardtrail approvals list
    guardtrail approvals list --all --json

    \b
    --json: {"requests": [{"id", "state": "open" | "approved" | "rejected" | "used" | "superseded" | "expired", "at", "until", "tool", "task",
             "tenant", "issuer", "origin", "person", "actors", "asks": [{"name", "code", "text", "rules"}], "left": [names],
             "answers": [{"yes", "by", "issuer", "asks", "at"}], ...}]}   times: epoch seconds
    Exit 0: listed, be it nothing; 3: the store is not there or cannot be read.
    """
    found = list(_desk(store).pending(every=every))
    if as_json:
        dump({"requests": [each.to_dict() for each in found]})
        return YES
    if found:
        rows = [[each.request.id, each.state, each.request.tool, _who(each), ", ".join(each.left) or "-", _until(each)] for each in found]
        table(["id", "state", "tool", "for", "asks", "until"], rows)
    note(count(len(found), "request"))
    return YES


@app.command()
@answers
def show(id: _Id, store: _Store = None, as_json: Json = False) -> int:
    """Show one request whole: who asks for whom, what for, who may answer, and every argument as it would run.

    Characters that may pass for others (another alphabet's letters, invisible ones, what turns the direction of writing) are shown as `[U+0430]` and
    named below. What is not marked is not proven to be harmless.

    \b
    guardtrail approvals show 01KAW5C

    \b
    --json: as in `guardtrail approvals list`, and {"args": {...} | null, "marks": [{"path", "at", "char", "kind"}]}
    Exit 0: shown; 2: several begin like that; 3: there is none, or the store cannot be read.
    """
    found = _open(_desk(store), id)
    if as_json:
        dump(found.to_dict(values=True))
    else:
        _show(found)
    return YES


@answers
def approve(
    id: _Id, token: _Token, key: _Key = None, store: _Store = None, state: _State = None, yes: _YesOption = False, as_json: Json = False
) -> int:
    """Say yes to a call that a policy asks about. It may then run once; it is judged again when it does, and a yes never cures a deny.

    You answer with an access token of your own, of an issuer that the guard trusts for approvals, without `act`. Who may answer stands in the policy
    (`asks:`). The request is shown first, and on a terminal you are asked once more.

    \b
    guardtrail approve 01KAW5C --token @bob.jwt
    guardtrail approve 01KAW5C --token @bob.jwt --key bob.pem

    \b
    --json: {"ok": true, "approval", "request", "answer": "approve" | "reject", "by", "asks": [names], "until", "state"}
    Exit 0: it counts; 1: it does not (`error.code` says why: approval.person, approval.twice, approval.closed, token.*, ...); 2: wrong usage;
    3: there is no such request, or something needed cannot be reached.
    """
    return _answer(id, token, key, store, state, yes=True, sure=yes, as_json=as_json)


@answers
def reject(
    id: _Id, token: _Token, key: _Key = None, store: _Store = None, state: _State = None, yes: _YesOption = False, as_json: Json = False
) -> int:
    """Say no to a call that a policy asks about. That closes the request, also after others have said yes, as long as it has not run.

    The very call is denied in this task as long as a yes of yours would have held (`within` in the policy).

    \b
    guardtrail reject 01KAW5C --token @bob.jwt

    \b
    --json and exit codes: as `guardtrail approve`.
    """
    return _answer(id, token, key, store, state, yes=False, sure=yes, as_json=as_json)


# -- answering -----------------------------------------------------------------------------------------------------------------


def _answer(id: str, token: str, key: Path | None, store: str | None, state: str | None, *, yes: bool, sure: bool, as_json: bool) -> int:
    from guard.approvals import AnswerRefused

    desk = _desk(store, state)
    found = _open(desk, id)
    text = read_token(token)
    if not as_json:
        _show(found)
        if not sure and token != "-" and terminal(sys.stdin) and terminal(sys.stdout):
            typer.confirm("approve this call?" if yes else "reject this call?", abort=True, err=True)
    proof = "" if key is None else _proof(desk, found, text, key, yes=yes)
    try:
        answered = (desk.approve if yes else desk.reject)(found.request.id, text, proof=proof)
    except AnswerRefused as refused:
        code = str(refused.code)
        if code in ("keys.unavailable", "revocation.unavailable", "record.unavailable", "approval.unknown"):
            raise CannotAnswer(str(refused), code=code) from None
        if as_json:
            dump({"ok": False, "error": {"code": code, "text": str(refused)}})
        else:
            say(("not answered", "bold red"), f"  {code}  {refused}")
        return NO
    _said(answered, as_json=as_json)
    return YES


def _proof(desk: Approvals, found: Pending, token: str, key: Path, *, yes: bool) -> str:
    from guard.identity import HolderKey

    try:
        return HolderKey.load(key).prove(token, "guardtrail.approve" if yes else "guardtrail.reject", desk.to_prove(found.request.id))
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _said(answered: Answered, *, as_json: bool) -> None:
    word = "approved" if answered.yes else "rejected"
    if as_json:
        dump(
            {
                "ok": True, "approval": answered.id, "request": answered.request, "answer": "approve" if answered.yes else "reject",
                "by": answered.by, "asks": list(answered.asks), "until": answered.until, "state": answered.state,
            }
        )  # fmt: skip
        return
    say((word, "green" if answered.yes else "bold red"), f" by {answered.by}: {', '.join(answered.asks)}")
    if not answered.yes:
        note(f"the call is denied in this task until {_time(answered.until)}")
    elif answered.state == "approved":
        note(f"everything is answered: the call may run once, until {_time(answered.until)}, when the agent makes it again")
    else:
        note("others must answer too")


# -- finding it ----------------------------------------------------------------------------------------------------------------


def _desk(store: str | None, state: str | None = None) -> Approvals:
    """The requests in a store that is there. A slip in a path must not make a new one that no guard looks at."""
    from guard.approvals import Approvals

    spec = store if store is not None else f"sqlite:{directory() / 'approvals.db'}"
    kind, _, path = spec.partition(":")
    if kind != "sqlite":
        raise WrongUsage("`--store` is `sqlite:PATH`, as the guards have it; one in memory cannot be reached from outside")
    if not Path(path).is_file():
        raise CannotAnswer(f"there are no requests at {path}; a guard with `approvals=` makes it when it starts")
    if not (directory() / "keys" / "approvals.key").is_file():
        raise CannotAnswer(f"the key of the requests is not in {directory() / 'keys'}; GUARDTRAIL_DIR says where the guard has it")
    try:
        return Approvals(spec, revocations=None if state is None else _revocations(state))
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _revocations(state: str) -> Revocations:
    from guard.cli.revoke import _store

    return _store(state)


def _open(desk: Approvals, given: str) -> Pending:
    """The request of this id, or the only one whose id begins so."""
    from guard.approvals import AnswerRefused

    # Ids are written without I, L and O, so that whoever reads one out cannot be misheard; they are taken for what they look like.
    prefix = given.strip().upper().translate(str.maketrans("ILO", "110"))
    if not prefix:
        raise WrongUsage("an id is needed, or its beginning")
    try:
        return desk.open(prefix)
    except AnswerRefused as refused:
        unknown = str(refused)
    near = [each for each in desk.pending(every=True) if each.request.id.startswith(prefix)]
    if not near:
        raise CannotAnswer(unknown, code="approval.unknown")
    if len(near) > 1:
        listed = "\n".join(f"  {each.request.id}  {each.state}  {each.request.tool}  {_who(each)}" for each in near[:10])
        raise WrongUsage(f"{len(near)} requests begin with {given[:40]}; a few more characters, please:\n{listed}")
    return desk.open(near[0].request.id)


# -- showing it ----------------------------------------------------------------------------------------------------------------


def _show(found: Pending) -> None:
    from guard.constraints.confusables import shown

    request, marks = found.request, found.marks()
    say(styled("ask") if found.state == "open" else styled(found.state), f"  {request.tool}      request {request.id}")
    rows = [
        ["for", _who(found)],
        ["task", f"{request.task}   {request.issuer}" + (f"   tenant {request.tenant}" if request.tenant != request.issuer else "")],
        ["asked", f"{_time(request.at)}, can be answered until {_time(request.until)}"],
    ]
    for ask in request.asks:
        rows.append(["ask", f"{ask.name}: {ask.text}" + ("" if ask.name in found.left else "   (answered)")])
        rows += [["", f"may answer: {_rule(rule)}"] for rule in ask.rules]
    for given in found.answers:
        word = "approved" if given.yes else "rejected"
        rows.append(
            ["answer", f"{word} by {given.said.approver} ({given.said.issuer}): {', '.join(given.said.asks)}, {_time(given.said.at)}"]
        )
    for line in columns([[f"{label:8}", text] for label, text in rows], gap=1):
        say(line)
    args = found.args
    if args is None:
        say("  args     not kept any more")
        return
    control = {name.split(".")[0].removesuffix("[]") for name in request.control}
    for name, value in sorted(args.items()):
        named = shown(name, [mark for mark in marks if mark.path == f"{name} (its name)"])
        say(f"  {'control' if name in control else 'data':8} {named} = {_value(value, name, marks)}")
    for mark in marks:
        say(("  look", "bold yellow"), f"     {mark.path}, character {mark.at + 1}: {mark.code} ({mark.kind})")


def _value(value: object, path: str, marks: list[Any]) -> str:
    """JSON, with each marked character by its number: `"p[U+0430]ypal"`."""
    from guard.constraints.confusables import shown

    if isinstance(value, str):
        return json.dumps(shown(value, [mark for mark in marks if mark.path == path]), ensure_ascii=False)
    if isinstance(value, dict):
        inner = ", ".join(
            f"{_value(key, f'{path}.{key} (its name)', marks)}: {_value(each, f'{path}.{key}', marks)}" for key, each in value.items()
        )
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(_value(each, f'{path}[{i}]', marks) for i, each in enumerate(value))}]"
    return json.dumps(value)


def _rule(rule: Any) -> str:
    if isinstance(rule.by, str):
        return "the origin"
    parts = [f"group {rule.by.group}"] if rule.by.group is not None else []
    parts += [", ".join(rule.by.persons)] if rule.by.persons else []
    persons = " or ".join(parts) + (f", not {' or '.join(sorted(rule.by.excluded))}" if rule.by.excluded else "")
    return persons + (f"; {rule.count} persons" if rule.count > 1 else "")


def _who(found: Pending) -> str:
    request = found.request
    person = f" ({request.person})" if request.person and request.person != request.origin else ""
    return " > ".join((f"{request.origin}{person}", *request.actors))


def _until(found: Pending) -> str:
    return _time(found.request.until)


def _time(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
