"""A real server on a free loopback port, and what asks it: no part of the network is made up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import httpx

Answer = Callable[["Asked"], tuple[int, bytes]]


class Asked(NamedTuple):
    path: str
    body: bytes
    headers: Mapping[str, str]


class Web:
    """Answers with what `answer` says at the moment; counts what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.url = ""
        self.kind = "application/octet-stream"


@contextmanager
def serving(answer: Answer) -> Iterator[Web]:
    web = Web(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            asked = Asked(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            web.asked.append(asked)
            status, raw = web.answer(asked)
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.send_header("content-type", web.kind)
                self.end_headers()
                self.wfile.write(raw)
            except OSError:
                pass  # nobody waits for it any more

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def post(url: str, body: bytes, headers: Mapping[str, str], *, seconds: float = 30.0) -> tuple[int, bytes]:
    with httpx.Client(timeout=seconds, trust_env=False) as client:
        found = client.post(url, content=body, headers=dict(headers))
        return found.status_code, found.content


def get(url: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    with httpx.Client(timeout=30.0, trust_env=False) as client:
        found = client.get(url, headers=dict(headers))
        return found.status_code, found.content
