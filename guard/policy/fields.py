"""One section of the table, read: each key by its kind, every problem reported, what could be read returned."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any, Final, NamedTuple

from guard.ops import AMOUNT_MAX, UNIT, units
from guard.policy.problems import Mark, Report, one_of, suggest
from guard.policy.supported import PARTS
from guard.policy.table import NAMES, PART_OF_WORD, SECTIONS, WORDS, Key
from guard.policy.times import seconds
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["Word", "check_name", "entries", "take", "word_of"]

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_AMOUNT = re.compile(r"[0-9]{1,40}(\.[0-9]{1,40})?", re.ASCII)
_PATTERNS: Final = {name: re.compile(pattern, re.ASCII) for name, pattern in NAMES.items()}
_MEANT: Final = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_ARGUMENTS: Final = {"per": "`origin`, `actor`, `tool` or `args.<path>`", "summed": "`args.<path>`", "argument": "`args.<path>`"}
_CODES: Final = {
    "effect": "unknown-effect",
    "type": "unknown-type",
    "source": "unknown-source",
    "cell": "unknown-source",
    "leaf": "unknown-source",
}
_KINDS: Final = {
    "effect": "an effect class", "type": "a type", "source": "a source of values", "cell": "a source of values", "leaf": "a source of values in a result",
    "entity": "a kind of value", "answer": "an answer", "bound": "a bound",
}  # fmt: skip
_NO_DEFAULT: Final = "there is none: what nothing allows is denied"


class Word(NamedTuple):
    """A piece of text and its place."""

    text: str
    at: Mark


def take(report: Report, node: Node, section: str, what: str) -> dict[str, Any]:
    """The keys of `node` that could be read, by the table's row for `section`. `what`: how problems call the thing."""
    if not isinstance(node, Map):
        report.error("type", node.at, f"{what} must be a mapping", "write `{}` for an empty one" if _empty(node) else None)
        return {}
    table, found, parked = SECTIONS[section], dict[str, Any](), False
    for name, entry in node.entries.items():
        key = table.get(name)
        if key is None or (key.beside and key.beside not in node.entries):
            _unknown_key(report, entry.key, what, name, key, table)
        elif key.part and report.lacks(key.part, entry.key, name):
            parked = True
        else:
            value = _READERS[key.kind](report, entry.node, key, name)
            if value is not None:
                found[name] = value
    for name, key in table.items():
        if key.needed and name not in node.entries and not parked:
            report.error("missing", node.at, f"{what} needs `{name}`")
    return found


def _unknown_key(report: Report, at: Mark, what: str, name: str, key: Key | None, table: Mapping[str, Key]) -> None:
    if key is not None:
        hint: str | None = f"it belongs to `{key.beside}`"
    else:
        hint = _NO_DEFAULT if name in ("default", "defaults") else suggest(name, table)
    report.error("unknown-key", at, f"{what} has no key `{name}`", hint)


def entries(report: Report, node: Map, pattern: str, what: str) -> list[tuple[Word, Node]]:
    """The members of a mapping whose keys are names; those with bad names are reported, and listed all the same."""
    members = []
    for name, entry in node.entries.items():
        word = Word(name, entry.key)
        check_name(report, word, pattern, what)
        members.append((word, entry.node))
    return members


def check_name(report: Report, word: Word, pattern: str, what: str) -> bool:
    """Whether `word` is a proper name; says what is wrong with it otherwise."""
    if _PATTERNS[pattern].fullmatch(word.text):
        return True
    odd = next((char for char in word.text if not " " <= char <= "~"), None)
    if not word.text:
        why = "is empty"
    elif odd is not None:
        why = f"has U+{ord(odd):04X} {unicodedata.name(odd, 'unnamed')}, which is not an ASCII character"
    elif word.text != word.text.strip():
        why = "has a blank at its edge"
    elif pattern in _ARGUMENTS:
        why = f"is not {_ARGUMENTS[pattern]}"
    else:
        why = "is too long" if len(word.text) > 64 else "is not a plain name"
    report.error("name", word.at, f"{what} `{_shown(word.text)}` {why}", _near(word.text, pattern))
    return False


