"""The fast way to write a record says what the plain way says."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from guard.events import DecisionRecord, OutcomeRecord, decision_like, outcome_like
from guard.model import Finding
from guard.record.chain import encode
from guard.record.lines import decision_body, outcome_body

text = st.text(max_size=8) | st.text(alphabet=st.characters(exclude_categories=()), max_size=4)
maybe = st.none() | text
texts = st.lists(text, max_size=3).map(tuple)
whole = st.integers(0, 2**53)
findings = st.builds(
    Finding, st.sampled_from(["intent", "rules"]), st.sampled_from(["permit", "forbid"]), text, maybe, maybe, text, st.sampled_from(["enforce", "monitor"]),
    maybe, texts,
)  # fmt: skip
decisions = st.builds(
    DecisionRecord, text, whole, text, text, whole, text, text, texts, text, text, text, st.lists(findings, max_size=3).map(tuple), maybe, texts, text,
    maybe, text, text, text, text, text, texts, maybe, text, st.just("os"), text, text, whole, st.dictionaries(text, whole, max_size=2), texts, whole,
    st.none() | st.tuples(whole, whole), text, text, text, text, text, text,
)  # fmt: skip
outcomes = st.builds(
    OutcomeRecord, text, whole, text, whole, text, st.sampled_from(["ok", "error"]), maybe, whole, whole, whole,
    st.dictionaries(text, whole, max_size=2), whole, st.none() | findings, st.dictionaries(text, whole | text | st.lists(text, max_size=2), max_size=2),
)  # fmt: skip


@given(decisions)
def test_decisions(record: DecisionRecord) -> None:
    body = decision_body(record)
    assert body == encode(record.to_dict())
    assert body.isascii()
    assert "\n" not in body


@given(outcomes)
def test_outcomes(record: OutcomeRecord) -> None:
    assert outcome_body(record) == encode(record.to_dict())


@given(decisions, decisions)
def test_decisions_like_another(like: DecisionRecord, r: DecisionRecord) -> None:
    """Written with what was prepared for another one, twice: when it is made, and when it is found."""
    made = decision_like(like, like, r.id, r.at, r.step, r.call, r.args_hmac, r.trace, r.span)
    plain = replace(like, id=r.id, at=r.at, step=r.step, call=r.call, args_hmac=r.args_hmac, trace=r.trace, span=r.span)
    assert made == plain
    assert made.to_dict() == plain.to_dict()
    assert decision_body(made) == decision_body(made) == encode(plain.to_dict())


@given(outcomes, outcomes)
def test_outcomes_like_another(like: OutcomeRecord, r: OutcomeRecord) -> None:
    made = outcome_like(like, like, r.decision, r.at, r.step, r.micros)
    plain = replace(like, decision=r.decision, at=r.at, step=r.step, micros=r.micros)
    assert made == plain
    assert outcome_body(made) == outcome_body(made) == encode(plain.to_dict())


def test_pieces_are_found_by_value_and_bounded() -> None:
    from guard.record import lines
    from tests.record.making import decision

    for i in range(3 * lines._MOST):
        record = decision(tool=f"t{i}", findings=(Finding("rules", "forbid", "rule.limit", text=str(i)),))  # type: ignore[arg-type]
        assert json.loads(decision_body(record))["tool"] == f"t{i}"
        again = decision_like(record, record, "a", 1, 2, "", "b", "c", "d")
        assert json.loads(decision_body(again))["tool"] == f"t{i}"
    assert len(lines._likes) <= lines._MOST
    assert len(lines._pieces) <= lines._MOST
    assert len(lines._findings) <= lines._MOST
    assert len(lines._lists) <= lines._MOST
