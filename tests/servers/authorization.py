"""A real authorization server for tests: npm oidc-provider on loopback, started and stopped by the test.

`authorization_server` is shared by all tests of a session: read its keys, log in, exchange, but do not restart it. A test that restarts a
server, or wants nonces, starts its own: `start_authorization_server(nonce=True)`.

What is the product's and what is ours: login, client credentials, `private_key_jwt`, DPoP, introspection, revocation, metadata and signing
are npm oidc-provider's own code. Token exchange is registered by `oidc/server.mjs` through its documented hook and is ours: it tests a
client of RFC 8693, not another's reading of the RFC. JWT access tokens can be neither introspected nor revoked there; those for
`OPAQUE` and `BANK` can.
"""

from __future__ import annotations

import base64
import html
import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests import canary
from tests.ports import free
from tests.servers import npm

HERE = Path(__file__).resolve().parent / "oidc"
MODULES = HERE.parents[2] / ".venv-authorization-server"
"""Git-ignored, and taken away by `make clean`."""

TOOLS, TOOLS_RS256, TOOLS_ED25519 = "urn:example:tools", "urn:example:tools:rs256", "urn:example:tools:ed25519"
"""Audiences of JWT access tokens (`at+jwt`), by the algorithm that signs them (ES256 the first)."""
OTHER = "urn:example:other"
"""Another audience: an exchange never leads there."""
OPAQUE, BANK = "urn:example:opaque", "urn:example:bank"
"""Audiences of opaque tokens, which can be introspected and revoked. An exchange may go there from anywhere."""
ISSUES, REPORTS = "https://api.acme.example/issues", "https://api.acme.example/reports"
"""The same for a minute, to be lent for one call; tokens for the second are JWTs, which cannot be taken back there."""
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
SCOPES = "tools:read tools:write tools:pay"
Json = dict[str, Any]


