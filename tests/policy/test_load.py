"""Loading: what a good policy becomes, layers, and that nothing but PolicyError leaves."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.errors import ConfigError, PolicyError
from guard.policy import Policy, cases_from_text, check_layers
from guard.policy.data import Limit
from guard.policy.load import read_policy
from guard.policy.supported import ALL, BUILT, PARTS
from guard.policy.table import CONSTRAINTS_WITH, PART_OF_WORD, SECTIONS
from tests.policy.reading import DESK, HAS_CEL, NOTHING, block_of, needs_cel, problems
from tests.refunds import REFUNDS

ROOT = Path(__file__).parents[2]
HEAD = "guardtrail: 1\nname: desk\nowner: o\n"

SIXTY_SECONDS = REFUNDS


def load(rest: str, name: str = "desk") -> Policy:
    return Policy.from_text(f"guardtrail: 1\nname: {name}\nowner: o\n{rest}", file=f"{name}.yaml")


def test_the_sixty_seconds_policy() -> None:
    policy = Policy.from_text(SIXTY_SECONDS)
    assert (policy.name, policy.owner, policy.file) == ("refunds", "payments@acme.example", "policy.yaml")
    assert policy.digest == sha256(SIXTY_SECONDS.encode()).hexdigest()
    tool = policy.tools["refund"]
    assert (tool.effects, dict(tool.types), tool.control, tool.reversible) == (
        ("pay",),
        {"order": "id", "amount": "decimal"},
        {"order"},
        False,
    )
    intent = policy.intents["refund-order"]
    assert (dict(intent.params), intent.ttl, intent.order) == ({"order": "id", "ceiling": "decimal"}, 600, ())
    permission = intent.allow["refund"]
    assert permission.limit == Limit(Decimal(1))
    assert permission.args["order"].params == {"order"}
    assert permission.at["order"] == "policy.yaml:12:31"
    assert (permission.where, intent.where, tool.where) == ("policy.yaml:12:7", "policy.yaml:7:3", "policy.yaml:5:3")
    assert policy.warnings == () and not policy.pack


def test_the_page_has_the_same_policy() -> None:
    assert block_of("UX.md") == SIXTY_SECONDS


def test_what_is_not_judged_is_refused_part_by_part() -> None:
    """POLICY.md's block, as it was before any of its parts were built: each is refused in its own place, and nothing else is wrong."""
    text = block_of("POLICY.md")
    found = problems(text, NOTHING)
    assert {p.code for p in found} == {"lint.not-supported-yet"}
    lines = text.split("\n")
    named = [lines[p.line - 1][p.column - 1 :][: p.width] for p in found]
    assert set(named) == (
        {"flow", "asked", "asks", "returns", "carries", "once", "from", "check", "forbid_after", "unless", "require_before", "exclusive"}
        | {"by", "per", "task.end", "signals.device.compliant", "denied", "suspend", "flow.text"}
    )
    assert (named.count("returns"), named.count("from"), named.count("require_before")) == (6, 2, 2)


def test_one_switch_turns_each_part_on() -> None:
    """With all parts but one, the block is refused for that one alone."""
    text = block_of("POLICY.md")
    for part in sorted(ALL):
        found = [p for p in problems(text, ALL - {part}) if not p.text.startswith("`check` needs CEL")]
        assert {p.code for p in found if p.code != "lint.unknown-label"} <= {"lint.not-supported-yet"}, part
        assert all(PARTS[part].comes_with in p.text for p in found if p.code == "lint.not-supported-yet"), part


@pytest.mark.skipif(HAS_CEL, reason="CEL is installed")
def test_without_the_extra_only_the_check_is_refused_and_says_how_to_install_it() -> None:
    (problem,) = problems(block_of("POLICY.md"))
    assert (problem.code, problem.suggestion) == ("lint.check", 'pip install "guardtrail[cel]"')


@needs_cel
def test_the_block_of_the_page_loads_and_lints_clean() -> None:
    assert problems(block_of("POLICY.md")) == ()


def test_every_part_in_the_table_is_known_to_the_switch() -> None:
    named = {key.part for keys in SECTIONS.values() for key in keys.values()} | set(PART_OF_WORD.values()) | set(CONSTRAINTS_WITH.values())
    assert named - {""} <= ALL
    assert BUILT == {name for name, part in PARTS.items() if part.built} <= ALL


