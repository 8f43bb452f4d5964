"""What a task learns: from its prompt and parameters when it opens, from results when they have come back. Pure: operations, no store.

opened = opening(ledger, prompt, params)                     at depth 0, in one list with the pin of the prompt
seen = observe(plan, outcome, args, me)                      a bounded copy, taken once
learning = learn(plan, ledger, seen, masks, decision)        what goes into the list of the settling
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from guard.model import Outcome
from guard.ops import Add, Mark, Op, Pin
from guard.workflow.asked import AskedState
from guard.workflow.called import named_ids
from guard.workflow.entities import entities
from guard.workflow.flowtable import SourcePlan
from guard.workflow.forms import Form, entity_forms, forms, is_whole, leaf_forms
from guard.workflow.grams import grams, without
from guard.workflow.ledger import LETTERS, Ledger, Masks, lowered, room
from guard.workflow.origin import MAX_JOINS, join_ops
from guard.workflow.shapes import Observed, Seen, leaves

__all__ = ["Learning", "endorse", "learn", "observe", "opening", "said", "wide_ops"]

MAX_ENTITIES: Final = 500
MAX_RESULT_ENTITIES: Final = 2_000
MAX_PROMPT: Final = 1 << 16
"""Characters of a prompt that are indexed; the rest is unknown, which is the strict side."""
_LINKS: Final = frozenset({"email", "url", "iban", "host", "phone"})


class Learning(NamedTuple):
    """What settling adds. `ops`: the claim of room first. Refused at the claim: apply `full` instead. `learnt`: values, for the record."""

    ops: tuple[Op, ...]
    full: tuple[Op, ...]
    learnt: int
    failed: bool = False
    """The result could not be observed and must be withheld (`observe.failed`)."""

    def refund(self, answers: Sequence[object], ledger: Ledger) -> Op | None:
        """For the next list: what was claimed for values that were known already. `answers`: those of `ops`, in their order."""
        claim = self.ops[0] if self.ops else None
        if not isinstance(claim, Add):
            return None
        known = sum(answer is False for answer in answers[1 : claim.amount + 1])
        return Add(ledger.stored, -known) if known else None


# --- opening, and what the user says later


def opening(
    ledger: Ledger,
    prompt: str | None,
    params: Mapping[str, object],
    types: Mapping[str, str] | None = None,
    *,
    me: Sequence[str] = (),
    asked: AskedState | None = None,
    quoted: str = "",
) -> list[Op]:
    """One list for `open_flow` at depth 0. Its first operation pins the prompt: refused there, another prompt came first; then apply
    `opening(ledger, None, params)` alone, and neither its words nor `asked` count.
    """
    ops: list[Op] = []
    if prompt is not None:
        ops.append(Pin(f"{ledger.task}|prompt", ledger.hash(("prompt", prompt))))
        if asked is not None:
            ops += asked.ops(ledger.task)
        ops += said(ledger, prompt, quoted=quoted)
    learnt: dict[str, None] = {}
    for name, value in params.items():
        for one in value if isinstance(value, (list, tuple)) else (value,):
            kind = (types or {}).get(name, "any")
            found = leaf_forms(one, declared=True) if kind == "any" else forms(kind, one, declared=True)
            learnt.update(dict.fromkeys(ledger.hashes(found)))
    for own in me:
        learnt.update(dict.fromkeys(ledger.hashes(leaf_forms(own, declared=True))))
    ops += [ledger.learn(hashed, "a", "", veto=False) for hashed in learnt]
    return ops


def said(ledger: Ledger, text: str, *, quoted: str = "", trusted: bool = True, by: str = "") -> list[Op]:
    """`task.user_says`, and the prompt: its entities and word runs are the user's own. What is `quoted` in it is text.

    `trusted` False: words of another agent, which are text.
    """
    own = without(text, quoted)[:MAX_PROMPT]
    letter = "p" if trusted else "t"
    learnt = {(hashed, letter): None for hashed in ledger.hashes(_forms_of(own, trusted))}
    if quoted:
        learnt.update({(hashed, "t"): None for hashed in ledger.hashes(_forms_of(quoted[:MAX_PROMPT], False))})
    return [ledger.learn(hashed, one, by, veto=one == "t") for hashed, one in learnt]


def _forms_of(text: str, words: bool) -> Iterator[Form]:
    for entity in entities(text, MAX_ENTITIES):
        yield from entity_forms(entity)
    if words:
        for run in grams(text):
            yield "line", run


# --- results


def observe(plan: SourcePlan, outcome: Outcome, args: Mapping[str, object], me: Sequence[str] = ()) -> Observed:
    """What was seen of an outcome. An error's text is text; of a body that did not end, nothing is known. Never raises."""
    if outcome.status == "ok":
        names = [path for place, where in plan.watch for path in (place, *where)]
        return leaves(plan.tool.returns, outcome.value, args, me, creates=plan.writes, names=names)
    if outcome.status == "error" and outcome.error is not None:
        try:
            text = str(outcome.error)[: 1 << 16]
        except Exception:  # an exception of the tool's own making
            return Observed((), False, "failed")
        return Observed((Seen("", 0, text, "text", False),))
    return Observed()


