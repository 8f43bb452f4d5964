"""`make standstill`: it stops what the command starts, lets it go on, and ends as the command does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "standstill.py"

# A parent that asks its child in a loop; it ends with 7 once an answer took so long that the child must have been stopped, or the parent itself.
LOOP = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-u", "-c", "while input(): print()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
until = time.monotonic() + 60
while time.monotonic() < until:
    began = time.monotonic()
    child.stdin.write(b"go on\\n"); child.stdin.flush(); child.stdout.readline()
    if time.monotonic() - began > 1:
        child.kill(); child.wait(); sys.exit(7)
"""


def test_a_command_on_a_machine_that_stands_still() -> None:
    said = subprocess.run([sys.executable, str(TOOL), "--longest", "3", "--", sys.executable, "-c", LOOP], timeout=90, check=False)
    assert said.returncode == 7
