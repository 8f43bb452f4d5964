"""The trusted prompt's own words as a second vote on effect classes. A heuristic, and its findings say so.

Whole words, in any case and with the usual endings; a word that is negated shortly before does not count. Built-in words are few and plain:
the policy knows its users' language better (`words`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from guard.frozen import frozen
from guard.model import Finding, Verdict
from guard.ops import Know, Lookup, Op, parse_map
from guard.policy.data import EFFECTS, Asked, PolicyData, Tool
from guard.reasons import ReasonCode
from guard.workflow.askwords import BREAKS, DELEGATED, GAP, NEGATIONS, PAIRS, REFERS, SENT_SUM, SEVERAL, WORDS
from guard.workflow.atoms import Told, Values

__all__ = ["WORDS", "AskedPlan", "AskedState", "asked_key", "asked_of", "compile_asked", "judge", "words_of"]

MAX_PROMPT: Final = 1 << 16

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_END = re.compile(r"[.!?;:\n]")
_REACH: Final = 3
_DOUBLED: Final = frozenset("bdglmnprt")
_FLAGS: Final = ("delegated", "refers", "several")


@frozen
class AskedState:
    """Which effect classes the prompt has a word for; whether it hands its orders over (`delegated`), or a value (`refers`);
    whether it speaks of more than one (`several`).
    """

    classes: frozenset[str] = frozenset()
    delegated: bool = False
    refers: bool = False
    several: bool = False

    @property
    def hands_over(self) -> bool:
        """The prompt leaves something to words that are not its own."""
        return self.delegated or self.refers

    def ops(self, task: str, by: str = "") -> list[Op]:
        """What puts it into the store: a map that only grows, so that what the user says later (`user_says`) adds to it, whoever is first."""
        words = [*sorted(self.classes), *(word for word in _FLAGS if getattr(self, word))]
        return [Know(asked_key(task), word, "1", "first", by) for word in words]

    @classmethod
    def read(cls, text: object) -> AskedState:
        """Back from the store; nothing asked where nothing readable stands there."""
        found = parse_map(text)
        return cls(frozenset(found) & frozenset(EFFECTS), *(word in found for word in _FLAGS))


def asked_of(prompt: str | None, words: Mapping[str, tuple[str, ...]] | None = None) -> AskedState:
    """What the prompt asks for. `words`: the policy's own, added to each class."""
    if not prompt:
        return AskedState()
    text = prompt[:MAX_PROMPT].casefold()
    more = tuple(sorted((effect, tuple(own)) for effect, own in (words or {}).items()))
    forms, phrases = _forms(more)
    tokens = [(match.group().replace("’", "'"), match.start()) for match in _WORD.finditer(text)]
    stops = [match.start() for match in _END.finditer(text)]
    free = _not_negated(tokens, stops)
    classes = {effect for (word, _), counts in zip(tokens, free, strict=True) if counts for effect in forms.get(word, ())}
    classes |= _paired([token for token, _ in tokens], free, {at for at, (_, start) in enumerate(tokens) if _ends(text, start)})
    unsaid = {start for (_, start), counts in zip(tokens, free, strict=True) if not counts}
    if any(match.start() not in unsaid for match in SENT_SUM.finditer(text)):
        classes.add("pay")
    for phrase, effect in phrases:
        size = len(phrase)
        for at in range(len(tokens) - size + 1):
            same = all(tokens[at + i][0] in phrase[i] for i in range(size))
            if same and free[at]:
                classes.add(effect)
                break
    return AskedState(
        frozenset(classes), DELEGATED.search(text) is not None, REFERS.search(text) is not None, SEVERAL.search(text) is not None
    )


def _ends(text: str, start: int) -> bool:
    """A word before which a sentence ended."""
    return _END.search(text, max(0, start - 3), start) is not None


def _paired(words: list[str], free: list[bool], first: set[int]) -> set[str]:
    """The classes of `PAIRS` that the words have: a verb, and soon behind it, in the same clause, its noun."""
    verbs, nouns = _pairs()
    found: set[str] = set()
    for at, word in enumerate(words):
        wanted = verbs.get(word)
        if wanted is None or not free[at]:
            continue
        for near in range(at + 1, min(at + 1 + GAP, len(words))):
            if near in first or words[near] in BREAKS or words[near] in NEGATIONS:
                break
            found.update(effect for effect, _ in wanted & nouns.get(words[near], frozenset()))
    return found


@lru_cache(maxsize=1)
def _pairs() -> tuple[Mapping[str, frozenset[tuple[str, int]]], Mapping[str, frozenset[tuple[str, int]]]]:
    """Verb -> and noun -> the pairs, as (class, number), that they belong to."""
    verbs: dict[str, set[tuple[str, int]]] = {}
    nouns: dict[str, set[tuple[str, int]]] = {}
    for effect, pairs in PAIRS.items():
        for number, sides in enumerate(pairs):
            for side, into in zip(sides, (verbs, nouns), strict=True):
                for word in side.split():
                    for form in _endings(word):
                        into.setdefault(form, set()).add((effect, number))
    return {form: frozenset(one) for form, one in verbs.items()}, {form: frozenset(one) for form, one in nouns.items()}


