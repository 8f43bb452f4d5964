"""Coroutine tools: ten calls at once, a limit of three. A limit is exact however many callers race for it."""

import asyncio
from pathlib import Path

from guard import Denied, Guard, LocalIssuer

iam = LocalIssuer("acme-dev")
guard = Guard(Path(__file__).with_name("policy.yaml"), trust=iam)


@guard.tool
async def search(query: str) -> str:
    await asyncio.sleep(0.01)
    return f"results for {query}"


async def one(number: int) -> str:
    try:
        return await search(f"query {number}")
    except Denied as denied:
        return str(denied.code)


async def main() -> None:
    token = iam.mint(origin="alice", actor="researcher", intent="research")
    async with guard.task(token):
        answers = await asyncio.gather(*(one(n) for n in range(10)))
    print(sum(a.startswith("results") for a in answers), "searches ran")
    print(answers.count("limit.calls"), "were denied limit.calls")


asyncio.run(main())
