"""What the tests of the policy language share: texts read with all parts of the language, with none, and what was found in them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from guard.errors import PolicyError, Problem
from guard.policy import Policy
from guard.policy.load import read_policy
from guard.policy.problems import Report
from guard.policy.supported import ALL
from guard.policy.yamltext import parse, plain

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
DESK = (Path(__file__).parent / "lint" / "_desk.yaml").read_text("utf-8")
NOTHING: frozenset[str] = frozenset()

HAS_CEL = importlib.util.find_spec("cel_expr_python") is not None
needs_cel = pytest.mark.skipif(not HAS_CEL, reason='CEL is not installed: pip install "guardtrail[cel]"')


def whole(rest: str, name: str = "desk") -> Policy:
    """The policy of `rest` under a header, read with every part of the language."""
    return read_policy(f"guardtrail: 1\nname: {name}\nowner: o\n{rest}", file=f"{name}.yaml", parts=ALL)


def problems(text: str, parts: frozenset[str] = ALL) -> tuple[Problem, ...]:
    """Every problem of `text`, errors and warnings."""
    try:
        return read_policy(text, parts=parts).warnings
    except PolicyError as error:
        return error.problems


def data_of(text: str) -> object:
    """The text as plain data, as an editor sees it."""
    node = parse(text, Report(text, "policy.yaml"))
    assert node is not None
    return plain(node)


def block_of(page: str) -> str:
    """The first YAML block of a page of the design."""
    path = SHARED / page
    if not path.is_file():
        pytest.skip(f"{page} of the design is not beside this checkout")
    found = re.search(r"```yaml\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]
