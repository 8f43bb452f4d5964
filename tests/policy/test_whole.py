"""What the whole language becomes as data, read with every part switched on."""

from __future__ import annotations

from decimal import Decimal

import jsonschema
import pytest

from guard.errors import ConfigError, PolicyError
from guard.model import Credential, Delegation, Finding
from guard.policy import Policy, check_layers
from guard.policy.data import (
    SOURCES,
    After,
    Age,
    Asked,
    AskRule,
    Before,
    Event,
    Exclusive,
    FlowRow,
    From,
    Item,
    Leaf,
    Limit,
    Once,
    Remember,
    Unless,
    Who,
)
from guard.policy.judge import bind_params, intent_check
from guard.policy.load import read_cases_file, read_policy
from guard.policy.schema import json_schema
from guard.policy.supported import ALL, BUILT
from tests.policy.reading import ROOT, block_of, data_of, needs_cel, whole

COUNTER = (ROOT / "tests" / "policy" / "lint" / "_counter.yaml").read_text("utf-8")


def rule_of(text: str) -> object:
    (rule,) = whole(f"rules:\n  - {{id: r, {text}}}\n" + COUNTER).rules
    return rule


# --- rules


@pytest.mark.parametrize(
    ("text", "attribute", "expected"),
    [
        ("when: {tool: pay}, forbid_after: [{label: untrusted}, {tool: [look, fetch]}]", "after", After((Item(label="untrusted"), Item(frozenset({"look", "fetch"}))))),
        ("when: {tool: pay}, forbid_after: [{effect: read}, {effect: [fetch, read]}], in_order: true", "after", After((Item(effect=frozenset({"read"})), Item(effect=frozenset({"fetch", "read"}))), True)),
        (
            "when: {tool: pay}, require_before: {tool: approve, match: {iban: args.iban}, distinct: person, within: 1h, consume: true}",
            "before",
            Before(Item(frozenset({"approve"}), match={"iban": "iban"}), "ok", "person", 3600, True),
        ),
        ("when: task.end, require_before: {tool: close}", "before", Before(Item(frozenset({"close"})))),
        ("exclusive: [{tool: pay}, {tool: approve}], by: actor, per: [args.iban]", "exclusive", Exclusive((Item(frozenset({"pay"})), Item(frozenset({"approve"}))), "actor", ("iban",))),
        ("limit: {denied: 20, within: 1h}, then: suspend", "limit", Limit(Decimal(20), None, 3600, (), True)),
        ("when: {tool: pay}, unless: {flow: [prompt, params], intent: settle}, then: ask", "unless", Unless(frozenset({"prompt", "params"}), {}, frozenset({"settle"}))),
        ("when: {tool: pay}, require: {signals.a.b: {eq: true}}, within: 5m", "within", 300),
        ("when: {tool: pay}, require: {signals.a.b: {eq: true}}", "require", None),
    ],
)  # fmt: skip
def test_verbs(text: str, attribute: str, expected: object) -> None:
    assert getattr(rule_of(text), attribute) == expected


def test_the_end_of_a_task_in_both_spellings() -> None:
    policy = whole(
        "rules:\n  - {id: a, when: task.end, require_before: {tool: close}}\n"
        "  - {id: b, when: {end: true, intent: settle}, require_before: {tool: pay}}\n" + COUNTER
    )
    assert [(rule.when.end, rule.when.intents) for rule in policy.rules] == [(True, frozenset()), (True, {"settle"})]


