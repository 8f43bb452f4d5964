"""Small things of the A2A adapter: the token of a request, to whom a server's tasks belong, the events of one."""

from __future__ import annotations

from typing import Any, Final

from a2a.auth.user import User

__all__ = ["TOKEN", "Caller", "Queue", "taken"]

TOKEN: Final = "guardtrail.token"
"""Where the handler leaves the token for the executor, having taken it out of the headers."""


def taken(state: Any) -> str:
    """The token of a request, which is no longer in its headers then. "" is one that does not verify."""
    if TOKEN in state:
        return str(state[TOKEN])
    headers = state.get("headers") or {}
    sent = [value for name, value in headers.items() if name.lower() == "authorization"]
    state["headers"] = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "dpop")}
    scheme, _, token = sent[0].partition(" ") if len(sent) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""


class Caller(User):  # type: ignore[misc]
    """To whom a server's tasks belong: to the task of the token, by its key. Another one's are not found."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


class Queue:
    """The events of a task, and whether there were any."""

    def __init__(self, queue: Any) -> None:
        self._queue, self.told = queue, False

    async def enqueue_event(self, event: Any) -> None:
        self.told = True
        await self._queue.enqueue_event(event)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)
