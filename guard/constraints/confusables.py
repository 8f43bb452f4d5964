"""What in a text may look like something else to the person who reads it. Pure; by Unicode's own data, without a table of all look-alikes.

| kind         | what                                                                                           | where it is marked |
|--------------|------------------------------------------------------------------------------------------------|--------------------|
| `control`    | control characters but newline and tab, line and paragraph separators, lone surrogates         | everywhere         |
| `bidi`       | what turns the direction of writing around                                                     | everywhere         |
| `invisible`  | no width: joiners, fillers, variation selectors, tags, soft hyphens                            | everywhere         |
| `blank`      | a blank that is not the plain one                                                              | control values     |
| `mixed`      | a letter in a word of several scripts that look alike (Latin, Cyrillic, Greek, ...)            | everywhere         |
| `look-alike` | a word of Cyrillic, Greek, Armenian, Cherokee or Lisu letters each of which looks like a Latin one; a Latin letter of no alphabet (dotless i, script g, clicks); another script's digit; what looks like `/ : - . \\` and is not | control values |
| `form`       | another form of an ordinary character (fullwidth, mathematical, ligature)                      | control values     |

Japanese and Korean mix their scripts by nature, and Latin words stand among them: that is not marked. What is not marked is not proven to be
harmless: l and I, rn and m, 0 and O are all plain Latin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final
from unicodedata import category, name, normalize

from guard.frozen import frozen

__all__ = ["Mark", "marks_in", "marks_of", "shown"]

_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u206a-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    "\U000e0000-\U000e0fff\U0001d173-\U0001d17a]"
)
_LETTERS: Final = re.compile(r"[^\W\d_]+")
_CLOSE: Final = frozenset(("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU", "FULLWIDTH", "MATHEMATICAL"))
"""Scripts whose letters pass for each other's."""
# Letters that look like a Latin one, by script. From what they look like; short on purpose.
_LIKE_LATIN: Final = frozenset(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u04cf"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405\u0500\u051a\u051c\u04c0"
    "\u03bf\u03b1\u03bd\u03c1\u03b9\u03ba\u03c4\u03c5\u03c7\u03b3\u03b7\u03c9\u03f2\u03f3"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03f9\u037f"
    "\u0585\u0578\u057d\u0570\u0581\u0566\u0561\u056c\u0584\u0555\u054d\u053c\u0555"
    "\ua4d0\ua4d1\ua4d3\ua4d4\ua4d6\ua4d7\ua4da\ua4dd\ua4df\ua4e0\ua4e1\ua4e2\ua4e3\ua4e6\ua4ea\ua4eb\ua4ec\ua4ee\ua4f0\ua4f2\ua4f3\ua4f4"
    "\u13a0\u13a1\u13a2\u13a5\u13aa\u13ab\u13ac\u13b3\u13b7\u13bb\u13c0\u13c2\u13c3\u13cf\u13d9\u13da\u13d2\u13d4\u13de\u13df\u13e2\u13f4"
)
_LIKE_SIGNS: Final = frozenset(
    "\u2044\u2215\u29f8\u2571\u3033\ua789\u2236\u02d0\u0589\u05c3\u2010\u2012\u2212\u02d7\u3002\u06d4\u0701\u0702\u2216\u29f5\u29f9"
)
"""What passes for a slash, a colon, a hyphen, a full stop or a backslash: where a host, a path or a number ends is read by them."""
_ALPHABETS: Final = frozenset(
    "\u00df\u1e9e\u00f8\u00d8\u0111\u0110\u0142\u0141\u00e6\u00c6\u0153\u0152\u00fe\u00de\u00f0\u00d0\u0127\u0126\u014b\u014a\u0259\u018f"
)
"""Latin letters without an ASCII base that languages write with."""


@frozen
class Mark:
    """One character, or a word's worth of them, that may pass for another. `path`: of the value; `at`: index of the character in it."""

    path: str
    at: int
    char: str
    kind: str

    @property
    def code(self) -> str:
        """`U+0430 CYRILLIC SMALL LETTER A`"""
        return f"U+{ord(self.char):04X} {name(self.char, 'without a name')}"


def marks_of(value: object, control: Iterable[str] = ()) -> list[Mark]:
    """Marks of every text in `value`, names of members too. `control`: names of control arguments (`to[]`, `order`): marked more strictly."""
    strict = {one.split(".")[0].removesuffix("[]") for one in control}
    found: list[Mark] = []
    for path, text, top in _texts(value, "", ""):
        found += marks_in(text, path, control=top in strict)
    return found


def _texts(value: object, path: str, top: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str):
        yield path, value, top
    elif isinstance(value, dict):
        for key, each in value.items():
            here = f"{path}.{key}" if path else str(key)
            yield f"{here} (its name)", str(key), str(key) if not path else top
            yield from _texts(each, here, top or str(key))
    elif isinstance(value, list | tuple):
        for i, each in enumerate(value):
            yield from _texts(each, f"{path}[{i}]", top)


def marks_in(text: str, path: str = "", *, control: bool = True) -> list[Mark]:
    """Marks of one text, in order."""
    if text.isascii() and text.isprintable():
        return []
    found = [Mark(path, i, c, kind) for i, c in enumerate(text) if (kind := _kind(c, control))]
    for word in _LETTERS.finditer(text):
        kind = _word(word[0], control)
        if kind:
            found += [Mark(path, word.start() + i, c, kind) for i, c in enumerate(word[0]) if not c.isascii() and script(c) != "LATIN"]
    once: dict[int, Mark] = {}
    for each in found:
        once.setdefault(each.at, each)
    return [once[at] for at in sorted(once)]


def _kind(c: str, control: bool) -> str:
    if " " <= c <= "~" or c in "\n\t":
        return ""
    kind = category(c)
    if c in _BIDI:
        return "bidi"
    if kind in ("Cc", "Cs", "Zl", "Zp"):
        return "control"
    if kind in ("Cf", "Co", "Cn") or _INVISIBLE.match(c):
        return "invisible"
    if not control:
        return ""
    if kind == "Zs":
        return "blank"
    if normalize("NFKC", c) != c:
        return "form"
    if kind == "Nd" or c in _LIKE_SIGNS:
        return "look-alike"
    odd = kind in ("Ll", "Lu", "Lo") and script(c) == "LATIN" and c not in _ALPHABETS and not normalize("NFD", c)[0].isascii()
    return "look-alike" if odd else ""


def _word(word: str, control: bool) -> str:
    """Why the letters of a word that are not Latin are marked."""
    scripts = {script(c) for c in word}
    if len(scripts & _CLOSE) > 1:
        return "mixed"
    alone = control and scripts and "LATIN" not in scripts
    return "look-alike" if alone and all(c in _LIKE_LATIN for c in word) else ""


def script(c: str) -> str:
    """The first word of the letter's name, which is its script."""
    return "LATIN" if c.isascii() else name(c, "NAMELESS").split(" ")[0]


def shown(text: str, marks: Iterable[Mark]) -> str:
    """`text` with each marked character as `[U+0430]`; nothing is left out."""
    at = {each.at for each in marks}
    return "".join(f"[U+{ord(c):04X}]" if i in at else c for i, c in enumerate(text))
