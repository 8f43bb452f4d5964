"""Policy text -> exactly these problems. The tables stand in `lint/*.yaml`.

A table is a list of policies under `### name` lines. Behind a line, `#! column code text; suggestion` is an error that must be found
there, `#~` a warning; texts are beginnings. Nothing else may be found. Where a policy leaves its header out, one is put before it;
`# with: desk` puts the tools and intents of `_desk.yaml` behind it, `# with: counter` those of `_counter.yaml`. `# needs: cel` skips a row without that extra.

`later.yaml` is read with no part of the language switched on, all other tables with every part: neither changes when a judge lands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from guard.policy.supported import ALL
from tests.policy.reading import NOTHING, needs_cel, problems

HERE = Path(__file__).parent / "lint"
DESKS = {path.stem[1:]: path.read_text("utf-8") for path in HERE.glob("_*.yaml")}
_MARK = re.compile(r"\s*#([!~]) ([0-9]+) ([a-z-]+) ?((?:(?!\s#[!~] ).)*)")


@dataclass(frozen=True)
class Row:
    text: str
    parts: frozenset[str]
    expected: tuple[tuple[int, int, str, str, str], ...]


def rows() -> list[object]:
    found = []
    for table in sorted(HERE.glob("[a-z]*.yaml")):
        for chunk in re.split(r"^### ", table.read_text("utf-8"), flags=re.MULTILINE)[1:]:
            name, _, text = chunk.partition("\n")
            marks = [needs_cel] if "# needs: cel\n" in text else []
            parts = NOTHING if table.stem == "later" else ALL
            found.append(pytest.param(row(text.replace("# needs: cel\n", ""), parts), id=f"{table.stem}: {name}", marks=marks))
    return found


def row(marked: str, parts: frozenset[str]) -> Row:
    if not re.search(r"^guardtrail:", marked, re.MULTILINE):
        marked = "guardtrail: 1\nname: t\nowner: o\n" + marked
    for name, desk in DESKS.items():
        if f"# with: {name}\n" in marked:
            marked = marked.replace(f"# with: {name}\n", "") + desk
    lines, expected = [], []
    for number, line in enumerate(marked.split("\n"), 1):
        for kind, column, code, text in _MARK.findall(line):
            expected.append((number, int(column), "error" if kind == "!" else "warning", f"lint.{code}", text.strip()))
        lines.append(_MARK.sub("", line))
    return Row("\n".join(lines), parts, tuple(expected))


@pytest.mark.parametrize("case", rows())
def test_exactly_these_problems(case: Row) -> None:
    found = problems(case.text, case.parts)
    heads = {(p.line, p.column, p.level, p.code, f"{p.text}; {p.suggestion}" if p.suggestion else p.text) for p in found}
    unmet = [want for want in case.expected if not any(want[:4] == got[:4] and got[4].startswith(want[4]) for got in heads)]
    extra = [got for got in heads if not any(want[:4] == got[:4] and got[4].startswith(want[4]) for want in case.expected)]
    assert not unmet and not extra, "\n".join(
        ["", *(f"missing {one}" for one in sorted(unmet)), *(f"not expected {one}" for one in sorted(extra))]
    )
    assert len(found) == len(case.expected)


def test_the_page_shows_it_like_this() -> None:
    """UX.md section 3: file, line, column, code, text, the line itself, the caret's width, the suggestion."""
    text = (
        "guardtrail: 1\nname: refunds\ntools:\n  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}\nintents:\n"
        "  refund-order:\n    params: {order: id, ceiling: decimal}\n    allow:\n"
        "      refund: {args: {order: {eq: $order}, amuont: {range: {max: $ceiling}}}}\n"
    )
    (problem,) = problems(text)
    assert str(problem) == "policy.yaml:9:44: error [lint.unknown-argument] tool `refund` has no argument `amuont`; did you mean `amount`?"
    assert problem.excerpt is not None
    assert problem.excerpt[problem.column - 1 :][: problem.width] == "amuont"
    assert problem.suggestion == "did you mean `amount`?"
