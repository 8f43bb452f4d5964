"""How published peers failed open: every row of the corpus that touches what is built is a test here or names the test that holds it.

The table of calls is rows.yaml; what is no single call stands below. Rows of parts that are not built yet are listed with the part.
"""

from __future__ import annotations

import ast
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.constraints import parse, subsumes
from guard.decide import decide
from guard.errors import ConfigError, PolicyError
from guard.model import Finding
from guard.reasons import ReasonCode
from guard.record import ListSink
from guard.testing import FrozenClock
from tests.policy.reading import HAS_CEL

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TABLE: list[dict[str, Any]] = yaml.safe_load((HERE / "rows.yaml").read_text("utf-8"))

# Rows held by a test somewhere else: file and function, or several where several adapters had it.
A = "tests/adapters"
ELSEWHERE: dict[str, tuple[str, ...]] = {
    "F12": ("tests/runtime/test_matrix.py::test_cell",),
    "F27": ("tests/runtime/test_calls.py::test_positional_and_keyword_are_one_call",),
    "F31": ("tests/runtime/test_calls.py::test_bad_arguments_deny",),
    "F34": ("tests/runtime/test_calls.py::test_outside_a_task",),
    "F36": (f"{A}/served.py::test_f36_the_same_verdicts_on_every_transport",),
    "F40": (
        "tests/runtime/test_proof.py::test_a098_a_proof_is_good_once",
        "tests/runtime/test_proof.py::test_a099_two_processes_and_one_proof",
    ),
    "F41": ("tests/tokens/test_chain.py::test_row", "tests/tokens/test_chain.py::test_no_signed_mutation_is_wider"),
    "F42": ("tests/tokens/test_chain.py::test_row",),
    "F43": ("tests/tokens/test_chain.py::test_no_mutation_of_the_text_is_taken",),
    "F44": (
        "tests/servers/test_authorization.py::test_a_person_and_two_exchanges",
    ),  # a real authorization server, and a token is verified by its keys
    "F45": ("tests/servers/test_authorization.py::test_opaque_tokens_can_be_looked_at_and_taken_back",),
    "F46": ("tests/state/test_contention.py::test_eight_processes_get_exactly_the_limit",),
    "F48": ("tests/runtime/test_calls.py::test_context_is_lost_in_a_bare_thread_and_denies",),
    "F49": (
        f"{A}/test_crewai.py::test_f49_an_exception_in_a_hook_runs_nothing",
        f"{A}/test_crewai.py::test_f49_our_own_hook_says_no_whatever_happens",
    ),
    "F50": (f"{A}/test_crewai.py::test_f50_a_coroutine_decides_nothing",),
    "F51": (f"{A}/test_crewai.py::test_f51_an_ask_reads_no_terminal",),
    "F52": (f"{A}/test_dspy.py::test_a_callback_that_raises_stops_nothing_and_the_guard_does",),
    "F53": (f"{A}/test_agno.py::test_the_guard_stands_whatever_becomes_of_hooks",),
    "F54": (f"{A}/test_agno.py::test_the_guard_stands_whatever_becomes_of_hooks",),
    "F55": ("tests/hook/test_line.py::test_whatever_else_answers_is_no",),
    "F56": (f"{A}/test_claude_agent_sdk.py::test_f56_every_hook_blocks_where_it_fails",),
    "F57": (
        f"{A}/test_mcp.py::test_the_list_is_shortened_and_a_hidden_tool_is_denied_all_the_same",
        f"{A}/served.py::test_f57_a_tool_that_is_not_shown_is_not_callable",
        f"{A}/test_langchain.py::test_f57_a_hidden_tool_that_is_called_by_name_is_denied",
        f"{A}/test_agent_framework.py::test_f57_a_hidden_tool_is_denied_when_it_is_called",
        f"{A}/test_strands.py::test_f57_a_hidden_tool_is_denied_when_it_is_called",
    ),
    "F58": (
        f"{A}/test_openai_agents.py::test_f58_f61_every_agent_that_is_handed_over_to_is_judged",
        f"{A}/test_agent_framework.py::test_f58_a_sub_agent_without_a_guard_does_not_start",
    ),
    "F59": (f"{A}/test_llamaindex.py::test_f59_inside_a_workflow_as_outside_of_it",),
    "F60": (f"{A}/test_semantic_kernel.py::test_the_same_verdict_past_the_filter",),
    "F61": (f"{A}/test_openai_agents.py::test_f58_f61_every_agent_that_is_handed_over_to_is_judged",),
    "F62": (
        "tests/runtime/test_calls.py::test_the_body_is_sealed",
        f"{A}/test_openai_agents.py::test_f62_f65_the_tool_itself_ends_at_the_sealed_body",
    ),
    "F63": (f"{A}/test_fastmcp.py::test_f63_f65_what_goes_past_the_middleware_ends_at_a_sealed_body",),
    "F64": (f"{A}/test_smolagents.py::test_f64_code_finds_no_way_around",),
    "F65": (
        "tests/runtime/test_calls.py::test_a_lease_is_for_one_tool",
        f"{A}/test_langchain.py::test_f65_the_tool_itself_ends_at_the_sealed_body",
    ),
    "F66": (
        f"{A}/test_mcp.py::test_a_ready_made_accept_authorizes_nothing",
        f"{A}/served.py::test_f66_a_ready_made_yes_authorizes_nothing",
    ),
    "F67": (f"{A}/test_langchain.py::test_f67_two_approvals_in_one_bare_tool_node_run_each_body_once",),
    "F68": (
        "tests/runtime/test_calls.py::test_resumed_call_gets_its_outcome_and_runs_once",
        f"{A}/test_llamaindex.py::test_f68_a_step_that_is_repeated_runs_its_body_once",
    ),
    "F69": (f"{A}/test_pydantic_ai.py::test_f69_other_arguments_than_those_approved_are_another_call",),
    "F70": (f"{A}/test_pydantic_ai.py::test_f70_a_no_of_the_program_is_on_record_and_counts_after_a_persons_yes",),
    "F71": ("tests/record/test_verify.py::test_a_cut_tail_is_incomplete",),
    "F72": ("tests/record/test_spans.py::test_an_allowed_call",),
}

