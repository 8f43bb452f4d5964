"""The decorator: a function becomes a guarded tool, and its body is sealed.

What is handed out keeps the signature, docstring and types; the original function lives in a closure. `__wrapped__`, which
frameworks and `inspect` follow, leads to a sealed body: it runs only inside a call that the guard opened for it (fail-open rows
F62 to F65). The seal stops calls a model chooses, not code that runs in the interpreter.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from guard.constraints import Shape
from guard.drive import current_lease, leased
from guard.errors import ConfigError, Denied
from guard.model import Decision, Finding, Outcome, ToolCall
from guard.reasons import ReasonCode
from guard.streams import lent_steps

if TYPE_CHECKING:
    from guard.house import Ticket
    from guard.runtime import Guard

__all__ = ["GuardedTool", "guarded"]

P = ParamSpec("P")
R = TypeVar("R")
_call: Any = ToolCall.__new__
R_co = TypeVar("R_co", covariant=True)


class GuardedTool(Protocol[P, R_co]):
    """A guarded function: called like the original, and `.check(...)` for a dry run that executes and uses up nothing."""

    __name__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def check(self, *args: P.args, **kwargs: P.kwargs) -> Decision: ...


def guarded(guard: Guard, function: Callable[P, R], name: str) -> GuardedTool[P, R]:
    """Wrap `function` as the tool `name` of `guard`'s policy. Raises ConfigError where the two do not fit together."""
    signature = _signature(function, name)
    skip = _takes_self(signature, guard.argument_names(name))
    fitted = guard.fit(name, Shape.from_signature(signature, skip_first=skip))
    wrapper = _WRAPPERS[_kind(function)](guard, cast("Callable[..., Any]", function), name, fitted, skip)
    functools.update_wrapper(wrapper, function)
    wrapper.__wrapped__ = _sealed(function, name, _evaluated(function, signature))
    wrapper.check = functools.partial(_check, guard, name, fitted)
    wrapper.__guardtrail__ = name
    return cast("GuardedTool[P, R]", wrapper)


def _signature(function: Callable[..., object], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        raise ConfigError(f"@guard.tool `{name}`: its signature cannot be read; wrap it in a function that names its arguments") from None


def _evaluated(function: Callable[..., object], signature: inspect.Signature) -> inspect.Signature:
    """With annotations that are types, where they were written as text: who reads a signature that was set asks nobody else for them."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that only type checkers see: as it was written
        return signature


def _takes_self(signature: inspect.Signature, declared: frozenset[str]) -> bool:
    """A function defined in a class body: its first parameter is the instance, which is no argument of the tool."""
    first = next(iter(signature.parameters), None)
    return first in ("self", "cls") and first not in declared


def _kind(function: Callable[..., object]) -> str:
    call = function if inspect.isroutine(function) or isinstance(function, functools.partial) else getattr(function, "__call__", function)  # noqa: B004
    if inspect.isasyncgenfunction(call):
        return "async generator"
    if inspect.isgeneratorfunction(call):
        return "generator"
    return "async" if inspect.iscoroutinefunction(call) else "sync"


def _check(guard: Guard, name: str, fitted: int, *args: Any, **kwargs: Any) -> Decision:
    # A method's check is called on the function, so there is no instance to leave out.
    return guard.dry(ToolCall(name, kwargs), (fitted, args, kwargs))


def _sealed(function: Callable[..., Any], name: str, signature: inspect.Signature) -> Callable[..., Any]:
    """The body as frameworks may find it. Outside a call of the guard it does not run."""

    @functools.wraps(function)
    def sealed(*args: Any, **kwargs: Any) -> Any:
        if not leased(name):
            raise _seal_denied(name)
        return function(*args, **kwargs)

    del sealed.__wrapped__  # `wraps` would leave the bare function one attribute away
    sealed.__signature__ = signature  # type: ignore[attr-defined]  # frameworks make their schemas of it
    return sealed


def _seal_denied(name: str) -> Denied:
    text = "its body is sealed; call the guarded tool inside a task"
    finding = Finding("call", "forbid", ReasonCode.CALL_SEALED, text=text, fix="call the guarded tool, or hand it to `guard.call`")
    return Denied(Decision("", "deny", "enforce", ReasonCode.CALL_SEALED, (finding,), finding.fix, (), "", 0, name, "", ""))


def _sync(guard: Guard, function: Callable[..., Any], name: str, fitted: int, skip: bool) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if current_lease() is not None and leased(name):  # `guard.call(ToolCall(...), guarded_tool)`: judged already, this is its body
            return function(*args, **kwargs)
        body = functools.partial(function, args[0]) if skip and args else function
        return guard.run(_call(ToolCall, name, kwargs), body, (fitted, args[1:] if skip else args, kwargs))

    return wrapper


def _async(guard: Guard, function: Callable[..., Any], name: str, fitted: int, skip: bool) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if leased(name):
            return await function(*args, **kwargs)
        body = functools.partial(function, args[0]) if skip and args else function
        return await guard.arun(ToolCall(name, kwargs), body, (fitted, args[1:] if skip else args, kwargs))

    return wrapper


def _generator(guard: Guard, function: Callable[..., Any], name: str, fitted: int, skip: bool) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        ticket = guard.open_call(ToolCall(name, kwargs), (fitted, args[1:] if skip else args, kwargs))
        given = (args[0],) if skip and args else ()
        outcome = Outcome("unknown")
        try:
            result = yield from lent_steps(ticket, function(*given, **bound_args(ticket)))
            outcome = Outcome("ok")
            return result
        except Exception as error:
            outcome = Outcome("error", None, error)
            raise
        finally:
            guard.close_call(ticket, outcome)

    return wrapper


def _async_generator(guard: Guard, function: Callable[..., Any], name: str, fitted: int, skip: bool) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        ticket = await guard.aopen_call(ToolCall(name, kwargs), (fitted, args[1:] if skip else args, kwargs))
        given = (args[0],) if skip and args else ()
        outcome = Outcome("unknown")
        body: Any = None
        try:
            body = lent_steps(ticket, function(*given, **bound_args(ticket)))
            async for item in body:
                yield item
            outcome = Outcome("ok")
        except Exception as error:
            outcome = Outcome("error", None, error)
            raise
        finally:
            if ticket.lent is not None and body is not None:
                await body.aclose()  # left early: what it does at its end still has what it was lent
            await guard.aclose_call(ticket, outcome)

    return wrapper


def bound_args(ticket: Ticket) -> Mapping[str, Any]:
    """What an admitted call runs with: no call is admitted unbound."""
    if ticket.bound is None:
        raise _seal_denied(ticket.decision.tool)
    return ticket.bound.args


_WRAPPERS: dict[str, Callable[..., Any]] = {"sync": _sync, "async": _async, "generator": _generator, "async generator": _async_generator}
