"""What a guard adds to a framework's own tool call: rows `adapter.<framework>_added`, each measured in the environment of its adapter.

The ratio is (guarded - bare) / (a bare in-memory call of the MCP SDK), CPU of the whole process, the three interleaved in the same process: a framework's own tool
call costs more or less than another's, and what a guard adds is to be small beside what a call costs anyway. Bar: a third.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Row
from tests.conformance.adapters import ADAPTERS

__all__ = ["adapter_rows"]

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("plain", "langchain", "openai_agents", "fastmcp")


def adapter_rows(rounds: int) -> Iterator[Row]:
    sys.path.insert(0, str(ROOT / "tools"))
    from adapters import Unmade, environment

    for name in NAMES:
        try:
            python = environment(ADAPTERS[name], "newest", beside=ADAPTERS["mcp"].newest)
        except Unmade as why:
            print(f"{f'adapter.{name}_added':24} not available: {why}")
            continue
        done = subprocess.run(
            [str(python), "-m", "benchmarks.adapters.subjects", name, str(rounds)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            print(f"{f'adapter.{name}_added':24} not available: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        yield Row(f"adapter.{name}_added", found["added_us"], f"a bare in-memory MCP call ({found['mcp_us']} us)", found["ratio"], 1 / 3)