def words_of(layers: Sequence[PolicyData]) -> dict[str, tuple[str, ...]]:
    """The words of every layer that has `asked`, together."""
    words: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        for effect, own in (layer.asked.words if layer.asked is not None else {}).items():
            words[effect] = (*words.get(effect, ()), *own)
    return words


def _not_negated(tokens: list[tuple[str, int]], stops: list[int]) -> list[bool]:
    """For each word whether none of the few before it, in the same sentence, says no."""
    free: list[bool] = []
    last, stop = -_REACH - 1, 0
    for at, (word, start) in enumerate(tokens):
        while stop < len(stops) and stops[stop] < start:
            stop += 1
            last = -_REACH - 1
        free.append(at - last > _REACH)
        if word in NEGATIONS and not (word == "not" and at and tokens[at - 1][0] == "if"):
            last = at
    return free


_Phrase = tuple[frozenset[str], ...]


@lru_cache(maxsize=64)
def _forms(more: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[Mapping[str, frozenset[str]], tuple[tuple[_Phrase, str], ...]]:
    """Word with ending -> classes, and the phrases of several words. The class's own name counts."""
    own = dict(more)
    forms: dict[str, set[str]] = {}
    phrases: list[tuple[_Phrase, str]] = []
    for effect in EFFECTS:
        for word in (effect, *WORDS.get(effect, ()), *own.get(effect, ())):
            parts = word.casefold().replace("’", "'").split()
            if len(parts) == 1:
                for form in _endings(parts[0]):
                    forms.setdefault(form, set()).add(effect)
            elif parts:
                phrases.append((tuple(_endings(part) for part in parts), effect))
    return {form: frozenset(classes) for form, classes in forms.items()}, tuple(phrases)


def _endings(word: str) -> frozenset[str]:
    stem = word.removesuffix("e")
    made = {word, f"{word}s", f"{stem}ed", f"{stem}ing", f"{word}es", f"{word}e"}
    if word.endswith("y"):
        made |= {f"{word[:-1]}ies", f"{word[:-1]}ied"}
    if len(word) > 2 and word[-1] in _DOUBLED and word[-2] in "aeiou":
        made |= {f"{word}{word[-1]}ed", f"{word}{word[-1]}ing"}
    return frozenset(made)


def asked_key(task: str) -> str:
    """Where the state of a task stands: a map of effect classes and `_FLAGS`."""
    return f"{task}|a"


@frozen
class AskedPlan:
    """The votes on one tool, of every layer that has `asked`; all must pass."""

    tool: Tool
    layers: tuple[Asked, ...]

    def reads(self, task: str) -> tuple[Op, ...]:
        return (Lookup(asked_key(task)),)

    def judge(self, values: Values, answers: Sequence[object]) -> list[Finding]:
        """`answers`: that of `reads`. It goes on record: a replay has no prompt."""
        answer = answers[0] if answers else None
        if isinstance(values, Told):
            answer = values.ask("got.asked", lambda _: None)
        else:
            values.told["got.asked"] = answer if isinstance(answer, str) else None
        state = AskedState.read(answer)
        found = [finding for asked in self.layers if (finding := judge(self.tool, asked, state)) is not None]
        return [one for one in found if one.says != "permit"] or found[:1]


def compile_asked(layers: Sequence[PolicyData], tool: Tool) -> AskedPlan | None:
    """None where no layer lists a class of the tool: then nothing is read for it."""
    found = tuple(one.asked for one in layers if one.asked is not None and set(tool.effects) & one.asked.not_asked.keys())
    return AskedPlan(tool, found) if found else None


_GRADE: Final[Mapping[Verdict, int]] = {"allow": 0, "ask": 1, "deny": 2}


def judge(tool: Tool, asked: Asked, state: AskedState | None) -> Finding | None:
    """The vote on one tool; None where none of its classes is listed. `state` None: there is no trusted prompt, so no word in it."""
    state = state or AskedState()
    worst: tuple[Verdict, ReasonCode, str] | None = None
    listed = False
    for effect in tool.effects:
        cell = asked.not_asked.get(effect)
        if cell is None:
            continue
        listed = True
        if effect in state.classes:
            continue
        code = ReasonCode.ASKED_NOT_ASKED
        if state.delegated and cell == "deny":
            cell, code = asked.delegated or "deny", ReasonCode.ASKED_DELEGATED if asked.delegated else ReasonCode.ASKED_NOT_ASKED
        if worst is None or _GRADE[cell] > _GRADE[worst[0]]:
            worst = (cell, code, effect)
    if worst is not None and worst[0] != "allow":
        verdict, code, effect = worst
        why = "hands its orders over and has no word" if code is ReasonCode.ASKED_DELEGATED else "has no word"
        text = f"the prompt {why} for {effect} (a heuristic on its words)"
        fix = f"let the user ask for it in words, or approve this call: the policy's words for {effect} count"
        return Finding("asked", "forbid" if verdict == "deny" else "ask", code, None, tool.where or None, text, "enforce", fix)
    return Finding("asked", "permit", ReasonCode.PERMIT, text="the prompt asks for it") if listed else None