def test_the_public_reader_reads_what_is_built_and_nothing_else() -> None:
    text = "guardtrail: 1\nname: t\ntools: {look: {effect: read, returns: none}}\n"
    if "returns" in BUILT:
        assert Policy.from_text(text).tools["look"].returns is not None
    else:
        with pytest.raises(PolicyError, match="not supported yet"):
            Policy.from_text(text)


def test_rules_become_data() -> None:
    policy = load(
        "rules:\n"
        '  - {id: cap, when: {tool: refund}, limit: {sum: args.amount, max: "5000", within: 24h, per: [origin, args.order]}, then: ask}\n'
        "  - {id: trial, owner: me, when: {effect: [pay, send], intent: tell}, limit: {calls: 3}, mode: monitor, until: 2027-03-01, severity: high, controls: [A, B]}\n"
        "  - {id: note, description: d, when: {tool: refund}, require: {args.note: {len: {min: 1}}}}\n"
        'scopes: {"orders.read": [look]}\n' + DESK
    )
    cap, trial, note = policy.rules
    assert (cap.limit, cap.then, cap.monitor) == (Limit(Decimal(5000), "amount", 86400, ("origin", "args.order")), "ask", False)
    assert (trial.monitor, trial.until, trial.owner, trial.severity, trial.controls) == (True, date(2027, 3, 1), "me", "high", ("A", "B"))
    assert (trial.when.effects, trial.when.intents, trial.when.tools) == ({"pay", "send"}, {"tell"}, frozenset())
    assert note.require is not None and list(note.require) == ["note"] and note.owner == "o"
    assert policy.scopes == {"orders.read": ("look",)}


def test_reversible_follows_the_effect_unless_the_tool_says_otherwise() -> None:
    policy = load(
        "tools:\n  a: {effect: read}\n  b: {effect: [read, delete]}\n  c: {effect: delete, reversible: true}\n  d: {effect: write, reversible: false}\n"
    )
    assert [tool.reversible for tool in policy.tools.values()] == [True, False, True, False]


# --- layers

PACK = "rules:\n  - {id: brake, when: {effect: [pay, delete]}, limit: {calls: 3}}\n"


def test_a_pack_is_judged_over_the_layer_that_has_tools() -> None:
    desk, pack = load(DESK), load(PACK, "pack")
    assert pack.pack and not desk.pack
    layers = check_layers([pack, desk])
    assert [layer.name for layer in layers] == ["desk", "pack"]
    assert layers[1].rules[0].id == "brake" and layers[1].digest == pack.digest


def test_one_layer_is_itself() -> None:
    desk = load(DESK)
    assert check_layers([desk]) == (desk,)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "no layer has tools"),
        (("pack",), "no layer has tools"),
        (("desk", "other"), "differ in their tools"),
        (("desk", "desk"), "two layers are called `desk`"),
    ],
)
def test_sets_of_layers_that_do_not_load(names: tuple[str, ...], text: str) -> None:
    made = {"desk": load(DESK), "pack": load(PACK, "pack"), "other": load(DESK.replace('min: "0.01"', 'min: "0.02"'), "other")}
    with pytest.raises(ConfigError, match=text):
        check_layers([made[name] for name in names])


def test_layers_with_the_same_tools_and_intents_load() -> None:
    assert len(check_layers([load(DESK), load("rules: []\n" + DESK, "team")])) == 2


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("{id: a, when: {tool: refnd}}", "lint.unknown-tool"),
        ("{id: a, when: {tool: refund}, require: {args.nte: {len: {min: 1}}}}", "lint.unknown-argument"),
        ("{id: a, when: {effect: [pay, send]}, limit: {sum: args.amount, max: '5'}}", "lint.unenforceable"),
        ("{id: a, when: {tool: refund}, limit: {sum: args.note, max: '5'}}", "lint.unenforceable"),
        ("{id: a, when: {tool: look, intent: tel}}", "lint.unknown-intent"),
    ],
)
def test_a_pack_is_linted_against_those_tools(rules: str, expected: str) -> None:
    pack = load(f"rules:\n  - {rules}\n", "pack")
    with pytest.raises(PolicyError) as caught:
        check_layers([load(DESK), pack])
    assert [(p.file, p.line, p.code) for p in caught.value.problems] == [("pack.yaml", 5, expected)]


