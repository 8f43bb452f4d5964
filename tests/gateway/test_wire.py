"""HTTP to a server: what is read of what it may write (answers.yaml), whatever pieces it comes in; what is sent; what a server cannot make grow."""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ConfigError
from guard.gateway import wire as wire_module
from guard.gateway.wire import LinkLost, NotSent, Reply, Wire, _Connection

CASES = yaml.safe_load((Path(__file__).parent / "answers.yaml").read_text("utf-8"))
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(autouse=True)
def long_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a connection that is used no more it is seen why: it was not just kept for long."""
    monkeypatch.setattr(wire_module, "_IDLE", 3600.0)


class Told:
    """A server that writes what it is told to, for one request after the other, and keeps what it has read."""

    def __init__(self) -> None:
        self.says: list[tuple[Sequence[bytes], bool]] = []
        self.requests: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.silent = asyncio.Event()
        """Has it written, for the last request, all that it was told to?"""
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                self.silent.clear()
                pieces, close = self.says.pop(0)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.005)
                self.silent.set()
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def told(*says: tuple[Sequence[bytes], bool], headers: dict[str, str] | None = None) -> AsyncIterator[tuple[Told, Wire]]:
    server = Told()
    server.says = list(says)
    async with await asyncio.start_server(server._serve, "127.0.0.1", 0) as listening:
        server.port = listening.sockets[0].getsockname()[1]
        wire = Wire(f"http://127.0.0.1:{server.port}/mcp?a=b", headers)
        try:
            yield server, wire
        finally:
            wire.close()


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.005)


def unusable(wire: Wire) -> bool:
    """Is there no connection left that the next request could go on?"""
    return not any(kept.usable() for kept in wire._free)


async def asked(wire: Wire, body: bytes = b"{}") -> tuple[Reply, str]:
    async with asyncio.timeout(30):
        reply = await wire.send("POST", body, {"accept": "a/b"})
        try:
            text = (await reply.body()).decode()
        except BaseException:
            reply.drop()
            raise
        reply.done()
        return reply, text


@pytest.mark.parametrize("by_byte", [False, True], ids=["as written", "byte by byte"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_answer(case: dict[str, Any], by_byte: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [piece.encode() for piece in case["pieces"]]
    if by_byte:
        monkeypatch.setattr(_Connection, "data_received", _byte_by_byte)

    async def play() -> None:
        async with told((pieces, case.get("then") == "close"), ([OK], False)) as (server, wire):
            if "lost" in case:
                with pytest.raises(LinkLost, match=case["lost"]):
                    await asked(wire)
                return
            reply, text = await asked(wire)
            assert (reply.status, text) == (case["status"], case["body"])
            assert reply.kind == case.get("kind", "")
            await until(server.silent.is_set if case["kept"] else lambda: unusable(wire))
            again, text = await asked(wire)
            assert (again.status, text) == (200, "ok"), "the next one has its own answer"
            assert (server.connections == 1) == case["kept"]

    asyncio.run(play())


def _byte_by_byte(self: _Connection, data: bytes, *, plain: Any = _Connection.data_received) -> None:
    """Every byte is a piece of its own, in the parser if not on the network."""
    for i in range(len(data)):
        if not self.transport.is_closing():
            plain(self, data[i : i + 1])


def test_what_is_sent() -> None:
    async def play() -> None:
        async with told(([OK], False), ([OK], False), headers={"Authorization": "Bearer of the gateway"}) as (server, wire):
            await asked(wire, b'{"a": 1}')
            await asked(wire, b"")
            first, second = server.requests
            assert first == (
                b"POST /mcp?a=b HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer of the gateway\r\naccept: a/b\r\n"
                b'content-length: 8\r\n\r\n{"a": 1}' % server.port
            )
            assert second.endswith(b"content-length: 0\r\n\r\n")
            assert server.connections == 1

    asyncio.run(play())


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nx: y", "a\rb", "a\x00b", " a", "a ", "\u2028", "a\x7f", "€"])
def test_a_header_cannot_bring_another(value: str) -> None:
    async def play() -> None:
        async with told(([OK], False)) as (server, wire):
            for headers in ({"x": value}, {f"x{value}": "1"}, {"x": "ok", f"{value}": "1"}):
                with pytest.raises(NotSent):
                    await wire.send("POST", b"", headers)
            assert server.connections == 0, "not a byte has left"

    asyncio.run(play())
    with pytest.raises(ConfigError, match="printable"):
        Wire("http://127.0.0.1/mcp", {"x": value})


@pytest.mark.parametrize("url", ["http://h/a b", "http://h/\u00e9", "http://h/?\x7f"])
def test_an_address_that_cannot_be_sent(url: str) -> None:
    with pytest.raises(ConfigError, match="printable"):
        Wire(url)


def test_nobody_listens() -> None:
    async def play() -> None:
        async with told() as (server, _wire):
            port = server.port
        with pytest.raises(NotSent):
            await Wire(f"http://127.0.0.1:{port}/").send("POST", b"", {})

    asyncio.run(play())


def test_bytes_that_nobody_asked_for() -> None:
    """Attack: the server writes an answer before the question. The connection it came on is used no more."""

    async def play() -> None:
        async with told(([OK, b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"], False), ([OK], False)) as (server, wire):
            await asked(wire)
            await until(lambda: unusable(wire))
            assert (await asked(wire))[1] == "ok"
            assert server.connections == 2

    asyncio.run(play())


def test_bytes_that_nobody_asked_for_and_nobody_has_read_yet() -> None:
    """The same while the event loop is busy: they lie in the socket when the next question is put."""

    async def play() -> None:
        evil = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"
        with told_by_a_thread([OK, evil], [OK]) as (port, go_on):
            wire = Wire(f"http://127.0.0.1:{port}/")
            assert (await asked(wire))[1] == "ok"
            (kept,) = wire._free
            go_on.set()
            assert select.select([kept.transport.get_extra_info("socket")], [], [], 30)[0], "it is here, and the loop has not read it"
            assert (await asked(wire))[1] == "ok"
            wire.close()

    asyncio.run(play())


@contextmanager
def told_by_a_thread(*connections: list[bytes]) -> Iterator[tuple[int, threading.Event]]:
    """Each connection: one request, and the pieces that are written, the first at once, the others when it may go on. All stay open to the end."""
    go_on, over = threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            kept = []
            for first, *more in connections:
                connection, _ = listening.accept()
                kept.append(connection)
                connection.recv(1 << 16)
                connection.sendall(first)
                for piece in more:
                    go_on.wait(30)
                    connection.sendall(piece)
            over.wait(30)
            for connection in kept:
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1], go_on
        finally:
            over.set()
            thread.join(30)


def test_a_request_that_outlives_the_wire_leaves_no_connection() -> None:
    async def play() -> None:
        async with told(([OK], False)) as (server, wire):
            reply = await wire.send("POST", b"", {})
            wire.close()
            assert await reply.body() == b"ok"
            reply.done()
            assert not wire._free
            await asyncio.wait_for(server.gone.wait(), 30)

    asyncio.run(play())


@pytest.mark.parametrize(
    "piece",
    [b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000, b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
     b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"a" * 100_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000],
    ids=["a header without end", "headers without end", "a chunk's extension without end", "informational answers without end"],
)  # fmt: skip
def test_what_has_no_end(piece: bytes) -> None:
    async def play() -> None:
        async with told(([piece] * 5, False)) as (_, wire):
            with pytest.raises(LinkLost):
                await asked(wire)

    asyncio.run(play())


def test_a_body_that_is_too_large() -> None:
    async def play() -> None:
        async with told(([b"HTTP/1.1 200 OK\r\n\r\n", b"a" * 1000], True)) as (_, wire):
            reply = await wire.send("POST", b"", {})
            with pytest.raises(LinkLost, match="too large"):
                await reply.body(999)

    asyncio.run(play())


@pytest.mark.parametrize("chunk", [2, 1 << 20])
def test_a_large_answer_is_whole_and_takes_no_more_than_its_size(chunk: int) -> None:
    """Attack: a few megabytes in chunks of two bytes, each of which would be an object of its own."""
    size = 32 << 20 if chunk > 2 else 2 << 20
    piece = b"%x\r\n%s\r\n" % (chunk, b"a" * chunk)
    pieces = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", piece * (size // chunk), b"0\r\n\r\n"]

    async def play() -> None:
        async with told((pieces, False)) as (_, wire):
            reply = await wire.send("POST", b"", {})
            tracemalloc.start()
            try:
                assert len(await reply.body()) == size
                assert tracemalloc.get_traced_memory()[1] < 6 * size + (8 << 20)
            finally:
                tracemalloc.stop()

    asyncio.run(play())


def test_what_is_given_up_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that ends with its connection, and that we end because it is too large: what has come of it is not the whole."""
    monkeypatch.setattr(wire_module, "MOST", 1 << 20)

    async def play() -> None:
        async with told(([b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", b"data: {}\n\n" + b"a" * (4 << 20)], True)) as (
            _,
            wire,
        ):
            reply = await wire.send("POST", b"", {})
            await until(lambda: bool(reply._connection.failed))  # it lies here, and nobody has read it
            with pytest.raises(LinkLost):
                await reply.body(64 << 20)

    asyncio.run(play())


def test_what_comes_after_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has brought its answer, and then much more than anybody reads. The connection goes on with the next request."""
    monkeypatch.setattr(wire_module, "_ENDING", 30.0)
    event, rest = b"data: {}\n\n", b": " + b"a" * (3 << 20) + b"\n"
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s%s" % (len(event + rest), event, rest)

    async def play() -> None:
        async with told(([whole], False), ([OK], False)) as (server, wire):
            reply = await wire.send("POST", b"", {})
            async for text in reply.events():
                assert text == "{}"
                break
            reply.done()
            await until(lambda: bool(wire._free))
            assert (await asked(wire))[1] == "ok"
            assert server.connections == 1

    asyncio.run(play())


def test_whoever_waits_is_cancelled() -> None:
    """That closes the connection, which tells the server."""

    async def play() -> None:
        async with told(([], False)) as (server, wire):
            waiting = asyncio.create_task(wire.send("POST", b"", {}))
            while not server.requests:
                await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.wait_for(server.gone.wait(), 30)

    asyncio.run(play())


def test_a_kept_connection_that_the_server_has_closed() -> None:
    async def play() -> None:
        async with told(([OK], True), ([OK], False)) as (server, wire):
            await asked(wire)
            await until(lambda: unusable(wire))
            await asked(wire)
            assert server.connections == 2

    asyncio.run(play())


class _Deaf:
    """A transport to nowhere."""

    def write(self, data: bytes) -> None: ...
    def is_closing(self) -> bool:
        return False

    close = abort = pause_reading = resume_reading = is_closing
    get_write_buffer_size = int


@given(texts=st.lists(st.text("ab\u00e9 :", max_size=8), min_size=1, max_size=5), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_events_are_the_same_in_whatever_pieces(texts: list[str], cuts: list[int]) -> None:
    """Law: what is read of a stream does not depend on where the network cuts it."""
    body = "".join(f"event: message\r\ndata: {text}\r\n\r\n" for text in texts).encode()
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))
    whole = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]

    async def play() -> list[str]:
        connection = _Connection()
        connection.connection_made(_Deaf())  # type: ignore[arg-type]
        connection.ask(b"")

        async def arrive() -> None:
            for start, end in itertools.pairwise(places):
                if start != end:
                    connection.data_received(whole[start:end])
                await asyncio.sleep(0)

        coming = asyncio.create_task(arrive())
        while not connection.status:
            await connection.change()
        found = [text async for text in Reply(Wire("http://h/"), connection).events()]
        await coming
        return found

    assert asyncio.run(play()) == texts
