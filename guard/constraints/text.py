"""Which characters a value may have before anything is compared.

| refused                         | the attack                                                                       |
|---------------------------------|----------------------------------------------------------------------------------|
| lone surrogates                 | text that one encoder drops and another keeps                                    |
| control characters, NUL         | text that ends early, a second line where one is expected                        |
| bidirectional and invisible     | text that reads differently from what it is                                      |
| not NFC                         | two spellings of one name, one of them on the list                               |

Free text (a mail, a commit message) may have line breaks, tabs, joiners; what is *compared* as a name may not.
"""

from __future__ import annotations

import re
from unicodedata import is_normalized

__all__ = ["is_clean", "is_line", "is_prose"]

# Controls (C0, C1, line and paragraph separators), surrogates, noncharacters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_CONTROL_PROSE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# Formatting that hides or turns text: soft hyphen, bidi marks and isolates, zero widths, tags, variation selectors, Hangul fillers.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def is_line(text: str) -> bool:
    """One line of visible text in NFC."""
    if text.isascii():
        return text.isprintable()
    return _CONTROL.search(text) is None and _HIDDEN.search(text) is None and is_normalized("NFC", text)


def is_clean(text: str) -> bool:
    """A name: one visible line, not empty, without blanks at its ends."""
    return text != "" and is_line(text) and text == text.strip()


def is_prose(text: str) -> bool:
    """Free text: line breaks and tabs yes, other controls and surrogates no."""
    return (text.isascii() and text.isprintable()) or _CONTROL_PROSE.search(text) is None
