"""The same chain through every framework: byte for byte the same decisions, and spans of the same shape."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from guard.errors import Denied
from guard.model import ToolCall
from guard.testing.conformance.script import Call
from guard.testing.conformance.stage import Stage, behaviour, same
from guard.testing.conformance.world import World

__all__ = ["CHAIN", "decisions", "span_shapes"]

CHAIN: tuple[Call, ...] = (
    Call("c1", "look", {"order": "A-17"}),
    Call("c2", "refund", {"order": "A-17", "amount": "20"}),
    Call("c3", "refund", {"order": "A-17", "amount": "51"}),
    Call("c4", "wipe", {"order": "A-17"}),
    Call("c5", "look", {"order": "B-1"}),
    Call("c6", "save", {"file": "/etc/passwd", "text": "x"}),
    Call("c7", "refund", {"order": "A-18", "amount": "1"}),
    Call("c8", "refund", {"order": "A-19", "amount": "1"}),
    Call("c9", "refund", {"order": "A-20", "amount": "1"}),
    Call("c10", "pay", {"to": "bob", "amount": "999"}),
)


@behaviour("one chain of ten calls: the same decisions (verdict, code, rule, fix) and the same spans as from `guard.call`, byte for byte")
def same_chain(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = World(Path(folder).resolve())
        bodies = {body.__name__: body for body in plain.tools()}
        with plain.open():
            for call in CHAIN:
                try:
                    plain.guard.call(ToolCall(call.tool, call.args, call.id if stage.driver.ids else ""), bodies[call.tool])
                except Denied:
                    pass
    stage.play(*((call,) for call in CHAIN))
    same(decisions(stage.world), decisions(plain), "the decisions")
    same(span_shapes(stage.world), span_shapes(plain), "the spans")


def decisions(world: World) -> str:
    """What was decided, as canonical text: tool, verdict, mode, code, fix, and every finding with rule and place."""
    rows = [
        [
            r.tool,
            r.step,
            r.verdict,
            r.mode,
            str(r.code),
            r.fix,
            [[f.judge, f.says, str(f.code), f.rule, f.where, f.text] for f in r.findings],
        ]
        for r in world.decisions
    ]
    return json.dumps(rows, indent=0)


def span_shapes(world: World) -> str:
    """Names, kinds, states and attribute names of the spans of calls, in the order they ended."""
    rows = [
        [s.name, str(s.kind), str(s.status.status_code), sorted(s.attributes or {}), [e.name for e in s.events], len(s.links)]
        for s in world.spans()
    ]
    return json.dumps(rows, indent=0)
