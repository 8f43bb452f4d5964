"""An issuer on the command line whose keys come over HTTP. A server that gives none is no answer (exit 3), never a yes."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.cli.conftest import Run
from tests.identity.keyserver import JWKS, KeyServer, key_server
from tests.tokens.forge import AUD, ED, KEY, OTHER, claims, jwk, token

DETAILS = [{"type": "agent_task", "intent": "refund-order", "params": {"order": "A-17", "ceiling": "50"}}]
CALL = '{"tool": "refund", "args": {"order": "A-17", "amount": "20"}}'


def made(server: KeyServer, key: object = KEY) -> str:
    now = int(time.time())
    return token(claims(iss=server.url, iat=now, exp=now + 600, authorization_details=DETAILS, scope=...), key=key)


def test_by_metadata_and_by_address(cli: Run, desk: Path) -> None:
    with key_server(jwk(KEY, "k1")) as server:
        named = ["--issuer", server.url, "--audience", AUD]
        for more in ([], ["--keys", server.url + JWKS]):
            seen = cli("token", "inspect", made(server), *named, *more)
            assert seen.code == 0, seen.err
            assert seen.lines[0].startswith(f"verified  by {server.url}, key k1")
            said = cli("check", "-p", "policy.yaml", "--token", made(server), "--call", CALL, *named, *more)
            assert (said.code, said.lines[0].split()[0]) == (0, "allow"), said.err
        forged = cli("check", "-p", "policy.yaml", "--token", made(server, OTHER), "--call", CALL, *named)
        assert forged.code == 1
        assert forged.out.startswith("deny  token.signature")


def test_a_server_that_gives_no_keys_is_no_answer(cli: Run, desk: Path) -> None:
    with key_server(jwk(KEY, "k1"), jwk(ED, "k1")) as server:
        for command in (["token", "inspect", made(server)], ["check", "-p", "policy.yaml", "--token", made(server), "--call", CALL]):
            said = cli(*command, "--issuer", server.url, "--audience", AUD)
            assert said.code == 3
            assert "keys could not be fetched" in said.err
            assert json.dumps(jwk(KEY, "k1")["x"]) not in said.err
