"""`subsumes` never lies: what it calls narrower admits nothing that the wider one refuses; and it is no coward: it says yes where it may.

Searched three ways: generated triples (parent, child, value); every text up to length 4 over the characters that mean something; and,
for completeness, pairs of one kind whose true answer is found by trying every value of a small world.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.constraints import Constraint, parse, subsumes

TRIPLES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") != "campaign" else 1_000_000
META = "a*/@ \n"
TEXTS = ["".join(t) for n in range(5) for t in itertools.product("ab/@ \n*", repeat=n)]
NUMBERS: list[object] = [*range(-3, 8), *(f"{n}.5" for n in range(-2, 7)), "-3", "0", "3", True, "x"]
PATHS = ["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/../b", "a", "/a//b", "/a/b/", "/b"]
URLS = [
    f"{scheme}://{host}{port}{path}"
    for scheme in ("https", "http", "ws")
    for host in ("a.x", "b.a.x", "c.a.x", "a.x.y", "x")
    for port in ("", ":443", ":80", ":8080")
    for path in ("", "/", "/d", "/d/e", "/de", "/d/..%2fe", "/d?q=1", "/d?q=2")
]
EMAILS = ["u@a.x", "u@b.a.x", "u@c.a.x", "u@x.y", "u@xa.x", "u,v@a.x", "u@a.x\n", "@a.x", "u"]
ADDRESSES = ["10.0.0.1", "10.0.1.1", "10.1.0.1", "11.0.0.1", "::ffff:10.0.0.1", "fd00::1", "fe80::1", "10.0.0.1/8", "x"]
COMMANDS = [
    f"{program}{flags}"
    for program in ("git", "ls", "rm")
    for flags in ("", " -l", " -a", " -la", " --x", " -z", " x", " *", " -- -z", "; ls", " $(ls)")
]
LISTS: list[object] = [[], ["a"], ["b"], ["a", "b"], ["a", "a", "a"], [1], ["c"], "a", [None], [["a"]]]
WORLD: list[object] = [*TEXTS[:400], *NUMBERS, *PATHS, *URLS, *EMAILS, *ADDRESSES, *COMMANDS, *LISTS, {}, {"a": 1}, 1.5, False]

Make = Callable[[random.Random], dict[str, Any]]


def text(r: random.Random, alphabet: str = "ab/@ *", most: int = 4) -> str:
    return "".join(r.choice(alphabet) for _ in range(r.randint(1, most)))


def some(r: random.Random, of: list[Any], most: int = 3) -> list[Any]:
    return r.sample(of, r.randint(1, min(most, len(of))))


def make_range(r: random.Random) -> dict[str, Any]:
    keys = some(r, ["min", "max", "above", "below"], 2)
    return {"range": {key: r.choice([r.randint(-3, 7), f"{r.randint(-2, 6)}.5"]) for key in keys}}


def make_url(r: random.Random) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "scheme": some(r, ["http", "https"], 2),
        "host": some(r, ["a.x", "*.a.x", "b.a.x", "a.x.y"], 2),
        "port": some(r, [80, 443, 8080], 2),
        "under": r.choice(["https://a.x/", "https://a.x/d", "https://b.a.x/d/e", "http://a.x:8080/", "/d", "/d/e", "https://a.x/d?q=1"]),
    }
    return {"url": {key: parts[key] for key in some(r, list(parts), 2)}}


def make_command(r: random.Random) -> dict[str, Any]:
    made: dict[str, Any] = {"program": some(r, ["git", "ls", "rm"], 2)}
    if r.random() < 0.6:
        made["flags"] = some(r, ["-l", "-a", "-la", "--x"], 3)
    return {"command": made}


def make_len(r: random.Random) -> dict[str, Any]:
    return {"len": {key: r.randint(0, 4) for key in some(r, ["min", "max"], 2)}}


MAKERS: dict[str, tuple[Make, list[Any]]] = {
    "any": (lambda r: {"any": True}, WORLD),
    "eq": (lambda r: {"eq": r.choice([value for value in WORLD if value is not None and value != [None]])}, WORLD),
    "one_of": (lambda r: {"one_of": some(r, [*TEXTS[1:60], 1, 2, True], 4)}, WORLD),
    "range": (make_range, NUMBERS),
    "prefix": (lambda r: {"prefix": text(r, "ab/@ ", 3)}, TEXTS),
    "suffix": (lambda r: {"suffix": text(r, "ab/@ ", 3)}, TEXTS),
    "glob": (lambda r: {"glob": text(r).replace("**", "*").replace("**", "*") or "a"}, TEXTS),
    "under": (lambda r: {"under": r.choice(["/", "/a", "/a/b", "/ab", "/a/b/c"])}, PATHS),
    "url": (make_url, URLS),
    "email": (lambda r: {"email": {"domain": some(r, ["a.x", "*.a.x", "b.a.x", "x.y"], 3)}}, EMAILS),
    "cidr": (
        lambda r: {"cidr": some(r, ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "fd00::/8", "::ffff:10.0.0.0/104", "0.0.0.0/0"], 2)},
        ADDRESSES,
    ),
    "command": (make_command, COMMANDS),
    "mentions": (
        lambda r: {"mentions": some(r, ["git", "x", "a*", "b", "c", "rm"], 3)},
        [*COMMANDS, *PATHS, "a", "b", "ab", "c", "x", "git", "rm"],
    ),
    "len": (make_len, ["x" * n for n in range(9)] + [["x"] * n for n in range(9)]),
    "subset": (lambda r: {"subset": some(r, ["a", "b", "c", 1], 3)}, LISTS),
    "each": (lambda r: {"each": make(r, r.choice(["one_of", "prefix", "range"]))}, [[value] for value in [*TEXTS, *NUMBERS]]),
    "any_of": (
        lambda r: {"any_of": [make(r, r.choice(["eq", "range", "prefix", "glob", "under"])) for _ in range(r.randint(1, 3))]},
        WORLD,
    ),
}


def make(r: random.Random, kind: str) -> dict[str, Any]:
    return MAKERS[kind][0](r)


def constraint(r: random.Random, kinds: list[str]) -> Constraint:
    raw: dict[str, Any] = {}
    for kind in kinds:
        raw |= make(r, kind)
    if r.random() < 0.1:
        raw["optional"] = True
    return parse(raw)


def narrower(r: random.Random, parent: Constraint) -> Constraint:
    """A child near its parent, so that many are true."""
    kinds = [part.kind for part in parent.parts]
    if r.random() < 0.5:
        return parse({**parent.raw, **make(r, r.choice(list(MAKERS)))})
    return constraint(r, kinds if r.random() < 0.7 else some(r, list(MAKERS), 2))


def test_generated_triples() -> None:
    """20,000 (parent, child, value): child narrower and admits the value, then the parent admits it."""
    r, tried, proven = random.Random(7), 0, 0
    kinds = list(MAKERS)
    while tried < TRIPLES:
        parent = constraint(r, some(r, kinds, 2))
        child = narrower(r, parent)
        said = subsumes(parent, child)
        matched = [value for value in WORLD if child.matches(value)] if said else []
        for value in r.sample(WORLD, 10) + r.sample(matched, min(20, len(matched))):
            tried += 1
            if said and child.matches(value):
                proven += 1
                assert parent.matches(value), (parent.raw, child.raw, value)
        if said:
            assert parent.optional or not child.optional
    assert proven > TRIPLES / 40, "too few triples say anything"


@pytest.mark.parametrize("kind", ["prefix", "suffix", "glob"])
def test_every_short_text(kind: str) -> None:
    """Every pattern and every text up to length 4 over the meta characters, a sample of pairs of patterns with all texts."""
    patterns = ["".join(t) for n in range(1, 5) for t in itertools.product("a*/@ " if kind == "glob" else "a/@ ", repeat=n)]
    patterns = [p for p in patterns if "**" not in p]
    texts = ["".join(t) for n in range(5) for t in itertools.product(META, repeat=n)]
    r = random.Random(11)
    admitted = {p: {t for t in texts if parse({kind: p}).matches(t)} for p in (patterns if kind != "glob" else r.sample(patterns, 160))}
    for parent, child in itertools.product(admitted, repeat=2):
        if subsumes(parse({kind: parent}), parse({kind: child})):
            assert admitted[child] <= admitted[parent], (parent, child)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind not in ("any", "any_of")])
def test_complete_for_pairs_of_one_kind(kind: str, record_property: Callable[[str, object], None]) -> None:
    """Where trying every value of the small world finds no counterexample, `subsumes` says yes in at least 95 of 100 pairs."""
    r = random.Random(13)
    values = MAKERS[kind][1]
    if kind in ("prefix", "suffix", "glob"):  # a world in which a longer text can tell two patterns apart
        values = ["".join(t) for n in range(7) for t in itertools.product("ab/", repeat=n)] + TEXTS
    if kind == "range":
        values = [n / 4 if n % 4 else n // 4 for n in range(-20, 40)]
    true = yes = 0
    for _ in range(400 if kind in ("prefix", "suffix", "glob") else 1500):
        parent, child = parse(make(r, kind)), parse(make(r, kind))
        if r.random() < 0.3:
            child = parent
        said = subsumes(parent, child)
        admitted = [value for value in values if child.matches(value)]
        if not admitted:
            continue
        truth = all(parent.matches(value) for value in admitted)
        assert truth or not said, (parent.raw, child.raw)
        true, yes = true + truth, yes + (truth and said)
    assert true > 20
    record_property("completeness", f"{kind} {yes / true:.1%}")
    print(f"completeness {kind}: {yes} of {true} ({yes / true:.1%})")
    assert yes / true >= 0.95


@pytest.mark.parametrize(
    ("parent", "child", "why"),
    [
        ({"glob": "a[0-9]*"}, None, "F37: character classes do not parse"),
        ({"eq": "a b"}, {"eq": "ab"}, "F38: blanks inside a literal count"),
        ({"under": "/data"}, None, "F39: see below"),
        ({"glob": "/data/*"}, {"glob": "/data/*/*"}, "a deeper path"),
        ({"glob": "*@acme.example"}, {"suffix": "@acme.example"}, "a suffix crosses line breaks and names"),
        ({"prefix": "/data/"}, {"under": "/data"}, "the folder itself"),
        ({"range": {"min": 0}}, {"range": {"max": 5}}, "open below"),
        ({"range": {"above": 0}}, {"range": {"min": 0}}, "its own bound"),
        ({"eq": "a"}, {"eq": "a", "optional": True}, "absence is a value"),
        ({"subset": ["a"]}, {"each": {"eq": "a"}, "optional": True}, "an empty list"),
        ({"eq": 1}, {"eq": True}, "True is not 1"),
        ({"email": {"domain": "acme.example"}}, {"suffix": "@acme.example"}, "another kind"),
        ({"command": {"program": "git", "flags": ["-l"]}}, {"command": {"program": "git"}}, "any flag"),
        ({"url": {"host": "a.x"}}, {"url": {"scheme": "https"}}, "any host"),
        ({"len": {"max": 3}}, {"subset": ["a"]}, "as long a list as one likes"),
        ({"any_of": [{"range": {"min": 0, "max": 1}}, {"range": {"min": 2, "max": 3}}]}, {"range": {"min": 0, "max": 3}}, "the gap"),
    ],
)
def test_unsound_narrowing_is_refused(parent: dict[str, Any], child: dict[str, Any] | None, why: str) -> None:
    if child is None:
        with pytest.raises(ValueError):
            parse(parent if "glob" in parent else {"under": "/data/../etc"})
        return
    assert not subsumes(parse(parent), parse(child)), why


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ({"any": True}, {"command": {"program": "git"}}),
        ({"glob": "INV-*"}, {"glob": "INV-2*"}),
        ({"glob": "*a*"}, {"glob": "b*a"}),
        ({"prefix": "INV-"}, {"glob": "INV-*"}),
        ({"under": "/"}, {"under": "/data"}),
        ({"url": {"scheme": "https", "host": "*.a.x"}}, {"url": {"under": "https://b.a.x/d"}}),
        ({"range": {"min": 0, "max": 50}}, {"one_of": [1, "2.5"]}),
        ({"any_of": [{"eq": "a"}, {"prefix": "b"}]}, {"any_of": [{"prefix": "bc"}, {"eq": "a"}]}),
        ({"prefix": "a", "len": {"max": 9}}, {"prefix": "ab", "len": {"max": 3}, "suffix": "z"}),
        ({"each": {"range": {"min": 0}}}, {"subset": [1, 2]}),
        ({"eq": "a", "optional": True}, {"eq": "a"}),
    ],
)
def test_true_narrowing_is_seen(parent: dict[str, Any], child: dict[str, Any]) -> None:
    assert subsumes(parse(parent), parse(child))


def test_on_a_list_length_and_subset_speak_of_the_list() -> None:
    """`to[]: {len: {max: 3}}` counts addresses; a single address of three characters proves nothing about it."""
    parent = parse({"len": {"max": 3}})
    assert not subsumes(parent, parse({"eq": "abc"}), items=True)
    assert subsumes(parent, parse({"eq": "abc", "len": {"max": 2}}), items=True)
    assert subsumes(parse({"email": {"domain": "a.x"}}), parse({"eq": "u@a.x"}), items=True)
    assert not subsumes(parse({"email": {"domain": "a.x"}}), parse({"len": {"max": 2}}), items=True)


KINDS = st.lists(st.sampled_from(sorted(MAKERS)), min_size=1, max_size=3, unique=True)


@given(KINDS, st.integers(0, 2**32))
@settings(max_examples=200)
def test_reflexive(kinds: list[str], seed: int) -> None:
    """Every constraint is within itself."""
    one = constraint(random.Random(seed), kinds)
    assert subsumes(one, one)


@given(KINDS, st.integers(0, 2**32), st.integers(0, 2**32), st.integers(0, 2**32))
@settings(max_examples=300)
def test_transitive_in_what_is_admitted(kinds: list[str], a: int, b: int, c: int) -> None:
    """Along a chain of narrower constraints nothing comes back."""
    first = constraint(random.Random(a), kinds)
    second = narrower(random.Random(b), first)
    third = narrower(random.Random(c), second)
    if subsumes(first, second) and subsumes(second, third):
        assert all(first.matches(value) for value in WORLD if third.matches(value))
