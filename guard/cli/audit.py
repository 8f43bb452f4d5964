"""`guardtrail audit`: was the record touched?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.output import NO, UNKNOWN, YES, CannotAnswer, Json, WrongUsage, answers, dump, note, say, styled, terminal
from guard.record import Verified, directory, verify_log

__all__ = ["app"]

app = typer.Typer(help="Check the audit log.", no_args_is_help=True, rich_markup_mode=None)

_SHOWN = 20
_LARGE = 32 << 20


@app.callback()
def _verbs() -> None:
    """Check the audit log."""


@app.command()
@answers
def verify(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="The log's directory, or a file in it (default: $GUARDTRAIL_DIR, .guardtrail).", metavar="[PATH]", show_default=False
        ),
    ] = None,
    dir: Annotated[
        Path | None, typer.Option("--dir", help="The same, spelt as for the other verbs.", metavar="DIR", show_default=False)
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="The log's public key, kept elsewhere (a copy of keys/audit.pub).", metavar="FILE", show_default=False),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(
            "--witness",
            help="Checkpoints kept elsewhere (a copy of checkpoints.jsonl, or its last line).",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Find records that were edited, deleted, inserted or moved, and say whether the end of the log is there.

    Every record carries the hash of the one before it; signed checkpoints say how far the log had come. Who can read the signing key
    can rewrite everything: copy `keys/audit.pub` and now and then the last line of `checkpoints.jsonl` to another machine, and check
    with them.

    \b
    guardtrail audit verify
    guardtrail audit verify /srv/agent/.guardtrail --key audit.pub --witness checkpoint.jsonl

    \b
    --json: {"ok", "incomplete", "running", "records", "checkpoints", "writers", "uncovered",
             "problems": [{"file", "record", "text"}], "more", "text"}
    Exit 0: nothing wrong; 1: something was changed or is missing; 3: could not answer: no log here, unreadable, or incomplete:
    nothing is wrong with what is there, but its end may be missing (a crash, or records cut off after the last checkpoint).
    """
    if path is not None and dir is not None:
        raise WrongUsage("`--dir` and a path exclude each other")
    where = path or dir or directory()
    try:
        found = verify_log(where, key, witness, progress=_progress(as_json))
    except FileNotFoundError as error:
        if error.filename not in (str(where), str(Path(where))):
            raise
        why = "there are no audit files in it" if where.is_dir() else "there is no such file or directory"
        raise CannotAnswer(f"nothing is recorded in {where}: {why}; `--dir` or GUARDTRAIL_DIR names another") from None
    if as_json:
        dump(_dict(found))
    else:
        _show(found, with_key=key is not None)
    if found.problems:
        return NO
    return UNKNOWN if found.incomplete else YES


def _show(found: Verified, *, with_key: bool) -> None:
    if not found.problems:
        word = "incomplete" if found.incomplete else ""
        say((word, "yellow"), found.text.removeprefix(word))
    for each in found.problems[:_SHOWN]:
        say(styled("found"), f": {each}")
    rest = len(found.problems) + found.more - _SHOWN
    if rest > 0:
        say(f"and {rest:,} more")
    if not with_key:
        note("note: checked with the key that lies beside the log; --key and --witness take what was kept elsewhere")


def _dict(found: Verified) -> dict[str, Any]:
    names = ("ok", "incomplete", "running", "records", "checkpoints", "writers", "uncovered")
    problems = [{"file": each.file, "record": each.record, "text": each.text} for each in found.problems]
    return {**{name: getattr(found, name) for name in names}, "problems": problems, "more": found.more, "text": found.text}


def _progress(as_json: bool) -> Callable[[int, int], None] | None:
    """A line that counts, for a large log and a person who waits."""
    if as_json or not terminal(sys.stderr):
        return None

    def show(done: int, of: int) -> None:
        if of >= _LARGE:
            sys.stderr.write(f"\r{done * 100 // of:3}% of {of >> 20:,} MiB" + ("\r\x1b[K" if done >= of else ""))
            sys.stderr.flush()

    return show
