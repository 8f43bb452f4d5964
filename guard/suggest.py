"""`did you mean`: the nearest known name, for error texts."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean `refund`?`, or nothing where no name is near."""
    from difflib import get_close_matches  # only where something was misspelt

    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""
