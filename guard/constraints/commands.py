"""Commands as a shell would take them apart: `command: {program: [git, ls], flags: [--short]}`.

| refused                                                       | the attack                                        |
|---------------------------------------------------------------|---------------------------------------------------|
| `$(...)`, backticks, `$name`, `<(...)`                        | another command, or a value nobody checked, inside|
| `;` `&&` `||` `|` unless every simple command fits            | a second command behind the first                 |
| `&`, redirections, here-documents, line breaks, comments      | output to a file, a command in the background     |
| `NAME=value program`                                          | a loader or pager chosen by the environment       |
| `{a,b}`, `*`, `?`, `[`, `~` outside quotes, where flags count | a word that becomes a flag after the check        |
| `!`, `(`, `)` outside quotes                                  | history, subshells                                |

A list of words is taken as it is: no shell stands between it and the program.
"""

from __future__ import annotations

from collections.abc import Collection

__all__ = ["MAX_COMMAND", "fits", "words_of"]

MAX_COMMAND = 8192
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
    word.expands = word.expands or char in _EXPANDS
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


def fits(value: object, programs: Collection[str], flags: Collection[str] | None) -> bool:
    """Whether every simple command of `value` runs one of `programs` with none but `flags` (None: any)."""
    if isinstance(value, (list, tuple)):
        commands = [[(word, False) for word in value]]
    elif type(value) is str:
        try:
            commands = words_of(value)
        except ValueError:
            return False
    else:
        return False
    return all(_simple(words, programs, flags) for words in commands)


def _simple(words: list[tuple[str, bool]], programs: Collection[str], flags: Collection[str] | None) -> bool:
    program, expands = words[0]
    if expands or program not in programs:  # `NAME=value git` has another first word
        return False
    if flags is None:
        return True
    operands = False
    for word, expands in words[1:]:
        if expands:
            return False
        if operands or not word.startswith("-") or word == "-":
            continue
        if word == "--":
            operands = True
        elif not _allowed(word, flags):
            return False
    return True


def _allowed(word: str, flags: Collection[str]) -> bool:
    """`--name=value` by its name; `-rf` as written or letter by letter."""
    if word in flags:
        return True
    if word.startswith("--"):
        return word.partition("=")[0] in flags
    return len(word) > 2 and word[1:].isalnum() and all(f"-{letter}" in flags for letter in word[1:])
