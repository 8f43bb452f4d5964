"""No secret of the suite in anything that leaves: every secret the tests make is remembered, and looked for in all that guardtrail has written.

| secrets                                                                                          | how they are heard of                  |
|--------------------------------------------------------------------------------------------------|----------------------------------------|
| tokens: minted, exchanged, forged, hops, proofs, client assertions, answers of the real server     | `_WATCHED`; `secret(...)` in the helpers |
| private keys: of issuers, holders, clients, the real server's                                      | the same                               |
| client secrets, credentials that bodies were lent                                                 | the same                               |
| what a test calls secret (a result, an argument)                                                  | the fixture `secret`                   |

| channel   | what is looked at                                                                                                   |
|-----------|---------------------------------------------------------------------------------------------------------------------|
| file      | what guardtrail has written in the folders of the tests: audit files, checkpoints, writers, spans (`_FILES`)          |
| record    | every record a `ListSink` was given                                                                                 |
| span      | every span that a processor of OpenTelemetry was handed when it ended                                                |
| log       | every record of `logging`, every event of `LogSink` (which is what structlog is given)                                |
| exception | every exception of guard when it is made: `str`, `repr`, what it hangs on (context, its causes), notes              |
| cli       | stdout and stderr of every command, in process or as one of its own, but for `_PRINTS`                               |

What is found: 22 characters in a row of a secret (36 of one that is longer than 64), as it is, as hex, or as base64 (of a token's signature, since its header and claims are no secret; of a private
key's number, which is how it stands in a PEM or a JWK). Texts under 24 characters are no secrets: constants of tests.

How: windows of 16 characters of the secrets are keys of a dictionary; of a text every seventh window is looked up. So a text costs by its length, whatever the
number of secrets. A module is searched when it has ended, with its own secrets and those that were made before it (imports).
"""

from __future__ import annotations

import base64
import functools
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["CANARIES", "Canaries", "Leak", "apart", "install", "secret"]

WINDOW, STEP, LEAST = 16, 7, 24
_FILES = ("audit*.jsonl*", "checkpoints*.jsonl", "writers.jsonl", "spans*.jsonl")
_DEEP = 3
_PRINTS = (
    ("token", "mint"),  # its whole output is a token, for the developer who asked for one
)


class Leak(NamedTuple):
    """Where a secret was found. The secret itself is not told: what a test prints is kept by others."""

    channel: str
    where: str
    what: str
    form: str


class Canaries:
    """Secrets and texts of one module."""

    def __init__(self) -> None:
        self._before: dict[str | bytes, str] = {}
        """Secrets that no module made: imports, collection."""
        self._secrets: dict[str | bytes, str] = {}
        self._texts: dict[tuple[str, str], str] = {}
        self._late: list[tuple[str, str, Callable[[], str]]] = []
        self.folders: dict[Path, None] = {}
        self.running = False

    def secret(self, text: object, what: str) -> None:
        """`text` must not be seen anywhere from now on. Of a JWS its signature."""
        if isinstance(text, str):
            for part in text.split("~"):
                kept = part.rpartition(".")[2] if part.count(".") == 2 else part
                if len(kept) >= LEAST and len(set(kept)) > 9:
                    (self._secrets if self.running else self._before)[kept] = what

    def number(self, raw: bytes, what: str) -> None:
        """A private key's number."""
        (self._secrets if self.running else self._before)[raw] = what

    def text(self, channel: str, where: str, text: str) -> None:
        if len(text) >= LEAST:
            self._texts[text, channel] = where

    def later(self, channel: str, where: str, text: Callable[[], str]) -> None:
        """A text that is made when it is looked at: what it is made of does not change."""
        self._late.append((channel, where, text))

    def search(self) -> list[Leak]:
        """Every leak of what was heard since the last search; then all but `_before` is forgotten."""
        secrets, texts, late, folders = {**self._before, **self._secrets}, self._texts, self._late, self.folders
        self._secrets, self._texts, self._late, self.folders = {}, {}, [], {}  # threads that go on are heard in the next module
        index = _Index()
        for kept, what in secrets.items():
            index.add(kept, what)
        said = [(channel, where, text) for (text, channel), where in list(texts.items())]
        said += [(channel, where, text()) for channel, where, text in list(late)]
        said += [("file", str(path), text) for path, text in _written(folders)]
        return [Leak(channel, where, *leak) for channel, where, text in said for leak in index.find(text)]


