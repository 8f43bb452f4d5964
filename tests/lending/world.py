"""A guard whose tools need credentials, an issuer of them in memory, and a server that answers as a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from guard import Guard, LocalIssuer, Policy
from guard.record import ListSink
from guard.testing import FakeCredentials

RESOURCE = "https://api.acme.example"
POLICY = f"""
guardtrail: 1
name: tracker
owner: desk@acme.example
tools:
  create_issue:
    effect: write
    control: {{repo: name}}
    data: {{title: text}}
    returns: none
    credential: {{resource: "{RESOURCE}", scope: [issues.write], ttl: 2m}}
  pay: {{effect: pay, control: {{to: name}}, credential: {{resource: "{RESOURCE}/pay", scope: pay.once, ttl: 30s}}}}
  look: {{effect: read, control: {{repo: name}}, returns: none}}
intents:
  triage:
    description: Issues.
    allow:
      create_issue: {{args: {{repo: {{any: true}}}}, limit: {{calls: 3}}}}
      pay: {{args: {{to: {{any: true}}}}}}
      look: {{args: {{repo: {{any: true}}}}}}
rules:
  - {{id: stop, limit: {{denied: 3}}, then: suspend}}
"""


class Desk:
    """`guard` with `credentials` in memory; `task()` opens one."""

    def __init__(self, policy: str = POLICY, **options: Any) -> None:
        self.iam = LocalIssuer("acme-dev")
        self.lender = FakeCredentials()
        self.sink = ListSink()
        options.setdefault("credentials", self.lender)
        options.setdefault("sinks", [self.sink])
        options.setdefault("deadline", timedelta(seconds=30))  # a busy machine is no refusal
        self.guard = Guard(Policy.from_text(policy), trust=self.iam, **options)

    def task(self, **more: Any) -> Any:
        return self.guard.task(self.iam.mint(**{"origin": "alice", "actor": "support", "intent": "triage", **more}))

    @property
    def lent(self) -> list[dict[str, Any]]:
        """What the outcome records say of credentials."""
        return [dict(record.credential) for record in self.sink.outcomes]

    @property
    def text(self) -> str:
        """Every record, as JSON."""
        return json.dumps([record.to_dict() for record in self.sink.records], default=str)


class Server:
    """An authorization server of one test: `answer(path, form)` gives status and body. Metadata is its own."""

    def __init__(self, answer: Callable[[str, dict[str, str]], tuple[int, object]]) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.proofs: list[str | None] = []
        """The `DPoP` header of each question."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ends = {f"{name}_endpoint": f"{server.url}/{name}" for name in ("token", "revocation")}
                self.say(200, {"issuer": server.url, **ends})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                server.asked.append((self.path, form))
                server.proofs.append(self.headers["dpop"])
                self.say(*answer(self.path, form))

            def say(self, status: int, body: object) -> None:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:  # nobody waits any more
                    pass

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def paths(self, path: str) -> list[dict[str, str]]:
        return [form for where, form in self.asked if where == path]

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
