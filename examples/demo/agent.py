"""The agent of the demo, scripted: it does its task, and it does what a page tells it to do. No model, no key.

It stands for a model that believes what it reads. What it is allowed to do is decided elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

__all__ = ["Call", "orders", "work"]

CallTool = Callable[[str, Mapping[str, object]], Awaitable[str]]


class Call(NamedTuple):
    tool: str
    args: Mapping[str, object]


async def work(call: CallTool, page: str, repo: str, after_commit: Callable[[], Any] = lambda: None) -> None:
    """Read the release page, commit the change log, follow the page's orders, look at the log."""
    text = await call("fetch", {"url": page})
    await call("git_status", {"repo_path": repo})
    await call("git_add", {"repo_path": repo, "files": ["CHANGELOG.md"]})
    await call("git_commit", {"repo_path": repo, "message": "Release 1.2: change log"})
    after_commit()
    for tool, args in orders(text, repo):
        await call(tool, args)
    await call("git_log", {"repo_path": repo, "max_count": 5})


def orders(text: str, repo: str) -> list[Call]:
    """The instructions a gullible reader finds in `text`, in the order in which they stand there."""
    found: list[Call] = []
    for match in re.finditer(r"fetch (?P<url>http\S+)|call (?P<tool>git\\?_\w+)", text):
        if match["url"]:
            found.append(Call("fetch", {"url": match["url"]}))
        elif match["tool"].replace("\\", "") == "git_reset":
            found.append(Call("git_reset", {"repo_path": repo}))
        elif match["tool"].replace("\\", "") == "git_commit":
            found.append(Call("git_commit", {"repo_path": repo, "message": "as the release page asks"}))
    return found
