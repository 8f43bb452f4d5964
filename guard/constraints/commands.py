"""Commands as a shell would take them apart: `command: {program: [git, ls], flags: [--short]}`.

| refused                                                       | the attack                                        |
|---------------------------------------------------------------|---------------------------------------------------|
| `$(...)`, backticks, `$name`, `<(...)`                        | another command, or a value nobody checked, inside|
| `;` `&&` `||` `|` unless every simple command fits            | a second command behind the first                 |
| `&`, redirections, here-documents, line breaks, comments      | output to a file, a command in the background     |
| `NAME=value program`                                          | a loader or pager chosen by the environment       |
| `{a,b}`, `*`, `?`, `[`, `~` outside quotes, where flags or    | a word that becomes a flag or another path after  |
| operands count; a word that begins with `=`                   | the check (`=name` is a program's path in zsh)    |
| `!`, `(`, `)` outside quotes                                  | history, subshells                                |

Three redirections lead nowhere and pass as words of their own: `2>&1`, `2>/dev/null`, `>/dev/null`.

Several forms, `command: [{program: git, operands: [push, origin, "agent/*"]}, {program: ls}]`: each simple command fits one of them.
A form says of a simple command, and all of it must hold:

| key        | what                                                                                                                      |
|------------|---------------------------------------------------------------------------------------------------------------------------|
| `program`  | its first word, as written: a path is another word                                                                        |
| `flags`    | the only words that may begin with `-`; `-m=` is one that takes a value, in the next word or after `=`; a value that looks |
|            | like a flag is refused (`-5` does not): another subcommand may take it for one. Where the first operand is said word for   |
|            | word, a subcommand, no flag stands before it: there it is the program's own (`git -c core.fsmonitor=...`)                 |
| `operands` | its other words, one by one: a word with `*` for letters, digits, `.`, `_`, `-`; `*` alone for any one; `./` for a path    |
|            | that stays below where it runs, as it is written; a list for one of these; `...` at the end: the one before any number of  |
|            | times, also not at all                                                                                                    |

A list of words is taken as it is: no shell stands between it and the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Final

from guard.frozen import frozen

__all__ = ["ANY", "BELOW", "MAX_COMMAND", "MORE", "Form", "Operand", "fits", "form", "operand_includes", "words_of"]

MAX_COMMAND = 8192
ANY: Final = "*"
BELOW: Final = "./"
MORE: Final = "..."
_NOWHERE: Final = re.compile(r"(?:2>&1|2>/dev/null|>/dev/null)(?=[ \t;|]|\Z|&&)")
_EXPANDS = frozenset("{}*?[]~")
_REFUSED = frozenset("&<>()!#\n\r`$")


class _Refused(ValueError):
    pass


class _Word:
    __slots__ = ("expands", "quoted", "text")

    def __init__(self) -> None:
        self.text = ""
        self.quoted = False
        self.expands = False


def words_of(text: str) -> list[list[tuple[str, bool]]]:
    """The simple commands of `text`: their words, each with whether a shell would expand it. Raises ValueError for what is refused.

    POSIX 2.2 quoting: single quotes keep all; double quotes keep all but `$`, backtick, backslash; a backslash keeps the next.
    """
    if len(text) > MAX_COMMAND:
        raise _Refused
    commands: list[list[tuple[str, bool]]] = [[]]
    word: _Word | None = None
    at = 0

    def close() -> None:
        nonlocal word
        if word is not None:
            commands[-1].append((word.text, word.expands))
            word = None

    while at < len(text):
        char = text[at]
        if char in " \t":
            close()
        elif char in ";|" or text.startswith("&&", at):
            close()
            if not commands[-1]:
                raise _Refused
            if text.startswith(("&&", "||"), at):
                at += 1
            elif text.startswith((";;", "|&"), at):
                raise _Refused
            commands.append([])
        elif word is None and commands[-1] and (nowhere := _NOWHERE.match(text, at)) is not None:
            at = nowhere.end()
            continue
        elif char in _REFUSED:
            raise _Refused
        else:
            word = word or _Word()
            at = _take(text, at, word)
            continue
        at += 1
    close()
    if not commands[-1]:
        raise _Refused
    return commands


def _take(text: str, at: int, word: _Word) -> int:
    """One quoted or plain piece of a word; where it ends."""
    char = text[at]
    if char == "'":
        end = text.find("'", at + 1)
        if end < 0:
            raise _Refused
        word.text, word.quoted = word.text + text[at + 1 : end], True
        return end + 1
    if char == '"':
        return _double(text, at + 1, word)
    if char == "\\":
        if at + 1 >= len(text) or text[at + 1] in "\n\r":
            raise _Refused
        word.text, word.quoted = word.text + text[at + 1], True
        return at + 2
    word.expands = word.expands or char in _EXPANDS or (char == "=" and not word.text and not word.quoted)
    word.text += char
    return at + 1


def _double(text: str, at: int, word: _Word) -> int:
    word.quoted = True
    while at < len(text):
        char = text[at]
        if char == '"':
            return at + 1
        if char in "$`!":
            raise _Refused
        if char == "\\" and at + 1 < len(text):
            following = text[at + 1]
            word.text += following if following in '$`"\\' else char + following
            at += 2
            continue
        word.text += char
        at += 1
    raise _Refused


Operand = tuple[str, ...]
"""What one operand may be: alternatives."""


@frozen
class Form:
    """What a simple command may be. `flags`, `operands`: None where they do not count."""

    programs: frozenset[str]
    flags: frozenset[str] | None
    valued: frozenset[str]
    """Flags that take the next word."""
    operands: tuple[Operand, ...] | None
    more: bool
    """The last operand may come any number of times, also not at all."""

    @property
    def subcommand(self) -> bool:
        """Is the first operand there always, and one of certain words?"""
        first = self.operands[0] if self.operands and len(self.operands) > self.more else ()
        return bool(first) and all(ANY not in word and word != BELOW for word in first)


def form(programs: Sequence[str], flags: Sequence[str] | None, operands: Sequence[str | Sequence[str]] | None) -> Form:
    """As it is written."""
    plain = None if flags is None else frozenset(flag for flag in flags if not flag.endswith("="))
    valued = frozenset(flag.removesuffix("=") for flag in flags or () if flag.endswith("="))
    given = () if operands is None else tuple((one,) if isinstance(one, str) else tuple(one) for one in operands)
    more = given[-1:] == ((MORE,),)
    return Form(frozenset(programs), plain, valued, None if operands is None else given[:-1] if more else given, more)


def fits(value: object, forms: Sequence[Form]) -> bool:
    """Whether every simple command of `value` is of one of `forms`."""
    if isinstance(value, (list, tuple)):
        commands = [[(word, False) for word in value]]
    elif type(value) is str:
        try:
            commands = words_of(value)
        except ValueError:
            return False
    else:
        return False
    return all(any(_simple(words, one) for one in forms) for words in commands)


def _simple(words: list[tuple[str, bool]], form: Form) -> bool:
    program, expands = words[0]
    if expands or program not in form.programs:  # `NAME=value git` has another first word
        return False
    if form.flags is None and form.operands is None:
        return True
    if any(expands for _, expands in words):
        return False
    if form.subcommand and words[1:] and words[1][0].startswith("-"):
        return False
    operands = _operands([word for word, _ in words[1:]], form)
    return operands is not None and (form.operands is None or _all_fit(operands, form.operands, more=form.more))


def _operands(words: list[str], form: Form) -> list[str] | None:
    """What is neither a flag nor the value of one; None where a flag is not allowed."""
    found: list[str] = []
    after = False
    rest = iter(words)
    for word in rest:
        if after or not word.startswith("-") or word == "-":
            found.append(word)
        elif word == "--":
            after = True
        elif word in form.valued:
            value = next(rest, "-")
            if value.startswith("-") and not value[1:].isdecimal():
                # Attack: `-n` counts for `git log`, and takes no value for `git shortlog -n --output=FILE`.
                return None
        elif form.flags is not None and not _allowed(word, form.flags, form.valued):
            return None
    return found


def _allowed(word: str, flags: Collection[str], valued: Collection[str]) -> bool:
    """`--name=value` by its name; `-rf` as written or, where no flag takes a value, letter by letter."""
    if word in flags:
        return True
    if word.startswith("--"):
        name = word.partition("=")[0]
        return name in flags or (name != word and name in valued)
    return not valued and len(word) > 2 and word[1:].isalnum() and all(f"-{letter}" in flags for letter in word[1:])


def _all_fit(words: list[str], operands: tuple[Operand, ...], *, more: bool) -> bool:
    at_least = len(operands) - more
    if len(words) < at_least or (not more and len(words) > at_least):
        return False
    return all(any(_operand(word, one) for one in operands[min(number, len(operands) - 1)]) for number, word in enumerate(words))


def _operand(word: str, said: str) -> bool:
    if said == ANY:
        return True
    if said == BELOW:
        return _below(word)
    return _pattern(said)(word)


def _below(word: str) -> bool:
    """Attack: `../../.ssh/id_rsa`, `/etc/passwd`, `sub/../../x`, `:/x` (git's top), `@x` (a file of arguments); `~` and what else a shell expands are refused before."""
    return bool(word) and not word.startswith(("/", "-", "~", ":", "@")) and ".." not in word.split("/") and "\\" not in word


@lru_cache(maxsize=1024)
def _pattern(said: str) -> Callable[[str], bool]:
    """`*` crosses nothing that parts a word: in `agent/*`, neither `agent/x:main` nor `agent/x/y`."""
    pieces = said.split("*")
    if len(pieces) == 1:
        return said.__eq__
    compiled = re.compile("[A-Za-z0-9._-]*".join(map(re.escape, pieces)))
    return lambda word: compiled.fullmatch(word) is not None


def operand_includes(parent: str, child: str) -> bool:
    """Whether every word that `child` admits, `parent` admits too. Exact, or no."""
    return parent in (ANY, child) or ("*" not in child and child != BELOW and _operand(child, parent))
