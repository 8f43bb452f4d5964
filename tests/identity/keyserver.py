"""A server of keys on loopback that behaves well, or as badly as it is told to. For tests."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON = "application/json"
METADATA = "/.well-known/oauth-authorization-server"
JWKS = "/jwks"


class KeyServer:
    """`keys`: what it publishes. `does`: how it answers for its key set (a name of `BAD`, or `well`). `asked`: paths, counted."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.does = "well"
        self.asked: Counter[str] = Counter()
        self.gate = threading.Event()
        """While `does` is slow: set it to let the answer go, which is then that of what `does` says. A drip breaks off."""
        self.metadata: dict[str, Any] = {}
        self.elsewhere = "http://127.0.0.1:9/"
        server = self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        server.daemon_threads = True
        server.block_on_close = False
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.metadata = {"issuer": self.url, "jwks_uri": self.url + JWKS, "token_endpoint": self.url + "/token"}
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def text(self) -> bytes:
        return json.dumps({"keys": self.keys}).encode()


@contextmanager
def key_server(*keys: dict[str, Any]) -> Iterator[KeyServer]:
    server = KeyServer()
    server.keys = list(keys)
    try:
        yield server
    finally:
        server.close()


def _handler(owner: KeyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            owner.asked[self.path] += 1
            try:
                if self.path == JWKS:
                    BAD.get(owner.does, _well)(self, owner)
                elif self.path == METADATA and owner.metadata:
                    answer(self, json.dumps(owner.metadata).encode())
                else:
                    answer(self, b"<html>nothing here</html>", kind="text/html", status=404)
            except OSError:
                pass  # whoever asked has hung up

    return Handler


def answer(to: BaseHTTPRequestHandler, body: bytes, *, kind: str = JSON, status: int = 200, **headers: str) -> None:
    to.send_response(status)
    to.send_header("Content-Type", kind)
    to.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        to.send_header(name.replace("_", "-"), value)
    to.end_headers()
    to.wfile.write(body)


def _well(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    answer(to, owner.text)


def _redirect(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    answer(to, b"", status=302, Location=owner.elsewhere)


def _here(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    answer(to, b"", status=307, Location=owner.url + "/other")


def _huge(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    """Fifty megabytes, of unsaid length: the keys, and then blanks."""
    to.send_response(200)
    to.send_header("Content-Type", JSON)
    to.send_header("Connection", "close")
    to.end_headers()
    to.wfile.write(owner.text)
    for _ in range(50 * 16):
        to.wfile.write(b" " * 65536)
    owner.asked["all of it"] += 1


def _huge_said(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    to.send_response(200)
    to.send_header("Content-Type", JSON)
    to.send_header("Content-Length", str(50 << 20))
    to.end_headers()


def _zipped(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    import gzip

    answer(to, gzip.compress(owner.text + b" " * (50 << 20), 9), Content_Encoding="gzip")


def _drip(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    to.send_response(200)
    to.send_header("Content-Type", JSON)
    slowly = owner.text + b" " * 10_000  # three minutes: longer than anybody here is held up
    to.send_header("Content-Length", str(len(slowly)))
    to.end_headers()
    for byte in slowly:
        to.wfile.write(bytes([byte]))
        if owner.gate.wait(0.02):
            break
    else:
        owner.asked["all of it"] += 1
    _close(to, owner)


def _drip_head(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX: " + b"x" * 10_000:
        to.wfile.write(bytes([byte]))
        if owner.gate.wait(0.02):
            break
    else:
        owner.asked["all of it"] += 1
    _close(to, owner)


def _hang(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    owner.gate.wait(60)
    says = _well if owner.does == "hang" else BAD.get(owner.does, _well)
    says(to, owner)


def _close(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    to.close_connection = True


def _short(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    to.send_response(200)
    to.send_header("Content-Type", JSON)
    to.send_header("Content-Length", str(len(owner.text) + 100))
    to.send_header("Connection", "close")
    to.end_headers()
    to.wfile.write(owner.text)
    to.close_connection = True


def _noise(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
    to.wfile.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
    to.close_connection = True


def _set(change: Any) -> Any:
    def publish(to: BaseHTTPRequestHandler, owner: KeyServer) -> None:
        answer(to, json.dumps({"keys": change(owner.keys)}).encode())

    return publish


BAD: dict[str, Any] = {
    "redirect": _redirect,
    "redirect to itself": _here,
    "fifty megabytes": _huge,
    "fifty megabytes, as it says": _huge_said,
    "fifty megabytes in little": _zipped,
    "html": lambda to, owner: answer(to, b"<html>" + owner.text + b"</html>", kind="text/html"),
    "keys as html": lambda to, owner: answer(to, owner.text, kind="text/html"),
    "html as json": lambda to, owner: answer(to, b"<html></html>"),
    "invalid json": lambda to, owner: answer(to, owner.text[:-1]),
    "a member twice": lambda to, owner: answer(to, b'{"keys": [], ' + owner.text[1:]),
    "json and more": lambda to, owner: answer(to, owner.text + b"{}"),
    "nothing": lambda to, owner: answer(to, b""),
    "500": lambda to, owner: answer(to, owner.text, status=500),
    "404": lambda to, owner: answer(to, owner.text, status=404),
    "203": lambda to, owner: answer(to, owner.text, status=203),
    "a closed connection": _close,
    "less than it says": _short,
    "no HTTP": _noise,
    "an empty list": _set(lambda keys: []),
    "a kid twice": _set(lambda keys: [*keys, keys[0]]),
    "a symmetric key": _set(lambda keys: [*keys, {"kty": "oct", "kid": "s", "k": "c2VjcmV0IG9mIHRoaXJ0eS10d28gY2hhcmFjdGVycw"}]),
    "a private key": _set(lambda keys: [{**keys[0], "d": "AAAA"}, *keys[1:]]),
    "65 keys": _set(lambda keys: [{**keys[0], "kid": f"k{n}"} for n in range(65)]),
}
SLOW: dict[str, Any] = {"a slow drip": _drip, "a slow drip of headers": _drip_head, "hang": _hang}
BAD |= SLOW
