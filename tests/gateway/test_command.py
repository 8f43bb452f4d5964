"""`guardtrail mcp` and `guardtrail init --mcp` as commands: what they say, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.world import World, text_of


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


WRONG = [
    [],
    ["-p", "policy.yaml"],
    ["-p", "policy.yaml", "--url", "http://127.0.0.1:1/mcp", "--", "x"],
    ["-p", "policy.yaml", "--server", "a=x", "--", "x"],
    ["--", "x"],
    ["-p", "policy.yaml", "--server", "nonsense"],
    ["-p", "policy.yaml", "--listen", "8400", "--local", "acme-dev", "--", "x"],
    ["-p", "policy.yaml", "--listen", "127.0.0.1:0", "--token", "x", "--local", "acme-dev", "--", "x"],
    ["-p", "policy.yaml", "--public-url", "https://x.example/mcp", "--local", "acme-dev", "--", "x"],
    ["-p", "policy.yaml", "--", "x"],
    ["-p", "policy.yaml", "--local", "acme-dev", "--issuer", "https://x.example", "--audience", "y", "--", "x"],
    ["-p", "policy.yaml", "--timeout", "soon", "--local", "acme-dev", "--", "x"],
    ["-p", "policy.yaml", "--header", "a: b", "--local", "acme-dev", "--", "x"],
    ["-p", "policy.yaml", "--env", "NOT_SET_ANYWHERE", "--local", "acme-dev", "--", "x"],
]


@pytest.mark.parametrize("words", WRONG, ids=lambda words: " ".join(words)[:60])
def test_wrong_usage(world: World, words: list[str]) -> None:
    done = world.run("mcp", *words, input="")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(("error: ", "Usage")) and "Traceback" not in done.stderr


def test_what_cannot_be_had(world: World) -> None:
    (world.folder / "broken.json").write_text("{")
    for words, said in (
        (["--local", "nobody", "--", *world.behind()], "development issuer"),
        (["--local", "acme-dev", "--", "no-such-program-anywhere"], "cannot be started"),
        (["--local", "acme-dev", "--", sys.executable, "-c", "raise SystemExit(3)"], "does not answer"),
        (["--local", "acme-dev", "--", sys.executable, "-c", "print('hello')"], "does not answer"),
        (["--local", "acme-dev", "--url", "http://127.0.0.1:9/mcp"], "cannot be reached"),
        (["--local", "acme-dev", "--pins", "broken.json", "--", *world.behind()], "pins"),
    ):
        done = world.run("mcp", "-p", "policy.yaml", *words, input="")
        assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
        assert said in done.stderr, done.stderr
    world.policy.write_text("guardtrail: 1\n")
    assert world.run("mcp", "-p", "policy.yaml", "--local", "acme-dev", "--", *world.behind(), input="").returncode == 3


def test_one_line_says_what_it_does(world: World) -> None:
    done = world.run("mcp", "-p", "policy.yaml", "--local", "acme-dev", "--trust-on-first-use", "--", *world.behind(), input="")
    assert done.returncode == 0 and done.stdout == ""
    assert "guardtrail mcp: server (stdio): 12 of 12 tools as pinned; on stdio" in done.stderr
    done = world.run("mcp", "-p", "policy.yaml", "--local", "acme-dev", "--json", "--", *world.behind(), input="")
    said = next(json.loads(line) for line in done.stderr.splitlines() if line.startswith("{"))
    assert said["servers"][0]["protocol"] == "2025-11-25" and said["listens"] is None and done.stdout == ""


def test_a_first_policy_of_a_server(world: World) -> None:
    made = world.run("init", "--mcp", "--name", "shop", "-o", "first.yaml", "--", *world.behind())
    assert made.returncode == 0, made.stderr
    assert "read 12 tools from --mcp -- python" in made.stdout and "pinned" in made.stdout
    text = (world.folder / "first.yaml").read_text()
    assert "shop/refund" in text and str(world.notes) not in text
    assert (world.folder / "mcp-pins.json").exists() and (world.home / "state.db").exists()
    assert world.run("lint", "first.yaml").returncode == 0 and world.run("test", "first.yaml").returncode == 0
    again = world.run("init", "--mcp", "-o", "first.yaml", "--", *world.behind())
    assert again.returncode == 2 and "--force" in again.stderr

    token = world.iam.mint(origin="alice", actor="agent", intent="everything-listed")
    world.policy.write_text(text)

    async def main() -> None:
        async with world.stdio("--name", "shop", "--pins", "mcp-pins.json", token=token, pin=False, memory=False) as client:
            assert text_of(await client.call_tool("look", {"order": "A-17"})) == "order A-17, 1 page(s)"

    asyncio.run(main())
    assert "shop/look allow permit" in world.decisions  # no `state.incomplete`: the store was made before the token


def test_init_of_nothing(world: World) -> None:
    for words in (["init"], ["init", "--mcp"], ["init", "--url", "http://x"], ["init", "a:B", "c:D"]):
        assert world.run(*words).returncode == 2
    assert world.run("init", "--mcp", "-o", "x.yaml", "--", "no-such-program-anywhere").returncode == 3
    assert not (world.folder / "mcp-pins.json").exists()


def test_without_uvloop(world: World) -> None:
    """It is faster, and nothing else."""
    (world.folder / "slow.py").write_text("import sys\nsys.modules['uvloop'] = None\nfrom guard.cli import main\nmain()\n")
    line = World.line

    def slower(self: World, *given: str, memory: bool = True) -> list[str]:
        return [sys.executable, str(self.folder / "slow.py"), *line(self, *given, memory=memory)[1:]]

    world.line = slower.__get__(world)  # type: ignore[method-assign]

    async def main() -> None:
        with world.gateway("--", *world.behind()) as gate:
            async with gate.client() as client:
                assert text_of(await client.call_tool("look", {"order": "A-17"})) == "order A-17, 1 page(s)"
                assert len(text_of(await client.call_tool("big", {"size": 2_000_000}))) == 2_000_000

    asyncio.run(main())


def test_without_httptools(world: World) -> None:
    (world.folder / "less.py").write_text("import sys\nsys.modules['httptools'] = None\nfrom guard.cli import main\nmain()\n")
    line = [sys.executable, str(world.folder / "less.py"), "mcp", "-p", "policy.yaml", "--", "true"]
    done = subprocess.run(line, cwd=world.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert 'the gateway needs httptools: pip install "guardtrail[gateway]"' in done.stderr
