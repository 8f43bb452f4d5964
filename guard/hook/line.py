"""The line that is written into an agent's settings: `/bin/sh`, `curl`, and nothing that is looked up in a PATH.

The script is one constant without a quote, a backslash or a `!`, so that it stays what it is inside `'...'` in `sh`, `bash`, `zsh` and `fish`,
and inside JSON; everything else comes in as arguments. What it does:

| the daemon                      | `curl`                  | the hook                                                            |
|---------------------------------|-------------------------|---------------------------------------------------------------------|
| says one of its two sentences   | ends with 0             | prints the JSON; exit 0, or 2 with the reason on standard error     |
| says anything else              | ends with 0             | exit 2, and a line on standard error (Codex runs the call without)  |
| is killed, hangs, answers 4xx   | ends with another code  | the same; where nobody listens, one is started for the next call    |
| was never started               | is not run              | the client starts one and asks it                                   |

`curl`: `-q` so that no `.curlrc` speaks; `--noproxy` so that no environment does; `-H Expect:` so that a long body does not wait for a second.
After events (no gate) end with 1 instead of 2: nothing can be stopped there any more.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from guard.errors import ConfigError
from guard.hook.tables import PROTOCOL, Agent

__all__ = ["MARK", "SECONDS", "find_curl", "line", "python", "start_command"]

MARK: Final = "guardtrail-hook"
"""`$0` of the script: by this a line of ours is known."""
SECONDS: Final = 10
SCRIPT: Final = (
    "c=$1 s=$2 u=$3 p=$4 k=$5 x=$6; shift 6; "
    'if [ -x "$c" ] && [ -S "$s" ]; then '
    f'r=$("$c" -q -sf --max-time {SECONDS} --noproxy "*" --unix-socket "$s" -H Expect: -H Content-Type:application/json --data-binary @- "$u"); e=$?; '
    'if [ $e = 7 ] && [ -x "$p" ]; then "$p" -I -S "$k" start "$s" "$@" >/dev/null 2>&1 </dev/null; fi; '
    'else r=$("$p" -I -S "$k" ask "$s" "$u" "$@"); e=$?; fi; '
    "[ $e = 0 ] || r=; "
    "case $r in "
    f'"{PROTOCOL} 0|"*) printf %s "${{r#*|}}";; '
    f'"{PROTOCOL} 2|"*"|"*) r=${{r#*|}}; printf %s "${{r#*|}}"; echo "${{r%%|*}}" >&2; exit 2;; '
    '*) echo "guardtrail: the daemon did not answer, so this was not judged and is not allowed; see: guardtrail hook status" >&2; exit $x;; '
    "esac"
)


def line(agent: Agent, event: str, socket: Path, *, curl: str | None, start: Sequence[str]) -> str:
    """The command for one event of one agent. `curl`: None where there is none. `start`: what starts a daemon; empty: nothing does."""
    for path in (str(socket), curl or "/", python(), str(client()), *start):
        if not path.isprintable():
            raise ConfigError("a path with a line break or another invisible letter cannot stand in an agent's settings")
    words = [curl or "-", str(socket), f"http://localhost/v1/{agent.name}/{event}", python(), str(client())]
    words += ["2" if agent.events[event] == "gate" else "1", *start]
    return f"/bin/sh -c '{SCRIPT}' {MARK} {' '.join(map(shlex.quote, words))}"


def client() -> Path:
    return Path(__file__).resolve().with_name("client.py")


def python() -> str:
    """This interpreter, as it was started: that of an environment is where its packages are."""
    return os.path.abspath(sys.executable)  # noqa: PTH100 - a link into an environment must stay one


def find_curl() -> str | None:
    """Absolute, or None."""
    found = shutil.which("curl", path="/usr/bin:/bin:/usr/local/bin:/opt/homebrew/bin") or shutil.which("curl")
    return os.path.abspath(found) if found else None  # noqa: PTH100


def start_command(options: Sequence[str]) -> list[str]:
    """What starts a daemon with these options of `guardtrail hook serve`."""
    return [python(), "-I", "-c", "from guard.cli import main; main()", "hook", "serve", *options]