def _near(text: str, pattern: str) -> str | None:
    if pattern in _ARGUMENTS and _PATTERNS["path"].fullmatch(text):
        return f"did you mean `args.{text}`?"
    return None


def _shown(text: str) -> str:
    return text[:60].encode("ascii", "backslashreplace").decode() + ("..." if len(text) > 60 else "")


def word_of(report: Report, word: Word, of: str, what: str) -> bool:
    """Whether `word` is one of the closed set `of`."""
    if word.text not in WORDS[of]:
        hint = suggest(word.text, WORDS[of]) or one_of(WORDS[of])
        kind = _KINDS.get(of, f"a value of `{of}`")
        report.error(_CODES.get(of, "value"), word.at, f"{what}: `{_shown(word.text)}` is not {kind}", hint)
        return False
    part = PART_OF_WORD.get((of, word.text))
    return part is None or not report.lacks(part, word.at, f"{what}: {word.text}")


def _empty(node: Node) -> bool:
    return isinstance(node, Leaf) and node.value is None


# --- one reader per kind; None means: reported


def _text(report: Report, node: Node, key: Key, name: str) -> Word | None:
    if isinstance(node, Leaf) and isinstance(node.value, str) and node.value.strip():
        return Word(node.value, node.at)
    quote = isinstance(node, Leaf) and node.value is not None and not isinstance(node.value, str)
    report.error("type", node.at, f"`{name}` must be text", "quote it" if quote else None)
    return None


def _name(report: Report, node: Node, key: Key, name: str) -> Word | None:
    word = _text(report, node, key, name)
    return word if word is not None and check_name(report, word, key.of, f"`{name}`:") else None


def _names(report: Report, node: Node, key: Key, name: str) -> tuple[Word, ...] | None:
    return _several(report, node, key, name, lambda word: check_name(report, word, key.of, f"`{name}`:"))


def _words(report: Report, node: Node, key: Key, name: str) -> tuple[Word, ...] | None:
    return _several(report, node, key, name, lambda word: word_of(report, word, key.of, name))


def _several(report: Report, node: Node, key: Key, name: str, good: Callable[[Word], bool]) -> tuple[Word, ...] | None:
    if isinstance(node, Map):
        report.error("type", node.at, f"`{name}` must be a name or a list of names")
        return None
    items = node.items if isinstance(node, Seq) else (node,)
    if not items:
        report.error("value", node.at, f"`{name}` is empty", "leave it out" if not key.needed else None)
        return None
    words: list[Word] = []
    bad = False
    for item in items:
        word = _text(report, item, key, name)
        if word is None or not good(word):
            bad = True
        elif any(word.text == other.text for other in words):
            report.error("value", word.at, f"`{name}` names `{word.text}` twice")
        else:
            words.append(word)
    return None if bad else tuple(words)


def _some_names(report: Report, node: Node, key: Key, name: str) -> tuple[Word, ...] | None:
    return () if isinstance(node, Seq) and not node.items else _list_of_names(report, node, key, name)


def _list_of_names(report: Report, node: Node, key: Key, name: str) -> tuple[Word, ...] | None:
    if not isinstance(node, Seq):
        report.error("type", node.at, f"`{name}` must be a list")
        return None
    return _names(report, node, key, name)


def _word(report: Report, node: Node, key: Key, name: str) -> Word | None:
    word = _text(report, node, key, name)
    return word if word is not None and word_of(report, word, key.of, name) else None


def _flag(report: Report, node: Node, key: Key, name: str) -> bool | None:
    if isinstance(node, Leaf) and isinstance(node.value, bool):
        return node.value
    meant = _MEANT.get(node.text.lower()) if isinstance(node, Leaf) else None
    why = "text in YAML 1.2" if meant else "neither"
    shown = f": `{_shown(node.text)}` is {why}" if isinstance(node, Leaf) and node.text else ""
    report.error("type", node.at, f"`{name}` must be true or false{shown}", f"did you mean `{meant}`?" if meant else None)
    return None


