"""`credential:` of a tool, as data, and what is no credential."""

from __future__ import annotations

import jsonschema
import pytest

from guard.errors import PolicyError
from guard.policy import Policy
from guard.policy.data import Downstream
from guard.policy.load import read_policy
from guard.policy.schema import json_schema
from guard.policy.supported import BUILT
from guard.testing.cases import run_case

HEAD = "guardtrail: 1\nname: p\nowner: o@acme.example\nintents: {i: {description: d, allow: {t: {}}}}\n"


def policy(text: str) -> str:
    return f"{HEAD}tools:\n  t: {{effect: write, credential: {text}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{resource: 'https://api.acme.example', scope: [a.write, b], ttl: 2m}", Downstream("https://api.acme.example", ("a.write", "b"), 120)),
        ("{resource: 'https://api.acme.example:8443/v1', scope: a}", Downstream("https://api.acme.example:8443/v1", ("a",), 300)),
        ("{resource: 'http://127.0.0.1:80/x', scope: 'https://api/.default', ttl: 15m}", Downstream("http://127.0.0.1:80/x", ("https://api/.default",), 900)),
        ("{resource: 'http://localhost', scope: a, ttl: 1s}", Downstream("http://localhost", ("a",), 1)),
        ("{resource: 'http://[::1]:9/', scope: a}", Downstream("http://[::1]:9/", ("a",), 300)),
    ],
)  # fmt: skip
def test_it_is_data(text: str, expected: Downstream) -> None:
    assert Policy.from_text(policy(text)).tools["t"].credential == expected


RESOURCE = "must be an https URL"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("{scope: a}", "lint.missing", "needs `resource`"),
        ("true", "lint.type", "must be a mapping"),
        ("[a]", "lint.type", "must be a mapping"),
        ("{resource: 'https://a.example'}", "lint.missing", "needs `scope`"),
        ("{resource: 'https://a.example', scope: []}", "lint.value", "is empty"),
        ("{resource: 'https://a.example', scope: 'a b'}", "lint.name", "scope"),
        ("{resource: 'https://a.example', scope: [a, a]}", "lint.value", "twice"),
        ("{resource: 'https://a.example', scope: a, tll: 2m}", "lint.unknown-key", "did you mean `ttl`"),
        ("{resource: 'https://a.example', scope: a, secret: x}", "lint.unknown-key", "secret"),
        ("{resource: 'https://a.example', scope: a, ttl: 16m}", "lint.value", "longer than 15m"),
        ("{resource: 'https://a.example', scope: a, ttl: 7d}", "lint.value", "longer than 15m"),
        ("{resource: 'https://a.example', scope: a, ttl: 0s}", "lint.value", "must be a time"),
        ("{resource: 'https://a.example', scope: a, ttl: 120}", "lint.value", "must be a time"),
        ("{resource: 7, scope: a}", "lint.type", "must be text"),
        ("{resource: 'http://a.example', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'http://127.0.0.1.a.example', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://u@a.example', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://a.example/#x', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://a.example/?x', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://a.example\\\\b', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://a.example:0', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://a.example:x', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://[::1', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'https://ä.example', scope: a}", "lint.value", RESOURCE),
        ("{resource: 'urn:example:bank', scope: a}", "lint.value", RESOURCE),
        ("{resource: api.acme.example, scope: a}", "lint.value", RESOURCE),
    ],
)
def test_what_does_not_load(text: str, code: str, says: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.from_text(policy(text))
    assert [problem.code for problem in caught.value.problems] == [code]
    assert says in str(caught.value)


def test_where_it_is_not_judged_it_does_not_load() -> None:
    with pytest.raises(PolicyError, match=r"not-supported-yet.*`credential`.*just-in-time credentials"):
        read_policy(policy("{resource: 'https://a.example', scope: a}"), parts=BUILT - {"credential"})


def test_the_schema_knows_it() -> None:
    data = {
        "guardtrail": 1,
        "name": "p",
        "tools": {"t": {"effect": "write", "credential": {"resource": "https://a.example", "scope": ["a"], "ttl": "2m"}}},
    }
    jsonschema.validate(data, json_schema())
    for wrong in ({"resource": "https://a.example"}, {"resource": "https://a.example", "scope": ["a"], "x": 1}):
        data["tools"]["t"]["credential"] = wrong  # type: ignore[index]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, json_schema())


def test_cases_of_such_a_policy_run() -> None:
    text = policy("{resource: 'https://a.example', scope: a}") + (
        "tests:\n  - name: one\n    as: {origin: alice, actor: support, intent: i}\n    trace: t()\n    expect: [allow]\n"
    )
    made = Policy.from_text(text)
    result = run_case(made, made.tests[0])
    assert result.ok, result.message
