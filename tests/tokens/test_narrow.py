"""`widened` never lies: where it finds nothing, every call that the child admits is one its parent admits, over chains of hands up to eight long."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from guard.constraints import parse
from guard.model import Credential, Delegation, Grant
from guard.policy.judge import Check, grant_checks, judge
from guard.tokens.narrow import covers, widened
from tests.constraints.test_subsumes import MAKERS, WORLD, constraint, narrower, some

CHAINS = 400 if os.environ.get("HYPOTHESIS_PROFILE") != "campaign" else 20_000
SCOPES = {"s.read": ("look",), "s.all": ("look", "mail"), "s.none": ()}
KINDS = list(MAKERS)


def delegation(**over: Any) -> Delegation:
    given: dict[str, Any] = {
        "kind": "txntoken+jwt", "tenant": "acme", "issuer": "acme", "txn": "t1", "credential": Credential("acme", "j1", "k1"), "origin": "alice",
        "origin_kind": "person", "actors": ("lead",), "issued_at": 1000, "expires_at": 2000, "audience": "tools", "intent": "work",
        "params": {"most": "5"}, "workload": "host", "person": "alice.a", "session": "s1",
    }  # fmt: skip
    return Delegation(**(given | over))


def handed(parent: Delegation, **over: Any) -> Delegation:
    return replace(parent, **({"actors": (*parent.actors, f"hand{len(parent.actors)}")} | over))


ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "the same": ({}, {}, None),
    "a shorter life": ({}, {"expires_at": 1500}, None),
    "a longer life": ({}, {"expires_at": 2001}, "lives longer"),
    "another tenant": ({}, {"tenant": "evil"}, "another task"),
    "another issuer": ({}, {"issuer": "evil"}, "another task"),
    "another task": ({}, {"txn": "t2"}, "another task"),
    "a local one": ({}, {"local": True}, "another task"),
    "another origin": ({}, {"origin": "bob"}, "another origin"),
    "another kind of origin": ({}, {"origin_kind": "workload"}, "another origin"),
    "another person": ({}, {"person": "bob"}, "another origin"),
    "the person is gone": ({}, {"person": None}, "another origin"),
    "another session": ({}, {"session": "s2"}, "another session"),
    "the session is gone": ({}, {"session": None}, "another session"),
    "another audience": ({}, {"audience": "bank"}, "another audience"),
    "a key is gone": ({"credential": Credential("acme", "j", "k", "print")}, {"credential": Credential("acme", "j2", "k")}, "bound"),
    "another key": ({"credential": Credential("acme", "j", "k", "print")}, {"credential": Credential("acme", "j2", "k", "other")}, None),
    "nobody new": ({}, {"actors": ("lead",)}, "actors"),
    "two new ones": ({}, {"actors": ("lead", "a", "b")}, "actors"),
    "history rewritten": ({"actors": ("lead", "a")}, {"actors": ("boss", "a", "b")}, "actors"),
    "history left out": ({"actors": ("lead", "a")}, {"actors": ("a", "b")}, "actors"),
    "in a circle": ({"actors": ("lead", "a")}, {"actors": ("lead", "a", "lead")}, "actors"),
    "the origin itself": ({}, {"actors": ("lead", "alice")}, "actors"),
    "the first that acts, for a client": ({"actors": ("host",)}, {"actors": ("a",)}, None),
    "one more after a client": ({"actors": ("host",)}, {"actors": ("host", "a")}, None),
    "the client once more": ({"actors": ("host",)}, {"actors": ("host",)}, "actors"),
    "another intent": ({}, {"intent": "play"}, "another intent"),
    "the intent is gone": ({}, {"intent": None}, "another intent"),
    "other parameters": ({}, {"params": {"most": "50"}}, "parameters"),
    "an intent, where there was none": ({"intent": None, "params": {}, "grants": {"look": (Grant("look"),)}}, {"intent": "work"}, None),
    "an intent in place of grants": ({"intent": None, "params": {}, "grants": {"look": (Grant("look"),)}}, {"intent": "work", "grants": None}, "an intent"),
    "grants beside a task": ({}, {"grants": {"look": (Grant("look"),)}}, None),
    "grants beside scopes": ({"scopes": frozenset({"s.read"})}, {"grants": {"mail": (Grant("mail"),)}}, "only scopes"),
    "grants are gone": ({"grants": {"look": (Grant("look"),)}}, {"grants": None}, "gone"),
    "one of two grants": ({"grants": {"look": (Grant("look"),), "mail": (Grant("mail"),)}}, {"grants": {"look": (Grant("look"),)}}, None),
    "another tool": ({"grants": {"look": (Grant("look"),)}}, {"grants": {"mail": (Grant("mail"),)}}, "mail"),
    "a scope more": ({"scopes": frozenset({"s.read"})}, {"scopes": frozenset({"s.read", "s.all"})}, "scope"),
    "a scope less": ({"intent": None, "params": {}, "scopes": frozenset({"s.read", "s.all"})}, {"scopes": frozenset({"s.read"})}, None),
    "a scope less that may hold a task to its tools": ({"scopes": frozenset({"s.read", "s.all"})}, {"scopes": frozenset({"s.read"})}, "scope"),
    "a grant less that narrows a scope": ({"scopes": frozenset({"s.all"}), "grants": {"look": (Grant("look"),), "mail": (Grant("mail"),)}},
        {"grants": {"look": (Grant("look"),)}}, "stand for it"),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str) -> None:
    of, over, says = ROWS[name]
    parent = delegation(**of)
    found = widened(parent, handed(parent, **over))
    assert found is None if says is None else found is not None and says in found


GRANTS: dict[str, tuple[Mapping[str, Any] | None, int | None, Mapping[str, Any] | None, int | None, bool]] = {
    "no constraint, then some": (None, None, {"x": {"eq": "a"}}, None, True),
    "some, then none": ({"x": {"eq": "a"}}, None, None, None, False),
    "an argument more": ({"x": {"eq": "a"}}, None, {"x": {"eq": "a"}, "y": {"any": True}}, None, False),
    "an argument less that must be there": ({"x": {"eq": "a"}, "y": {"any": True}}, None, {"x": {"eq": "a"}}, None, False),
    "an argument less that may be absent": ({"x": {"eq": "a"}, "y": {"any": True, "optional": True}}, None, {"x": {"eq": "a"}}, None, True),
    "may be absent, where it must be there": ({"x": {"any": True}}, None, {"x": {"any": True, "optional": True}}, None, False),
    "fewer calls": (None, 3, None, 2, True),
    "more calls": (None, 3, None, 4, False),
    "calls without end": (None, 3, None, None, False),
    "a bound dropped": ({"x": {"range": {"min": 1, "max": 5}}}, None, {"x": {"range": {"min": 1}}}, None, False),
    "two constraints in place of their union": ({"x": {"one_of": ["a", "b"]}}, None, {"x": {"one_of": ["a", "c"]}}, None, False),
    # Unsound attenuations found in other libraries: classes in a glob, whitespace in a literal, a star that crosses a slash.
    "a blank in a literal": ({"x": {"eq": "a b"}}, None, {"x": {"eq": "ab"}}, None, False),
    "a path out of its folder": ({"x": {"under": "/data"}}, None, {"x": {"eq": "/data/../etc"}}, None, False),
    "a star for a path out of its folder": ({"x": {"glob": "/data/*"}}, None, {"x": {"eq": "/data/../etc"}}, None, False),
    "a folder beside": ({"x": {"under": "/data"}}, None, {"x": {"under": "/data2"}}, None, False),
    "true for one": ({"x": {"eq": 1}}, None, {"x": {"eq": True}}, None, False),
    "a text for a number": ({"x": {"one_of": [1, 2]}}, None, {"x": {"eq": "1"}}, None, False),
}  # fmt: skip


@pytest.mark.parametrize("name", GRANTS)
def test_grants(name: str) -> None:
    wide, most, narrow, fewer, says = GRANTS[name]

    def grant(args: Mapping[str, Any] | None, calls: int | None) -> Grant:
        return Grant("t", None if args is None else {path: parse(raw, origin="token") for path, raw in args.items()}, calls)

    assert covers(grant(wide, most), grant(narrow, fewer)) is says


def test_no_union() -> None:
    """A093: what only two entries of the parent together would cover."""
    ab = {"look": (Grant("look", {"x": parse({"eq": "a"})}), Grant("look", {"x": parse({"eq": "b"})}))}
    parent = delegation(grants=ab)
    assert widened(parent, handed(parent, grants={"look": (Grant("look", {"x": parse({"one_of": ["a", "b"]})}),)})) is not None
    assert widened(parent, handed(parent, grants=ab)) is None


def admits(d: Delegation, tool: str, values: Mapping[str, object]) -> bool:
    found = grant_checks(d, tool, SCOPES)
    return isinstance(found, tuple) and isinstance(judge(found, values), Check)


def some_grant(r: random.Random, tool: str) -> Grant:
    if r.random() < 0.15:
        return Grant(tool)
    args = {path: constraint(r, some(r, KINDS, 2)) for path in some(r, ["x", "y", "z"], 3)}
    return Grant(tool, args, r.choice([None, None, 3]))


def some_child(r: random.Random, parent: Delegation) -> Delegation:
    """Near its parent, so that many are narrower."""
    over: dict[str, Any] = {"expires_at": parent.expires_at - r.choice([0, 0, 1]), "scopes": frozenset(
        scope for scope in SCOPES if (scope in parent.scopes and r.random() < 0.8) or r.random() < 0.02)}  # fmt: skip
    grants: dict[str, tuple[Grant, ...]] = {}
    for tool, held in (parent.grants or {"look": (Grant("look"),)} if r.random() < 0.5 or parent.grants else {}).items():
        made = []
        for grant in held:
            if grant.args is None:
                made.append(some_grant(r, tool) if r.random() < 0.7 else grant)
                continue
            args = {path: narrower(r, must) if r.random() < 0.4 else must for path, must in grant.args.items() if r.random() < 0.9}
            if r.random() < 0.03:
                args["w"] = parse({"any": True})
            made.append(replace(grant, args=args))
        if r.random() < 0.9:
            grants[tool] = tuple(made)
    return handed(parent, **(over | ({"grants": grants} if grants else {})))


def test_no_call_that_the_parent_would_refuse() -> None:
    """Chains up to eight hands; each child against every one above it: so the law holds over the whole chain, and `widened` composes."""
    r, proven, longest = random.Random(11), 0, 0
    for _ in range(CHAINS):
        first = {"grants": {tool: tuple(some_grant(r, tool) for _ in range(r.randint(1, 2))) for tool in some(r, ["look", "mail"], 2)}}
        with_scopes = {"scopes": frozenset(some(r, list(SCOPES), 3))}
        chain = [delegation(**r.choice([first, first, {}, with_scopes, first | with_scopes]))]
        assert widened(chain[0], handed(chain[0])) is None, "nothing is wider than itself"
        tries = 0
        while len(chain) < 8 and tries < 30:
            tries += 1
            child = some_child(r, chain[-1])
            if widened(chain[-1], child) is None:
                chain.append(child)
        longest = max(longest, len(chain))
        for _ in range(50):
            tool = r.choice(["look", "mail"])
            values = {path: r.choice(WORLD) for path in some(r, ["x", "y", "z", "w"], 4)}
            allowed = [admits(d, tool, values) for d in chain]
            proven += allowed[-1]
            assert allowed == sorted(allowed, reverse=True), (tool, values, allowed)
    assert longest == 8 and proven > CHAINS, "the search finds what it is about"
