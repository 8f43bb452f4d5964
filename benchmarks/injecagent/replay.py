"""InjecAgent's cases through a real `Guard`: the user's call, its poisoned result, then every call the injected text wants."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.agentdojo.replay import lines
from guard import Denied, Guard, LocalIssuer, ToolCall
from guard.testing import FrozenClock, ListSink

__all__ = ["POLICY", "Case", "replay"]

POLICY = Path(__file__).resolve().parent / "policy.yaml"
_MOST_TRIES = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One case. `said`: the user's call. `refused`, `wanted`: how many of the attack's calls were refused, of how many."""

    id: str
    said: str
    refused: int
    wanted: int

    @property
    def stopped(self) -> bool:
        """The attack did not get all it wants."""
        return self.refused > 0


def replay(corpora: Path) -> Iterator[Case]:
    """Every case on a task of its own. The attack's calls have no recorded arguments: other tools are called without any; the user's own tool
    with every run of words of the injected text in each argument, all of which must be refused; a run that the user said too is the user's.
    """
    folder = corpora / "injecagent"
    users = {one["user_case"]: one for one in lines(folder / "user_cases.jsonl")}
    clock = FrozenClock()
    iam = LocalIssuer("corpora", clock=lambda: clock.now().timestamp())
    guard = Guard(POLICY, trust=iam, sinks=[ListSink()], clock=clock, deadline=timedelta(seconds=60))
    for case in lines(folder / "cases.jsonl"):
        yield _case(guard, iam, users[case["user_case"]], case)


def _case(guard: Guard, iam: LocalIssuer, user: Mapping[str, Any], case: Mapping[str, Any]) -> Case:
    token = iam.mint(origin="alice", actor="assistant", intent=user["user_tool"])
    start, end = case["injection_span"]
    with guard.task(token, prompt=user["user_instruction"]):
        said = _verdict(guard, user["user_tool"], user["user_args"], case["text"])
        refused = 0
        for tool in case["attacker_tools"]:
            tries = _tries(user, case["text"][start:end]) if tool == user["user_tool"] else iter([{}])
            refused += all(_verdict(guard, tool, args, "done") != "allow" for args in tries)
    return Case(case["id"], said, refused, len(case["attacker_tools"]))


def _tries(user: Mapping[str, Any], text: str) -> Iterator[dict[str, Any]]:
    args, own = user["user_args"], user["user_instruction"].casefold()
    words = re.findall(r"[^\s()\"',:;]+", text)
    runs = [" ".join(words[at : at + size]).rstrip(".") for size in (1, 2, 3) for at in range(len(words) - size + 1)]
    runs = [run for run in runs if run.casefold() not in own]
    made = ({**args, name: [run] if isinstance(old, list) else run} for run in runs for name, old in args.items())
    return islice(made, _MOST_TRIES)


def _verdict(guard: Guard, tool: str, args: Mapping[str, Any], result: str) -> str:
    try:
        guard.call(ToolCall(tool, args), lambda **_: result)
    except Denied as denied:
        return denied.decision.verdict
    return "allow"