class AuthorizationServer:
    """One running server. Clients: `ui` (logs people in), `orchestrator` and `guard` (secret; `guard` may introspect everything),
    `worker` (private_key_jwt), `worker-bound` (the same, and always DPoP)."""

    def __init__(self, folder: Path, *, keys: str = "a", nonce: bool = False, txn: bool = True) -> None:
        self.folder = folder
        self._nonce, self._txn = nonce, txn
        self._process: subprocess.Popen[str] | None = None
        (folder / "node_modules").symlink_to(MODULES / "node_modules")
        for name in ("package.json", "server.mjs", "dpop.mjs"):
            shutil.copy(HERE / name, folder / name)
        self.issuer = ""
        self.start(keys)

    def start(self, keys: str = "a") -> None:
        """`keys`: generations of signing keys, comma-separated; the first signs, all are published. The port stays the same."""
        port = self.issuer.rpartition(":")[2] or str(free())
        environ = {
            "PORT": port,
            "STATE": str(self.folder),
            "KEYS": keys,
            "DPOP_NONCE": "1" if self._nonce else "",
            "NO_TXN": "" if self._txn else "1",
        }
        with (self.folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                [npm.node(), "server.mjs"],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._http = client()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the authorization server did not start:\n{(self.folder / 'server.log').read_text()}"
        self.issuer = json.loads(line)["issuer"]

    def stop(self) -> None:
        if self._process is not None:
            self._http.close()
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()
            self._process = None

    def restart(self, keys: str) -> None:
        """Other signing keys, as `start` says; client credentials stay, sessions and opaque tokens are gone."""
        self.stop()
        self.start(keys)

    # -- what clients are and have -----------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> Json:
        found: Json = self.get("/.well-known/oauth-authorization-server").json()
        return found

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    def secret(self, client: str) -> str:
        """Of a client with `client_secret_basic`."""
        found = str(self._credentials(client)["secret"])
        canary.secret(found, "a client's secret")
        return found

    def key(self, client: str) -> Json:
        """The private JWK (with `kid`, `alg`) of a client with `private_key_jwt`."""
        found: Json = self._credentials(client)["jwk"]
        canary.secret(found["d"], "a client's key")
        return found

    def assertion(self, client: str) -> Json:
        """RFC 7523: what a client with a key puts into a request."""
        now = int(time.time())
        claims = {"iss": client, "sub": client, "aud": self.issuer, "jti": secrets.token_hex(8), "iat": now, "exp": now + 60}
        return {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": _signed(self.key(client), claims, {"kid": self.key(client)["kid"]}),
        }

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        return self._http.get(self.issuer + path)

    def post(self, path: str, data: Mapping[str, object], who: str, *, headers: Mapping[str, str] | None = None) -> Any:
        """An `httpx.Response`: the client authenticates as it is registered."""
        basic, form = None, dict(data)
        if "secret" in self._credentials(who):
            basic = (who, self.secret(who))
        else:
            form |= self.assertion(who)
        return self._http.post(self.issuer + path, data=form, auth=basic, headers=dict(headers or {}))

    def token(self, data: Mapping[str, object], client: str, *, dpop: Json | None = None) -> Any:
        """The token endpoint's `httpx.Response`. `dpop`: the private JWK that signs the proof (a wanted nonce is brought at once)."""
        nonce = None
        while True:
            headers = {} if dpop is None else {"DPoP": proof(dpop, "POST", self.token_endpoint, nonce=nonce)}
            answer = self.post("/token", data, client, headers=headers)
            canary.heard(answer)
            if nonce is not None or answer.status_code != 400 or answer.json().get("error") != "use_dpop_nonce":
                return answer
            nonce = answer.headers["dpop-nonce"]

    def client_credentials(
        self,
        client: str = "orchestrator",
        *,
        resource: str = TOOLS,
        scope: str | None = None,
        details: Sequence[Json] | None = None,
        dpop: Json | None = None,
    ) -> str:
        """An access token for the client itself (`sub` is the client, `owner` platform@example)."""
        data = {"grant_type": "client_credentials", "resource": resource, "scope": scope or SCOPES, **_details(details)}
        return _token(self.token(data, client, dpop=dpop))

    def login(self, person: str = "alice", *, resource: str = TOOLS, scope: str = SCOPES, details: Sequence[Json] | None = None) -> Json:
        """A person logs in at `ui` (code and PKCE, the product's own pages). The token response: `access_token`, `id_token`."""
        verifier, back = secrets.token_urlsafe(40), "http://127.0.0.1:1/cb"
        asked = {
            "client_id": "ui", "redirect_uri": back, "response_type": "code", "scope": f"openid {scope}", "resource": resource, "state": "s",
            "code_challenge": b64(sha256(verifier.encode()).digest()), "code_challenge_method": "S256", **_details(details),
        }  # fmt: skip
        import httpx

        with client(self.issuer) as browser:
            page = browser.get("/auth", params=asked)
            for _ in range(12):
                target = page.headers.get("location", "")
                if target.startswith(back):
                    break
                if target:
                    page = browser.get(target)
                    continue
                form = re.search(r'action="([^"]+)"', page.text)
                prompt = re.search(r'name="prompt" value="([^"]+)"', page.text)
                assert form is not None and prompt is not None, page.text[:500]
                answers = {"prompt": prompt.group(1)} | ({"login": person, "password": "x"} if prompt.group(1) == "login" else {})
                page = browser.post(html.unescape(form.group(1)), data=answers)
            code = httpx.URL(page.headers["location"]).params.get("code")
        assert code, page.headers["location"]
        data = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": verifier, "resource": resource}
        answer = self.token(data, "ui")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def exchange(
        self,
        subject_token: str,
        client: str = "orchestrator",
        *,
        resource: str | None = None,
        scope: str | None = None,
        details: Sequence[Json] | None = None,
        dpop: Json | None = None,
        **more: object,
    ) -> Any:
        """RFC 8693: the `httpx.Response`. The answer's token has `act: {sub: client, act: ...}` and the `txn` of its parent."""
        data: Json = {
            "grant_type": EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": ACCESS_TOKEN,
            **_details(details),
            **more,
        }
        data |= {name: value for name, value in {"resource": resource, "scope": scope}.items() if value is not None}
        return self.token(data, client, dpop=dpop)

    def introspect(self, token: str, client: str = "guard") -> Json:
        """RFC 7662. Opaque tokens only: for a JWT the answer is `{"error": "unsupported_token_type"}`."""
        found: Json = self.post("/token/introspection", {"token": token}, client).json()
        return found

    def revoke(self, token: str, client: str) -> int:
        """RFC 7009, by the client it was issued to; the status. 400 for a JWT."""
        return int(self.post("/token/revocation", {"token": token}, client).status_code)

    def _credentials(self, client: str) -> Json:
        found: Json = json.loads((self.folder / "clients.json").read_text())[client]
        return found


def proof(key: Json, method: str, url: str, *, nonce: str | None = None, access_token: str | None = None, jti: str | None = None) -> str:
    """A DPoP proof (RFC 9449). `key`: a private JWK for ES256, see `new_key`."""
    claims: Json = {"jti": jti or secrets.token_hex(8), "htm": method, "htu": url, "iat": int(time.time())}
    if nonce is not None:
        claims["nonce"] = nonce
    if access_token is not None:
        claims["ath"] = b64(sha256(access_token.encode()).digest())
    return _signed(key, claims, {"typ": "dpop+jwt", "jwk": {name: key[name] for name in ("kty", "crv", "x", "y")}})


def new_key() -> Json:
    """A private JWK on P-256."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm

    found: Json = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    canary.secret(found["d"], "a key")
    return found


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _signed(key: Json, claims: Json, header: Json) -> str:
    import jwt

    made = jwt.encode(claims, jwt.PyJWK({**key, "alg": "ES256"}).key, "ES256", headers=header)
    canary.secret(made, "a proof or an assertion")
    return made


def _token(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


def _details(details: Sequence[Json] | None) -> Json:
    return {} if details is None else {"authorization_details": json.dumps(list(details))}


def client(base: str = "") -> Any:
    """An `httpx.Client` for loopback: no proxies, and no certificate counts, so that none has to be loaded."""
    import ssl

    import httpx

    return httpx.Client(timeout=20, trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), base_url=base)


# -- installing it ---------------------------------------------------------------------------------------------------------------


def installed() -> str | None:
    """None where the server can be started; else why not. Installs it once, from npm's registry as the machine is configured."""
    return npm.installed("npm oidc-provider, the authorization server of these tests", HERE, MODULES)


# -- fixtures --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def start_authorization_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., AuthorizationServer]]:
    """`start_authorization_server(keys="a", nonce=False, txn=True)`: a server of the test's own, to restart or stop. Skips where it cannot run."""
    why = installed()
    if why is not None:
        pytest.skip(why)
    started: list[AuthorizationServer] = []

    def start(**options: Any) -> AuthorizationServer:
        server = AuthorizationServer(tmp_path_factory.mktemp("authorization"), **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def authorization_server(start_authorization_server: Callable[..., AuthorizationServer]) -> AuthorizationServer:
    """The shared one. Do not restart it."""
    return start_authorization_server()
