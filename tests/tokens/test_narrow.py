"""What may never be wider. Laws over generated delegations, up to eight deep, judged by the real judge; and the table of `narrow.py`, row by row."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from guard.constraints import parse
from guard.model import Credential, Delegation, Grant
from guard.policy.judge import Check, grant_checks, judge
from guard.tokens.narrow import exceeds, widened

CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
CHAINS = 200_000 if CAMPAIGN else 20_000
SCOPES = {"s.read": ("read",), "s.all": ("read", "pay", "send")}
TOOLS = ("pay", "send", "read")
PATHS = ("a", "b", "b.c", "b[]", "b[].c")

CONSTRAINTS: list[dict[str, Any]] = [
    {"any": True}, {"eq": 1}, {"eq": "x"}, {"one_of": [1, 2, "x"]}, {"range": {"min": 0, "max": 5}}, {"range": {"min": 1, "max": 3}},
    {"range": {"max": 3}}, {"prefix": "x"}, {"prefix": "x", "suffix": "y"}, {"glob": "x*"}, {"len": {"max": 1}}, {"subset": ["x", "xy"]},
    {"any_of": [{"eq": 1}, {"prefix": "x"}]}, {"eq": 1, "range": {"max": 5}},
]  # fmt: skip
VALUES: list[Any] = [None, 0, 1, 2, 4, 9, "x", "xy", "z", True, "1", [], [1], ["x"], ["xy", "z"], {"c": 1}, {"c": "x"}, {"c": "z", "d": 1},
                     [{"c": 1}], [{"c": "x"}, {}], {}]  # fmt: skip


def delegation(**other: Any) -> Delegation:
    base: dict[str, Any] = {
        "kind": "txntoken+jwt", "tenant": "acme", "issuer": "https://iam.example", "txn": "t1", "credential": Credential("i", "j", "k"),
        "origin": "alice", "origin_kind": "person", "actors": ("agent",), "issued_at": 1000, "expires_at": 2000, "audience": "guard",
        "intent": "work", "params": {"n": 1},
    }  # fmt: skip
    return Delegation(**(base | other))


def some_constraint(r: random.Random) -> Any:
    raw = dict(r.choice(CONSTRAINTS))
    if r.random() < 0.5:
        raw["optional"] = True
    return parse(raw, origin="token")


def some_grant(r: random.Random, tool: str) -> Grant:
    args = None if r.random() < 0.2 else {path: some_constraint(r) for path in r.sample(PATHS, r.randint(0, 3))}
    return Grant(tool, args, None if r.random() < 0.6 else r.randint(1, 5))


def some_grants(r: random.Random) -> Mapping[str, tuple[Grant, ...]] | None:
    if r.random() < 0.15:
        return None
    return {tool: tuple(some_grant(r, tool) for _ in range(r.choice([1, 1, 1, 2]))) for tool in r.sample(TOOLS, r.randint(1, 3))}


def some(r: random.Random) -> Delegation:
    return delegation(
        intent=r.choice(["work", "work", None]),
        grants=some_grants(r),
        scopes=frozenset(r.sample(["s.read", "s.all", "plain"], r.randint(0, 2))),
        expires_at=r.randint(1500, 2000),
        bound=r.choice(["", "", "jkt"]),
    )


def child_grant(r: random.Random, grant: Grant) -> Grant:
    args = grant.args
    if args is None:
        args = some_grant(r, grant.tool).args if r.random() < 0.4 else None
    else:
        args = {path: one if r.random() < 0.7 else some_constraint(r) for path, one in args.items() if r.random() < 0.85}
        if r.random() < 0.1:
            args[r.choice(PATHS)] = some_constraint(r)
    calls = grant.calls if r.random() < 0.6 else r.choice([None, 1, 2, 9])
    return Grant(grant.tool, args, calls)


def near(r: random.Random, parent: Delegation) -> Delegation:
    """Something near its parent: narrower often, wider often enough."""
    grants = some_grants(r) if parent.grants is None or r.random() < 0.05 else dict(parent.grants)
    if grants is not None and parent.grants is not None:
        for tool in list(grants):
            if len(grants) > 1 and r.random() < 0.2:
                grants.pop(tool)
            elif r.random() < 0.6:
                grants[tool] = tuple(child_grant(r, one) for one in grants[tool])
    if r.random() < 0.1:
        grants = None
    scopes = frozenset(one for one in parent.scopes if r.random() < 0.8)
    return replace(
        parent,
        grants=grants,
        scopes=scopes if r.random() < 0.95 else scopes | {r.choice(["s.read", "s.all"])},
        expires_at=parent.expires_at - r.choice([0, 0, 1, 10, -1]),
        bound=parent.bound if r.random() < 0.8 else r.choice(["", "jkt"]),
        intent=parent.intent if r.random() < 0.97 else "other",
    )


def admits(d: Delegation, tool: str, values: Mapping[str, object]) -> Check | None:
    """The judge's own word. The intent is the same for all of a chain, so what it says besides is the same."""
    checks = grant_checks(d, tool, SCOPES)
    found = judge(checks, values) if isinstance(checks, tuple) else None
    return found if isinstance(found, Check) else None


