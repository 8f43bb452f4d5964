"""Which asks of a call its approvals clear. Pure; an approval never cures a deny.

| the approval                                          | counts                                    |
|-------------------------------------------------------|-------------------------------------------|
| of another task, tool or other arguments              | no                                        |
| names other asks                                      | not for this one                          |
| older than the ask's `within`, or of the future       | no                                        |
| used before                                           | no: each serves one call                  |
| of somebody who may not answer this ask               | no                                        |
| with a name, asks or groups that are none             | no                                        |
| with the id of another one                            | the first of them                         |
| of the same person as another one                     | once                                      |

Who may answer: the entry of `asks` for the rule, else for the reason code, else for the part of the code before its dot, else `default`;
of several layers that have one of the same kind, all must be met. Where none has any, the origin answers, within 15 minutes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import is_normalized

from guard.model import Approval, Delegation, Finding

if TYPE_CHECKING:
    from guard.policy.data import AskRule, PolicyData

__all__ = ["Cleared", "about", "asks_of", "clear", "name_of", "used_key"]

_AHEAD: Final = 5
"""Seconds an approver's clock may run before ours."""
_MOST: Final = 256
"""So many approvals of one call are looked at, the newest."""


class Cleared(NamedTuple):
    """The asks that are answered, with who answered each, and the approvals that are used up by it."""

    asks: dict[str, tuple[str, ...]]
    used: tuple[Approval, ...]


def name_of(finding: Finding) -> str:
    """What an ask is called in a request: its rule, else its code."""
    return finding.rule or str(finding.code)


def asks_of(findings: Iterable[Finding]) -> dict[str, str]:
    """Name -> code of each unmet ask."""
    return {name_of(one): str(one.code) for one in findings if one.says == "ask" and one.mode == "enforce"}


def used_key(task: str, approval: str) -> str:
    """The mark of an approval that was used."""
    from hashlib import sha256

    return f"{task}|ap|{sha256(approval.encode(errors='backslashreplace')).hexdigest()[:32]}"


def about(found: object, delegation: Delegation, tool: str, args_hmac: str) -> list[Approval]:
    """Those of this very call. Attack: an approval of a small payment is handed in for a large one."""
    given = found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else ()
    kept = [one for one in given if type(one) is Approval and (one.task, one.tool, one.args_hmac) == (delegation.txn, tool, args_hmac)]
    sound = [one for one in kept if args_hmac and _sound(one)]
    if len(sound) > _MOST:  # each is looked up: a full drawer must not cost the deadline of every call
        sound = sorted(sound, key=lambda one: one.at)[-_MOST:]
    return list({one.id: one for one in reversed(sound)}.values())[::-1]


def _sound(one: Approval) -> bool:
    """Is it made of what it says it is made of?

    Attacks: `asks` or `groups` as one text, of which every part would count; one person as two, by a blank nobody sees.
    """
    name: object = one.approver
    asks: object = one.asks
    groups: object = one.groups
    return (
        type(one.at) is int
        and type(one.id) is str
        and type(name) is str
        and name != ""
        and name == name.strip()
        and name.isprintable()
        and is_normalized("NFC", name)
        and isinstance(asks, tuple | list)
        and isinstance(groups, frozenset | set | tuple | list)
    )


def clear(layers: Sequence[PolicyData], delegation: Delegation, asks: dict[str, str], approvals: Sequence[Approval], now: int) -> Cleared:
    """Which of `asks` (name -> code) `approvals` (of `about`, not used) answer."""
    cleared: dict[str, tuple[str, ...]] = {}
    used: dict[str, Approval] = {}
    for name, code in asks.items():
        naming = [one for one in approvals if name in one.asks]
        answers = [_answers(rule, delegation, naming, now) for rule in _rules(layers, name, code)]
        if not answers or not all(answers):
            continue
        used.update({one.id: one for answer in answers for one in answer})
        cleared[name] = tuple(sorted({one.approver for answer in answers for one in answer}))
    return Cleared(cleared, tuple(used.values()))


def _rules(layers: Sequence[PolicyData], name: str, code: str) -> list[AskRule]:
    for key in (name, code, code.partition(".")[0], "default"):
        found = [layer.asks[key] for layer in layers if key in layer.asks]
        if found:
            return found
    from guard.policy.data import AskRule  # loaded long since, by whoever read the policy

    return [AskRule()]


def _answers(rule: AskRule, delegation: Delegation, approvals: Sequence[Approval], now: int) -> list[Approval]:
    """One approval of each of as many persons as it takes; none where there are too few."""
    persons: dict[str, Approval] = {}
    for one in approvals:
        if now - rule.within < one.at <= now + _AHEAD and _may(rule, delegation, one):
            persons.setdefault(one.approver, one)
    found = list(persons.values())
    return found[: rule.count] if len(found) >= rule.count else []


def _may(rule: AskRule, delegation: Delegation, one: Approval) -> bool:
    own = {delegation.origin, *([delegation.person] if delegation.person else [])}
    if isinstance(rule.by, str):
        return one.approver in own
    if "origin" in rule.by.excluded and one.approver in own:
        return False
    if "actors" in rule.by.excluded and one.approver in delegation.actors:
        return False
    return one.approver in rule.by.persons or (rule.by.group is not None and rule.by.group in one.groups)
