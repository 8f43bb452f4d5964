"""Keys that keep persons and values out of records.

| what            | key                                                        | gone when                     |
|-----------------|------------------------------------------------------------|-------------------------------|
| argument values | HKDF of `keys/records.key` per tenant, issuer, task        | that file is deleted          |
| a person        | drawn by chance, one file each: `keys/persons/<id>.json`   | that person's file is deleted |

A pseudonym is an HMAC under the person's own key. The file is the separate lookup: who may read it can say who `p-...` is; once it is
deleted (`erase`) nobody can, and every record and hash stays as it was. A person who comes back after that is a new one. File names
are keyed hashes too: the list of files tells nobody's name.
"""

from __future__ import annotations

import hmac
import json
import os
import threading
from collections import OrderedDict
from pathlib import Path

from guard.record.files import ensure, keep

__all__ = ["Blinds"]

_HELD = 4096


class Blinds:
    """`folder`: where records lie; None keeps the keys in memory, and they go with the process. Nothing is made before first use."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = Path(os.path.abspath(folder)) if folder is not None else None  # noqa: PTH100 - links in it may change, the place may not
        self._root: bytes | None = None
        self._persons: OrderedDict[str, str] = OrderedDict()
        self._erased: dict[str, int] = {}
        self._lock = threading.Lock()

    def task_key(self, tenant: str, issuer: str, txn: str) -> bytes:
        """The 32-byte key of one task, under which its argument values are HMACed."""
        return _derive(self._master(), "task", tenant, issuer, txn)

    def origin(self, tenant: str, subject: str) -> str:
        """The pseudonym of a person; the same for the same (tenant, subject) while its key exists."""
        name = _derive(self._master(), "person", tenant, subject).hex()[:32]
        if self._folder is None:
            # No files to delete: the key of a person follows from the root and from how often it was erased.
            return _pseudonym(_derive(self._master(), "person key", name, str(self._erased.get(name, 0))))
        path = self._person(name)
        with self._lock:
            held = self._persons.get(name)
            # Attack on erasure: a process that remembers the key goes on linking the person. The file decides, every time.
            if held is not None and path.exists():
                self._persons.move_to_end(name)
                return held
        pseudonym = _pseudonym(_key_in(keep(path, lambda: _entry(tenant, subject))))
        with self._lock:
            self._persons[name] = pseudonym
            while len(self._persons) > _HELD:
                self._persons.popitem(last=False)
        return pseudonym

    def erase(self, tenant: str, subject: str) -> bool:
        """Delete a person's key: no record can be linked to the person any more. False: there was none."""
        name = _derive(self._master(), "person", tenant, subject).hex()[:32]
        with self._lock:
            if self._folder is None:
                self._erased[name] = self._erased.get(name, 0) + 1
                return True
            self._persons.pop(name, None)
        try:
            self._person(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def who(self, pseudonym: str) -> tuple[str, str] | None:
        """(tenant, subject) behind a pseudonym, None where its key is gone, was never here, or is kept in memory only."""
        if self._folder is None:
            return None
        for path in sorted((self._folder / "keys" / "persons").glob("*.json")):
            try:
                raw = path.read_bytes()
                if hmac.compare_digest(_pseudonym(_key_in(raw)), pseudonym):
                    entry = json.loads(raw)
                    return str(entry["tenant"]), str(entry["subject"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _person(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / "keys" / "persons" / f"{name}.json"

    def _master(self) -> bytes:
        root = self._root
        if root is None:
            with self._lock:
                if self._root is None:
                    if self._folder is None:
                        self._root = os.urandom(32)
                    else:
                        ensure(self._folder)
                        self._root = keep(self._folder / "keys" / "records.key", lambda: os.urandom(32))
                        if len(self._root) != 32:
                            # A key file that was emptied is a key everybody knows.
                            self._root = None
                            raise ValueError("keys/records.key does not hold 32 bytes")
                root = self._root
        return root


def _derive(root: bytes, *words: str) -> bytes:
    """HKDF (RFC 5869) with SHA-256, one block. Each word with its length before it: no two lists of words read the same."""
    info = b"".join(len(raw).to_bytes(4, "big") + raw for raw in (word.encode("utf-8", "surrogatepass") for word in words))
    return hmac.digest(hmac.digest(b"guardtrail records v1", root, "sha256"), info + b"\x01", "sha256")


def _pseudonym(key: bytes) -> str:
    return "p-" + hmac.digest(key, b"pseudonym", "sha256").hex()[:24]


def _entry(tenant: str, subject: str) -> bytes:
    return json.dumps({"v": 1, "tenant": tenant, "subject": subject, "key": os.urandom(32).hex()}).encode()


def _key_in(raw: bytes) -> bytes:
    key = bytes.fromhex(json.loads(raw)["key"])
    if len(key) != 32:
        raise ValueError("a person's key does not have 32 bytes")
    return key
