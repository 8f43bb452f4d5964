"""`guardtrail_policies`: each entry of `tests:` is one test item, and nothing is there until it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

# The inner pytest runs in this process and takes back what it imported; native modules cannot be loaded twice.
import guard.testing.desk
import guard.testing.plugin  # noqa: F401
from tests.refunds import REFUNDS

pytest_plugins = ["pytester"]

POLICY = (
    REFUNDS
    + """\
tests:
  - name: the ordinary run
    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: "50"}}
    trace: |
      refund(order="A-17", amount="20")
      refund(order="A-17", amount="20")
    expect: [allow, deny limit.calls]
  - name: another order
    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: "50"}}
    trace: |
      refund(order="B-99", amount="20")
    expect: [deny args.constraint]
"""
)
CASES = """\
policy: policy.yaml
tests:
  - name: too much
    as: {origin: alice, actor: support, intent: refund-order, params: {order: A-17, ceiling: "50"}}
    trace: |
      refund(order="A-17", amount="50.01")
    expect: [deny args.constraint]
"""
INI = '[tool.pytest.ini_options]\nguardtrail_policies = ["policy.yaml"]\n'
PACK = """\
guardtrail: 1
name: caps
owner: risk@acme.example
rules:
  - {id: one-only, when: {effect: pay}, limit: {calls: 1}}
"""
TOOLS = "tools:" + POLICY.partition("tools:")[2].partition("tests:")[0].replace(", limit: {calls: 1}", "")
PACK_CASES = (
    "policy: caps.yaml\nover:\n"
    + "".join(f"  {line}\n" for line in TOOLS.splitlines())
    + "tests:\n  - name: once\n    as: {origin: a, actor: b, intent: refund-order, params: {order: A-17, ceiling: '50'}}\n"
    + '    trace: |\n      refund(order="A-17", amount="20")\n      refund(order="A-17", amount="20")\n    expect: [allow, deny one-only]\n'
)


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with a policy beside its `tests/`."""
    pytester.makepyprojecttoml(INI + 'testpaths = ["tests"]\n')
    write(pytester, "policy.yaml", POLICY)
    write(pytester, "tests/test_own.py", "def test_own():\n    pass\n")
    return pytester


def write(pytester: pytest.Pytester, name: str, text: str) -> Path:
    path = pytester.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def ids(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line and " " not in line.partition("::")[0]]


def test_each_case_is_an_item(project: pytest.Pytester) -> None:
    assert ids(project.runpytest("--collect-only", "-q")) == [
        "tests/test_own.py::test_own",
        "policy.yaml::the ordinary run",
        "policy.yaml::another order",
    ]
    project.runpytest().assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("words", "passed"),
    [
        (["tests"], 1),
        (["policy.yaml"], 2),
        (["policy.yaml::another order"], 1),
        (["."], 3),
        ([".", "policy.yaml"], 3),
        (["-k", "ordinary"], 1),
    ],
)
def test_what_is_named_is_run(project: pytest.Pytester, words: list[str], passed: int) -> None:
    result = project.runpytest(*words)
    assert result.parseoutcomes()["passed"] == passed


def test_a_folder_that_is_walked_has_its_policy_once(project: pytest.Pytester) -> None:
    project.makepyprojecttoml(INI)
    project.runpytest().assert_outcomes(passed=3)


def test_the_cases_beside_a_policy_go_with_it(project: pytest.Pytester) -> None:
    write(project, "policy.cases.yaml", CASES)
    assert ids(project.runpytest("--collect-only", "-q"))[1:] == [
        "policy.yaml::the ordinary run",
        "policy.yaml::another order",
        "policy.cases.yaml::too much",
    ]
    project.runpytest().assert_outcomes(passed=4)


def test_several_files_and_a_pack_over_its_own_tools(project: pytest.Pytester) -> None:
    write(project, "packs/caps.yaml", PACK)
    write(project, "packs/caps.cases.yaml", PACK_CASES)
    project.makepyprojecttoml('[tool.pytest.ini_options]\nguardtrail_policies = ["policy.yaml", "packs/*.yaml"]\ntestpaths = ["tests"]\n')
    result = project.runpytest("-v")
    result.assert_outcomes(passed=4)
    assert any("packs/caps.cases.yaml::once PASSED" in line for line in result.outlines)


def test_a_failure_reads_as_guardtrail_test_prints_it(project: pytest.Pytester) -> None:
    write(project, "policy.yaml", POLICY.replace("[allow, deny limit.calls]", "[allow, allow]"))
    result = project.runpytest()
    result.assert_outcomes(passed=2, failed=1)
    said = "\n".join(result.outlines)
    assert (
        "policy.yaml:14:5: FAIL  the ordinary run   step 2\n"
        '          refund(order="A-17", amount="20")\n'
        "          expected allow, got deny limit.calls (policy.yaml:12:"
    ) in said
    assert "1 of 1 calls" in said
    assert result.ret == 1


