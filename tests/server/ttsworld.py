"""A token service with an issuer of subject tokens, clients, a clock; asked through its ASGI app."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
import yaml

from guard.identity.holder import HolderKey
from guard.identity.signing import make_key
from guard.model import Delegation
from guard.server import tts_app
from guard.server.issuing import SUBJECTS, TXN_TOKEN, TokenService
from guard.server.ttsconfig import read_config, service_of
from guard.tokens import IssuerRules, KeySet, verify
from guard.tokens.assertion import ASSERTION
from guard.tokens.lent import GRANT
from guard.tokens.proof import digest
from tests.tokens.forge import AUD, ED, ISS, KEY, NOW, claims, jwk, token

TTS, DOMAIN = "https://tts.acme.example/agents", "acme.example"
SECRET = "canary-" + secrets.token_hex(16)
HOLDER = HolderKey.generate(clock=lambda: NOW)
Json = dict[str, Any]


class World:
    def __init__(self, folder: Path, **more: object) -> None:
        self.folder, self.now = folder, float(NOW)
        (folder / "iam.json").write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
        (folder / "planner.json").write_text(json.dumps({"keys": [jwk(ED, "p1", alg="EdDSA")]}))
        (folder / "gateway.secret").write_text(SECRET + "\n")
        (folder / "gateway.secret").chmod(0o600)
        self.config: Json = {
            "issuer": TTS, "trust_domain": DOMAIN, "keys": "keys", "records": "records", "state": "sqlite:state.db", "revoked": "revoked.jsonl",
            "issuers": [{"url": ISS, "audience": AUD, "keys": "iam.json"}],
            "clients": [{"id": "gateway", "secret": "gateway.secret"}, {"id": "planner", "keys": "planner.json", "acts": True}],
            **more,
        }  # fmt: skip
        (folder / "revoked.jsonl").touch()
        if not (folder / "keys").exists():
            make_key(folder / "keys", clock=self.clock)
        self.service = self.made()

    def clock(self) -> float:
        return self.now

    def made(self) -> TokenService:
        """The service of the file, as after a restart."""
        (self.folder / "tts.yaml").write_text(yaml.safe_dump(self.config))
        return service_of(read_config(self.folder / "tts.yaml"), self.folder, clock=self.clock)

    # -- asking --------------------------------------------------------------------------------------------------------------------

    def send(
        self, content: Any, headers: Mapping[str, str] | list[tuple[str, str]], *, path: str = "/agents/token", method: str = "POST"
    ) -> httpx.Response:
        async def go() -> httpx.Response:
            transport = httpx.ASGITransport(tts_app(self.service))
            async with httpx.AsyncClient(transport=transport, base_url="https://tts.acme.example") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(go())

    def ask(self, subject: str | None = None, *, dpop: list[str] | None = None, auth: str | None = None, **more: Any) -> httpx.Response:
        """As `gateway`, unless `auth` is another header ("": none). A member of `more` that is None is left out."""
        headers = [("content-type", "application/x-www-form-urlencoded"), *(("dpop", one) for one in dpop or ())]
        auth = basic("gateway", SECRET) if auth is None else auth
        if auth:
            headers.append(("authorization", auth))
        return self.send(form(token(claims(txn=...)) if subject is None else subject, **more).encode(), headers)

    def issued(self, subject: str | None = None, **more: Any) -> Delegation:
        answer = self.ask(subject, **more)
        assert answer.status_code == 200, answer.text
        return self.read(answer.json()["access_token"])

    def read(self, text: str) -> Delegation:
        """As a guard reads it: with the published keys."""
        found = KeySet.from_jwks(self.send(b"", {}, path="/agents/jwks.json", method="GET").text)
        return verify(text, {TTS: IssuerRules(TTS, TTS, DOMAIN, 3600, found)}, now=int(self.now))

    def assertion(self, client: str = "planner", *, key: Any = ED, header: Json | None = None, **over: object) -> Json:
        """`private_key_jwt`."""
        made: Json = {
            "iss": client,
            "sub": client,
            "aud": TTS,
            "jti": secrets.token_hex(8),
            "iat": int(self.now),
            "exp": int(self.now) + 60,
            **over,
        }
        text = token(
            {name: value for name, value in made.items() if value is not ...},
            key=key,
            header=header or {"alg": "EdDSA", "typ": "JWT", "kid": "p1"},
        )
        return {"client_assertion_type": ASSERTION, "client_assertion": text}

    def proof(self, subject: str, *, key: HolderKey = HOLDER, **over: object) -> str:
        """A DPoP proof over `subject`."""
        made: Json = {
            "jti": secrets.token_hex(8),
            "htm": "POST",
            "htu": f"{TTS}/token",
            "iat": int(self.now),
            "ath": digest(subject),
            **over,
        }
        return key._sign(
            {"alg": "ES256", "typ": "dpop+jwt", "jwk": dict(key.public)}, {name: value for name, value in made.items() if value is not ...}
        )

    # -- what is recorded ------------------------------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in sorted((self.folder / "records").glob("audit*.jsonl")))

    @property
    def records(self) -> list[Json]:
        return [json.loads(line) for line in self.log.splitlines()]


def form(subject: str, **more: Any) -> str:
    made = {
        "grant_type": GRANT, "requested_token_type": TXN_TOKEN, "audience": DOMAIN, "subject_token": subject, "subject_token_type": SUBJECTS[0], **more,
    }  # fmt: skip
    return urlencode({name: value if isinstance(value, str) else json.dumps(value) for name, value in made.items() if value is not None})


def basic(client: str, secret: str) -> str:
    from base64 import b64encode

    return "Basic " + b64encode(f"{quote_plus(client)}:{quote_plus(secret)}".encode()).decode()
