"""What depends on the prompt, through the real guard: `prompted.yaml` carries its own traces."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.policy.load import read_policy
from guard.testing import run_case

TEXT = (Path(__file__).parent / "prompted.yaml").read_text("utf-8")
POLICY = read_policy(TEXT)


@pytest.mark.parametrize("number", range(len(POLICY.tests)), ids=[case.name for case in POLICY.tests])
def test_case(number: int) -> None:
    result = run_case(POLICY, POLICY.tests[number])
    assert result.ok, f"step {result.failed}: {result.steps[-1].text}: {result.message}"


def test_a_row_that_depends_on_the_prompt_needs_no_asked() -> None:
    head, letters = TEXT[: TEXT.index("rules:")], TEXT[TEXT.index("  - name: the account is left to the letter") :]
    bare = "".join(line for line in head.splitlines(keepends=True) if not line.startswith("asked:"))
    policy = read_policy(f"{bare}tests:\n{letters}")
    assert policy.asked is None
    assert len(policy.tests) == 2
    for case in policy.tests:
        result = run_case(policy, case)
        assert result.ok, f"{case.name}, step {result.failed}: {result.message}"
