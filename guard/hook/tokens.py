"""Under which token a session acts: the one in a file (`--token @file`), or one that the daemon's own development issuer makes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from guard.errors import ConfigError, GuardError
from guard.identity import LocalIssuer
from guard.record.files import directory, ensure

__all__ = ["ISSUER", "Given", "Made", "Tokens", "issuer", "user"]

ISSUER = "coding-agent"
_TTL = 12 * 3600
_EARLY = 3600
_MOST = 64 << 10


class Tokens(Protocol):
    """`token` raises GuardError where there is none. Equal texts are one delegation."""

    own: bool

    def token(self, agent: str, session: str, turn: int, actor: str, params: Mapping[str, object], before: str) -> str:
        """`turn`: how often the session has ended. `actor`: a sub-agent, or "". `before`: what this gave the last time."""


class Made:
    """Of the development issuer: origin is the user of this machine, actor the agent. Every record says `issuer: local`."""

    own = True

    def __init__(self, made: LocalIssuer, origin: str, intent: str) -> None:
        self._issuer, self._origin, self._intent = made, origin, intent
        self._until: dict[str, float] = {}

    def token(self, agent: str, session: str, turn: int, actor: str, params: Mapping[str, object], before: str) -> str:
        if before and self._until.get(before, 0) > time.time():
            return before
        for old in [text for text, until in self._until.items() if until + _EARLY < time.time() or text == before]:
            del self._until[old]
        txn = sha256(f"{agent}\0{session}\0{turn}".encode()).hexdigest()[:32]
        actors = [agent, f"{agent}/{actor}"] if actor else [agent]
        token = self._issuer.mint(
            origin=self._origin, actor=actors, intent=self._intent, params=params, ttl=f"{_TTL}s", txn=txn, workload="local"
        )
        self._until[token] = time.time() + _TTL - _EARLY
        return token


class Given:
    """Of a file, which is read again when it changes: whoever renews the token writes it there. It says who, what for and which task."""

    own = False

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._text = ""

    def token(self, agent: str, session: str, turn: int, actor: str, params: Mapping[str, object], before: str) -> str:
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                with self._file.open("rb") as file:
                    self._text, self._seen = file.read(_MOST).decode("ascii").strip(), seen
        except (OSError, UnicodeDecodeError):
            raise GuardError("the token file cannot be read", code="token.missing") from None
        return self._text


def user() -> str:
    """Who runs this, by the kernel and not by the environment."""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def issuer() -> LocalIssuer:
    """The daemon's development issuer; its key is kept, so that a daemon that comes after it goes on with the same tasks."""
    file = directory() / "issuers" / f"{ISSUER}.json"
    ensure(directory())
    file.parent.mkdir(mode=0o700, exist_ok=True)
    if not file.is_file():
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        LocalIssuer(ISSUER).save(draft)
        try:
            os.link(draft, file)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
        finally:
            draft.unlink(missing_ok=True)
    return LocalIssuer.load(file)