class _Index:
    """Windows of every form of every secret."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[str, int, str, str]] = {}

    def add(self, text: str | bytes, what: str) -> None:
        if isinstance(text, bytes):
            self._bytes(text, what)
            return
        self._form(text, what, "as it is")
        self._bytes(text.encode("utf-8", "surrogatepass"), what)
        try:  # of a signature: the bytes it stands for, as others write bytes
            self._bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), what)
        except ValueError:
            pass

    def _bytes(self, raw: bytes, what: str) -> None:
        self._form(raw.hex(), what, "hex")
        for shift in range(3):  # wherever in the encoded text it begins
            encoded = base64.urlsafe_b64encode(b"\0" * shift + raw).decode().rstrip("=")
            self._form(encoded[(0, 2, 3)[shift] : -1], what, "base64")

    def _form(self, text: str, what: str, form: str) -> None:
        text = _plain(text)
        every = 1 if len(text) < 64 else 3
        for at in range(0, len(text) - WINDOW + 1, every):
            self._windows[text[at : at + WINDOW]] = (text, at, what, form)

    def find(self, text: str) -> Iterator[tuple[str, str]]:
        windows, shown = self._windows, _plain(text)
        for each in (shown, shown.lower()) if _HEX.search(shown) else (shown,):
            for at in range(0, len(each) - WINDOW + 1, STEP):
                held = windows.get(each[at : at + WINDOW])
                if held is not None and _common(each, at, held[0], held[1]) >= WINDOW + STEP - 1:
                    yield held[2], held[3]
                    break


_HEX = re.compile("[0-9A-F]{32}")
"""Hex in capitals, which few texts could hold."""


def _plain(text: str) -> str:
    return text.replace("+", "-").replace("/", "_")


def _common(text: str, at: int, form: str, place: int) -> int:
    """How many characters around here are the same in both."""
    first, last = 0, WINDOW
    while at - first > 0 and place - first > 0 and text[at - first - 1] == form[place - first - 1]:
        first += 1
    while at + last < len(text) and place + last < len(form) and text[at + last] == form[place + last]:
        last += 1
    return first + last


def _written(folders: dict[Path, None]) -> Iterator[tuple[Path, str]]:
    seen: set[Path] = set()
    for folder in folders:
        for path in _below(folder, _DEEP):
            if path not in seen:
                seen.add(path)
                try:
                    yield path, path.read_bytes().decode("latin-1")
                except OSError:
                    continue


def _below(folder: Path, deep: int) -> Iterator[Path]:
    try:
        inside = [*folder.iterdir()] if folder.is_dir() else []
    except OSError:
        return
    for path in inside:
        if any(path.match(pattern) for pattern in _FILES):
            if path.is_file():
                yield path
        elif (
            deep
            and "." not in path.name.lstrip(".")
            and path.name not in ("node_modules", "lib")
            and path.is_dir()
            and not path.is_symlink()
        ):
            yield from _below(path, deep - 1)


# -- what is heard -----------------------------------------------------------------------------------------------------------------

CANARIES = [Canaries()]
"""The last one hears."""


def secret(text: object, what: str = "marked by a test") -> None:
    """For tests and their helpers."""
    CANARIES[-1].secret(text, what)


def heard(answer: Any) -> None:
    """An `httpx.Response` of a token endpoint."""
    try:
        body = answer.json()
    except ValueError:
        return
    for name in ("access_token", "refresh_token", "id_token"):
        secret(body.get(name) if isinstance(body, dict) else None, "a token of the server")


@contextmanager
def apart() -> Iterator[Canaries]:
    """A hearing of its own: for the test that leaks on purpose."""
    made = Canaries()
    made.running = True
    CANARIES.append(made)
    try:
        yield made
    finally:
        CANARIES.remove(made)


def _after(owner: Any, name: str, heard: Callable[..., None]) -> None:
    """Hear what `owner.name` was called with, and what it answered: `heard(answer, *args, **kwargs)`."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def hearing(*args: Any, **kwargs: Any) -> Any:
        answer = plain(*args, **kwargs)
        heard(answer, *args, **kwargs)
        return answer

    setattr(owner, name, hearing)


