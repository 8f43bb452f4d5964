"""Every fenced block of README.md and docs/ is run, loaded or checked.

| block | what happens |
|---|---|
| `python` | runs in the page's own folder, after the blocks before it; saved under the file name the text before it mentions |
| `yaml` | saved under the file name the text before it mentions; a policy (`guardtrail: 1`) must lint clean, and its tests pass |
| `yaml` that begins with `policy:` | cases; they run under the policies of the page that they name, and pass |
| `json`, `toml` | must parse; `toml` is saved under the file name the text before it mentions, if it mentions one |
| `output` | is exactly what the `python` block before it printed |
| `console` with `$ ` prompts | each command runs; what follows is exactly what it printed |
| `console` without prompts | a list of commands: each target, verb and option must exist |
| `text` | a picture |
| any other language | fails: say here what is done with it |

A block may stay out with `<!-- not run: reason -->` on the line before it; the test that counts them lists each.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from guard import Policy
from guard.errors import PolicyError
from guard.policy import cases_from_text, check_layers
from guard.policy.data import Case
from guard.testing.cases import run_case
from tests.conformance.adapters import ADAPTERS, installed
from tests.patience import PYTHONPATH

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"gateway": "mcp"}
"""Page -> a package it imports that is no dependency of ours."""
PAGES = (
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    + sorted((ROOT / "docs").rglob("*.md"))
    + [ROOT / "examples" / "README.md"]
)

# What stays out, and why. A new one must be added here, so that it is seen in review.
NOT_RUN: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Block:
    page: str
    line: int
    language: str
    text: str
    before: str  # the paragraph right before it
    excuse: str | None

    @property
    def file(self) -> str | None:
        """The file name the paragraph before mentions last: `policy.yaml`, `app.py`."""
        ending = {"python": "py", "yaml": "ya?ml", "json": "jsonl?", "toml": "toml"}.get(self.language)
        found = re.findall(rf"`([\w.-]+\.{ending})`", self.before) if ending else []
        return found[-1] if found else None


def blocks(page: Path) -> Iterator[Block]:
    """Fences of three or more backticks at the start of a line (or indented in a list), in order."""
    lines = page.read_text("utf-8").splitlines()
    name, before, excuse, i = str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page.name), "", None, 0
    while i < len(lines):
        line = lines[i]
        if fence := re.fullmatch(r"(\s*)(`{3,}|~{3,})\s*(\w*)\s*", line):
            indent, mark, language = fence.groups()
            start = i + 1
            i = start
            while i < len(lines) and lines[i].strip() != mark:
                i += 1
            assert i < len(lines), f"{name}:{start}: the fence is never closed"
            text = "".join(each.removeprefix(indent) + "\n" for each in lines[start:i])
            yield Block(name, start, language, text, before, excuse)
            before, excuse = "", None
        elif said := re.fullmatch(r"\s*<!-- not run: (.+) -->\s*", line):
            excuse = said.group(1)
        elif line.strip():
            before = f"{before}\n{line}" if i and lines[i - 1].strip() else line
            excuse = None
        i += 1


@pytest.mark.timeout(600)  # a page is dozens of processes
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, tmp_path: Path) -> None:
    if page.parent.name == "adapters" and page.stem in ADAPTERS and not installed(page.stem):
        pytest.skip("runs in the environment of its adapter (tools/adapters.py)")
    if page.stem in NEEDS and find_spec(NEEDS[page.stem]) is None:
        pytest.skip(f"needs {NEEDS[page.stem]}")
    run_page(page, tmp_path)


def run_page(page: Path, folder: Path) -> None:
    printed: str | None = None
    for block in blocks(page):
        if block.excuse is not None:
            continue
        where = f"{block.page}:{block.line}"
        if block.language != "output":
            printed = None
        match block.language:
            case "python":
                printed = _python(block, folder, where)
            case "yaml":
                _yaml(block, folder, where)
            case "json":
                json.loads(block.text)
            case "toml":
                tomllib.loads(block.text)
                if block.file:
                    (folder / block.file).write_text(block.text, "utf-8")
            case "output":
                assert printed is not None, f"{where}: an `output` block stands right after the `python` block that prints it"
                assert printed == block.text, where
            case "console":
                _console(block, folder, where)
            case "text":
                pass
            case other:
                pytest.fail(f"{where}: a block of {other or 'no language'} is neither run nor checked")


def _environ(folder: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": PYTHONPATH,  # a machine that stands still for a quarter second changes nothing that is printed
        "GUARDTRAIL_DIR": str(folder / ".guardtrail"),
        "COLUMNS": "140",
        "NO_COLOR": "1",
    }


def _python(block: Block, folder: Path, where: str) -> str:
    file = folder / (block.file or f"block_{block.line}.py")
    file.write_text(block.text, "utf-8")
    done = subprocess.run(
        [sys.executable, file.name], cwd=folder, env=_environ(folder), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{where}\n{done.stderr}"
    return done.stdout


def _yaml(block: Block, folder: Path, where: str) -> None:
    assert block.file, f"{where}: name the file in the text right before the block, as `policy.yaml`"
    (folder / block.file).write_text(block.text, "utf-8")
    if block.text.startswith("guardtrail:"):
        policy = Policy.from_text(block.text, file=block.file)
        assert policy.warnings == (), where
        _pass([policy], policy.tests, where)
    elif block.text.startswith("policy:"):
        cases = cases_from_text(block.text, block.file)
        named = [Policy.from_text((folder / name).read_text("utf-8"), file=name) for name in cases.policies]
        _pass(named if cases.over is None else [cases.over, *named], cases.tests, where)


def _pass(layers: Sequence[Policy], cases: Sequence[Case], where: str) -> None:
    for case in cases:
        result = run_case(check_layers(layers), case)
        assert result.ok, f"{where}: {case.name}: step {result.failed}: {result.message}"


def _console(block: Block, folder: Path, where: str) -> None:
    lines = block.text.splitlines()
    if not any(line.startswith("$ ") for line in lines):
        for line in lines:
            _exists(line.partition("  #")[0].strip(), where)
        return
    assert lines[0].startswith("$ "), f"{where}: begins with output of nothing"
    for command, output in _sessions(lines):
        done = subprocess.run(
            command, shell=True, cwd=folder, env=_environ(folder), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout + done.stderr == output, f"{where}: $ {command}"


def _sessions(lines: list[str]) -> Iterator[tuple[str, str]]:
    command, output = lines[0][2:], ""
    for line in lines[1:]:
        if line.startswith("$ "):
            yield command, output
            command, output = line[2:], ""
        else:
            output += line + "\n"
    yield command, output.rstrip("\n") + "\n" if output.strip() else ""


def _exists(command: str, where: str) -> None:
    words = shlex.split(command)
    match words:
        case []:
            return
        case ["make", *targets]:
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
            assert not [word for word in targets if "=" not in word and word not in known], f"{where}: {command}"
        case ["pip", "install", *_] | ["git", "clone", *_] | ["cd", _]:
            return
        case ["bash", script] | ["sh", script]:
            assert (ROOT / script).is_file(), f"{where}: {command}"
        case ["python", script, *_] if script.endswith(".py"):
            assert (ROOT / script).is_file(), f"{where}: {command}"
        case ["guardtrail", *rest]:
            _verb(rest, f"{where}: {command}")
        case _:
            pytest.fail(f"{where}: nobody checks `{command}`")


def _verb(words: list[str], where: str) -> None:
    """`guardtrail token mint --issuer x`: the help of `token mint` knows `--issuer`."""
    verbs: list[str] = []
    for word in words:
        if not re.fullmatch(r"[a-z]+", word) or len(verbs) == {"audit": 2, "hook": 2, "ssf": 2, "token": 2, "tts": 3}.get(words[0], 1):
            break
        verbs.append(word)
    script = "import sys; from guard.cli import main; sys.argv[0] = 'guardtrail'; sys.exit(main())"
    command = [sys.executable, "-c", script, *verbs, "--help"]
    done = subprocess.run(command, cwd=ROOT, env=_environ(ROOT), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{where}\n{done.stderr}"
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in done.stdout, f"{where}: there is no {word}"


def test_every_excuse_is_known() -> None:
    """Add a block that is not run here too, so that it does not slip in."""
    excused = {f"{block.page}: {block.excuse}": block.language for page in PAGES for block in blocks(page) if block.excuse}
    assert excused == NOT_RUN


def test_links_lead_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", page.read_text("utf-8"))]
    assert [
        f"{page.relative_to(ROOT)} -> {target}" for page, target in links if "://" not in target and not (page.parent / target).exists()
    ] == []


POLICY = """guardtrail: 1
name: p
tools: {pay: {effect: pay, control: {iban: iban}, returns: none}}
intents: {i: {allow: {pay: {args: {iban: {eq: DE1}}}}}}
"""
TESTS = """tests:
  - {{name: t, as: {{origin: alice, actor: a, intent: i}}, trace: 'pay(iban="DE1")', expect: [{}]}}
