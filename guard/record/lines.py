"""A record as JSON text, fast: the same characters as `encode(record.to_dict())`, which stays the definition (a law in the tests).

A call writes two lines, and most of a line is the same for every call of one task and tool. Those pieces are made once and found by
their values; what changes from call to call is put between them.

| piece      | members                                                     | found by             |
|------------|-------------------------------------------------------------|----------------------|
| opening    | id, at                                                      | never the same       |
| task       | tenant, task                                                | all values of a line |
| middle     | step, call                                                  | never the same       |
| answer     | tool, effects, verdict, mode, code                          | all values of a line |
| findings   | each one                                                    | the object           |
| who        | policy, intent, issuer, credential, ..., depth, workload    | all values of a line |
| end        | args_hmac, trace, span, count                               | never the same       |
| replay     | what replay needs, where there is any                       | never the same       |

Of a record that is like another one (`guard.events`) what is the same is two or three pieces, found by that other one.
"""

from __future__ import annotations

from json.encoder import encode_basestring_ascii as _quote
from typing import TYPE_CHECKING

from guard.events import DecisionRecord, OutcomeRecord, Record, filled
from guard.model import Finding, finding_dict
from guard.record.chain import encode

if TYPE_CHECKING:
    from guard.issued import IssueRecord

__all__ = ["decision_body", "outcome_body", "record_body"]

_MOST = 2048
"""Pieces held. Names come from tokens and models: the memory they take is bounded, and a flood of new ones only costs time."""

_pieces: dict[tuple[object, ...], tuple[str, str, str]] = {}
_findings: dict[int, tuple[Finding, str]] = {}
_lists: dict[int, tuple[tuple[Finding, ...], str]] = {}
_Shared = tuple["DecisionRecord | OutcomeRecord", str, str, str]
_likes: dict[int, _Shared] = {}


def record_body(record: Record | IssueRecord) -> str:
    """Any record, the plain way."""
    return encode(record.to_dict())


def decision_body(r: DecisionRecord) -> str:
    """A decision record as compact JSON."""
    like, q = r.like, _quote
    if like is not None:
        held = _likes.get(id(like))
        _, who, what, end = held if held is not None and held[0] is like else _shared(like)
        return (
            f'{{"v":1,"kind":"decision","id":{q(r.id)},"at":{r.at},{who},"step":{r.step},"call":{q(r.call)},{what},'
            f'"args_hmac":{q(r.args_hmac)},"trace":{q(r.trace)},"span":{q(r.span)},{end}}}'
        )
    key = (
        r.tool, r.task, r.tenant, r.effects, r.verdict, r.mode, r.code, r.policy, r.intent, r.issuer, r.credential, r.kid, r.origin,
        r.origin_kind, r.actors, r.workload,
    )  # fmt: skip
    pieces = _pieces.get(key)
    if pieces is None:
        pieces = _cut(r)
        if len(_pieces) >= _MOST:
            _pieces.clear()
        _pieces[key] = pieces
    task, answer, who = pieces
    listed = _lists.get(id(r.findings))
    findings = listed[1] if listed is not None and listed[0] is r.findings else _all(r.findings)
    fix = "null" if r.fix is None else q(r.fix)
    witnesses = encode({"": r.witnesses})[4:-1] if r.witnesses else "[]"
    more = ""
    if r.atoms or r.labels or r.order or r.judged or r.tools or r.generation or r.proven or r.subject or r.state or r.owner:
        more = _more(
            atoms=r.atoms, labels=r.labels, order=r.order, judged=r.judged, tools=r.tools, generation=r.generation, proven=r.proven,
            subject=r.subject, state=r.state, owner=r.owner,
        )  # fmt: skip
    return (
        f'{{"v":1,"kind":"decision","id":{q(r.id)},"at":{r.at},{task},"step":{r.step},"call":{q(r.call)},{answer},'
        f'"findings":[{findings}],"fix":{fix},"witnesses":{witnesses},{who},'
        f'"args_hmac":{q(r.args_hmac)},"trace":{q(r.trace)},"span":{q(r.span)},"count":{r.count}{more}}}'
    )


def outcome_body(r: OutcomeRecord) -> str:
    """An outcome record as compact JSON."""
    like, q = r.like, _quote
    if like is not None:
        held = _likes.get(id(like))
        _, task, what, end = held if held is not None and held[0] is like else _shared(like)
        return f'{{"v":1,"kind":"outcome","decision":{q(r.decision)},"at":{r.at},{task},"step":{r.step},{what},"micros":{r.micros}{end}}}'
    error = "null" if r.error is None else q(r.error)
    more = ""
    if r.settled or r.order or r.facts or r.learnt or r.late or r.credential:
        late = None if r.late is None else finding_dict(r.late)
        more = _more(settled=r.settled, order=r.order, facts=r.facts, learnt=r.learnt, late=late, credential=r.credential)
    return (
        f'{{"v":1,"kind":"outcome","decision":{q(r.decision)},"at":{r.at},"task":{q(r.task)},"step":{r.step},"tool":{q(r.tool)},'
        f'"status":{q(r.status)},"error":{error},"micros":{r.micros}{more}}}'
    )


def _more(**members: object) -> str:
    return "," + encode(filled(**members))[1:-1]


def _cut(r: DecisionRecord) -> tuple[str, str, str]:
    """The pieces of a record, cut out of its whole text."""
    whole = r.to_dict()
    return _piece(whole, "tenant", "task"), _piece(whole, "tool", "code"), _piece(whole, "policy", "workload")


def _shared(like: DecisionRecord | OutcomeRecord) -> _Shared:
    """What stands between the values of a record like this one; with it, so that its address is not given anew."""
    whole = like.to_dict()
    held: _Shared
    if isinstance(like, DecisionRecord):
        held = like, _piece(whole, "tenant", "task"), _piece(whole, "tool", "workload"), _piece(whole, "count", "")
    else:
        end = _piece(whole, "micros", "")
        held = like, _piece(whole, "task", "task"), _piece(whole, "tool", "error"), end.removeprefix(f'"micros":{like.micros}')
    if len(_likes) >= _MOST:
        _likes.clear()
    _likes[id(like)] = held
    return held


def _piece(whole: dict[str, object], first: str, last: str) -> str:
    """The members from `first` to `last`, or to the end, as they stand in the text."""
    names = list(whole)
    chosen = names[names.index(first) : names.index(last) + 1 if last else None]
    return encode({name: whole[name] for name in chosen})[1:-1]


def _all(findings: tuple[Finding, ...]) -> str:
    """Kept, because the findings of most calls that all judges permit are the same tuple (`Plan.agreed`)."""
    text = ",".join(map(_finding, findings))
    if len(_lists) >= _MOST:
        _lists.clear()
    _lists[id(findings)] = (findings, text)
    return text


def _finding(finding: Finding) -> str:
    """Most findings are made with the plan and the same object on every call; the object is kept, so its address is not given anew."""
    held = _findings.get(id(finding))
    if held is not None and held[0] is finding:
        return held[1]
    text = encode(finding_dict(finding))
    if len(_findings) >= _MOST:
        _findings.clear()
    _findings[id(finding)] = (finding, text)
    return text