def test_an_unproven_sum_of_a_pack_is_found_over_its_layer() -> None:
    wide = DESK.replace('range: {min: "0.01", max: $ceiling}', "any: true").replace("ceiling: decimal", "")
    pack = load("rules:\n  - {id: a, when: {effect: pay}, limit: {sum: args.amount, max: '5'}}\n", "pack")
    assert check_layers([load(DESK), pack])
    with pytest.raises(PolicyError) as caught:
        check_layers([load(wide), pack])
    assert [p.code for p in caught.value.problems if p.level == "error"] == ["lint.unproven-sum"]


# --- whatever the text


def test_a_flood_of_errors_is_cut_off() -> None:
    """fail_open F12: a thousand rules. Reading stops where a longer list would tell nobody anything."""
    wrong = "".join(f"  - {{id: r{n}, when: {{tool: lok{n}}}}}\n" for n in range(2000))
    with pytest.raises(PolicyError) as caught:
        load("rules:\n" + wrong + DESK)
    assert 100 <= len(caught.value.problems) <= 500


def test_a_thousand_rules_load() -> None:
    rules = "".join(f"  - {{id: r{n}, when: {{tool: refund, args: {{order: {{eq: A-{n}}}}}}}, limit: {{calls: 3}}}}\n" for n in range(1000))
    assert len(load("rules:\n" + rules + DESK).rules) == 1000


def test_ten_thousand_rules_are_one_error_with_its_place() -> None:
    rules = "".join(
        f"  - {{id: r{n}, when: {{tool: refund, args: {{order: {{eq: A-{n}}}}}}}, limit: {{calls: 3}}}}\n" for n in range(10_000)
    )
    with pytest.raises(PolicyError) as caught:
        load("rules:\n" + rules + DESK)
    (problem,) = caught.value.problems
    assert problem.code == "lint.too-large" and problem.line > 1000


_PIECES = sorted(
    {key for section in SECTIONS.values() for key in section}
    | {
        "eq",
        "range",
        "min",
        "$x",
        "$me",
        "args.a",
        "args.iban",
        "10m",
        "pay",
        "allow",
        "from",
        "where",
        "age",
        "any",
        "prompt",
        "task.end",
        "look.[].iban",
    }
)
_SCALARS = st.one_of(st.sampled_from(_PIECES), st.integers(-3, 3), st.booleans(), st.none(), st.text(max_size=4))
_TREES = st.recursive(
    _SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(_PIECES), below, max_size=4), max_leaves=25
)


def _flow(tree: object) -> str:
    """The tree as one line of YAML; text is left as it is, so that it may also break it."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_flow, tree)) + "]"
    return (
        {True: "true", False: "false", None: "null"}.get(tree, str(tree))
        if not isinstance(tree, (int, str)) or isinstance(tree, bool)
        else str(tree)
    )


def _load_or_problems(text: str, parts: frozenset[str] = ALL) -> object:
    try:
        return read_policy(text, parts=parts)
    except PolicyError as error:
        lines = text.split("\n")
        assert any(p.level == "error" for p in error.problems)
        for p in error.problems:
            assert 1 <= p.line <= len(lines) + 1 and p.column >= 1 and p.width >= 1, p
            assert p.code.startswith("lint.") and p.text and p.file == "policy.yaml"
            str(p).encode("utf-8")
        return error.problems


@settings(deadline=None, max_examples=400)
@given(st.text(max_size=200) | st.text(alphabet="abk:-[]{}#&*!|>'\"%@`,? \n\t0.$~<\ud800\x00\ufeff", max_size=60))
def test_arbitrary_text_is_a_policy_or_a_policy_error(text: str) -> None:
    assert _load_or_problems(text) == _load_or_problems(text)


@settings(deadline=None, max_examples=400)
@given(st.dictionaries(st.sampled_from(sorted(SECTIONS["policy"])), _TREES, max_size=6))
def test_arbitrary_trees_are_a_policy_or_a_policy_error(tree: dict[str, object]) -> None:
    text = "\n".join(f"{key}: {_flow(value)}" for key, value in tree.items())
    assert _load_or_problems(text) == _load_or_problems(text)


_GOOD = (ROOT / "policies" / "git-maintainer.yaml").read_text("utf-8")


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(st.integers(0, len(_GOOD)), st.integers(0, 12), st.text(max_size=6) | st.sampled_from(_PIECES)), min_size=1, max_size=3
    )
)
def test_damaged_policies_are_policies_or_policy_errors(edits: list[tuple[int, int, str]]) -> None:
    _load_or_problems(_damaged(_GOOD, edits))


def _damaged(text: str, edits: list[tuple[int, int, str]]) -> str:
    for at, gone, new in edits:
        text = text[:at] + new + text[at + gone :]
    return text


_WHOLE = (
    "guardtrail: 1\nname: t\nowner: o\n"
    + (Path(__file__).parent / "lint" / "_counter.yaml").read_text("utf-8")
    + """\
