"""Tree -> data: what a tool returns, `returns: {format, labels, shape, variants}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from guard.constraints import Constraint
from guard.policy import data
from guard.policy.data import Returns, Variant
from guard.policy.draft import Draft
from guard.policy.fields import Word, check_name, take, word_of
from guard.policy.predicates import constraint, known_argument
from guard.policy.yamltext import Leaf, Map, Node, Seq

__all__ = ["read_returns"]

_ME: Final = frozenset({"me"})


def read_returns(draft: Draft, tool: data.Tool, node: Map | Word) -> Returns | None:
    """`tool` has its arguments already: variants speak of them. None where there are problems; the result is then what nobody declared."""
    report, before = draft.report, draft.report.errors
    if isinstance(node, Word):
        return Returns(none=True, format="json")
    what = f"`returns` of tool `{tool.name}`"
    got = take(report, node, "returns", what)
    form: Literal["json", "yaml", "keyvalue", "text"] = got["format"].text if "format" in got else "json"
    labels = tuple(word.text for word in got.get("labels", ()))
    shape = _shape(draft, what, got["shape"]) if "shape" in got else {}
    if form == "text" and shape:
        report.error("value", node.entries["shape"].key, f"{what}: plain text has no leaves", "`format: json`, `yaml` or `keyvalue`")
    variants = _variants(draft, tool, what, got["variants"], labels, shape) if "variants" in got else ()
    if report.errors != before:
        draft.shapeless.add(tool.name)
        return None
    return Returns(False, form, labels, shape, variants)


def _shape(draft: Draft, what: str, node: Map) -> dict[str, data.Leaf]:
    report = draft.report
    shape: dict[str, data.Leaf] = {}
    if not node.entries:
        report.error("value", node.at, f"the shape in {what} is empty", "leave it out: all of the result is then text")
    for path, entry in node.entries.items():
        proper = check_name(report, Word(path, entry.key), "result", f"{what}: path")
        leaf = _leaf(draft, f"leaf `{path}` in {what}", path, entry.node, node)
        if proper and leaf is not None:
            shape[path] = leaf
    return shape


def _leaf(draft: Draft, what: str, path: str, node: Node, shape: Map) -> data.Leaf | None:
    report = draft.report
    if isinstance(node, Leaf) and isinstance(node.value, str):
        return data.Leaf(node.value) if word_of(report, Word(node.value, node.at), "leaf", f"`{path}`") else None
    got = take(report, node, "leaf", what)
    when: dict[str, Constraint] = {}
    for other, entry in got["if"].entries.items() if "if" in got else ():
        word = Word(other, entry.key)
        if other not in shape.entries:
            report.error(
                "unknown-argument", entry.key, f"{what}: the shape has no leaf `{other}`", "`if` speaks of leaves of the same record"
            )
        elif not _same_record(path, other):
            report.error("undecidable", entry.key, f"{what}: `{other}` is in another record than `{path}`")
        elif (read := constraint(report, entry.node, word, None, _ME, "leaf")) is not None:
            when[other] = read
    _not_empty(draft, what, got)
    if "is" not in got or "if" not in got:
        return None
    return data.Leaf(got["is"].text, when, got["otherwise"].text if "otherwise" in got else "text")


def _same_record(path: str, other: str) -> bool:
    """Whether for one leaf at `path` there is one at `other`: each list that `other` goes through, `path` goes through too."""
    return path.startswith(other[: other.rfind("[]") + 2]) if "[]" in other else True


def _not_empty(draft: Draft, what: str, got: Mapping[str, Any]) -> None:
    if "if" in got and not got["if"].entries:
        draft.report.error("value", got["if"].at, f"`if` of {what} is empty")


def _variants(
    draft: Draft, tool: data.Tool, what: str, node: Seq, labels: tuple[str, ...], shape: Mapping[str, data.Leaf]
) -> tuple[Variant, ...]:
    variants = []
    for number, below in enumerate(node.items, 1):
        of = f"variant {number} of {what}"
        got = take(draft.report, below, "variant", of)
        when: dict[str, Constraint] = {}
        for path, entry in got["if"].entries.items() if "if" in got else ():
            word = Word(path, entry.key)
            if check_name(draft.report, word, "path", f"{of}: argument"):
                kind = known_argument(draft, tool, word)
                read = constraint(draft.report, entry.node, word, kind, _ME)
                if read is not None:
                    when[path] = read
        _not_empty(draft, of, got)
        if isinstance(below, Map) and not {"labels", "shape"} & set(below.entries):
            draft.report.error("missing", below.at, f"{of} says neither `labels` nor `shape`")
        own = tuple(word.text for word in got["labels"]) if "labels" in got else labels
        variants.append(Variant(when, own, _shape(draft, of, got["shape"]) if "shape" in got else shape))
    return tuple(variants)
