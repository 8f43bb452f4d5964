"""What every verb prints, and how a verb ends.

Results go to stdout, progress and notes to stderr. Colour and tables only on a terminal (rich honours NO_COLOR and TERM); what a
program reads is plain text or, with `--json`, one JSON value. Nothing that came from a file reaches a terminal uncleaned.

| exit | means                                                          |
|------|----------------------------------------------------------------|
| 0    | yes                                                            |
| 1    | no: denied, violation, failed test, lint error                 |
| 2    | wrong usage                                                    |
| 3    | could not answer: unreadable file, broken state, nothing there |
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import IO, Annotated, Any, Literal, ParamSpec

import typer

from guard.errors import GuardError, PolicyError

__all__ = [
    "NO",
    "UNKNOWN",
    "WRONG",
    "YES",
    "CannotAnswer",
    "Json",
    "WrongUsage",
    "answers",
    "clean",
    "columns",
    "dump",
    "flat",
    "note",
    "say",
    "table",
    "width",
]

YES, NO, WRONG, UNKNOWN = 0, 1, 2, 3
P = ParamSpec("P")
Part = str | tuple[str, str]  # text, or text with a rich style

Json = Annotated[bool, typer.Option("--json", help="One JSON value instead of text.")]


class WrongUsage(GuardError):
    """The command was not used as it is meant. Exit 2."""

    code = "cli.usage"


class CannotAnswer(GuardError):
    """The question cannot be answered here and now. Exit 3."""

    code = "cli.cannot_answer"


def answers(verb: Callable[P, int]) -> Callable[P, None]:
    """A verb returns its exit code; whatever it raises becomes one friendly line and an exit code, never a traceback.

    GUARDTRAIL_DEBUG=1 shows the traceback too.
    """

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        code: int
        try:
            code = verb(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            note("interrupted")
            code = 130
        except Exception as error:
            code = _failed(error, as_json=kwargs.get("as_json") is True)
        raise typer.Exit(code)

    return run


def _failed(error: Exception, *, as_json: bool) -> int:
    if os.environ.get("GUARDTRAIL_DEBUG") == "1":
        sys.stderr.write(traceback.format_exc())
    code, text = _words(error)
    if as_json:
        dump({"ok": False, "error": {"code": code, "text": text}})
    for line in text.splitlines():
        note(("error: ", "bold red"), line) if line == text.splitlines()[0] else note(line)
    return WRONG if isinstance(error, WrongUsage) else UNKNOWN


def _words(error: Exception) -> tuple[str, str]:
    """Code and text of what went wrong."""
    if isinstance(error, PolicyError | GuardError):
        return str(error.code), str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        return "cli.cannot_answer", f"{where}{(error.strerror or type(error).__name__).lower()}"
    hint = "" if os.environ.get("GUARDTRAIL_DEBUG") == "1" else "; GUARDTRAIL_DEBUG=1 shows where"
    return "cli.unexpected", f"unexpected {type(error).__name__} in guardtrail itself{hint}"


# -- writing -------------------------------------------------------------------------------------------------------------------


def say(*parts: Part) -> None:
    """One line of the result."""
    _write(sys.stdout, parts)


def note(*parts: Part) -> None:
    """One line of progress or of a note."""
    _write(sys.stderr, parts)


def dump(value: object) -> None:
    """The result as JSON: ASCII only, so that no terminal and no encoding gets in the way."""
    text = json.dumps(value, indent=2, ensure_ascii=True, default=str) + "\n"
    with _pipe(sys.stdout) as out:
        out.write(text)


def terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _write(stream: IO[str], parts: Sequence[Part]) -> None:
    pieces = [(clean(part), "") if isinstance(part, str) else (clean(part[0]), part[1]) for part in parts]
    with _pipe(stream) as out:
        if terminal(out):
            from rich.console import Console
            from rich.text import Text

            Console(file=out, highlight=False, soft_wrap=True).print(Text.assemble(*pieces), soft_wrap=True)
        else:
            out.write("".join(text for text, _ in pieces) + "\n")


class _pipe(contextlib.AbstractContextManager[IO[str]]):  # noqa: N801
    """Write, and stay calm where nobody reads any more (`| head`): the verdict in the exit code stays what it is."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __enter__(self) -> IO[str]:
        return self._stream

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        try:
            if error is None:
                self._stream.flush()
                return False
        except BrokenPipeError as broken:
            error = broken
        if not isinstance(error, BrokenPipeError):
            return False
        with contextlib.suppress(OSError, ValueError):  # what is left in the buffer goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return True


_BIDI = frozenset("\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def clean(text: str) -> str:
    """Nothing that moves a cursor, sets a title or turns text around: such characters are shown as escapes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\x{ord(c):02x}" if _escapes(c) and ord(c) < 256 else f"\\u{ord(c):04x}" if _escapes(c) else c for c in text)


def flat(text: str) -> str:
    """`clean` that keeps every character's place: for a line with a mark under it."""
    return "".join(" " if c == "\t" else "?" if _escapes(c) else c for c in text)


def _escapes(c: str) -> bool:
    return c in _BIDI or unicodedata.category(c) in ("Cc", "Cs")


# -- columns -------------------------------------------------------------------------------------------------------------------


def width(text: str) -> int:
    """How many cells of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, cells: int) -> str:
    return text + " " * max(0, cells - width(text))


def columns(rows: Iterable[Sequence[str]], *, indent: str = "  ", gap: int = 2, most: int = 60) -> list[str]:
    """Rows as aligned text. A column is at most `most` wide; what is longer pushes its own row only."""
    cells = [[clean(cell) for cell in row] for row in rows]
    wide = [0] * max((len(row) for row in cells), default=0)
    for row in cells:
        for i, cell in enumerate(row[:-1]):
            wide[i] = max(wide[i], min(width(cell), most))
    return [indent + (" " * gap).join(pad(cell, wide[i]) for i, cell in enumerate(row)).rstrip() for row in cells]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: frozenset[int] = frozenset()) -> None:
    """A table: drawn on a terminal, aligned text elsewhere. `numbers`: which columns are set to the right."""
    if terminal(sys.stdout):
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(box=box.SIMPLE, pad_edge=False)
        for i, word in enumerate(head):
            justify: Literal["right", "left"] = "right" if i in numbers else "left"
            drawn.add_column(word, justify=justify, overflow="fold")
        for row in rows:
            drawn.add_row(*(Text(clean(cell), style=STYLES.get(cell.split(" ")[0], "")) for cell in row))
        with _pipe(sys.stdout) as out:
            Console(file=out, highlight=False).print(drawn)
        return
    wide = {i: max(width(row[i]) for row in (head, *rows)) for i in numbers}
    set_right = [[cell.rjust(wide[i]) if i in numbers else cell for i, cell in enumerate(row)] for row in (head, *rows)]
    for line in columns(set_right):
        say(line)


STYLES = {
    "allow": "green",
    "deny": "bold red",
    "ask": "yellow",
    "error": "bold red",
    "warning": "yellow",
    "ok": "green",
    "FAIL": "bold red",
    "found": "bold red",
}


def styled(word: str) -> Part:
    """A verdict word in its colour."""
    return (word, STYLES.get(word.split(" ")[0], ""))


def count(number: int, word: str, words: str | None = None) -> str:
    """`1 call`, `2 calls`"""
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def shape(value: object) -> Any:
    """A frozen thing with slots as a plain dict, for `--json`."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__} if hasattr(value, "__dataclass_fields__") else value