def calls(r: random.Random) -> list[tuple[str, dict[str, object]]]:
    return [(r.choice(TOOLS), {name: r.choice(VALUES) for name in r.sample("abc", r.randint(0, 2))}) for _ in range(12)]


@pytest.mark.timeout(3600 if CAMPAIGN else 900)
def test_laws() -> None:
    r, said, permitted = random.Random(41), 0, 0
    for _ in range(CHAINS):
        chain = [some(r)]
        while len(chain) < 8:
            chain.append(near(r, chain[-1]))
            if r.random() < 0.3:
                break
        narrower = {(i, k): exceeds(chain[i], chain[k], scopes=SCOPES) is None for i, k in itertools.product(range(len(chain)), repeat=2)}
        for i in range(len(chain)):
            assert narrower[i, i], ("reflexive", chain[i])
        for i, k, m in itertools.product(range(len(chain)), repeat=3):
            if narrower[i, k] and narrower[k, m]:
                assert narrower[i, m], ("transitive", chain[i].grants, chain[k].grants, chain[m].grants)
        asked = calls(r)
        for (i, k), yes in narrower.items():
            if not yes or i == k:
                continue
            said += 1
            assert chain[k].expires_at <= chain[i].expires_at and (chain[k].bound or not chain[i].bound)
            for tool, values in asked:
                below = admits(chain[k], tool, values)
                if below is None:
                    continue
                permitted += 1
                above = admits(chain[i], tool, values)
                assert above is not None, (chain[i].grants, chain[k].grants, chain[i].scopes, chain[k].scopes, tool, values)
                assert above.calls is None or (below.calls is not None and below.calls <= above.calls), "a larger budget"
    assert said > CHAINS and permitted > CHAINS / 2, (said, permitted)


ONE = parse({"eq": 1}, origin="token")
MAYBE = parse({"eq": 1, "optional": True}, origin="token")
WORK = delegation()
PART = delegation(grants={"pay": (Grant("pay", {"a": ONE, "b": MAYBE}, 5),), "read": (Grant("read"),)})
TWO = delegation(grants={"pay": (Grant("pay", {"a": parse({"eq": "1"}, origin="token")}), Grant("pay", {"a": parse({"eq": "2"}, origin="token")}))})  # fmt: skip
SCOPED = delegation(intent=None, params={}, scopes=frozenset({"s.read"}))


def of(parent: Delegation, **other: Any) -> Delegation:
    return replace(parent, actors=(*parent.actors, "worker"), **other)


def pay(args: Any = None, calls: int | None = None) -> dict[str, Any]:
    given = None if args is None else {path: parse(raw, origin="token") for path, raw in args.items()}
    return {"grants": {"pay": (Grant("pay", given, calls),)}}


