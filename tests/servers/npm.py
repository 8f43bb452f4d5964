"""Programs from npm's registry, installed once as their lock file says, for tests that run beside the real thing."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import time
from hashlib import sha256
from pathlib import Path

__all__ = ["installed", "node"]


def node() -> str:
    return shutil.which("node") or "node"


def installed(what: str, here: Path, modules: Path) -> str | None:
    """None where it can be started from `modules`/node_modules; else why not. `here`: its package.json and lock file."""
    npm = shutil.which("npm")
    if shutil.which("node") is None or npm is None:
        return f"node and npm are not here ({what})"
    version = subprocess.run([node(), "--version"], capture_output=True, text=True, check=False).stdout.strip()
    found = re.match(r"v(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < (20, 19):
        return f"node {version or '?'} is too old for {what} (20.19 or later)"
    modules.mkdir(exist_ok=True)
    names = ("package.json", "package-lock.json")
    wanted = sha256(b"".join((here / name).read_bytes() for name in names)).hexdigest()
    stamp, failed, came = modules / "installed", modules / "failed", time.time()
    with (modules / "lock").open("w") as lock:  # several test processes at once: one installs, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return None
        if failed.is_file() and failed.stat().st_mtime >= came:  # while this one waited: to try it again takes longer than a test may
            return failed.read_text()
        for name in names:
            shutil.copy(here / name, modules / name)
        command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        try:
            done = subprocess.run(command, cwd=modules, capture_output=True, text=True, check=False, timeout=100)
            why = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["npm failed"])[0]
        except subprocess.TimeoutExpired:
            why = "npm took too long"
        if why:
            failed.write_text(f"{what} could not be installed: {why}")
            return failed.read_text()
        stamp.write_text(wanted)
    return None
