"""Bodies that have only begun when they are called: generators, async generators, coroutines. The call ends when they do.

What they hand out is in use before they have ended. Left behind unfinished, the outcome is `unknown`: they may have done anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from guard.house import Ticket
from guard.model import Outcome

if TYPE_CHECKING:
    from guard.runtime import Guard

__all__ = ["STREAMS", "lent_steps", "unseen"]


def unseen(ticket: Ticket) -> None:
    """What a stream hands out is in use before it has ended, and nobody looks at it (`TaskState.unlearnt`)."""
    if ticket.streamed and ticket.task is not None and ticket.plan is not None and ticket.plan.sources is not None:
        ticket.task.unlearnt = ticket.task.unlearnt or ticket.plan.sources.learns


def lent_steps(ticket: Ticket, body: Any) -> Any:
    """`body`, each step of it under the lease of what it was lent. One that was lent nothing is itself."""
    if ticket.lent is None:
        return body
    from guard.lent import STEPS

    return STEPS[type(body).__name__](ticket.lent.lease(running=True), body)


def _stream(guard: Guard, ticket: Ticket, body: Any) -> Any:
    outcome = Outcome("unknown")
    try:
        result = yield from body
        outcome = Outcome("ok")
        return result
    except Exception as error:
        outcome = Outcome("error", None, error)
        raise
    finally:
        guard.close_call(ticket, outcome)


async def _astream(guard: Guard, ticket: Ticket, body: Any) -> Any:
    outcome = Outcome("unknown")
    try:
        async for item in body:
            yield item
        outcome = Outcome("ok")
    except Exception as error:
        outcome = Outcome("error", None, error)
        raise
    finally:
        if ticket.lent is not None:
            await body.aclose()
        await guard.aclose_call(ticket, outcome)


async def _acoroutine(guard: Guard, ticket: Ticket, body: Any) -> Any:
    outcome = Outcome("unknown")
    try:
        value = await body
        outcome = Outcome("ok", value)
        return value
    except Exception as error:
        outcome = Outcome("error", None, error)
        raise
    finally:
        await guard.aclose_call(ticket, outcome)


STREAMS: dict[str, Callable[[Guard, Ticket, Any], Any]] = {"generator": _stream, "async_generator": _astream, "coroutine": _acoroutine}