def test_facts() -> None:
    policy = whole(
        "tools:\n"
        "  book: {effect: read, control: {id: id}, remember: {booking: {key: args.id, fields: {cabin: cabin, made: created_at, price: total.price}}}}\n"
        "  change: {effect: write, control: {id: id}, data: {amount: decimal}}\n"
        "rules:\n  - {id: r, when: {tool: change}, require_any: [{fact: booking, key: args.id, where: {cabin: {eq: business}}, bounds: {args.amount: {max: price}}}, "
        "{fact: booking, key: B-1, where: {made: {age: {max: 24h}}}}]}\n"
    )
    assert policy.tools["book"].remember == (Remember("booking", "id", {"cabin": "cabin", "made": "created_at", "price": "total.price"}),)
    first, second = policy.rules[0].any_facts
    assert (first.fact, first.key, first.const, dict(first.bounds)) == ("booking", "id", None, {"amount": {"max": "price"}})
    assert (second.key, second.const, dict(second.where)) == (None, "B-1", {"made": Age(None, 86400)})


# --- tools, sources, asks


def test_results() -> None:
    policy = whole(
        "tools:\n  chat:\n    effect: read\n    control: {channel: name}\n    once: {key: [channel], within: 1h}\n    carries: [url]\n    data: {body: text}\n"
        "    returns:\n      format: yaml\n      labels: [a]\n      shape: {'[].id': id, '[].by': author, '[].due': {is: structured, if: {'[].by': {eq: $me}}, otherwise: author}}\n"
        "      variants: [{if: {channel: {eq: x}}, labels: [b]}, {if: {channel: {eq: y}}, shape: {'[].id': text}}]\n"
        "  none: {effect: write, returns: none}\n  text: {effect: fetch}\n"
    )
    returns = policy.tools["chat"].returns
    assert returns is not None and (returns.none, returns.format, returns.labels) == (False, "yaml", ("a",))
    assert returns.shape["[].id"] == Leaf("id") and returns.shape["[].due"].otherwise == "author"
    assert returns.shape["[].due"].when["[].by"].params == {"me"}
    first, second = returns.variants
    assert (first.labels, first.shape) == (("b",), returns.shape)
    assert (second.labels, second.shape) == (("a",), {"[].id": Leaf("text")})
    assert (policy.tools["chat"].once, policy.tools["chat"].carries) == (Once(("channel",), 3600), {"url"})
    none = policy.tools["none"].returns
    assert none is not None and none.none and policy.tools["text"].returns is None


def test_a_variant_may_clear_the_labels() -> None:
    policy = whole("tools:\n  a: {effect: read, control: {c: name}, returns: {labels: [x], variants: [{if: {c: {eq: y}}, labels: []}]}}\n")
    returns = policy.tools["a"].returns
    assert returns is not None and returns.variants[0].labels == ()


def test_flow_rows() -> None:
    policy = whole(
        "tools: {a: {effect: read, control: {x: id}}}\n"
        "flow:\n  read: {allow: [any], ask: [text], deny: [unknown]}\n  send: {allow: prompt, carries: {ask: [any]}, match: host}\n"
        "  pay: {allow: prompt, ask: [any], delegated: [text, unknown], also: {ask: author, deny: [text]}}\n"
    )
    assert policy.flow is not None
    everything = dict.fromkeys(SOURCES, "allow")
    assert policy.flow["read"] == FlowRow({**everything, "text": "ask", "unknown": "deny"})  # type: ignore[arg-type,dict-item]
    assert policy.flow["send"] == FlowRow({"prompt": "allow"}, dict.fromkeys(SOURCES, "ask"), "host")  # type: ignore[arg-type]
    cells = {**dict.fromkeys(SOURCES, "ask"), "prompt": "allow"}
    assert policy.flow["pay"].cells == {**cells, "text": "deny", "unknown": "deny"}
    assert policy.flow["pay"].handed == cells
    assert policy.flow["pay"].also == {"author": "ask", "text": "deny"}