"""
WRONG = {
    "an output that differs": ("```python\nprint(1)\n```\n\n```output\n2\n```\n", AssertionError),
    "an output of nothing": ("```output\n2\n```\n", AssertionError),
    "an exception": ("```python\n1 / 0\n```\n", AssertionError),
    "a policy without a name": ("Text:\n\n```yaml\nguardtrail: 1\n```\n", AssertionError),
    "a policy that does not load": ("`policy.yaml`:\n\n```yaml\nguardtrail: 1\nname: x\ntols: {}\n```\n", PolicyError),
    "a policy with a warning": (
        f"`policy.yaml`:\n\n```yaml\n{POLICY.replace('iban: {eq: DE1}', 'iban: {any: true}')}```\n",
        AssertionError,
    ),
    "a policy whose test fails": (f"`policy.yaml`:\n\n```yaml\n{POLICY}{TESTS.format('deny')}```\n", AssertionError),
    "cases that fail": (
        f"`p.yaml`:\n\n```yaml\n{POLICY}```\n\n`p.cases.yaml`:\n\n```yaml\npolicy: p.yaml\n{TESTS.format('deny')}```\n",
        AssertionError,
    ),
    "cases of no policy": (f"`p.cases.yaml`:\n\n```yaml\npolicy: p.yaml\n{TESTS.format('allow')}```\n", FileNotFoundError),
    "an unknown language": ("```ruby\nputs 1\n```\n", pytest.fail.Exception),
    "no language": ("```\nputs 1\n```\n", pytest.fail.Exception),
    "an open fence": ("```text\nx\n", AssertionError),
    "a missing target": ("```console\nmake coffee   # hot\n```\n", AssertionError),
    "an unknown command": ("```console\nrm -rf x\n```\n", pytest.fail.Exception),
    "a session that differs": ("```console\n$ echo a\nb\n```\n", AssertionError),
    "bad json": ("```json\n{a: 1}\n```\n", ValueError),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_runner_finds(what: str, tmp_path: Path) -> None:
    text, error = WRONG[what]
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    with pytest.raises(error):
        run_page(page, tmp_path)


RIGHT = f"""
`p.yaml`:

