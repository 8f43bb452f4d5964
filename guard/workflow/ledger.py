"""The ledger of a task: keyed hashes of the values it has seen, and the sources they came from. Never a value.

| key                                  | means                                                              |
|--------------------------------------|--------------------------------------------------------------------|
| `T|v|<hash of a form>`               | letter of a source -> decision that brought it; `W`: the task wrote it |
| `T|b|<hash>`                         | letters an object this task wrote or downloaded caps its reads with|
| `T|f|<hash of tool, place, value, siblings>` | such a record was returned                                 |
| `T|E|<hash of tool, argument, value>`| an approval named it                                               |
| `T|s`, `T|wide`                      | how many values are kept; that some could not be                   |

A value the task wrote learns nothing new (the store's `veto`): creating a contact does not make a directory entry. A full ledger does not
forget: it says so, and then what is unknown is asked about.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from guard.ops import Add, Know, Lookup, Op, parse_map
from guard.workflow.forms import Form

__all__ = [
    "LETTERS",
    "MAX_VALUES",
    "NOTHING",
    "NO_FORM",
    "SOURCE_OF",
    "WRITTEN",
    "Ledger",
    "Masks",
    "best",
    "is_weak",
    "letters_of",
    "lowered",
    "rank",
    "room",
]  # fmt: skip

LETTERS: Final[Mapping[str, str]] = {
    "prompt": "p", "params": "a", "endorsed": "e", "directory": "d", "structured": "s", "made_here": "m", "author": "u", "text": "t",
}  # fmt: skip
SOURCE_OF: Final[Mapping[str, str]] = {letter: source for source, letter in LETTERS.items()}
_ORDER: Final = "paedsmutx"
NOTHING: Final = "x"
"""As a cap: what was read is worth nothing."""
WRITTEN: Final = "W"
NO_FORM: Final = "-"
"""In a mask: the value is compared with nothing."""
MAX_VALUES: Final = 50_000


def rank(letter: str) -> int:
    """0 is the best source. The letter of a weak source (upper case, from `keyvalue` text) ranks with its strong one."""
    at = _ORDER.find(letter.lower())
    return at if at >= 0 else len(_ORDER)


def is_weak(letter: str) -> bool:
    return letter.isupper()


def best(letters: str) -> str:
    """The best letter, a strong one before a weak one; "" of none."""
    return min(letters, key=lambda letter: (rank(letter), is_weak(letter)), default="")


class Masks(NamedTuple):
    """What the ledger said of one call. `letters`: control argument -> per value the letters of its sources, "" unknown, `-` no form.

    `cap`: letters of objects it names that this task wrote or downloaded.
    """

    letters: Mapping[str, tuple[str, ...]] = {}
    cap: str = ""

    def excuses(self, sources: frozenset[str]) -> bool:
        """`unless: {flow: [...]}`: there is a control value, and every one has a strong letter of one of these sources."""
        items = [item for one in self.letters.values() for item in one]
        return bool(items) and all(any(SOURCE_OF.get(letter, "") in sources for letter in item) for item in items)


def lowered(letter: str, masks: Masks) -> str:
    """The letter a leaf of a result really has: the worst of its own, its lookup keys' best, and the caps. "" where nothing is left."""
    worst, weak = letter, False
    for items in masks.letters.values():
        for item in items:
            if item == NO_FORM:
                continue
            key = best(item)
            if not key:
                worst = "s" if worst == "d" else worst
            else:
                weak = weak or is_weak(key)
                worst = max(worst, key.lower(), key=rank)
    for cap in masks.cap:
        worst = max(worst, cap.lower(), key=rank)
    if worst == NOTHING:
        return ""
    return worst.upper() if weak or is_weak(letter) else worst


def letters_of(answer: object) -> dict[str, str]:
    """Letter -> decision of a map's text, without the words that are no letters."""
    known = parse_map(answer) if isinstance(answer, str) or answer is None else {}
    return {word: by for word, by in known.items() if len(word) == 1 and word != WRITTEN and word.lower() in _ORDER}


class Ledger:
    """Keys and operations for the values of one task. `key`: the task's own, gone when the task has ended."""

    __slots__ = ("_key", "task")

    def __init__(self, key: bytes, task: str) -> None:
        self._key, self.task = key, task

    def hash(self, form: Form) -> str:
        return self._hash(_joined(*form))

    def hashes(self, forms: Iterable[Form]) -> list[str]:
        return [self._hash(_joined(*form)) for form in forms]

    def _hash(self, text: str) -> str:
        return hmac.digest(self._key, text.encode("utf-8", "surrogatepass"), "sha256").hex()[:24]

    def value(self, hashed: str) -> str:
        return f"{self.task}|v|{hashed}"

    def object(self, hashed: str) -> str:
        return f"{self.task}|b|{hashed}"

    def endorsed(self, tool: str, path: str, hashed: str) -> str:
        return f"{self.task}|E|{self._hash(_joined(tool, path, hashed))}"

    def join(self, tool: str, path: str, hashed: str, where: Sequence[tuple[str, str]]) -> str:
        """`where`: (place, hash) of each sibling."""
        siblings = [part for sibling in sorted(where) for part in sibling]
        return f"{self.task}|f|{self._hash(_joined(tool, path, hashed, *siblings))}"

    @property
    def wide(self) -> str:
        return f"{self.task}|wide"

    @property
    def stored(self) -> str:
        return f"{self.task}|s"

    def reads(self, hashes: Iterable[str]) -> list[Lookup]:
        return [Lookup(self.value(hashed)) for hashed in hashes]

    def learn(self, hashed: str, letter: str, by: str, *, veto: bool = True) -> Know:
        """`veto` False for what is the user's own: prompt, parameters, approvals."""
        key = self.value(hashed)
        return Know(key, letter, by or "0", "first", by, key if veto else "")

    def wrote(self, hashed: str, by: str) -> Know:
        return Know(self.value(hashed), WRITTEN, by or "0", "first", by)

    def widen(self, by: str) -> Know:
        return Know(self.wide, "1", by or "0", "first", by)


def _joined(*parts: str) -> str:
    return "\0".join(parts)


def room(ledger: Ledger, count: int, by: str) -> list[Op]:
    """Stands before what is learnt: refused when the ledger would pass its bound; then only `Ledger.widen` is applied."""
    return [Add(ledger.stored, count, MAX_VALUES, None, by)] if count else []
