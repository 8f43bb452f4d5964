"""Test every adapter with its framework, each in an environment of its own: their pins conflict, so no environment has them all.

    python tools/adapters.py                       all, newest and oldest
    python tools/adapters.py langchain --age newest
    python tools/adapters.py --usual --setup       only make the environments that `make test` uses
    python tools/adapters.py --write               and write what was found to docs/adapters/results/

What each is tested with stands in tests/conformance/adapters.yaml. Environments lie in `.venv-adapters/` (GUARDTRAIL_ADAPTER_ENVS) and are kept until that
file, pyproject.toml or the interpreter changes. Exit: 0 all as expected, 1 something failed or differs from the results on file, 3 an environment cannot be made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.conformance.adapters import ADAPTERS, Adapter, installed  # noqa: E402

ENVS = Path(os.environ.get("GUARDTRAIL_ADAPTER_ENVS") or ROOT / ".venv-adapters")
RESULTS = ROOT / "docs" / "adapters" / "results"
AGES = ("newest", "oldest")
TESTS = ("hypothesis>=6.110", "jsonschema>=4.21", "pytest>=8.2", "pytest-timeout>=2.3", "starlette>=0.40,<2", "uvicorn>=0.30,<1")
SHOWN = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


class Unmade(Exception):
    """An environment could not be made; the text says why, on one line."""


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("names", nargs="*", metavar="ADAPTER", help="which (default: all)")
    asked.add_argument("--age", choices=[*AGES, "both"], default="both")
    asked.add_argument("--usual", action="store_true", help="those of `make test`")
    asked.add_argument("--setup", action="store_true", help="make the environments, run nothing")
    asked.add_argument("--write", action="store_true", help="write the results instead of comparing with them")
    given = asked.parse_args()
    unknown = set(given.names) - set(ADAPTERS)
    if unknown:
        asked.error(f"there is no adapter {', '.join(sorted(unknown))}; there are {', '.join(ADAPTERS)}")
    chosen = [one for one in ADAPTERS.values() if (one.name in given.names if given.names else one.usual or not given.usual)]
    if given.usual and given.setup:
        chosen = [one for one in chosen if not installed(one.name)]  # the others run where the suite itself does
    ages = AGES if given.age == "both" else (given.age,)
    failed = 0
    for adapter in chosen:
        for age in ages:
            try:
                python = environment(adapter, age)
            except Unmade as why:
                print(f"{adapter.name} {age}: {why}", file=sys.stderr)
                return 3
            if python is not None and not given.setup:
                failed += not played(adapter, age, python, write=given.write)
    return 1 if failed else 0


def environment(adapter: Adapter, age: str, *, beside: tuple[str, ...] = ()) -> Path | None:
    """Its interpreter; made anew where something it rests on has changed. None: the adapter needs no framework, so has no oldest one. `beside`: what else
    is wanted in it (for benchmarks; then it is another environment)."""
    wanted = pins(adapter, age)
    if not wanted and age == "oldest":
        return None
    wanted += tuple(each for each in beside if each not in wanted)
    folder = ENVS / f"{adapter.name}-{'bench' if beside else age}"
    python, stamp = folder / "bin" / "python", folder / ".ready"
    now = hashlib.sha256(
        "\n".join([str(ROOT), sys.version, (ROOT / "pyproject.toml").read_text("utf-8"), *wanted, *TESTS]).encode()
    ).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text("utf-8") == now:
        return python
    print(f"setting up {folder.name} ({', '.join(wanted) or 'nothing but guardtrail'})", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    uv = [sys.executable, "-m", "uv", "--quiet"]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(folder)],
        [*uv, "pip", "install", "--python", str(python), "--editable", str(ROOT), *TESTS, *wanted],
    ):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            done = subprocess.run(command, cwd=ROOT, env=_where_pip_looks(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unmade(
                f"its environment cannot be made: {(done.stderr.strip().splitlines() or ['uv says nothing'])[0]} ({' '.join(command[2:5])} ...)"
            )
    stamp.write_text(now, "utf-8")
    return python


_PIP_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
}


def _where_pip_looks() -> dict[str, str]:
    """The environment for uv, which does not read pip's settings: an index may be named only there (tools/setup.sh tells people to)."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found: dict[str, str] = {}
    for line in done.stdout.splitlines():  # global.index-url='https://...'; :env:.find-links='...'
        name, _, value = line.partition("=")
        told = _PIP_TO_UV.get(name.rpartition(".")[2])
        if told is not None:
            found[told] = " ".join(value.strip("'\"").replace("\\n", " ").split())
    if "UV_INDEX" in found:
        found["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # as pip takes them: the best of all
    if "UV_FIND_LINKS" in found:
        found["UV_FIND_LINKS"] = found["UV_FIND_LINKS"].replace(" ", ",")
    return found | os.environ


def pins(adapter: Adapter, age: str) -> tuple[str, ...]:
    return adapter.newest if age == "newest" else adapter.oldest


def played(adapter: Adapter, age: str, python: Path, *, write: bool) -> bool:
    """Run the suite, the adapter's own tests and its page of the docs there. True: all as expected, and as the results on file say."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "results.json"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
        env |= {"GUARDTRAIL_ADAPTER": adapter.name, "GUARDTRAIL_RESULTS": str(found)}
        command = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "--no-header",
            *(["tests/conformance/test_behaviours.py"] if adapter.suite else []),
            *adapter.tests,
        ]
        if (ROOT / "docs" / "adapters" / f"{adapter.name}.md").exists():
            command.append(f"tests/house/test_docs.py::test_page[docs/adapters/{adapter.name}.md]")
        done = subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        results = json.loads(found.read_text("utf-8")) if found.exists() else {}
    last = (done.stdout.strip().splitlines() or ["pytest says nothing"])[-1].strip("= ")
    print(f"{adapter.name:18} {age:6}  {last}  ({time.monotonic() - began:.0f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        return False
    return _kept(adapter, age, {"versions": versions(adapter, python), **results}, write)


def versions(adapter: Adapter, python: Path) -> dict[str, str]:
    names = [pin.partition("==")[0].partition("[")[0] for pin in adapter.newest if not pin.startswith("-")]
    done = subprocess.run([str(python), "-c", SHOWN, *names], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _kept(adapter: Adapter, age: str, result: dict[str, Any], write: bool) -> bool:
    file = RESULTS / f"{adapter.name}.json"
    before: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if write:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({**before, age: result}, indent=1, sort_keys=True) + "\n", "utf-8")
        return True
    if before.get(age) == result:
        return True
    print(
        f"{adapter.name} {age}: not what {file.relative_to(ROOT)} says; if that is right: python tools/adapters.py --write {adapter.name}",
        file=sys.stderr,
    )
    return False


if __name__ == "__main__":
    sys.exit(main())