def learn(plan: SourcePlan, ledger: Ledger, observed: Observed, masks: Masks, by: str) -> Learning:
    """The operations by which the ledger learns a result: every leaf, what stands in its texts, the joins."""
    found = _Found(ledger, masks, observed.weak)
    for seen in observed.items:
        found.add(seen)
    ops: list[Op] = [ledger.learn(hashed, letter, by) for hashed, letter in found.letters]
    for join in join_ops(ledger, plan.tool.name, plan.watch, observed, masks, by):
        if len(ops) >= len(found.letters) + MAX_JOINS:
            found.complete = False
            break
        ops.append(join)
    widen: tuple[Op, ...] = (ledger.widen(by),)
    claim = room(ledger, len(ops), by)
    if not (observed.complete and found.complete):
        ops += widen
    return Learning((*claim, *ops), widen, len(found.letters), observed.failed)


def wide_ops(ledger: Ledger, by: str) -> tuple[Op, ...]:
    """For a result nobody could look at: from now on, what is unknown may be something that was missed."""
    return (ledger.widen(by),)


def endorse(ledger: Ledger, tool: str, path: str, kind: str, value: object, by: str) -> list[Op]:
    """`task.endorse`: this argument of this tool may have this value, whatever its source."""
    hashes = ledger.hashes(forms(kind, value, declared=True))
    return [Mark(ledger.endorsed(tool, path, hashed), by, None, "1") for hashed in hashes]


class _Found:
    """The (hash, letter) pairs of one result, and whether all of it was taken."""

    def __init__(self, ledger: Ledger, masks: Masks, weak: bool) -> None:
        self._ledger, self._weak = ledger, weak
        self._letter = {source: lowered(letter, masks) for source, letter in LETTERS.items()}
        self._left = MAX_RESULT_ENTITIES
        self.letters: dict[tuple[str, str], None] = {}
        self.complete = True

    def add(self, seen: Seen) -> None:
        if seen.key:  # a field's name is nobody's value, unless it is an address or an account
            self._put((form for form in leaf_forms(seen.value) if form[0] in _LINKS), "text")
            return
        found = leaf_forms(seen.value, declared=seen.declared)
        self._put(found, seen.source)
        if isinstance(seen.value, str) and not is_whole(seen.value, found):
            self._inside(seen.value, found)

    def _inside(self, text: str, whole: Sequence[Form]) -> None:
        """What stands in a text is text, whatever the text itself is. What is all of it (`whole`) does not stand in it: an id that a
        field holds is the field's, not also a text's.
        """
        most = min(MAX_ENTITIES, self._left)
        inside = entities(text, most + 1) if most > 0 else []
        if len(inside) > most or most <= 0:
            self.complete = False
        self._left -= min(len(inside), most)
        for entity in inside[:most]:
            self._put((form for form in entity_forms(entity) if form not in whole), "text")
        # Short ids carry no provenance where they merely stand; where a text calls them one, it says which object it means.
        for word in named_ids(text):
            self._put((("line", word), ("num", word)) if word.isdigit() else (("line", word),), "text")

    def _put(self, forms: Iterable[Form], source: str) -> None:
        letter = self._letter.get(source, "")
        if not letter:
            return
        letter = letter.upper() if self._weak else letter
        for hashed in self._ledger.hashes(forms):
            self.letters.setdefault((hashed, letter))
