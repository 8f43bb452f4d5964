"""A registry over SCIM, and the webhook, on a real server on loopback that behaves well or badly."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from guard.errors import ConfigError, GuardError
from guard.identity.iam import ScimSource, Webhook
from guard.identity.registered import Identity, RegistryUnreadable
from guard.identity.registry import Registry

SECRET = "s3cret-of-the-registry-0123456789"
LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
AGENT = "urn:ietf:params:scim:schemas:core:2.0:Agent"


class Iam:
    """`agents`: what it has. `page`: how many it gives at once. `total`, `status`, `kind`: what it says instead."""

    def __init__(self) -> None:
        self.agents: list[dict[str, Any]] = []
        self.page, self.status, self.kind = 2, 200, "application/scim+json"
        self.total: Callable[[int], int] | None = None
        self.got: list[tuple[str, str, Any]] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                owner.got.append((self.path, self.headers.get("authorization", ""), None))
                query = parse_qs(urlsplit(self.path).query)
                start = int(query["startIndex"][0])
                rows = owner.agents[start - 1 : start - 1 + min(owner.page, int(query["count"][0]))]
                total = owner.total(start) if owner.total is not None else len(owner.agents)
                self.say(json.dumps({"schemas": [LIST], "totalResults": total, "startIndex": start, "Resources": rows}).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.got.append((self.path, self.headers.get("authorization", ""), json.loads(body)))
                self.say(b"{}")

            def say(self, body: bytes) -> None:
                self.send_response(owner.status)
                if owner.status == 302:
                    self.send_header("location", "http://127.0.0.1:9/")
                self.send_header("content-type", owner.kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/scim/v2/Agents"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def iam() -> Iterator[Iam]:
    one = Iam()
    one.agents = [{"schemas": [AGENT], "name": f"agent-{i}", "owners": [{"value": "o"}]} for i in range(5)]
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def bearer(tmp_path: Path) -> Path:
    path = tmp_path / "bearer"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


def test_all_pages_make_the_registry(iam: Iam, bearer: Path) -> None:
    registry = Registry(ScimSource(iam.url, bearer=bearer))
    assert [one.id for one in registry.identities] == [f"agent-{i}" for i in range(5)]
    assert [path.partition("startIndex=")[2].partition("&")[0] for path, _, _ in iam.got] == ["1", "3", "5"]
    assert {shown for _, shown, _ in iam.got} == {f"Bearer {SECRET}"}


BAD: dict[str, Callable[[Iam], object]] = {
    "a refusal": lambda iam: setattr(iam, "status", 401),
    "a redirect": lambda iam: setattr(iam, "status", 302),
    "a page": lambda iam: setattr(iam, "kind", "text/html"),
    "a list that ends too soon": lambda iam: setattr(iam, "total", lambda _: 9),
    "a list that is longer than it says": lambda iam: setattr(iam, "total", lambda _: 1),
    "a list that changes its length": lambda iam: setattr(iam, "total", lambda start: 5 + start),
    "a name twice": lambda iam: iam.agents.append(iam.agents[0]),
    "no server": lambda iam: (iam.server.shutdown(), iam.server.server_close()),
}


@pytest.mark.parametrize("name", BAD)
def test_no_usable_answer_denies(name: str, iam: Iam, bearer: Path) -> None:
    BAD[name](iam)
    registry = Registry(ScimSource(iam.url, bearer=bearer, seconds=2))
    with pytest.raises(RegistryUnreadable) as caught:
        _ = registry.identities
    assert SECRET not in str(caught.value) + repr(registry)
    assert registry.proofs() is not None


def test_what_was_read_holds_while_the_server_is_gone_but_not_for_ever(iam: Iam, bearer: Path) -> None:
    at = [100.0]
    source = ScimSource(iam.url, bearer=bearer, every=10, stale=60, steady=lambda: at[0])
    registry = Registry(source)

    def looked() -> None:
        """What was begun has come back: at the time it was begun at."""
        until = time.monotonic() + 20
        while source._busy and time.monotonic() < until:
            time.sleep(0.01)

    before = registry.generation
    iam.status = 503
    at[0] += 30
    assert len(registry.identities) == 5
    assert registry.generation == before
    looked()
    at[0] += 31
    with pytest.raises(RegistryUnreadable, match="has not answered for 60 seconds"):
        _ = registry.identities
    assert registry.generation > before
    looked()
    iam.status, iam.agents = 200, iam.agents[:1]
    at[0] += 16
    until = time.monotonic() + 20
    while registry.generation == before + 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert [one.id for one in registry.identities] == ["agent-0"]


def test_the_webhook_asks_with_names_only(iam: Iam, bearer: Path) -> None:
    hook = Webhook(iam.url, bearer=bearer)
    hook.ask("rotate", Identity("payer", "agent", owner="payments", keys=("A" * 43,)), "identity.overdue")
    (_, shown, body) = iam.got[-1]
    assert shown == f"Bearer {SECRET}"
    assert body == {"action": "rotate", "id": "payer", "kind": "agent", "issuer": None, "owner": "payments", "why": "identity.overdue"}
    for status in (401, 500, 302):
        iam.status = status
        with pytest.raises(GuardError, match="not taken") as caught:
            hook.ask("revoke", Identity("payer", "agent"), "left")
        assert caught.value.code == "identity.unavailable"
        assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError):
        hook.ask("delete", Identity("payer", "agent"), "x")  # type: ignore[arg-type]


def test_a_bearer_others_may_open_is_refused(iam: Iam, bearer: Path, tmp_path: Path) -> None:
    bearer.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        Webhook(iam.url, bearer=bearer)
    bearer.chmod(0o600)
    bearer.write_text("a b")
    with pytest.raises(ConfigError, match="no bearer token"):
        ScimSource(iam.url, bearer=bearer)
    with pytest.raises(ConfigError, match="cannot read"):
        Webhook(iam.url, bearer=tmp_path / "missing")
    for url in ("http://iam.example/scim", "https://u@iam.example/", "ftp://iam.example"):
        with pytest.raises(ConfigError):
            ScimSource(url)
    assert iam.got == []
