"""The packs load, lint clean, hold under the editors' schema, and their truth tables are true."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from guard.policy import Policy, cases_from_text, check_layers
from guard.policy.schema import json_schema
from guard.testing.cases import run_case
from tests.policy.reading import data_of

ROOT = Path(__file__).parents[2]
POLICIES = ROOT / "policies"
PACKS = sorted(path.name for path in POLICIES.glob("*.yaml") if not path.name.endswith(".cases.yaml"))


def policy(name: str) -> Policy:
    return Policy.from_text((POLICIES / name).read_text("utf-8"), file=name)


def test_there_are_packs() -> None:
    assert {"baseline.yaml", "git-maintainer.yaml"} <= set(PACKS)


@pytest.mark.parametrize("name", PACKS)
def test_loads_without_a_word(name: str) -> None:
    assert policy(name).warnings == ()


@pytest.mark.parametrize("name", PACKS)
def test_every_rule_says_who_and_why(name: str) -> None:
    for rule in policy(name).rules:
        assert rule.owner and rule.severity and rule.controls and rule.description, rule.id


def test_what_excuses_by_source_has_rows() -> None:
    """Each rule that lets values of the user pass has a row with a prompt in which it speaks all the same."""
    for name in PACKS:
        cases = cases_from_text((POLICIES / name.replace(".yaml", ".cases.yaml")).read_text("utf-8")).tests
        told = {expected.partition(" ")[2] for case in cases if case.run_as.prompt for expected in case.expect}
        excused = {rule.id for rule in policy(name).rules if rule.unless is not None and rule.unless.flow is not None}
        assert excused <= told, name


@pytest.mark.parametrize("name", PACKS)
def test_cases(name: str) -> None:
    loaded = policy(name)
    file = cases_from_text((POLICIES / name.replace(".yaml", ".cases.yaml")).read_text("utf-8"), name.replace(".yaml", ".cases.yaml"))
    assert file.policies == (name,) and len(file.tests) >= 5
    layers = check_layers([loaded] if file.over is None else [file.over, loaded])
    rules = {rule.id for layer in layers for rule in layer.rules}
    verdicts = set()
    for case in (*file, *loaded.tests):
        assert case.run_as.intent in layers[0].intents
        assert len(case.trace) == len(case.expect)
        for expected in case.expect:
            verdict, _, reason = expected.partition(" ")
            verdicts.add(verdict)
            assert not reason or reason in rules or "." in reason or reason == "args", expected
        result = run_case(layers, case)
        assert result.ok, f"{case.name}: step {result.failed}: {result.message}"
    assert verdicts >= ({"allow", "deny"} if file.over is None else {"allow", "ask"})


def test_the_demo_agents_tools() -> None:
    loaded = policy("git-maintainer.yaml")
    intent = loaded.intents["prepare-release"]
    assert "git_reset" in loaded.tools and "git_reset" not in intent.allow
    assert dict(intent.params) == {"page": "url", "repo": "path"}
    few = next(rule for rule in loaded.rules if rule.id == "few-reads")
    assert few.monitor and few.limit is not None and few.limit.max == 2 and few.when.effects == {"fetch", "read"}


def test_the_editors_schema_is_the_generated_one() -> None:
    """`python -m guard.policy.schema > docs/policy-schema.json` after a change of the table."""
    written = json.loads((ROOT / "docs" / "policy-schema.json").read_text("utf-8"))
    assert written == json_schema()


def validator() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("name", PACKS)
def test_packs_hold_under_the_schema(name: str) -> None:
    validator().validate(data_of((POLICIES / name).read_text("utf-8")))


@pytest.mark.parametrize(
    "change", [{"rulse": []}, {"guardtrail": 2}, {"tools": {"a b": {"effect": "read"}}}, {"tools": {"a": {"effect": "reed"}}}, {"flow": {}}]
)
def test_the_schema_refuses_what_the_reader_refuses(change: dict[str, object]) -> None:
    good = {"guardtrail": 1, "name": "t", "tools": {"a": {"effect": "read"}}}
    assert validator().is_valid(good)
    assert not validator().is_valid({**good, **change})