def test_asked_and_asks() -> None:
    policy = whole(
        "tools: {a: {effect: pay, control: {x: id}}}\nasked: {not_asked: {pay: deny, send: ask}, delegated: ask, words: {pay: [settle, wire up]}}\n"
        "rules: [{id: brake, when: {tool: a}, then: ask}]\n"
        "asks: {most: 3, default: {by: origin}, brake: {by: {group: g, persons: bob, not: [origin]}, count: 2, within: 1h}, flow: {by: origin, within: 1m}}\n"
    )
    assert policy.asked == Asked({"pay": "deny", "send": "ask"}, "ask", {"pay": ("settle", "wire up")})
    assert policy.most_asks == 3
    assert policy.asks == {
        "default": AskRule("origin", 1, 900),
        "brake": AskRule(Who("g", ("bob",), frozenset({"origin"})), 2, 3600),
        "flow": AskRule("origin", 1, 60),
    }


def test_from_and_where() -> None:
    policy = whole(COUNTER)
    pay = policy.intents["settle"].allow["pay"]
    assert pay.origins == {"iban": From("look", "[].iban", {"[].name": "$vendor"})}
    assert pay.args["iban"].raw == {"any": True} and pay.at["iban"].startswith("desk.yaml:")
    assert policy.intents["clear"].allow["approve"].origins == {"iban": From("look", "[].iban")}


def test_from_beside_other_kinds() -> None:
    text = COUNTER.replace('{from: "look.[].iban", where: {name: $vendor}}', '{from: "look.[].iban", prefix: DE, optional: true}')
    text = text.replace("{eq: $vendor}", "{any: true}").replace("vendor: name, ", "")
    pay = whole(text).intents["settle"].allow["pay"]
    assert pay.origins["iban"] == From("look", "[].iban") and pay.args["iban"].raw == {"prefix": "DE", "optional": True}


# --- the origin's own identifiers


def delegation(origin: str, person: str | None) -> Delegation:
    return Delegation("txntoken+jwt", "t", "i", "x", Credential("i", "j", "k"), origin, "person", ("a",), 0, 1, "aud", "own", person=person)


@pytest.mark.parametrize(
    ("origin", "person", "owner", "allowed"),
    [
        ("alice@x.example", None, "alice@x.example", True),
        ("alice@X.Example", None, "alice@x.example", True),  # an address is compared in its normal form
        ("alice@x.example", None, "bob@x.example", False),
        ("alice@x.example", "al@y.example", "al@y.example", True),
        ("alice@x.example", "not an address", "alice@x.example", True),
        ("not an address", None, "alice@x.example", False),
    ],
)
def test_me_is_the_origins_own(origin: str, person: str | None, owner: str, allowed: bool) -> None:
    policy = whole("tools: {look: {effect: read, control: {owner: email}}}\nintents: {own: {allow: {look: {args: {owner: {eq: $me}}}}}}\n")
    intent = policy.intents["own"]
    params = bind_params(intent, {})
    assert not isinstance(params, Finding)
    check = intent_check(policy, delegation(origin, person), intent, params, "look")
    assert not isinstance(check, Finding) and check.test is not None
    assert (check.test({"owner": owner}) is None) is allowed
    assert check.fix == "arguments inside what the intent allows"


# --- CEL


@needs_cel
@pytest.mark.parametrize(
    ("expression", "values", "holds"),
    [
        ("size(args.body) < 6", {"body": "hello"}, True),
        ("size(args.body) < 5", {"body": "hello"}, False),
        ("size(args.body) < 6", {}, False),  # absent: cannot be evaluated, does not hold
        ("size(args.body) < 6", {"body": None}, False),
        ("args.amount < 10.5", {"amount": "10.49"}, True),
        ("args.amount < 10.5", {"amount": "10.5"}, False),
        ("args.n / 0 > 1", {"n": 1}, False),
        ("args.n > 1", {"n": 2**70}, False),
        ("args.to.all(t, t.endsWith('@x'))", {"to": ["a@x", "b@x"]}, True),
        ("args.to.all(t, t.endsWith('@x'))", {"to": ["a@x", "b@y"]}, False),
        ("args.items.exists(i, i.price > 5.0)", {"items": [{"id": "1", "price": "7.5"}]}, True),
        ("args.at.city == 'Rome'", {"at": {"city": "Rome"}}, True),
        ("args.any == 3 || args.any == 'x'", {"any": "x"}, True),
        ("args.any", {"any": "true"}, False),  # only true holds
        ("args.body == 'x'", {"body": "\ud800"}, False),
    ],
)
def test_checks(expression: str, values: dict[str, object], holds: bool) -> None:
    from guard.policy import cel

    types = {
        "body": "text",
        "amount": "decimal",
        "n": "int",
        "to[]": "email",
        "items[].id": "id",
        "items[].price": "decimal",
        "at.city": "name",
        "any": "any",
    }
    if expression == "args.any":
        with pytest.raises(cel.CelError, match="not true or false"):
            cel.compile(expression, types)
    else:
        assert cel.compile(expression, types)(values) is holds


