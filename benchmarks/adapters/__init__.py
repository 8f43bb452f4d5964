"""What a guard adds to a framework's own tool call: rows `adapter.<framework>_added`, each measured in the environment of its adapter.

The ratio is (guarded - bare) / (a bare in-memory MCP call), CPU of the whole process, all interleaved in the same process: a framework's own tool call costs more
or less than another's, and what a guard adds is to be small beside what a call costs anyway. The MCP call is that of FastMCP, whose own row is measured against
itself that way. Bar: a third. `..._added_sdk`: the same over a call of the official SDK's client and server in one process, which do half as much; it informs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks.measure import Row
from tests.conformance.adapters import ADAPTERS

__all__ = ["adapter_rows"]

ROOT = Path(__file__).resolve().parents[2]
RUNS = 3
"""Processes of each: where code and data lie differs from one to the next, and with it what the caches hold."""
NAMES = ("plain", "langchain", "openai_agents", "fastmcp")


def adapter_rows(rounds: int) -> Iterator[Row]:
    sys.path.insert(0, str(ROOT / "tools"))
    from adapters import Unmade, environment

    for name in NAMES:
        try:
            python = environment(ADAPTERS[name], "newest", beside=(*ADAPTERS["fastmcp"].newest, *ADAPTERS["mcp"].newest))
        except Unmade as why:
            print(f"{f'adapter.{name}_added':24} not available: {why}")
            continue
        try:
            runs = [_run(python, name, rounds) for _ in range(RUNS)]
        except RuntimeError as why:
            print(f"{f'adapter.{name}_added':24} not available: {why}")
            continue
        found = {key: median(run[key] for run in runs) for key in runs[0]}
        for row, reference, bar in (("added", "fastmcp", 1 / 3), ("added_sdk", "sdk", None)):
            micros = found[f"{reference}_us"]
            said = f"a bare in-memory call of {'FastMCP' if reference == 'fastmcp' else 'the SDK'} ({micros} us)"
            ratio = median(run["added_us"] / run[f"{reference}_us"] for run in runs)
            yield Row(f"adapter.{name}_{row}", found["added_us"], said, round(ratio, 3), bar)


def _run(python: Path, name: str, rounds: int) -> dict[str, float]:
    command = [str(python), "-m", "benchmarks.adapters.subjects", name, str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["?"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))
