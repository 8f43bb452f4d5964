"""The sources' part of a plan: made once per tool and delegation, where a policy asks at all where values come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from guard.policy.data import FlowRow, PolicyData, Tool
from guard.workflow.flowtable import SourcePlan
from guard.workflow.ledger import LETTERS
from guard.workflow.origin import compile_origins, watched
from guard.workflow.rules import uses_sources

__all__ = ["compile_sources"]

_READS: Final = frozenset({"read", "fetch"})


def compile_sources(layers: Sequence[PolicyData], tool: Tool, intent: str | None, params: Mapping[str, object]) -> SourcePlan | None:
    """What the sources ask of `tool` under `intent`; None where no layer asks. `params`: normal, as `bind_params` gives them."""
    if not uses_sources(layers):
        return None
    base = layers[0]
    flows = [layer.flow for layer in layers if layer.flow is not None]
    rows = tuple((effect, flow.get(effect)) for flow in flows for effect in tool.effects)
    task = base.intents.get(intent) if intent is not None else None
    permission = task.allow.get(tool.name) if task is not None else None
    origins = compile_origins(permission.origins, tool.types, params, permission.at, permission.where) if permission is not None else ()
    pinned = frozenset(path for path, one in permission.args.items() if one.pins) if permission is not None else frozenset()
    cells = [row.cells for _, row in rows if row is not None]
    returns = tool.returns
    effects = frozenset(tool.effects)
    return SourcePlan(
        tool,
        rows,
        bool(flows),
        origins,
        watched(base, tool.name),
        tuple(sorted(tool.control)),
        tuple(path for path in tool.types if path not in tool.control),
        pinned,
        _advice(base, rows),
        learns=returns is None or not returns.none,
        writes=not effects <= _READS,
        hosts=any(row is not None and row.match == "host" for _, row in rows),
        endorsable=any("endorsed" in one or "any" in one for one in cells),
        delegates=bool(tool.control) and any(row is not None and row.handed for _, row in rows),
        downloads=tuple(path for path, kind in tool.types.items() if kind == "path") if "fetch" in effects else (),
    )


def _advice(base: PolicyData, rows: Sequence[tuple[str, FlowRow | None]]) -> str:
    """What the agent can do: a source every row allows, and the tools that give it."""
    allowed = [
        source
        for source in LETTERS
        if all(row is not None and row.cells.get(source, row.cells.get("any")) == "allow" for _, row in rows) and source != "endorsed"
    ]
    parts = []
    if "directory" in allowed:
        tools = sorted(name for name, one in base.tools.items() if one.returns and _gives(one, "directory"))[:3]
        if tools:
            parts.append(f"look it up with {' or '.join(tools)}")
    if "prompt" in allowed or "params" in allowed:
        parts.append("use a value the user has given")
    return ", or ".join(parts) or "an approval of this call"


def _gives(tool: Tool, source: str) -> bool:
    returns = tool.returns
    if returns is None:
        return False
    shapes = [returns.shape, *(variant.shape for variant in returns.variants)]
    return returns.format != "keyvalue" and any(leaf.source == source for shape in shapes for leaf in shape.values())
