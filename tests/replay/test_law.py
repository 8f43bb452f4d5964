"""The law: a run replayed under the policy it was recorded under comes to the same verdicts and codes, call by call."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.replay.runs import recorded, replayed

RUNS = 400 if os.environ.get("HYPOTHESIS_PROFILE") != "campaign" else 20_000
PARTS = 4


# Once differed: a denial that waited while another task went on was dated by it, and fell into a window it was not in.
ONCE = (1450, 1593, 1635, 3196)


@pytest.mark.parametrize("part", range(PARTS))
def test_the_same_verdicts_and_codes(part: int, tmp_path: Path) -> None:
    calls = blocked = 0
    for seed in (*range(part, RUNS, PARTS), ONCE[part]):
        folder = tmp_path / f"{seed}-{calls}"
        world = recorded(seed, folder)
        judged, run = replayed(world, folder)
        lines = [json.loads(line) for file in folder.glob("audit*.jsonl") for line in file.read_text("utf-8").splitlines()]
        decided = {line["id"]: (line["verdict"], line["code"]) for line in lines if line["kind"] == "decision"}
        assert {one.seen.id: (one.verdict, one.code) for one in judged if one.seen.kind == "call"} == decided, f"seed {seed}"
        ends = [(one.seen.task[2], one.verdict, one.code) for one in judged if one.seen.kind == "task"]
        assert ends == [(line["task"], line["verdict"], line["code"]) for line in lines if line["kind"] == "task"], f"seed {seed}"
        assert not run.summary.not_judged, f"seed {seed}"
        assert (run.summary.differ, run.summary.orphans, run.summary.calls) == (0, 0, len(decided)), f"seed {seed}"
        calls += len(decided)
        blocked += sum(verdict != "allow" for verdict, _ in decided.values())
    assert calls > RUNS and blocked > calls // 20