HERE_TOO = {"F03", "F13", "F15", "F16", "F17", "F20", "F25", "F35", "F37", "F38", "F39", "F47", "F73", "F74"}


def policy(rules: list[dict[str, Any]] | None = None) -> str:
    return json.dumps(
        {
            "guardtrail": 1,
            "name": "peers",
            "owner": "o@acme.example",
            "tools": {
                "pay": {
                    "effect": "write",
                    "control": {"to[]": "email", "name": "name"},
                    "data": {"amount": "decimal", "path": "path", "action": "name"},
                },
                "send_email": {"effect": "send", "control": {"name": "name"}},
            },
            "intents": {"work": {"description": "d", "allow": {"pay": {}, "send_email": {"args": {"name": {"any": True}}}}}},
            "rules": rules or [],
        }
    )


class Desk:
    def __init__(self, text: str) -> None:
        clock = FrozenClock()
        self.iam = LocalIssuer("acme-dev", clock=lambda: clock.now().timestamp())
        self.sink = ListSink()
        self.guard = Guard(Policy.from_text(text), trust=self.iam, sinks=[self.sink], clock=clock, deadline=timedelta(seconds=30))
        self.ran = 0

    def body(self, **_: object) -> None:
        self.ran += 1

    def call(self, tool: str, args: Any) -> str:
        try:
            self.guard.call(ToolCall(tool, args), self.body)
        except Denied as denied:
            return str(denied.code)
        return "allow"


def repeated(call: dict[str, Any]) -> Any:
    times = call.get("repeat", 1)
    return {**call["args"], "to": call["args"]["to"] * times} if times > 1 else call["args"]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{'-'.join(row['rows'])} {row['why'][:40]}")
def test_calls(row: dict[str, Any]) -> None:
    if row.get("needs") == "cel" and not HAS_CEL:
        pytest.skip("CEL is not installed")
    desk = Desk(policy(row.get("rules")))
    tools = {"pay": row["grant"]} if "grant" in row else None
    token = desk.iam.mint(origin="alice", actor="worker", intent="work", tools=tools)
    with desk.guard.task(token):
        got = [desk.call(call.get("tool", "pay"), repeated(call)) for call in row["calls"]]
    assert got == [call["expect"] for call in row["calls"]]
    assert desk.ran == got.count("allow"), "a denied body does not run"
    assert [str(r.code) for r in desk.sink.decisions] == ["permit" if code == "allow" else code for code in got], "every denial is recorded"


def test_f03_deeply_nested_policy_is_refused_before_parsing() -> None:
    for text in ("a: " + "[" * 1000 + "]" * 1000, "a: " + "{a: " * 1000 + "}" * 1000, "(" * 1000, "x" * (2 << 20)):
        with pytest.raises(PolicyError):
            Policy.from_text(text)


