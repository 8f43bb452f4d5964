"""What others take for a rule about the past, each in an environment of its own: `make bench-peers` makes them and measures.

| row                 | what is measured                                                                              |
|---------------------|-----------------------------------------------------------------------------------------------|
| `peer.ours`         | our whole decision, from bound arguments to the committed reservation, under the same one rule |
| `peer.reelay_never` | one update of a past-time monitor: the formula alone, no identity, grants or shared state      |
| `peer.reelay_within`| the same for "only after an approval within an hour"                                           |
| `peer.invariant_N`  | the local check of a pending call in a trace of N calls                                        |

Where an environment cannot be made, the row says so and why.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import process_time_ns

from benchmarks.house import cached_decision
from benchmarks.measure import Row

__all__ = ["make_peers", "peers"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NAMES = ("reelay", "invariant")
_failed: dict[str, str] = {}
"""Why the environment of one could not be made."""
POLICY = """
guardtrail: 1
name: peer
owner: bench@acme.example
tools:
  tool_0: {effect: send, control: {order: id, to: email}, data: {amount: decimal}, returns: none}
  page: {effect: fetch, control: {order: id}, returns: {format: text, labels: [untrusted]}}
  file: {effect: read, control: {order: id}, returns: {format: json, labels: [private]}}
intents:
  work:
    description: Everything.
    params: {order: id, ceiling: decimal}
    ttl: 10h
    allow: {tool_0: {}, page: {}, file: {}}
rules:
  - {id: never-after-both, when: {tool: tool_0}, forbid_after: [{label: untrusted}, {label: private}]}
"""


def peers(rounds: int) -> Iterator[Row]:
    ours = _ours(rounds)
    yield Row("peer.ours", round(ours, 2), "itself", 1.0)
    for name in NAMES:
        found = _measured(name)
        if isinstance(found, str):
            print(f"{f'peer.{name}':24} not available: {found}")
            continue
        for what, micros in found.items():
            yield Row(f"peer.{name}_{what}", round(micros, 2), "peer.ours", round(micros / ours, 3))


def make_peers() -> None:
    """Make the environments that are not there; what cannot be made is said in its row."""
    for name in NAMES:
        listed = f"benchmarks/peers/{name}.txt"
        made = subprocess.run(
            ["sh", "tools/setup.sh", f".venv-peer-{name}", listed, "-r", listed], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        if made.stdout.strip():
            _failed[name] = made.stdout.strip()


def _ours(rounds: int, batch: int = 200) -> float:
    """Microseconds of a decision, the best of the rounds, as the others say theirs."""
    work = cached_decision(POLICY)
    work(batch)
    best = float("inf")
    for _ in range(rounds):
        began = process_time_ns()
        work(batch)
        best = min(best, (process_time_ns() - began) / batch / 1000)
    return best


def _measured(name: str) -> dict[str, float] | str:
    """What the script of `name` says in its environment, or why it says nothing."""
    venv = ROOT / f".venv-peer-{name}"
    if name in _failed:
        return _failed[name]
    python = venv / "bin" / "python"
    if not python.exists():
        return "no environment; make bench-peers"
    try:
        ran = subprocess.run([str(python), str(HERE / f"run_{name}.py")], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "no answer in 5 minutes"
    if ran.returncode:
        return (ran.stderr.strip().splitlines() or ["it failed"])[-1][:200]
    answer: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return answer
