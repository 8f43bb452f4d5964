"""The trusted prompt's own words as a second vote on effect classes. A heuristic, and its findings say so.

Whole words, in any case and with the usual endings; a word that is negated shortly before does not count. Built-in words are few and plain:
the policy knows its users' language better (`words`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from guard.model import Finding, Verdict
from guard.ops import Know, Lookup, Op, parse_map
from guard.policy.data import EFFECTS, Asked, PolicyData, Tool
from guard.reasons import ReasonCode
from guard.workflow.atoms import Told, Values

__all__ = ["WORDS", "AskedPlan", "AskedState", "asked_key", "asked_of", "compile_asked", "judge", "words_of"]

MAX_PROMPT: Final = 1 << 16

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "read": ("read", "look", "find", "search", "show", "list", "check", "view", "summarize", "summarise", "get", "see", "tell"),
    "fetch": ("fetch", "open", "visit", "download", "browse", "crawl", "look up"),
    "write": (
        "write", "create", "add", "make", "save", "append", "update", "edit", "change", "set", "mark", "rename", "move", "draft", "note",
        "insert", "modify", "adjust", "fill", "record", "schedule", "reschedule", "put", "store", "log", "register", "correct", "complete",
    ),
    "send": ("send", "mail", "email", "e-mail", "reply", "respond", "answer", "forward", "message", "notify", "inform", "invite", "post", "write to"),
    "share": ("share", "grant", "give access", "publish", "invite"),
    "pay": ("pay", "transfer", "wire", "refund", "settle", "reimburse", "remit", "repay", "send money", "payment", "paid"),
    "buy": ("buy", "purchase", "order", "book", "reserve", "rent", "subscribe"),
    "delete": ("delete", "remove", "erase", "cancel", "clear", "discard", "trash", "drop", "unsubscribe"),
    "execute": ("execute", "run", "start", "launch", "deploy", "install", "build", "compile", "test", "restart"),
    "admin": ("admin", "administer", "configure", "enable", "disable", "reset", "promote", "revoke", "rotate", "set up", "change password"),
    "approve": ("approve", "confirm", "authorize", "authorise", "accept", "sign off", "release", "clear"),
}  # fmt: skip

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_END = re.compile(r"[.!?;:\n]")
_NEGATIONS: Final = frozenset(
    [
        "not",
        "never",
        "no",
        "without",
        "don't",
        "dont",
        "don’t",
        "doesn't",
        "doesn’t",
        "won't",
        "won’t",
        "cannot",
        "can't",
        "can’t",
        "avoid",
        "instead",
        "mustn't",
        "shouldn't",
    ]
)
_REACH: Final = 3
_DOUBLED: Final = frozenset("bdglmnprt")
_DELEGATED = re.compile(
    r"\b(?:"
    r"do (?:what|whatever|everything|anything|as|all)\b[^.!?\n]{0,60}\b(?:says?|said|tells?|told|asks?|asked|wants?|suggests?|requests?|requires?|describes?|lists?)"
    r"|follow(?:ing)? (?:\w+ ){0,4}(?:instructions?|steps?|orders?|directions?|procedure)"
    r"|(?:as|the way) (?:it is |is |are )?(?:described|instructed|specified|stated|requested|outlined|explained|listed|asked|told) (?:in|by|there)"
    r"|(?:actions?|tasks?|steps?|todos?|things?|instructions?|requests?) (?:that (?:are|is) |which (?:are|is) )?(?:specified|described|listed|mentioned|given|requested|outlined|contained|written|assigned) (?:in|by)"
    r"|(?:do|perform|execute|complete|carry out|handle|finish|take care of|work through) (?:\w+ ){0,3}(?:actions?|tasks?|todos?|to-dos?|steps?|instructions?|requests?) (?:\w+ ){0,3}(?:in|from|on|of)\b"
    r"|accordingly\b"
    r")",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class AskedState:
    """Which effect classes the prompt has a word for, and whether it hands its orders over."""

    classes: frozenset[str] = frozenset()
    delegated: bool = False

    def ops(self, task: str, by: str = "") -> list[Op]:
        """What puts it into the store: a map that only grows, so that what the user says later (`user_says`) adds to it, whoever is first."""
        words = [*sorted(self.classes), *(["delegated"] if self.delegated else [])]
        return [Know(asked_key(task), word, "1", "first", by) for word in words]

    @classmethod
    def read(cls, text: object) -> AskedState:
        """Back from the store; nothing asked where nothing readable stands there."""
        found = parse_map(text)
        return cls(frozenset(found) & frozenset(EFFECTS), "delegated" in found)


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
    for phrase, effect in phrases:
        size = len(phrase)
        for at in range(len(tokens) - size + 1):
            same = all(tokens[at + i][0] in phrase[i] for i in range(size))
            if same and free[at]:
                classes.add(effect)
                break
    return AskedState(frozenset(classes), _DELEGATED.search(text) is not None)


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
        if word in _NEGATIONS and not (word == "not" and at and tokens[at - 1][0] == "if"):
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
    """Where the state of a task stands: a map of effect classes, and `delegated`."""
    return f"{task}|a"


@dataclass(frozen=True, slots=True)
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