def test_a_failure_moves_no_cursor(project: pytest.Pytester) -> None:
    text = POLICY.replace("[deny args.constraint]", "[allow]").replace(
        '    trace: |\n      refund(order="B-99", amount="20")\n', "    trace: TRACE\n"
    )
    write(project, "policy.yaml", text.replace("TRACE", r'"refund(order=\"B\u202e9\", amount=\"20\")"'))
    said = "\n".join(project.runpytest().outlines)
    assert r"B\u202e9" in said
    assert "\u202e" not in said


def test_a_policy_that_does_not_load_is_an_error_with_its_place(project: pytest.Pytester) -> None:
    write(project, "policy.yaml", POLICY.replace("amount: {range", "amuont: {range").replace("effect: pay", "effect: pya"))
    result = project.runpytest()
    result.assert_outcomes(errors=1)
    said = "\n".join(result.outlines)
    assert "policy.yaml:5:20: error [lint." in said
    assert "did you mean `pay`?" in said
    assert "Traceback" not in said
    assert result.ret == 2


def test_every_problem_of_a_policy_is_named(project: pytest.Pytester) -> None:
    write(project, "policy.yaml", POLICY.replace("amount: {range", "amuont: {range").replace("order: {eq: $order}", "order: {eq: $odrer}"))
    said = "\n".join(project.runpytest().outlines)
    assert "has no argument `amuont`" in said
    assert "$odrer" in said


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"policy.yaml": POLICY.partition("tests:")[0]}, "nothing tested: policy.yaml has no `tests:`"),
        ({"policy.yaml": PACK}, "nothing tested: policy.yaml has no `tests:`"),
        ({"policy.yaml": PACK + "tests:" + POLICY.partition("tests:")[2]}, "no layer has tools and intents"),
        ({"policy.cases.yaml": CASES.replace("policy.yaml", "gone.yaml")}, "policy gone.yaml cannot be read: no such file or directory"),
        ({"policy.yaml": "guardtrail: 1\nname: a\nname: b\n"}, "policy.yaml:3:1: error"),
        ({"policy.yaml": "\ttab: 1\n"}, "policy.yaml:1:1: error"),
    ],
)
def test_what_cannot_be_tested_is_an_error(project: pytest.Pytester, files: dict[str, str], said: str) -> None:
    for name, text in files.items():
        write(project, name, text)
    result = project.runpytest()
    assert result.parseoutcomes().get("errors") == 1
    assert said in "\n".join(result.outlines)


@pytest.mark.parametrize("listed", ["gone.yaml", "packs/*.yaml", "tests"])
def test_a_file_that_is_not_there_is_wrong_usage(project: pytest.Pytester, listed: str) -> None:
    project.makepyprojecttoml(f'[tool.pytest.ini_options]\nguardtrail_policies = ["{listed}"]\n')
    result = project.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"guardtrail_policies: there is no file {project.path / listed}" in "\n".join(result.errlines)


def test_ini_files_have_lists_too(project: pytest.Pytester) -> None:
    (project.path / "pyproject.toml").unlink()
    project.makeini("[pytest]\nguardtrail_policies = policy.yaml\n")
    project.runpytest().assert_outcomes(passed=3)


def test_from_another_folder(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project, "policy.yaml", POLICY.replace("[deny args.constraint]", "[allow]"))
    monkeypatch.chdir(project.path / "tests")
    result = project.runpytest("--rootdir", str(project.path), "..")
    result.assert_outcomes(passed=2, failed=1)
    assert "policy.yaml:20:5: FAIL  another order   step 1" in result.outlines


@pytest.mark.slow
def test_under_xdist(project: pytest.Pytester) -> None:
    write(project, "policy.cases.yaml", CASES)
    for words in ([], ["policy.yaml", "tests"]):
        result = project.runpytest_subprocess("-n", "2", "-p", "no:randomly", *words)
        result.assert_outcomes(passed=3 if words else 4)


def test_a_project_that_does_not_ask_pays_nothing(pytester: pytest.Pytester) -> None:
    """Neither an item nor an import: pytest starts without the library."""
    write(pytester, "policy.yaml", POLICY)
    pytester.makepyfile(
        "import sys\n"
        "def test_own():\n"
        "    assert not [name for name in sys.modules if name.partition('.')[0] in ('guard', 'cryptography', 'opentelemetry')]\n"
    )
    result = pytester.runpytest_subprocess("-p", "no:schemathesis", "-v")
    result.assert_outcomes(passed=1)
    assert "policy.yaml" not in "\n".join(result.outlines)
