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

A person is all the names a token gives (`sub`, `person`). Who is left out (`not`) is left out by any of them, and two approvals that share one are of
one person. The origin answers with a token of the task's own issuer: another issuer may call somebody by the same name.
A rejection holds as long as an approval of that person would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from unicodedata import is_normalized

from guard.model import Approval, Delegation, Finding, Rejection, Unmet

if TYPE_CHECKING:
    from typing import Protocol

    from guard.policy.data import AskRule, PolicyData

    class Parties(Protocol):
        """For whom and by whom a call is made: what a delegation has, and a request."""

        @property
        def issuer(self) -> str: ...
        @property
        def origin(self) -> str: ...
        @property
        def person(self) -> str | None: ...
        @property
        def actors(self) -> tuple[str, ...]: ...


__all__ = [
    "Cleared",
    "about",
    "answerable",
    "asks_of",
    "clear",
    "met",
    "name_of",
    "rejected_by",
    "rejections",
    "unmet",
    "used_key",
]

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
    names: object = one.names
    return (
        type(one.at) is int
        and type(one.id) is str
        and type(one.issuer) is str
        and isinstance(asks, tuple | list)
        and isinstance(groups, frozenset | set | tuple | list)
        and isinstance(names, frozenset | set | tuple | list)
        and all(map(_plain, (name, *names)))
    )


def _plain(name: object) -> bool:
    return type(name) is str and name != "" and name == name.strip() and name.isprintable() and is_normalized("NFC", name)


def rejections(found: object) -> list[Approval]:
    """What was said no to, as approvals have it: for `about`."""
    given = found if isinstance(found, Sequence) and not isinstance(found, str | bytes) else ()
    return [one.said for one in given if type(one) is Rejection]


def clear(layers: Sequence[PolicyData], delegation: Parties, asks: Mapping[str, str], approvals: Sequence[Approval], now: int) -> Cleared:
    """Which of `asks` (name -> code) `approvals` (of `about`, not used) answer."""
    return met({name: _rules(layers, name, code) for name, code in asks.items()}, delegation, approvals, now)


def met(asks: Mapping[str, Sequence[AskRule]], parties: Parties, approvals: Sequence[Approval], now: int) -> Cleared:
    """The same, of asks with the rules of who may answer them."""
    cleared: dict[str, tuple[str, ...]] = {}
    used: dict[str, Approval] = {}
    for name, rules in asks.items():
        naming = [one for one in approvals if name in one.asks]
        answers = [_answers(rule, parties, naming, now) for rule in rules]
        if not answers or not all(answers):
            continue
        used.update({one.id: one for answer in answers for one in answer})
        cleared[name] = tuple(sorted({one.approver for answer in answers for one in answer}))
    return Cleared(cleared, tuple(used.values()))


def unmet(layers: Sequence[PolicyData], findings: Iterable[Finding]) -> tuple[Unmet, ...]:
    """Every unmet ask, with who may answer it: what a request lists."""
    found: dict[str, Unmet] = {}
    for one in findings:
        if one.says == "ask" and one.mode == "enforce":
            name, code = name_of(one), str(one.code)
            found.setdefault(name, Unmet(name, code, one.text, tuple(_rules(layers, name, code))))
    return tuple(found.values())


def answerable(asks: Iterable[Unmet], parties: Parties, one: Approval) -> tuple[str, ...]:
    """Those of `asks` that the person of `one` may answer."""
    return tuple(ask.name for ask in asks if any(_may(rule, parties, one) for rule in ask.rules))


def rejected_by(
    layers: Sequence[PolicyData], delegation: Parties, asks: Mapping[str, str], said: Sequence[Approval], now: int
) -> str | None:
    """Who has said no, of those who may answer one of `asks`; None: nobody. `said`: of `about`."""
    for name, code in asks.items():
        for rule in _rules(layers, name, code):
            for one in said:
                if name in one.asks and _fresh(rule, one, now) and _may(rule, delegation, one):
                    return one.approver
    return None


def _rules(layers: Sequence[PolicyData], name: str, code: str) -> list[AskRule]:
    for key in (name, code, code.partition(".")[0], "default"):
        found = [layer.asks[key] for layer in layers if key in layer.asks]
        if found:
            return found
    from guard.policy.data import AskRule  # loaded long since, by whoever read the policy

    return [AskRule()]


def _answers(rule: AskRule, parties: Parties, approvals: Sequence[Approval], now: int) -> list[Approval]:
    """One approval of each of as many persons as it takes; none where there are too few."""
    found: list[Approval] = []
    seen: set[str] = set()
    for one in approvals:
        names = {one.approver, *one.names}
        if not (_fresh(rule, one, now) and _may(rule, parties, one)):
            continue
        if not names & seen:
            found.append(one)
        seen |= names
    return found[: rule.count] if len(found) >= rule.count else []


def _fresh(rule: AskRule, one: Approval, now: int) -> bool:
    return now - rule.within < one.at <= now + _AHEAD


def _may(rule: AskRule, parties: Parties, one: Approval) -> bool:
    own = {parties.origin, *([parties.person] if parties.person else [])}
    names = {one.approver, *one.names}
    if isinstance(rule.by, str):
        return bool(names & own) and one.issuer in ("", parties.issuer)
    if "origin" in rule.by.excluded and names & own:
        return False
    if "actors" in rule.by.excluded and names & set(parties.actors):
        return False
    return bool(names & set(rule.by.persons)) or (rule.by.group is not None and rule.by.group in one.groups)
