"""The main job on real input: a scripted agent, two real MCP servers, one injected web page. Run it with `make demo`.

Exit 0: everything came out as expected, in the decisions and in the world. 1: it did not; what differs is said. 3: something that
the demo needs is not there; one line names it and the command that installs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import sys
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent


def missing() -> str | None:
    """The first thing that is not there, with the command that installs it."""
    if shutil.which("git") is None:
        return "git not found: apt-get install git (or your system's package manager)"
    for package in ("guard", "mcp"):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed for {sys.executable}: make demo"
    import servers

    return servers.missing()


def main() -> int:
    parser = argparse.ArgumentParser(description="A scripted agent on two real MCP servers under one delegated token.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the page")
    parser.add_argument("--records", type=Path, help="where the records go and stay (default: .guardtrail beside this file, emptied first)")
    options = parser.parse_args()
    needed = missing()
    if needed:
        print(needed, file=sys.stderr)
        return 3
    import show
    import story

    if options.records is None:
        shutil.rmtree(HERE / ".guardtrail", ignore_errors=True)  # the counts are those of this run
    try:
        result = story.tell(options.records or HERE / ".guardtrail")
    except Exception as error:
        while isinstance(error, ExceptionGroup):  # the two sessions are task groups, one inside the other
            error = error.exceptions[0]
        traceback.print_exception(error)
        print(f"the demo broke down: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(result, indent=2) if options.json else show.text(result))
    for line in result["differs"]:
        print(f"not as expected: {line}", file=sys.stderr)
    return 1 if result["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