asked: {not_asked: {pay: deny}, delegated: ask, words: {pay: [settle]}}
asks: {default: {by: origin, within: 15m}, a: {by: {group: g, persons: [p], not: [origin]}, count: 1}, most: 3}
rules:
  - {id: a, when: {effect: [send, fetch]}, forbid_after: [{label: untrusted}, {tool: look, args: {name: {eq: x}}}], unless: {flow: [prompt], args: {body: {len: {max: 3}}}}, then: ask}
  - {id: b, when: {tool: pay, args: {amount: {range: {above: "5"}}}}, require_before: {tool: approve, match: {iban: args.iban}, distinct: person, within: 1h, consume: true}}
  - {id: c, exclusive: [{tool: pay}, {tool: approve}], by: person, per: [args.iban]}
  - {id: d, when: task.end, require_before: {tool: close}}
  - {id: e, when: {tool: pay}, require: {signals.x: {eq: true}, args.amount: {range: {min: "0"}}}, within: 5m}
  - {id: f, when: {tool: pay}, require_any: [{fact: f, key: args.iban, where: {a: {age: {max: 1h}}}, bounds: {args.amount: {max: b}}}]}
  - {id: g, limit: {denied: 3}, then: suspend}
  - {id: h, when: {tool: pay}, check: "args.amount < 3.0"}
tests:
  - name: t
    as: {origin: a, actor: b, intent: settle, params: {vendor: x, ceiling: "9"}, tasks: {t2: {origin: c, intent: clear, params: {}}}}
    trace: |
      user_says("a, b")
      #t2 +5m pay(iban="x") -> [{a: 1}]
      approve(a, by=bob, groups=[x])
      signal(x, true)
    expect: [allow]
"""
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(st.integers(0, len(_WHOLE)), st.integers(0, 12), st.text(max_size=6) | st.sampled_from(_PIECES)), min_size=1, max_size=3
    ),
    st.sets(st.sampled_from(sorted(ALL)), max_size=2),
)
def test_damaged_policies_of_the_whole_language_too(edits: list[tuple[int, int, str]], without: set[str]) -> None:
    _load_or_problems(_damaged(_WHOLE, edits), ALL - without)


_LINES = _WHOLE.split("\n")


@settings(deadline=None, max_examples=200)
@given(
    st.sets(st.integers(3, len(_LINES) - 1), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(3, len(_LINES) - 1), _TREES), max_size=2),
)
def test_lines_gone_and_values_replaced(gone: set[int], replaced: list[tuple[int, object]]) -> None:
    lines = list(_LINES)
    for at, tree in replaced:
        head, colon, _ = lines[at].rpartition(": {")
        lines[at] = f"{head}: {_flow(tree)}" if colon and head else lines[at]
    _load_or_problems("\n".join(line for number, line in enumerate(lines) if number not in gone))


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
def test_arbitrary_case_files_too(text: str) -> None:
    for candidate in (
        text,
        f"tests:\n  - name: a\n    as: {{origin: a, actor: b, intent: c}}\n    trace: |\n      {text}\n    expect: [allow]\n",
    ):
        try:
            cases_from_text(candidate)
        except PolicyError as error:
            assert error.problems
