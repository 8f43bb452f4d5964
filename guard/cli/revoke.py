"""`guardtrail revoke` and `guardtrail revoked`: take back what was given, and show what was taken back."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, count, dump, note, say, table
from guard.errors import ConfigError
from guard.identity.revocation import RevocationKind, RevocationList, read_entries
from guard.tokens.effects import ALWAYS, Revoke

if TYPE_CHECKING:
    from guard.identity.revoked.store import StoreRevocations

__all__ = ["revoke", "revoked"]

_AGO = re.compile(r"([1-9][0-9]{0,5})([smhd]) ago")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

File = Annotated[
    Path | None, typer.Option("--file", help="The revocation list: a file that guards look at.", metavar="PATH", show_default=False)
]
State = Annotated[str | None, typer.Option("--state", help="The guards' state store.", metavar="sqlite:PATH", show_default=False)]
Names = list[str] | None


def _option(name: str, what: str) -> Any:
    return typer.Option(f"--{name}", help=what, metavar="VALUE", show_default=False)


@answers
def revoke(
    task: Annotated[Names, _option("task", "A task, by the `txn` of its tokens.")] = None,
    actor: Annotated[Names, _option("actor", "An agent: everything it acts or acted in.")] = None,
    origin: Annotated[Names, _option("origin", "A person, by `sub` or `person`: tokens issued before now.")] = None,
    credential: Annotated[Names, _option("credential", "One token, by its `jti`.")] = None,
    key: Annotated[Names, _option("key", "A key, by `kid`, or by the thumbprint tokens are bound to.")] = None,
    session: Annotated[Names, _option("session", "A session, by its `sid`.")] = None,
    issuer: Annotated[
        str | None, typer.Option("--issuer", help="Only tokens of this `iss` (default: of any).", metavar="URL", show_default=False)
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            help="Only tokens issued before: `now`, `10m ago`, 2026-11-28T07:00:00Z, or epoch seconds.",
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    file: File = None,
    state: State = None,
    as_json: Json = False,
) -> int:
    """The kill switch: from the next look on (a second at most), every call made under it is denied `token.revoked`.

    Without --before an origin is taken back up to now (who logs in again gets a token that counts); everything else for good. A body that
    runs already is not stopped. Several may be given at once; each option may be repeated.

    \b
    guardtrail revoke --task 5d2e --state sqlite:.guardtrail/state.db
    guardtrail revoke --actor mailer --state sqlite:.guardtrail/state.db
    guardtrail revoke --origin alice --before "10m ago" --issuer https://iam.acme.example --file revoked.jsonl

    \b
    --json: {"ok": true, "revoked": [{"kind", "value", "issuer", "before"}], "where"}   before: epoch seconds, null: always
    Exit 0: written, and on the disk; 2: wrong usage; 3: it could not be written, nothing was revoked.
    """
    given = {"task": task, "actor": actor, "origin": origin, "credential": credential, "key": key, "session": session}
    wanted = [(kind, value) for kind, values in given.items() for value in values or ()]
    if not wanted:
        raise WrongUsage("say what: --task, --actor, --origin, --credential, --key or --session, as in `guardtrail revoke --task 5d2e ...`")
    at = None if before is None else _time(before)
    where, entries = _where(file, state), []
    for kind, value in wanted:
        until = at if at is not None else (time.time() if kind == "origin" else ALWAYS)
        entries.append(Revoke(kind, value, issuer, until))
    _write(entries, file, state)
    if as_json:
        dump({"ok": True, "revoked": [_dict(entry) for entry in entries], "where": where})
        return YES
    for entry in entries:
        say(f"revoked {entry.kind} {entry.value}: {_scope(entry)}")
    note(f"in {where}; guards that look there deny from their next look on, within a second")
    return YES


@answers
def revoked(file: File = None, state: State = None, as_json: Json = False) -> int:
    """Show what was taken back, and by what.

    \b
    guardtrail revoked --state sqlite:.guardtrail/state.db
    guardtrail revoked --file revoked.jsonl --json

    \b
    --json: {"entries": [{"kind", "value", "issuer", "before", "by"}], "where"}   before: epoch seconds, null: always
    Exit 0: shown, be it nothing; 3: the list cannot be read, or not be relied on: guards that look there deny every call.
    """
    where = _where(file, state)
    entries = _file_entries(file) if file is not None else _store(str(state)).entries()
    if as_json:
        dump({"entries": [{**_dict(entry), "by": entry.by or None} for entry in entries], "where": where})
        return YES
    if entries:
        table(["kind", "value", "tokens", "by"], [[entry.kind, entry.value, _scope(entry), entry.by] for entry in entries])
    note(f"{count(len(entries), 'entry', 'entries')} in {where}")
    return YES


def _where(file: Path | None, state: str | None) -> str:
    if (file is None) == (state is None):
        raise WrongUsage("say where, and only once: `--file PATH` or `--state sqlite:PATH`, as the guards have it")
    return str(file) if file is not None else str(state)


def _write(entries: list[Revoke], file: Path | None, state: str | None) -> None:
    try:
        if file is None:
            _store(str(state)).put(entries)
            return
        found = RevocationList(file)
        for entry in entries:
            at = None if entry.at == ALWAYS else entry.at
            found.revoke(cast("RevocationKind", entry.kind), entry.value, issuer=entry.issuer, at=at)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _store(spec: str) -> StoreRevocations:
    """The index in a store that is there. A slip in a path must not make a new store that no guard looks at."""
    from guard.identity.revoked.store import StoreRevocations
    from guard.state import open_state

    kind, _, path = spec.partition(":")
    if kind != "sqlite":
        raise WrongUsage("`--state` is `sqlite:PATH`, the store that the guards have; one in memory cannot be reached from outside")
    if not Path(path).is_file():
        raise CannotAnswer(f"there is no store {path}; a guard makes it when it starts")
    try:
        return StoreRevocations(open_state(spec))
    except ConfigError as error:
        raise WrongUsage(str(error)) from None


def _file_entries(file: Path) -> list[Revoke]:
    return [Revoke(entry.kind, entry.value, entry.issuer, entry.at) for entry in read_entries(file)]


def _time(text: str) -> float:
    """Epoch seconds. Raises WrongUsage; a time ahead would kill tokens that nobody has asked for yet."""
    now = time.time()
    ago = _AGO.fullmatch(text)
    if text == "now":
        return now
    if ago:
        return now - int(ago[1]) * _SECONDS[ago[2]]
    try:
        at = float(text) if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text) else _moment(text)
    except ValueError:
        raise WrongUsage(
            f"`--before {text}` is no time: `now`, `10m ago`, 2026-11-28T07:00:00Z (with its zone), or epoch seconds"
        ) from None
    if at > now + 60:
        raise WrongUsage("`--before` is in the future; leave it out to take back for good")
    return at


def _moment(text: str) -> float:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return found.timestamp()


def _dict(entry: Revoke) -> dict[str, object]:
    before = None if entry.at == ALWAYS else entry.at
    return {"kind": entry.kind, "value": entry.value, "issuer": entry.issuer, "before": before}


def _scope(entry: Revoke) -> str:
    whose = f"of {entry.issuer}" if entry.issuer is not None else "of any issuer"
    if entry.at == ALWAYS:
        return f"{whose}, for good"
    try:
        return f"{whose}, issued before {datetime.fromtimestamp(entry.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return f"{whose}, issued before {entry.at:g}"
