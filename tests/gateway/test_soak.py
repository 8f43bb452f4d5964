"""Under load, and killed. What the server itself noted that it ran is compared with what was recorded."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.gateway.world import World, text_of


async def _soak(world: World, clients: int, calls: int) -> list[int]:
    """Each client is a task of its own, on its own order: three calls in four are its own, one is another's. Returns the memory at every tenth."""
    memory: list[int] = []
    done = 0
    with world.server("json") as url, world.gateway("--url", url) as gate:

        async def one(number: int) -> None:
            nonlocal done
            order = f"A-{number}"
            async with gate.client(world.token(order), mode="auto" if number % 2 else "legacy") as client:
                for turn in range(calls):
                    asked = order if turn % 4 else f"A-{(number + 1) % clients}"
                    answer = await client.call_tool("look", {"order": asked})
                    assert answer.is_error is (turn % 4 == 0), text_of(answer)
                    assert (f"order {order}," if turn % 4 else "args.constraint") in text_of(answer)
                    done += 1
                    if done % max(1, clients * calls // 20) == 0:
                        memory.append(gate.memory)

        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(one(number))
    return memory


def _complete(world: World, clients: int, calls: int) -> None:
    """0 wrong decisions (looked at above, each), 0 lost records."""
    allowed = clients * (calls - (calls + 3) // 4)
    assert Counter(world.ran) == {f"look A-{number}": allowed // clients for number in range(clients)}
    decisions = Counter(each["verdict"] for each in world.records if each["kind"] == "decision" and each["tool"] == "look")
    assert decisions == {"allow": allowed, "deny": clients * calls - allowed}
    assert Counter(world.outcomes) == {"look ok": allowed}
    verified = world.run("audit", "verify")
    assert verified.returncode == 0, verified.stdout


def test_a_small_soak(tmp_path: Path) -> None:
    world = World(tmp_path)
    asyncio.run(_soak(world, 10, 20))
    _complete(world, 10, 20)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_soak(tmp_path: Path) -> None:
    """50 clients x 200 calls over HTTP through a real server; memory: the second half within 5 % of the first."""
    world = World(tmp_path)
    memory = asyncio.run(_soak(world, 50, 200))
    _complete(world, 50, 200)
    half = len(memory) // 2
    first, second = max(memory[1:half]), max(memory[half:])
    print(f"resident KiB: first half {first}, second half {second}")
    assert second <= first * 1.05, memory


@pytest.mark.parametrize("front", ["http", "stdio"])
def test_killed_in_the_middle_nothing_ran_without_a_record(tmp_path: Path, front: str) -> None:
    """kill -9 while calls are on their way, three times on one log. Every body that ran has an allow that was written before."""
    world = World(tmp_path)

    async def http() -> None:
        with world.server() as url, world.gateway("--url", url, memory=False) as gate:

            async def one(number: int) -> None:
                async with gate.client(world.token(f"A-{number}")) as client:
                    while True:
                        await client.call_tool("look", {"order": f"A-{number}"})

            going = [asyncio.ensure_future(one(number)) for number in range(8)]
            before, deadline = len(world.ran), time.monotonic() + 30
            while len(world.ran) < before + 60:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            gate.process.send_signal(signal.SIGKILL)
            gate.process.wait()
            for each in going:
                each.cancel()
            await asyncio.gather(*going, return_exceptions=True)

    async def stdio() -> None:
        import subprocess

        line = world.line("--trust-on-first-use", "--", *world.behind(), memory=False)
        env = {**world.env, "GUARDTRAIL_TOKEN": world.token()}
        process = subprocess.Popen(line, env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert process.stdin is not None
        for number in range(400):
            call = f'{{"jsonrpc":"2.0","id":{number},"method":"tools/call","params":{{"name":"look","arguments":{{"order":"A-17"}}}}}}\n'
            process.stdin.write(call.encode())
        process.stdin.flush()
        before, deadline = len(world.ran), time.monotonic() + 30
        while len(world.ran) < before + 60:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        process.kill()
        process.wait()
        process.stdin.close()

    world.run(
        "init", "--mcp", "-o", "first.yaml", "--pins", str(tmp_path / "pins.json"), "--", *world.behind()
    )  # the store is older than the tokens
    for _ in range(3):
        asyncio.run(http() if front == "http" else stdio())
        time.sleep(0.5)
    allowed = Counter(each["tool"] for each in world.records if each["kind"] == "decision" and each["verdict"] == "allow")
    assert len(world.ran) >= 180
    assert allowed["look"] >= len(world.ran)
    assert world.run("audit", "verify").returncode in (0, 3)  # whole, or whole up to where it was killed; never changed