def _day(report: Report, node: Node, key: Key, name: str) -> date | None:
    if isinstance(node, Leaf) and _DAY.fullmatch(node.text):
        try:
            return date.fromisoformat(node.text)
        except ValueError:
            pass
    report.error("value", node.at, f"`{name}` must be a day", "write it as `2027-03-01`")
    return None


def _time(report: Report, node: Node, key: Key, name: str) -> int | None:
    total = seconds(node.value) if isinstance(node, Leaf) and isinstance(node.value, str) else None
    if total is None:
        report.error("value", node.at, f"`{name}` must be a time of at most ten years", "write it as `30s`, `10m`, `24h` or `7d`")
    return total


def _count(report: Report, node: Node, key: Key, name: str) -> int | None:
    if isinstance(node, Leaf) and type(node.value) is int and 0 < node.value <= AMOUNT_MAX:
        return node.value
    hint = (
        "a limit of 0 is no limit: do not allow the tool, or write a rule without a verb"
        if isinstance(node, Leaf) and node.value == 0 and name == "calls"
        else None
    )
    report.error("value", node.at, f"`{name}` must be a whole number above 0", hint)
    return None


def _amount(report: Report, node: Node, key: Key, name: str) -> Decimal | None:
    if isinstance(node, Leaf) and _AMOUNT.fullmatch(node.text) and not isinstance(node.value, float):
        amount = Decimal(node.text)
        if amount > 0 and units(amount) is not None:
            return amount
        report.error("value", node.at, f"`{name}` must be above 0, at most {AMOUNT_MAX * UNIT:f}, in steps of {UNIT:f}")
        return None
    hint = "write amounts in quotes" if isinstance(node, Leaf) and isinstance(node.value, float) else 'write it as `"5000"`'
    report.error("type", node.at, f"`{name}` must be an amount", hint)
    return None


def _version(report: Report, node: Node, key: Key, name: str) -> int | None:
    if isinstance(node, Leaf) and type(node.value) is int and node.value == 1:
        return 1
    report.error("version", node.at, "this reads version 1 of the policy language", "write `guardtrail: 1`")
    return None


def _map(report: Report, node: Node, key: Key, name: str) -> Map | None:
    if isinstance(node, Map):
        return node
    report.error("type", node.at, f"`{name}` must be a mapping", "leave it out if there is nothing to say" if _empty(node) else None)
    return None


def _map_or_word(report: Report, node: Node, key: Key, name: str) -> Map | Word | None:
    if isinstance(node, Leaf) and node.value == key.word:
        if key.word in PARTS and report.lacks(key.word, node.at, f"{name}: {key.word}"):
            return None
        return Word(key.word, node.at)
    if isinstance(node, Map):
        return node
    report.error("type", node.at, f"`{name}` must be a mapping, or `{key.word}`")
    return None


def _list(report: Report, node: Node, key: Key, name: str) -> Seq | None:
    if isinstance(node, Seq):
        return node
    report.error("type", node.at, f"`{name}` must be a list")
    return None


def _expect(report: Report, node: Node, key: Key, name: str) -> tuple[Word, ...] | None:
    items = node.items if isinstance(node, Seq) else (node,)
    words = [_text(report, item, key, name) for item in items]
    return tuple(word for word in words if word is not None) if all(words) else None


_READERS: Final[Mapping[str, Callable[[Report, Node, Key, str], Any]]] = {
    "version": _version,
    "text": _text,
    "name": _name,
    "names": _names,
    "list of names": _list_of_names,
    "word": _word,
    "words": _words,
    "flag": _flag,
    "day": _day,
    "time": _time,
    "count": _count,
    "amount": _amount,
    "types": _map,
    "constraints": _map,
    "one": _map,
    "one or word": _map_or_word,
    "map": _map,
    "map of names": _map,
    "map of paths": _map,
    "map of words": _map,
    "map of texts": _map,
    "shape": _map,
    "bounds": _map,
    "some names": _some_names,
    "list": _list,
    "data": _map,
    "expect": _expect,
}