def _key(private: Any, what: str) -> None:
    numbers = getattr(private, "private_numbers", None)
    if numbers is None:
        CANARIES[-1].number(private.private_bytes_raw(), what)
    else:
        found = numbers()
        value = found.private_value if hasattr(found, "private_value") else found.d
        CANARIES[-1].number(value.to_bytes((value.bit_length() + 7) // 8, "big"), what)


def _secrets() -> None:
    from guard.identity import client, downstream, exchange, holder, local
    from guard.testing import fakes

    _after(local.LocalIssuer, "mint", lambda token, *_, **__: secret(token, "a minted token"))
    _after(local.LocalIssuer, "exchange", lambda token, *_, **__: secret(token, "an exchanged token"))
    _after(local.LocalIssuer, "_setup", lambda _, issuer, *__, **___: _key(issuer._private, "an issuer's key"))
    _after(holder.HolderKey, "__init__", lambda _, holder, private, **__: _key(private, "a holder's key"))
    _after(holder.HolderKey, "prove", lambda proof, *_, **__: secret(proof, "a proof"))
    _after(holder.HolderKey, "attenuate", lambda chain, *_, **__: secret(chain, "a chain"))
    _after(client.Client, "__init__", lambda _, client, *__, secret=None, **___: CANARIES[-1].secret(secret, "a client's secret"))
    _after(client._Key, "__init__", lambda _, key, *__, **___: _key(key._private, "a client's key"))
    _after(client._Key, "signed", lambda text, *_, **__: secret(text, "a client's assertion"))
    _after(exchange.TokenExchange, "exchange", lambda token, *_, **__: secret(token, "an exchanged token"))
    for lender in (downstream.DownstreamTokens, fakes.FakeCredentials):
        _after(lender, "obtain", lambda issued, *_, **__: secret(issued.token, "a lent credential"))


def _channels() -> None:
    import subprocess

    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from typer.testing import CliRunner

    from guard import errors
    from guard.constraints import constraint
    from guard.record import logs, memory
    from guard.tokens import jose, keys

    for name in ("decision", "outcome", "note"):
        _after(memory.ListSink, name, lambda _, sink, record: CANARIES[-1].later("record", record.kind, functools.partial(_record, record)))
    for processor in (SimpleSpanProcessor, BatchSpanProcessor):
        _after(processor, "on_end", lambda _, own, span: CANARIES[-1].text("span", span.name, _span(span)))
    _after(logs.LogSink, "_put", lambda _, sink, level, fields: CANARIES[-1].text("log", str(fields.get("event")), repr(fields)))
    _after(logging.Logger, "handle", lambda _, logger, record: CANARIES[-1].text("log", record.name, _logged(record)))
    for kind in (errors.GuardError, errors.Denied, constraint.ConstraintError, jose.NotStrict, keys.KeysRefused):
        _after(kind, "__init__", lambda _, error, *__, **___: _raised(error))
        if kind is not errors.Denied:  # it has its parent's
            _after(kind, "add_note", lambda _, error, note: CANARIES[-1].text("exception", type(error).__name__, str(note)))
    _after(CliRunner, "invoke", lambda result, runner, app, args=None, **__: _said(args or (), result.stdout, result.stderr))
    _after(subprocess, "run", lambda done, *_, **__: _said(done.args, done.stdout, done.stderr))


def _record(record: Any) -> str:
    return json.dumps(record.to_dict(), default=str)


def _span(span: Any) -> str:
    events = [(event.name, dict(event.attributes or {})) for event in span.events]
    links = [dict(link.attributes or {}) for link in span.links]
    return repr((span.name, dict(span.attributes or {}), events, links, span.status.description))


def _logged(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # a test of what happens to broken ones
        text = f"{record.msg!r} {record.args!r}"
    extra = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
    return f"{text} {extra or ''} {record.exc_info[1]!r}" if record.exc_info else f"{text} {extra or ''}"


_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message"}


def _raised(error: BaseException) -> None:
    """What it says of itself, and what it will hang on: the exception that is being handled now, with its own causes."""
    texts = [str(error), repr(error.args)]
    hangs, seen = sys.exception(), set[int]()
    while hangs is not None and id(hangs) not in seen and len(seen) < 8:
        seen.add(id(hangs))
        texts += [str(hangs), repr(hangs), *map(str, getattr(hangs, "__notes__", ()))]
        hangs = hangs.__cause__ or hangs.__context__
    if (decision := getattr(error, "decision", None)) is not None:
        texts += [error.for_model(), repr(decision), decision.model_dump_json()]  # type: ignore[attr-defined]
    CANARIES[-1].text("exception", type(error).__name__, "\n".join(texts))


def _said(args: object, *outputs: object) -> None:
    words = [str(word) for word in args] if isinstance(args, (list, tuple)) else str(args).split()
    prints = any(words[at : at + len(each)] == list(each) for each in _PRINTS for at in range(len(words)))
    for output in outputs:
        text = output.decode("latin-1") if isinstance(output, bytes) else output
        if isinstance(text, str) and prints:
            for word in text.split():
                secret(word, "a token that was printed")
        elif isinstance(text, str):
            CANARIES[-1].text("cli", " ".join(words)[:200], text)


def install() -> None:
    """Hear, from now on. Once for a process."""
    if not getattr(install, "done", False):
        install.done = True  # type: ignore[attr-defined]
        _secrets()
        _channels()