ROWS: list[tuple[str, Delegation, dict[str, Any], str | None]] = [
    ("the same", PART, {}, None),
    ("later", PART, {"expires_at": 2001}, "it expires later"),
    ("another tenant", PART, {"tenant": "b"}, "another tenant"),
    ("A077 audience", PART, {"audience": "elsewhere"}, "another audience"),
    ("A078 txn", PART, {"txn": "t2"}, "another txn"),
    ("A079 origin", PART, {"origin": "bob"}, "another origin"),
    ("another issuer", PART, {"issuer": "https://b.example"}, "another issuer"),
    ("R17 session", PART, {"session": "s"}, "another session"),
    ("R17 session gone", replace(PART, session="s"), {"session": None}, "another session"),
    ("a person named", PART, {"person": "eve"}, "another person"),
    ("no intent", PART, {"intent": None}, "another intent"),
    ("params", PART, {"params": {"n": 2}}, "other parameters"),
    ("params, A092", PART, {"params": {"n": True}}, "other parameters"),
    ("params, A092", PART, {"params": {"n": 1.0}}, "other parameters"),
    ("params gone", PART, {"params": {}}, "other parameters"),
    ("equal params", PART, {"params": {"n": 1}}, None),
    ("unbound", replace(PART, bound="jkt"), {"bound": ""}, "its parent is bound to a key and it is not"),
    ("bound otherwise", replace(PART, bound="jkt"), {"bound": "x5t#S256"}, None),
    ("A075 scope", PART, {"scopes": frozenset({"x"})}, "a scope its parent does not have"),
    ("A076 and R07 tool", PART, {"grants": {"send": (Grant("send"),)}}, "tool send: its parent was not granted it"),
    ("fewer tools", PART, {"grants": {"read": (Grant("read"),)}}, None),
    ("the whole task", PART, {"grants": None}, "it has the whole task, of which its parent has a part"),
    ("tools of a task", WORK, pay(), None),
    ("A090 one more argument", PART, pay({"a": {"eq": 1}, "c": {"eq": 1}}, 5), "tool pay: argument c, which its parent does not name"),
    ("an optional one less", PART, pay({"a": {"eq": 1}}, 5), None),
    ("a demanded one less", PART, pay({"b": {"eq": 1}}, 5), "tool pay: argument a is left out, which its parent demands"),
    ("optional now", PART, pay({"a": {"eq": 1, "optional": True}}, 5), "tool pay: argument a is wider"),
    ("no arguments said", PART, pay(None, 5), "tool pay: no constraint on its arguments"),
    ("A095 limit", PART, pay({"a": {"eq": 1}}, 6), "tool pay: more calls"),
    ("no limit", PART, pay({"a": {"eq": 1}}), "tool pay: more calls"),
    ("less calls", PART, pay({"a": {"eq": 1}}, 1), None),
    ("A093 union", TWO, pay({"a": {"one_of": ["1", "2"]}}), "tool pay: no single grant of its parent covers it"),
    ("one of two", TWO, pay({"a": {"eq": "2"}}), None),
    ("A087 no upper bound", delegation(**pay({"a": {"range": {"min": 0, "max": 5}}})), pay({"a": {"range": {"min": 0}}}), "tool pay: argument a is wider"),
    ("A087 empty range", delegation(**pay({"a": {"range": {"min": 0, "max": 5}}})), pay({"a": {"range": {"min": 4, "max": 1}}}), None),
    ("blanks inside a literal", delegation(**pay({"a": {"eq": "a b"}})), pay({"a": {"eq": "ab"}}), "tool pay: argument a is wider"),
    ("a glob across folders", delegation(**pay({"a": {"glob": "/data/*"}})), pay({"a": {"eq": "/data/../etc"}}), "tool pay: argument a is wider"),
    ("R06 the whole tree", delegation(**pay({"a": {"under": "/data/reports"}})), pay({"a": {"under": "/data"}}), "tool pay: argument a is wider"),
    ("the folder beside", delegation(**pay({"a": {"under": "/srv/data"}})), pay({"a": {"under": "/srv/data2"}}), "tool pay: argument a is wider"),
    ("a path into a dropped one", delegation(**pay({"b": {"any": True}, "b.c": {"eq": 1, "optional": True}})), pay({"b": {"any": True}}),
     "tool pay: argument b.c is left out, which its parent demands"),
    ("by a mapped scope", SCOPED, {"grants": {"read": (Grant("read", {}),)}, "scopes": frozenset()}, None),
    ("past a mapped scope", SCOPED, pay(), "tool pay: its parent was not granted it"),
    ("a grant dropped, the scope kept", replace(PART, scopes=frozenset({"s.all"})), {"grants": {"read": (Grant("read"),)}},
     "tool pay: by scope alone, where its parent's grant restricts it"),
    ("the scope of a whole task dropped", delegation(scopes=frozenset({"s.read"})), {"scopes": frozenset()},
     "it has the whole task, of which its parent has a part"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parent", "other", "why"), ROWS, ids=[f"{n}: {row[0]}" for n, row in enumerate(ROWS)])
def test_row(name: str, parent: Delegation, other: dict[str, Any], why: str | None) -> None:
    assert widened(parent, of(parent, **other), scopes=SCOPES) == why


@pytest.mark.parametrize("raw", [{"under": "/data/../etc"}, {"glob": "a[0-9]*"}, {"glob": "[qr]*"}, {"regex": "a.*"}])
def test_what_no_token_can_say(raw: dict[str, Any]) -> None:
    """Classes in globs, paths with `..` and regular expressions, which other libraries compare wrongly, do not parse (A088, A089)."""
    with pytest.raises(ValueError):
        parse(raw, origin="token")


@pytest.mark.parametrize(
    ("actors", "why"),
    [
        (("agent", "worker"), None),
        (("agent",), "the actors are not those of its parent and one more"),
        (("agent", "a", "b"), "the actors are not those of its parent and one more"),
        (("other", "worker"), "the actors are not those of its parent and one more"),
        (("worker", "agent"), "the actors are not those of its parent and one more"),
        (("agent", "agent"), "the new actor is in the chain already"),
        (("agent", "alice"), "the new actor is in the chain already"),
    ],
)
def test_actors(actors: tuple[str, ...], why: str | None) -> None:
    assert widened(WORK, replace(WORK, actors=actors)) == why


def test_what_a_token_service_says_of_its_own() -> None:
    child = of(WORK, issuer="https://tts.example", txn="t9", audience="inside")
    own = {"issuer": "https://tts.example", "txn": "t9", "audience": "inside"}
    assert widened(WORK, child) == "another issuer"
    assert widened(WORK, child, given=own) is None
    assert widened(WORK, replace(child, tenant="b"), given={**own, "tenant": "b"}) == "another tenant"
