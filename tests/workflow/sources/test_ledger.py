"""Laws of the ledger: exact, deterministic, bounded, and untrusted text never makes a value's source better."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.model import Outcome
from guard.ops import Add, Know, Refused
from guard.policy.data import Leaf, PolicyData, Returns, Tool
from guard.workflow.atoms import Live
from guard.workflow.cells import Value, lookup
from guard.workflow.ledger import MAX_VALUES, Ledger, Masks, best, lowered, rank
from guard.workflow.observe import learn, observe
from guard.workflow.shapes import leaves
from guard.workflow.sources import compile_sources
from tests.workflow.sources.desk import KEY, NOW, Desk, policy

POLICY = policy("payables.yaml")
ADDRESSES = [f"{name}@{host}.example" for name in ("ann", "bob", "eve") for host in ("acme", "evil")]


def _mask(desk: Desk, address: str) -> str:
    return desk.letters(("email", address))


@given(st.text(max_size=200), st.lists(st.sampled_from(ADDRESSES), max_size=4), st.sampled_from(ADDRESSES))
@settings(max_examples=100)
def test_untrusted_text_gives_text_and_nothing_better(text: str, named: list[str], asked: str) -> None:
    desk = Desk(POLICY, "open", prompt="mail ann@acme.example")
    desk.call("list_vendors", {}, "- {name: Bob, iban: DE89370400440532013000, email: bob@acme.example}")
    before = {address: _mask(desk, address) for address in ADDRESSES}
    desk.call("old_tool", {"q": "x"}, f"{text} {' '.join(named)} {text}")
    for address in ADDRESSES:
        assert set(_mask(desk, address)) - set(before[address]) <= {"t"}
    assert set(_mask(desk, asked)) >= set(before[asked]), "and it takes nothing away"


@given(
    st.sampled_from("padsmut"),
    st.lists(st.sampled_from(["", "-", "p", "a", "d", "s", "m", "u", "t", "ut", "D", "pt"]), max_size=4),
    st.sampled_from(["", "t", "x", "p"]),
)
def test_inheritance_never_betters(letter: str, keys: list[str], cap: str) -> None:
    got = lowered(letter, Masks({"key": tuple(keys)}, cap))
    assert got == "" or rank(got) >= rank(letter)
    more = lowered(letter, Masks({"key": (*keys, "t")}, cap))
    assert more == "" or rank(more) >= rank(got)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "params", "directory", "structured", "author", "text", "unknown", "any"]),
        st.sampled_from(["allow", "ask", "deny"]),
    ),
    st.text("pdsut", max_size=4),
    st.sampled_from("pdsut"),
)
def test_an_occurrence_more_never_makes_the_cell_stricter_than_its_own(cells: dict[str, str], letters: str, more: str) -> None:
    grade = {"allow": 0, "ask": 1, "deny": 2}
    one = lookup(cells, Value(more, {}), made_here=False, wide=False)  # type: ignore[arg-type]
    many = lookup(cells, Value(letters + more, {}), made_here=False, wide=False)  # type: ignore[arg-type]
    assert grade[many.verdict] <= grade[one.verdict]
    weak = lookup(cells, Value(more.upper(), {}), made_here=False, wide=False)  # type: ignore[arg-type]
    assert grade[weak.verdict] >= max(1, grade[one.verdict])


@given(st.sampled_from(ADDRESSES), st.text("abc.@-", max_size=6), st.text("abc.@-", max_size=6))
def test_matching_is_exact(address: str, before: str, after: str) -> None:
    desk = Desk(POLICY, "open")
    longer = f"{before}{address}{after}"
    desk.call("list_vendors", {}, [{"name": longer, "iban": "x", "email": longer}])
    if longer != address:
        assert "d" not in _mask(desk, address)
    else:
        assert "d" in _mask(desk, address)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=25,
)


@given(JSON)
def test_indexing_is_deterministic_and_never_raises(value: object) -> None:
    plan = compile_sources([POLICY], POLICY.tools["read_invoice"], "open", {})
    assert plan is not None
    ledger = Ledger(KEY, "t")
    masks = Masks({"invoice_id": ("p",)})
    one = learn(plan, ledger, observe(plan, Outcome("ok", value), {}), masks, "d")
    two = learn(plan, ledger, observe(plan, Outcome("ok", value), {}), masks, "d")
    assert one == two
    assert all(isinstance(op, (Add, Know)) for op in one.ops)


def test_a_full_ledger_says_so_and_forgets_nothing() -> None:
    desk = Desk(POLICY, "open", prompt="mail ann@acme.example")
    desk.call("list_vendors", {}, [{"name": "Bob", "iban": "DE89370400440532013000", "email": "bob@acme.example"}])
    assert desk.call("send_email", {"to": ["eve@evil.example"], "subject": "s", "body": "b"}) == "deny flow.unknown"
    desk.state.apply([Add(desk.ledger.stored, MAX_VALUES, None)], now=NOW)
    desk.call("list_vendors", {}, [{"name": "Eve", "iban": "GB29NWBK60161331926819", "email": "eve@evil.example"}])
    assert desk.call("send_email", {"to": ["bob@acme.example"], "subject": "s", "body": "b"}) == "allow"
    assert desk.call("send_email", {"to": ["ann@acme.example"], "subject": "s", "body": "b"}) == "allow"
    assert desk.call("send_email", {"to": ["eve@evil.example"], "subject": "s", "body": "b"}) == "ask state.incomplete"
    assert desk.call("send_email", {"to": ["x@evil.example"], "subject": "s", "body": "b"}) == "ask state.incomplete"


@pytest.mark.parametrize(
    "value", [list(range(10_000, 16_000)), "x@y.example " + " ".join(f"u{i}@y.example" for i in range(3000)), object()]
)
def test_what_was_not_taken_widens(value: object) -> None:
    desk = Desk(POLICY, "open")
    desk.call("old_tool", {"q": "x"}, value)
    assert desk.call("send_email", {"to": ["eve@evil.example"], "subject": "s", "body": "b"}) == "ask state.incomplete"
    assert desk.learning is not None and len(desk.learning.ops) < 30_000


def test_refund_of_room_for_what_was_known() -> None:
    desk = Desk(POLICY, "open")
    desk.call("old_tool", {"q": "x"}, "a@b.example c@d.example")
    assert desk.learning is not None
    again = desk.apply(desk.learning.ops)
    assert again is not None
    refund = desk.learning.refund(again, desk.ledger)
    assert isinstance(refund, Add) and refund.amount == -(len(desk.learning.ops) - 1)


def test_too_many_values_of_one_call_are_unknown() -> None:
    desk = Desk(POLICY, "open", prompt=" ".join(f"u{i}@acme.example" for i in range(400)))
    to = [f"u{i}@acme.example" for i in range(200)]
    assert desk.call("send_email", {"to": to, "subject": "s", "body": "b"}) == "allow"
    assert desk.call("send_email", {"to": [*to, *to], "subject": "s", "body": "b"}) == "deny flow.unknown"


def test_a_call_that_writes_more_than_can_be_followed_is_asked_about() -> None:
    desk = Desk(POLICY, "open", prompt="write notes.txt")
    body = " ".join(f"u{i}@acme.example" for i in range(700))
    assert desk.call("write_file", {"file": "notes.txt", "text": body}) == "ask state.incomplete"
    assert desk.call("write_file", {"file": "notes.txt", "text": body[:2000]}, {"id": "F1"}) == "allow"


def test_every_value_that_was_written_learns_nothing_not_only_the_first() -> None:
    desk = Desk(POLICY, "open", prompt="write notes.txt")
    body = " ".join(f"u{i}@acme.example" for i in range(200))
    assert desk.call("write_file", {"file": "notes.txt", "text": body}, {"id": "F1"}) == "allow"
    desk.call("list_vendors", {}, [{"name": f"N{i}", "iban": "x", "email": f"u{i}@acme.example"} for i in range(200)])
    for i in (0, 63, 64, 65, 199):
        assert desk.letters(("email", f"u{i}@acme.example")) == ""


def test_written_wins_a_race() -> None:
    """The look-up was judged before the contact was made, and settles after it: the veto stands in the store."""
    desk = Desk(POLICY, "open")
    desk.judge("list_vendors", {})
    lookup_masks = desk.last.masks  # type: ignore[union-attr]
    desk.call("add_vendor", {"name": "Evil", "iban": "GB29NWBK60161331926819", "email": "e@evil.example"})
    plan = desk.plan("list_vendors")
    seen = observe(plan, Outcome("ok", [{"name": "Evil", "iban": "GB29NWBK60161331926819", "email": "e@evil.example"}]), {})
    desk.apply(learn(plan, desk.ledger, seen, lookup_masks, "d9").ops)
    assert desk.letters(("iban", "GB29NWBK60161331926819"), ("email", "e@evil.example")) == ""


def test_hashes_are_of_the_task() -> None:
    assert Ledger(b"a" * 32, "t").hash(("email", "a@b.example")) != Ledger(b"b" * 32, "t").hash(("email", "a@b.example"))
    assert Ledger(KEY, "t").hash(("line", "\ud800")) == Ledger(KEY, "t").hash(("line", "\ud800"))


def test_best_prefers_strong() -> None:
    assert best("tDd") == "d" and best("D") == "D" and best("") == ""


def test_a_row_that_is_missing_denies_unless_the_intent_pins_the_value(tmp_path: object) -> None:
    tool = Tool("t", ("pay",), {"iban": "iban"}, frozenset({"iban"}), False)
    base = PolicyData("p", "o", "d", "f", {"t": tool}, {}, (), {}, (), flow={"read": POLICY.flow["read"]})  # type: ignore[index]
    plan = compile_sources([base], tool, None, {})
    assert plan is not None
    context = Desk(POLICY, "open").context
    got = plan.judge(Live({"iban": "DE89"}), (), context, "d")
    assert [(one.says, one.code) for one in got.findings] == [("forbid", "flow.unknown")]


def test_answers_that_are_missing_or_nonsense_are_strict() -> None:
    desk = Desk(POLICY, "open", prompt="mail ann@acme.example")
    plan = desk.plan("send_email")
    for answers in ((), (None,), (5, object(), "="), ("W=1",) * 10, ("zz=1 =x q",) * 10):
        live = Live({"to": ["ann@acme.example"], "subject": "s", "body": "b"})
        got = plan.judge(live, answers, desk.context, "d")
        assert all(one.says != "permit" for one in got.findings)


def test_refused_means_nothing_was_applied() -> None:
    desk = Desk(POLICY, "open")
    answer = desk.state.apply([Add(desk.ledger.stored, MAX_VALUES + 1, MAX_VALUES)], now=NOW)
    assert isinstance(answer, Refused)


def test_degraded_results_join_nothing() -> None:
    returns = Returns(format="yaml", shape={"[].iban": Leaf("directory")})
    assert all(one.path == "" for one in leaves(returns, "- iban: a\n  iban: b", {}).items)


def test_what_stands_behind_many_others_in_a_body_is_not_overlooked() -> None:
    desk = Desk(POLICY, "open", prompt="mail ann@acme.example")
    body = " ".join(f"h{i}.example" for i in range(600)) + " GB29NWBK60161331926819"
    assert desk.call("send_email", {"to": ["ann@acme.example"], "subject": "s", "body": body}) == "deny flow.carries"


def test_a_consumed_approval_endorses_what_it_was_about() -> None:
    desk = Desk(POLICY, "open", prompt="x")
    args = {"to": ["eve@evil.example"], "subject": "s", "body": "b"}
    assert desk.call("send_email", args) == "deny flow.unknown"
    live = Live({"to": ["eve@evil.example"], "subject": "s", "body": "b"})
    desk.apply(desk.plan("send_email").endorsements(live, desk.context, "a1"))
    assert desk.call("send_email", args) == "allow"
    assert desk.call("send_email", {**args, "to": ["eve@evil.example", "x@evil.example"]}) == "deny flow.unknown"


def test_what_was_judged_once_is_judged_again_with_new_answers() -> None:
    desk = Desk(POLICY, "open")
    plan, live = desk.plan("send_email"), Live({"to": ["bob@acme.example"], "subject": "s", "body": "b"})
    reads = plan.reads(live, desk.context)
    first = plan.judge(live, desk.apply(reads, commit=False) or (), desk.context, "d")
    desk.call("list_vendors", {}, [{"name": "Bob", "iban": "x", "email": "bob@acme.example"}])
    second = plan.judge(live, desk.apply(reads, commit=False) or (), desk.context, "d")
    assert [one.says for one in (*first.findings, *second.findings)] == ["forbid", "permit"]


def test_what_the_user_says_later_counts() -> None:
    from guard.workflow.observe import said

    desk = Desk(POLICY, "open", prompt="x")
    desk.call("add_vendor", {"name": "Eve", "iban": "GB29NWBK60161331926819", "email": "eve@evil.example"})
    desk.apply(said(desk.ledger, "yes, mail eve@evil.example"))
    assert desk.call("send_email", {"to": ["eve@evil.example"], "subject": "s", "body": "b"}) == "allow", "the user's own word has no veto"


WORDS = st.text("ab@.:/ -<>0123456789DEGB\n", max_size=60)
ANSWER = st.one_of(
    st.none(), st.sampled_from(["p=0", "t=d1 W=d2", "D=d1", "W=1", "1", "1=d", "junk", "=", "e=1"]), st.text(max_size=10), st.integers()
)


@given(st.lists(st.sampled_from(ADDRESSES), max_size=4), WORDS, WORDS, st.lists(ANSWER, max_size=30))
def test_the_judge_never_raises_and_never_permits_an_unknown_recipient(
    to: list[str], subject: str, body: str, answers: list[object]
) -> None:
    desk = Desk(POLICY, "open")
    live = Live({"to": to, "subject": subject, "body": body})
    plan = desk.plan("send_email")
    reads = plan.reads(live, desk.context)
    got = plan.judge(live, answers, desk.context, "d")
    assert got.findings
    none = plan.judge(live, [None] * len(reads), desk.context, "d")
    if to:
        assert none.findings[0].says == "forbid"
    assert all(isinstance(op, (Add, Know)) for op in got.marks)
    desk.apply(got.marks)


@pytest.mark.parametrize(
    "text",
    [
        "x@y.example " * 90_000,
        " ".join(f"user{i}@host{i}.example" for i in range(30_000)),
        "lorem ipsum dolor " * 60_000,
        "- a: b\n" * 30_000,
    ],
    ids=["one", "many", "words", "yaml"],
)
def test_a_megabyte_is_indexed_in_bounded_time_and_number(text: str) -> None:
    import time

    desk = Desk(POLICY, "open")
    desk.judge("list_vendors", {})
    assert desk.last is not None
    begin = time.thread_time()
    plan = desk.plan("list_vendors")
    got = learn(plan, desk.ledger, observe(plan, Outcome("ok", text), {}), desk.last.masks, "d")
    assert time.thread_time() - begin < 15
    assert len(got.ops) < 30_000