def test_f13_nothing_backtracks() -> None:
    """No pattern of ours takes more than linear time: a text of a million characters that almost matches."""
    for raw in ({"glob": "*a*a*a*a*a*a*b"}, {"glob": "*b"}, {"suffix": "b"}):
        assert not parse(raw).matches("a" * 8000 + "c")
    with pytest.raises(ValueError, match="no kind of constraint `regex`"):
        parse({"regex": "(a+)+$"})


@pytest.mark.parametrize("given", [[], (), "", None, {}])
def test_f15_no_policy_no_guard(given: Any) -> None:
    with pytest.raises((ConfigError, TypeError)):
        Guard(given, trust=LocalIssuer("acme-dev"), sinks=[ListSink()])


@pytest.mark.parametrize(
    "rule", ["deny when not amount > 5", "deny when (amount > 1000)", {"deny": "amount > 1000"}, {"when": "amount > 1000"}]
)
def test_f16_f17_a_rule_that_cannot_be_read_does_not_load(rule: Any) -> None:
    with pytest.raises(PolicyError):
        Policy.from_text(policy([rule if isinstance(rule, str) else {"id": "r", **rule}]))  # type: ignore[list-item]


def test_f20_a_rule_on_a_tool_sees_the_decorated_function() -> None:
    desk = Desk(policy([{"id": "no-mail", "when": {"tool": "send_email"}}]))

    @desk.guard.tool
    def send_email(name: str) -> None:
        desk.ran += 1

    with desk.guard.task(desk.iam.mint(origin="alice", actor="worker", intent="work")), pytest.raises(Denied, match="rule.match"):
        send_email("bob")
    assert desk.ran == 0


@pytest.mark.parametrize("origin", ["", " ", "\u200b", None])
def test_f25_nobody_is_no_origin(origin: Any) -> None:
    with pytest.raises(ConfigError):
        LocalIssuer("acme-dev").mint(origin=origin, actor="worker", intent="work")


def test_f35_only_the_word_permit_permits() -> None:
    for says in ("no", "yes", "allow", "PERMIT", True, 1, object()):
        finding = Finding("token", says, ReasonCode.PERMIT)  # type: ignore[arg-type]
        assert decide([finding], ("token",)).verdict == "deny"


@pytest.mark.parametrize(
    ("row", "parent", "child"),
    [
        ("F37", {"glob": "*b"}, {"glob": "*[ab]"}),
        ("F38", {"eq": "a b"}, {"eq": "ab"}),
        ("F39", {"under": "/data"}, {"under": "/data/../etc"}),
    ],
)
def test_f37_f38_f39_unsound_children(row: str, parent: dict[str, Any], child: dict[str, Any]) -> None:
    try:
        read = parse(child)
    except ValueError:
        return  # does not even parse
    assert not subsumes(parse(parent), read), row


def test_f47_a_chain_is_the_task_not_the_connection() -> None:
    """Two calls of one task from two connections (here: two openings) share one limit."""
    desk = Desk(policy([{"id": "once", "when": {"tool": "pay"}, "limit": {"calls": 1}}]))
    token = desk.iam.mint(origin="alice", actor="worker", intent="work", txn="t-1")
    with desk.guard.task(token):
        assert desk.call("pay", {"name": "x"}) == "allow"
        with desk.guard.task(token):
            assert desk.call("pay", {"name": "x"}) == "rule.limit"


def test_f73_nothing_to_verify_is_not_a_pass(tmp_path: Path) -> None:
    from guard.record import verify_log

    (tmp_path / "audit.jsonl").write_bytes(b"")
    assert not verify_log(tmp_path / "audit.jsonl").ok


def test_f74_the_thousandth_call_is_judged_as_the_first() -> None:
    desk = Desk(policy([{"id": "cap", "when": {"tool": "pay"}, "limit": {"calls": 2999}}]))
    with desk.guard.task(desk.iam.mint(origin="alice", actor="worker", intent="work")):
        got = [desk.call("pay", {"name": "x"}) for _ in range(3000)]
    assert got == ["allow"] * 2999 + ["rule.limit"]


def test_every_row_has_its_place(corpora: Path) -> None:
    rows = {json.loads(line)["id"] for line in (corpora / "fail_open.jsonl").read_text("utf-8").splitlines() if line.strip()}
    placed = {row for entry in TABLE for row in entry["rows"]} | HERE_TOO | ELSEWHERE.keys()
    assert placed == rows


@pytest.mark.parametrize("place", sorted({place for places in ELSEWHERE.values() for place in places}))
def test_the_tests_named_here_exist(place: str) -> None:
    file, _, name = place.partition("::")
    functions = {
        node.name
        for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions
