"""Where records lie and how their files come into being: private to their user, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

from guard.errors import GuardError
from guard.reasons import ReasonCode

__all__ = ["Unavailable", "directory", "ensure", "keep", "sync_folder", "unavailable"]


class Unavailable(GuardError):
    """A record cannot be kept. Every call that needs it is denied."""

    code = ReasonCode.RECORD_UNAVAILABLE


def unavailable(path: Path, why: str = "is not writable") -> Unavailable:
    """`why` names no value: the text ends up in denials."""
    return Unavailable(f"audit log {path} {why}; no tool runs unrecorded")


def directory() -> Path:
    """`$GUARDTRAIL_DIR`, else `.guardtrail` in the working directory. Made on first use, not here."""
    return Path(os.environ.get("GUARDTRAIL_DIR") or ".guardtrail")


def ensure(folder: Path) -> None:
    """Make `folder` (0700) with a `.gitignore` that keeps all of it out of a repository."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    ignore = folder / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", "ascii")


def keep(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of a key file; made (0600) where there is none. Of several processes that make it at once, one wins whole."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{token_hex(6)}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
            sync_folder(path.parent)
        except FileExistsError:
            pass
    finally:
        draft.unlink()
    return path.read_bytes()


def sync_folder(folder: Path) -> None:
    """A new name in `folder` survives a power failure."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
