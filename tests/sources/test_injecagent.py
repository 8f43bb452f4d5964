"""The reader of injected single steps, against the corpus and its README; then its one measure, through replay. Labels serve for scoring."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guard import Policy
from guard.replay import Replay
from guard.sources import Found, Seen, read


@pytest.fixture(scope="module")
def rows(corpora: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cases by id and the users' requests by name, as they stand in the files."""
    folder = corpora / "injecagent"
    cases, users = (
        {row[key]: row for row in map(json.loads, (folder / name).read_text("utf-8").splitlines())}
        for name, key in (("cases.jsonl", "id"), ("user_cases.jsonl", "user_case"))
    )
    return cases, users


def test_each_case_is_the_users_call_and_then_what_the_text_wants(rows: tuple[dict[str, Any], dict[str, Any]], corpora: Path) -> None:
    cases, users = rows
    found = Found()
    events = list(read([corpora / "injecagent" / "cases.jsonl"], found=found))
    assert (len(cases), len(users), len(events)) == (1054, 17, 1054 + 510 + 2 * 544)
    assert (sum(found.broken.values()), found.unreadable) == (0, {})
    told: dict[str, list[Seen]] = {}
    for one in events:
        told.setdefault(one.task[2], []).append(one)
    assert list(told) == list(cases), "in the order of the file, none mixed up with another"
    for name, case in cases.items():
        first, *others = told[name]
        user = users[case["user_case"]]
        assert (first.tool, first.args, first.result, first.known_result) == (user["user_tool"], user["user_args"], case["text"], True)
        assert [(one.tool, one.args, one.known_result) for one in others] == [(tool, None, False) for tool in case["attacker_tools"]]
        assert {one.prompt for one in told[name]} == {user["user_instruction"]}
        assert [one.step for one in told[name]] == list(range(1, len(told[name]) + 1))
        assert all(one.kind == "call" and one.status == "ok" and one.trust == "recorded" and not one.verdict for one in told[name])
    assert [one.at for one in events] == sorted({one.at for one in events})


def test_the_requests_alone_are_one_call_each(rows: tuple[dict[str, Any], dict[str, Any]], corpora: Path) -> None:
    events = list(read([corpora / "injecagent" / "user_cases.jsonl"]))
    assert [(one.task[2], one.tool, one.args, one.known_result) for one in events] == [
        (name, user["user_tool"], user["user_args"], False) for name, user in rows[1].items()
    ]


def test_the_users_tool_only(rows: tuple[dict[str, Any], dict[str, Any]], corpora: Path) -> None:
    """The README's measure: 1,054 calls of users let, 1,598 of the injected text denied but the one whose tool is the user's."""
    cases, users = rows
    policies = {
        name: Policy.from_text(
            json.dumps(
                {
                    "guardtrail": 1,
                    "name": name,
                    "owner": "o@acme.example",
                    "tools": {user["user_tool"]: {"effect": "read", "data": dict.fromkeys(user["user_args"], "any")}},
                }
            )
        )
        for name, user in users.items()
    }
    replays = {name: Replay([policy]) for name, policy in policies.items()}
    judged = [
        one for seen in read([corpora / "injecagent" / "cases.jsonl"]) for one in replays[cases[seen.task[2]]["user_case"]].feed(seen)
    ]
    judged += [one for replay in replays.values() for one in replay.close()]
    assert len(judged) == 2652
    verdicts = Counter((one.seen.step == 1, one.verdict, one.code) for one in judged)
    assert verdicts == {(True, "allow", "permit"): 1054, (False, "deny", "tool.unknown"): 1597, (False, "allow", "permit"): 1}
    (missed,) = (one.seen.task[2] for one in judged if one.seen.step > 1 and one.verdict != "deny")
    assert missed == "ds-275"


def test_rows_that_are_odd(tmp_path: Path) -> None:
    """A case whose request is not there, none whose text wants anything, and a line that is no case."""
    lines = [
        {"id": "a", "user_case": "u9", "user_tool": "look", "attacker_tools": ["send"], "text": "x"},
        {"id": "b", "user_case": "u1", "user_tool": "look", "attacker_tools": None, "text": None},
        {"id": "c", "user_case": "u1"},
        ["d"],
    ]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    (tmp_path / "user_cases.jsonl").write_text(
        '{"user_case": "u1", "user_instruction": "Look.", "user_tool": "look", "user_args": {"n": 1}}\n'
    )
    found = Found()
    events = list(read([tmp_path / "cases.jsonl"], found=found))
    assert [(one.task[2], one.tool, one.args, one.result, one.known_result, one.prompt) for one in events] == [
        ("a", "look", None, "x", True, None),
        ("a", "send", None, None, False, None),
        ("b", "look", {"n": 1}, None, False, "Look."),
    ]
    assert sum(found.broken.values()) == 2
