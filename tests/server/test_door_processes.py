"""Several real servers behind one URL, on one state: a proof is good at one of them, once, whoever is killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from guard import LocalIssuer
from guard.identity import HolderKey

URL = "https://desk.acme.example"
ROUNDS = 1000 if os.environ.get("HYPOTHESIS_PROFILE") == "campaign" else 30
ROOT = Path(__file__).resolve().parents[2]


class Server:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.desk", str(folder), URL], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        port = self.process.stdout.readline().strip()
        assert port.isdecimal(), "it did not start"
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"accept-encoding": "identity"})

    def post(self, order: str, headers: dict[str, str]) -> httpx.Response:
        return self.client.post(f"/look/{order}", headers=headers)

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Client:
    """An agent with a token that is bound to its key, and the nonce it was last told."""

    def __init__(self, folder: Path) -> None:
        self.key = HolderKey.generate()
        LocalIssuer("acme-dev").save(folder / "issuer.json")
        self.iam = LocalIssuer.load(folder / "issuer.json")
        self.nonce: str | None = None

    def token(self) -> str:
        return self.iam.mint(origin="alice", actor="desk", intent="work", ttl="1h", txn="one", key=self.key.public)

    def headers(self, token: str, order: str) -> dict[str, str]:
        return {"authorization": f"DPoP {token}", "dpop": self.key.dpop("POST", f"{URL}/look/{order}", presented=token, nonce=self.nonce)}

    def meet(self, server: Server) -> None:
        """Without a nonce nothing runs, and the answer tells one."""
        token, self.nonce = self.token(), None
        self.nonce = server.post("first", self.headers(token, "first")).headers["dpop-nonce"]


@contextmanager
def servers(folder: Path, number: int) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        found = []
        for _ in range(number):
            server = Server(folder)
            stack.callback(server.kill)
            found.append(server)
        yield found


@pytest.mark.timeout(600)
def test_two_processes_and_one_proof(tmp_path: Path) -> None:
    client = Client(tmp_path)
    with servers(tmp_path, 2) as both, ThreadPoolExecutor(2) as pool:
        client.meet(both[0])
        for number in range(ROUNDS):
            if number % 100 == 99:
                client.meet(both[1])
            headers, barrier = client.headers(client.token(), f"o-{number}"), threading.Barrier(2)

            def send(
                server: Server, headers: dict[str, str] = headers, barrier: threading.Barrier = barrier, order: str = f"o-{number}"
            ) -> int:
                barrier.wait(30)
                return server.post(order, headers).status_code

            assert sorted(pool.map(send, both)) == [200, 401], number
    ran = (tmp_path / "bodies").read_text().split()
    assert sorted(ran) == sorted(f"o-{number}" for number in range(ROUNDS))


def test_a_used_proof_survives_a_kill(tmp_path: Path) -> None:
    client = Client(tmp_path)
    with servers(tmp_path, 1) as (server,):
        client.meet(server)
        headers = client.headers(client.token(), "a")
        assert server.post("a", headers).status_code == 200
    with servers(tmp_path, 1) as (server,):
        again = server.post("a", headers)
        assert (again.status_code, again.json()["error"]) == (401, "invalid_dpop_proof"), "the nonce counts there too"
        assert server.post("a", client.headers(client.token(), "a")).status_code == 200
    assert (tmp_path / "bodies").read_text().split() == ["a", "a"]