@needs_cel
def test_a_check_is_kept_as_written() -> None:
    policy = read_policy(block_of("POLICY.md"), parts=ALL)
    assert policy.intents["pay-invoice"].allow["send_email"].check == "size(args.body) < 4000"


# --- layers


def layer(rest: str, name: str = "desk") -> Policy:
    return whole(rest, name)


PACK = "rules:\n  - {id: leak, when: {effect: send}, forbid_after: [{label: private}]}\n"


def test_a_pack_may_speak_of_effects_this_desk_has_not() -> None:
    text = "rules:\n  - {id: a, when: {effect: [send, share]}, forbid_after: [{effect: delete}, {effect: admin}]}\n"
    assert len(check_layers([layer(COUNTER), layer(text, "pack")])) == 2


def test_a_pack_keeps_its_parts_over_the_layer_with_tools() -> None:
    _, pack = check_layers([layer(COUNTER), layer(PACK, "pack")])
    assert pack.rules[0].after == After((Item(label="private"),))


@pytest.mark.parametrize(
    ("pack", "code"),
    [
        ("rules: [{id: a, when: {effect: send}, forbid_after: [{label: privat}]}]\n", "lint.unknown-label"),
        ("rules: [{id: a, when: {tool: pay}, require_before: {tool: idle}}]\n", "lint.never-matches"),
        ("rules: [{id: a, when: {tool: send}, require_before: {tool: approve, match: {iban: args.to}}}]\n", "lint.undecidable"),
        ("rules: [{id: a, exclusive: [{tool: pay}, {effect: pay}], by: person}]\n", "lint.unenforceable"),
        ("rules: [{id: a, when: {tool: pay}, require_any: [{fact: f, key: args.iban}]}]\n", "lint.unknown-fact"),
        ("flow: {read: {allow: [any]}}\n", "lint.no-flow-row"),
    ],
)
def test_a_pack_is_linted_over_those_tools(pack: str, code: str) -> None:
    with pytest.raises(PolicyError) as caught:
        check_layers([layer(COUNTER), layer(pack, "pack")])
    assert {(p.file, p.code) for p in caught.value.problems if p.level == "error"} == {("pack.yaml", code)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("labels: [private]", "labels: [secret]"),
        ('"[].email": directory', '"[].email": author'),
        ("where: {name: $vendor}", "where: {name: Globex}"),
        ("approve: {effect: approve,", "approve: {effect: approve, once: {key: [iban], within: 1h},"),
    ],
)
def test_layers_that_differ_in_what_a_tool_is_do_not_load(old: str, new: str) -> None:
    other = COUNTER.replace(old, new)
    assert other != COUNTER
    with pytest.raises(ConfigError, match="differ in their tools"):
        check_layers([layer(COUNTER), layer(other, "other")])


def test_case_files_may_bring_flow_and_asks() -> None:
    text = (
        "policy: pack.yaml\nover:\n" + "".join(f"  {line}\n" for line in COUNTER.splitlines()) + "  asks: {default: {by: origin}}\n"
        "tests:\n  - name: t\n    as: {origin: alice, actor: a, intent: clear, tasks: {t2: {origin: bob}}}\n"
        '    trace: |\n      approve(four-eyes, by=bob)\n      approve(iban="x")\n    expect: [allow]\n'
    )
    file = read_cases_file(text, "x.cases.yaml", ALL)
    assert file.over is not None and file.over.flow is not None and file.over.asks == {"default": AskRule()}
    (case,) = file.tests
    assert case.expect == ("", "allow")
    assert (case.run_as.tasks["t2"].origin, case.run_as.tasks["t2"].intent) == ("bob", "clear")


# --- what happens in traces


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ("approve(four-eyes, by=bob)", Event("approve", {"ask": "four-eyes", "by": "bob", "groups": []}, kind="approve")),
        ('@m #t +5m approve("flow.text", by="b", groups=[x, "y z"]) # why', Event("approve", {"ask": "flow.text", "by": "b", "groups": ["x", "y z"]}, actor="m", task="t", after=300, kind="approve")),
        ("signal(device.compliant, true)", Event("signal", {"name": "device.compliant", "value": True}, kind="signal")),
        ('signal("risk", 3)', Event("signal", {"name": "risk", "value": 3}, kind="signal")),
        ('signal("device", True)', Event("signal", {"name": "device", "value": True}, kind="signal")),
        ('user_says("a, (b) # c", quoted=\'it\')', Event("user_says", {"text": "a, (b) # c", "quoted": "it"}, kind="user_says")),
        ('approve(iban="x")', Event("approve", {"iban": "x"})),
        ("signal()", Event("signal", {})),
        ('user_says(text="x")', Event("user_says", {"text": "x"})),
    ],
)  # fmt: skip
def test_lines_that_are_no_calls(line: str, event: Event) -> None:
    text = f"tests:\n  - name: t\n    as: {{origin: alice, actor: a, intent: i}}\n    trace: |\n      {line}\n      x()\n    expect: [allow, allow]\n"
    got, _ = read_cases_file(text, "x.cases.yaml", ALL).tests[0].trace
    assert (got.kind, got.tool, got.args) == (event.kind, event.tool, event.args)
    assert (got.actor, got.task, got.after, got.line, got.text) == (event.actor, event.task, event.after, 5, line)


# --- the editors' schema of the whole language


def test_the_block_of_the_page_holds_under_the_schema() -> None:
    schema = json_schema(ALL)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data_of(block_of("POLICY.md")))


@pytest.mark.parametrize(
    "change",
    [
        "flow: {raed: {allow: [any]}}", "flow: {read: {allow: [promt]}}", "asked: {delegated: ask}", "asks: {x: {count: 1}}", "asks: {most: all}",
        "rules: [{id: a, in_order: true}]", "rules: [{id: a, per: [args.x]}]", "rules: [{id: a, when: task.begin}]", "rules: [{id: a, forbid_after: [{lable: x}]}]",
        "tools: {a: {effect: read, returns: nothing}}", "tools: {a: {effect: read, returns: {shape: {x: prompt}}}}", "tools: {a: {effect: read, once: {}}}",
        "tools: {a: {effect: read, remember: {f: {key: x, fields: {a: b}}}}}",
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_reader_refuses(change: str) -> None:
    head = "guardtrail: 1\nname: t\n" + ("" if change.startswith("tools") else "tools: {a: {effect: read}}\n")
    validator = jsonschema.Draft202012Validator(json_schema(ALL))
    assert validator.is_valid(data_of(head + "tools: {a: {effect: read}}\n" if change.startswith("tools") else head))
    assert not validator.is_valid(data_of(head + change))
    with pytest.raises(PolicyError):
        read_policy(head + change, parts=ALL)


def test_the_schema_offers_what_is_built_only() -> None:
    properties = json_schema(BUILT)["properties"]
    assert ("flow" in properties) is ("flow" in BUILT)
    none = json_schema(frozenset())
    assert not {"flow", "asked", "asks"} & set(none["properties"]) and "item" not in none["$defs"]
    assert none["$defs"]["rule"]["properties"]["then"]["enum"] == ["deny", "ask", "alert"]