```yaml
{POLICY}{TESTS.format("allow")}```

`p.cases.yaml`:

```yaml
policy: p.yaml
{TESTS.format("allow")}```

Write `names.py`:

```python
NAMES = ["a", "b"]
```

and then

```python
from names import NAMES
print(*NAMES, sep="\\n")
```

```output
a
b
```

- in a list

  ```console
  $ cat names.py
  NAMES = ["a", "b"]
  $ true
  ```

<!-- not run: it is a picture of an error -->
```ruby
puts 1
```

```json
{{"a": 1}}
```

```console
make test     # all of it
```
"""


def test_the_runner_runs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(RIGHT, "utf-8")
    run_page(page, tmp_path)
    assert [block.excuse for block in blocks(page) if block.excuse] == ["it is a picture of an error"]


def test_the_four_classic_policies_are_forty_lines(tmp_path: Path) -> None:
    """Cases do not count. Each has a chain that only two together break: without one party, all of whose calls ran, nothing is denied."""
    run_page(ROOT / "docs" / "policies.md", tmp_path)
    policies = [
        Policy.from_text(file.read_text("utf-8"), file=file.name) for file in sorted(tmp_path.glob("*.yaml")) if ".cases" not in file.name
    ]
    assert len(policies) == 4 and sum(len(policy.text.splitlines()) for policy in policies) <= 40
    for policy in policies:
        cases = cases_from_text((tmp_path / policy.file.replace(".yaml", ".cases.yaml")).read_text("utf-8"))
        assert any(_only_together(policy, case) for case in cases.tests), policy.file


def _only_together(policy: Policy, case: Case) -> bool:
    """Whether something is denied that runs where one other actor or task, which did nothing wrong itself, is left out."""
    steps = [(event, expected, (event.actor, event.task)) for event, expected in zip(case.trace, case.expect, strict=True)]
    guilty = {who for _, expected, who in steps if expected.startswith("deny")}
    for innocent in {who for _, _, who in steps} - guilty if guilty else ():
        rest = [(event, "allow") for event, _, who in steps if who != innocent]
        trace, expect = zip(*rest, strict=True)
        if run_case([policy], replace(case, trace=trace, expect=expect)).ok:
            return True
    return False
