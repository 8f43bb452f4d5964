"""Globs with one wild card: `*`, any run of characters that stays within one name.

`*` never crosses `/`, `@` or white space (line breaks included): the attacks are `*@acme.example` met by an address after a line
break, and `/data/*` met by a deeper path. Matching is linear in the value; inclusion of one glob in another is exact.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["compile_glob", "includes"]

MAX_GLOB = 256
_MAX_VALUE = 8192
_MAX_STATES = 4096


def crosses(char: str) -> bool:
    """Whether `*` stops at this character."""
    return char in "/@" or char.isspace()


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """A test of clean, one-line text."""
    parts = pattern.split("*")
    if len(parts) == 1:
        return lambda text: text == pattern
    if len(parts) == 2:
        head, tail = parts
        least, end = len(head) + len(tail), -len(tail) or None

        def one_star(text: str) -> bool:
            if len(text) < least or not text.startswith(head) or not text.endswith(tail):
                return False
            gap = text[len(head) : end]
            return "/" not in gap and "@" not in gap and not any(map(str.isspace, gap))

        return one_star
    return lambda text: len(text) <= _MAX_VALUE and _run(pattern, text)


def _closure(pattern: str, states: int) -> int:
    """A state at a `*` may also stand behind it."""
    for at, char in enumerate(pattern):
        if char == "*" and states >> at & 1:
            states |= 2 << at
    return states


def _step(pattern: str, states: int, char: str) -> int:
    """All states (bit n: the first n characters of the pattern are used up) after one more character."""
    after, stops = 0, crosses(char)
    for at, own in enumerate(pattern):
        if states >> at & 1:
            if own == "*":
                after |= 0 if stops else 1 << at
            elif own == char:
                after |= 2 << at
    return _closure(pattern, after)


def _run(pattern: str, text: str) -> bool:
    states = _closure(pattern, 1)
    for char in text:
        states = _step(pattern, states, char)
        if not states:
            return False
    return bool(states >> len(pattern) & 1)


def includes(parent: str, child: str) -> bool:
    """Whether every text `child` matches, `parent` matches too. Exact, or False where it would take too long to know.

    The parent is followed as a set of states, the child state by state; beyond the characters that stand in the two patterns one
    stranger is enough, since nothing tells strangers apart; what `*` stops at and stands in neither pattern matches neither.
    """
    stranger = next(chr(code) for code in range(0x61, 0x7B + len(parent) + len(child)) if chr(code) not in parent + child)
    alphabet = ({*parent, *child} - {"*"}) | {stranger}
    start = (_closure(child, 1), _closure(parent, 1))
    seen, todo = {start}, [start]
    while todo:
        mine, theirs = todo.pop()
        if mine >> len(child) & 1 and not theirs >> len(parent) & 1:
            return False
        for char in alphabet:
            below = (_step(child, mine, char), _step(parent, theirs, char))
            if below[0] and below not in seen:
                if len(seen) >= _MAX_STATES:
                    return False
                seen.add(below)
                todo.append(below)
    return True
