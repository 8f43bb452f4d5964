"""Records and logs for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from guard.events import DecisionRecord, OutcomeRecord
from guard.model import Finding
from guard.record import AuditFile

_ids = count()
FINDINGS = (
    Finding("intent", "permit", "permit", where="policy.yaml:3:1", text="order equals $order"),  # type: ignore[arg-type]
    Finding("state", "permit", "permit", text="reserved"),  # type: ignore[arg-type]
)


def decision(**over: Any) -> DecisionRecord:
    """An allowed call, unless `over` says otherwise."""
    given: dict[str, Any] = {
        "id": f"01KAW5C{next(_ids):019d}", "at": 1_700_000_000_000_000, "tenant": "default", "task": "t-1", "step": 1, "call": "", "tool": "refund",
        "effects": ("pay",), "verdict": "allow", "mode": "enforce", "code": "permit", "findings": FINDINGS, "fix": None, "witnesses": (),
        "policy": "shop@0123456789ab", "intent": "refund-order", "issuer": "local", "credential": "acme-dev/7Qm2", "kid": "k", "origin": "p-00",
        "origin_kind": "person", "actors": ("orchestrator", "worker"), "workload": "local", "args_hmac": "0" * 32,
    }  # fmt: skip
    return DecisionRecord(**(given | over))


def outcome(of: DecisionRecord, **over: Any) -> OutcomeRecord:
    given: dict[str, Any] = {"decision": of.id, "at": of.at + 1, "task": of.task, "step": of.step, "tool": of.tool, "status": "ok"}
    return OutcomeRecord(**(given | over))


def log_of(folder: Path, calls: int, *, tail: int = 0) -> Path:
    """A closed log of 2 * `calls` records; with `tail`, so many more under no checkpoint, as a crash leaves them. Its audit file."""
    sink = AuditFile(folder)
    for step in range(1, calls + 1):
        made = decision(step=step)
        sink.decision(made)
        sink.outcome(outcome(made))
    sink.close()
    log = folder / "audit.jsonl"
    if tail:
        lines, at = log.read_bytes().splitlines(keepends=True), checkpoint(folder)
        for step in range(tail):
            lines.append(chained(decision(step=step).to_dict(), at["writer"], len(lines) + 1, json.loads(lines[-1])["hash"]))
        log.write_bytes(b"".join(lines))
    return log


def checkpoint(folder: Path) -> dict[str, Any]:
    """The last one of the main file."""
    found: dict[str, Any] = json.loads((folder / "checkpoints.jsonl").read_bytes().splitlines()[-1])
    return found


def chained(record: dict[str, Any], writer: str, seq: int, prev: str) -> bytes:
    """A line as the format page says, made without the code under test."""
    plain = {name: value for name, value in record.items() if name not in ("writer", "seq", "prev", "hash")}
    head = json.dumps({**plain, "writer": writer, "seq": seq, "prev": prev}, separators=(",", ":"))[:-1]
    return f'{head},"hash":"{sha256(head.encode()).hexdigest()}"}}\n'.encode()


def rechained(lines: Iterable[bytes], first: int, writer: str, prev: str, *, numbers: bool) -> list[bytes]:
    """Every hash written anew from the line at index `first`, as somebody does who knows the format; `numbers`: the numbers too."""
    out = list(lines)
    if first:
        prev = json.loads(out[first - 1])["hash"]
    for i in range(first, len(out)):
        record = json.loads(out[i])
        out[i] = chained(record, writer, i + 1 if numbers else record["seq"], prev)
        prev = json.loads(out[i])["hash"]
    return out


def records_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("audit*.jsonl")) for line in path.read_bytes().splitlines()]
