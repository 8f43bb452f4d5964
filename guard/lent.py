"""What a body sees of the credential it was lent, and the lease under which it runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from guard.drive import Lease, current_lease, enter_lease, leave_lease
from guard.errors import ConfigError, GuardError
from guard.reasons import REASONS, ReasonCode

__all__ = ["CallCredential", "LentLease", "lent_here", "none_open"]

R = TypeVar("R")


class CallCredential:
    """The credential of one call: what `guard.credential()` gives to the body of a tool that declares one in the policy.

    httpx.post(url, json=data, auth=guard.credential())      # httpx and requests take it as `auth`; only for its own resource
    httpx.post(url, json=data, headers=guard.credential().headers())

    It works while the body runs. Kept longer it is closed, and its text is gone. It never shows its text by itself: not in `repr`, `str`, an
    f-string, a debugger's list of attributes, JSON, a pickle or a copy; whoever calls `reveal` or `headers` has it.
    """

    __slots__ = ("__weakref__", "_text", "expires_at", "id", "resource", "scopes")

    def __init__(self, text: str, id: str, resource: str, scopes: frozenset[str], expires_at: int) -> None:
        self._text: Callable[[], str] | None = lambda: text  # in the function and in no attribute
        self.id = id
        """As records name it: `issuer/jti`, or a keyed hash."""
        self.resource = resource
        self.scopes = scopes
        self.expires_at = expires_at
        """Epoch seconds."""

    def reveal(self) -> str:
        """The token. Raises GuardError `credential.none` once the body has ended."""
        text = self._text
        if text is None:
            raise _none("the credential was lent to a call that has ended")
        return text()

    def headers(self) -> dict[str, str]:
        """`{"Authorization": "Bearer ..."}` (RFC 6750), as a new dictionary."""
        return {"Authorization": f"Bearer {self.reveal()}"}

    def __call__(self, request: R) -> R:
        """For `auth=` of httpx and requests. Raises ConfigError for a request to anywhere but its resource's scheme, host and port.

        Attack: an address that a model chose, and the credential goes to whoever listens there.
        """
        made: Any = request
        if _origin(str(made.url)) != _origin(self.resource):
            raise ConfigError(f"the credential is for {self.resource}, and the request goes elsewhere; `headers()` is for whoever means it")
        made.headers.update(self.headers())
        return request

    def close(self) -> None:
        """The call has ended."""
        self._text = None

    def __repr__(self) -> str:
        return f"<credential of one call for {self.resource}{'' if self._text is not None else ', closed'}>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("the credential of a call is neither pickled nor copied")

    def __setstate__(self, state: object) -> NoReturn:
        raise TypeError("the credential of a call is neither pickled nor copied")


class LentLease(Lease):
    """The lease of a body that was lent a credential. `running`: it has begun already, so that nothing else begins under it."""

    __slots__ = ("credential",)

    def __init__(self, tool: str, credential: CallCredential, *, running: bool = False) -> None:
        super().__init__(tool)
        self.credential = credential
        if running:
            self._left.clear()


def lent_here() -> CallCredential:
    """The credential of the body that runs in this context. Raises GuardError `credential.none`."""
    lease = current_lease()
    if type(lease) is not LentLease:
        raise none_open()
    return lease.credential


def none_open() -> GuardError:
    """What to raise where no credential is."""
    return _none("no body runs here whose tool declares one (`credential:` in the policy)")


def _none(text: str) -> GuardError:
    return GuardError(f"{REASONS[ReasonCode.CREDENTIAL_NONE].meaning}: {text}", code=ReasonCode.CREDENTIAL_NONE)


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").rstrip("."), parts.port or {"https": 443, "http": 80}.get(parts.scheme.lower(), 0)


# -- bodies that run step by step: the lease is there while they run, and not while they wait for whoever asked them -----------------


def _steps(lease: LentLease, body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    step: Callable[[Any], Any] = body.send
    given: Any = None
    try:
        while True:
            token = enter_lease(lease)
            try:
                item = step(given)
            except StopIteration as stop:
                return stop.value
            finally:
                leave_lease(token)
            try:
                step, given = body.send, (yield item)
            except GeneratorExit:
                raise
            except BaseException as error:
                step, given = body.throw, error
    finally:
        token = enter_lease(lease)
        try:
            body.close()
        finally:
            leave_lease(token)


async def _asteps(lease: LentLease, body: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    try:
        while True:
            token = enter_lease(lease)
            try:
                item = await anext(body)
            except StopAsyncIteration:
                return
            finally:
                leave_lease(token)
            yield item
    finally:
        token = enter_lease(lease)
        try:
            await body.aclose()
        finally:
            leave_lease(token)


async def _whole(lease: LentLease, body: Awaitable[Any]) -> Any:
    token = enter_lease(lease)
    try:
        return await body
    finally:
        leave_lease(token)


STEPS: dict[str, Callable[[LentLease, Any], Any]] = {"generator": _steps, "async_generator": _asteps, "coroutine": _whole}
