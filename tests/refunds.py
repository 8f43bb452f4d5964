"""The policy of the first minute (README.md, examples/quickstart), from which most tests start."""

from __future__ import annotations

from pathlib import Path

__all__ = ["REFUNDS", "with_look"]

REFUNDS = (Path(__file__).parents[1] / "examples" / "quickstart" / "policy.yaml").read_text("utf-8")
_TOOL = "  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}\n"


def with_look(permission: str) -> str:
    """The same with a tool that reads, `look(order)`, and what the intent says of it. Rules and tests may follow."""
    assert REFUNDS.count(_TOOL) == 1 and REFUNDS.endswith("}\n")
    return REFUNDS.replace(_TOOL, _TOOL + "  look: {effect: read, control: {order: id}}\n") + f"      look: {permission}\n"
