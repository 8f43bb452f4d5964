"""A second authorization server for tests, by other people in another language: Debian's `glewlwyd` (C), where it is installed.

`glewlwyd` is shared by all tests of a session; log in, ask, take back, but do not set it up otherwise: that is
`start_glewlwyd(by="scope")`. It runs on loopback out of a folder of its own, as whoever runs the tests: database from the package's schema,
configuration, log. Nothing of the system's is read but the program, its modules and that schema. Debian calls the program experimental:
it is an independent reading of the standards here, no recommendation.

Everything it does is the product's own; it is set up through its admin API as its manual says (OIDC plugin). What it is like:

| what                    | how it is there                                                                                               |
|-------------------------|---------------------------------------------------------------------------------------------------------------|
| metadata                | `ISSUER/.well-known/openid-configuration` only; nothing at RFC 8414's address                                 |
| grants                  | login by code (PKCE), client credentials. Token exchange: 400, and an empty body                              |
| access tokens           | `at+jwt` with all of RFC 9068, RS256 or ES256 by client; `aud` is the `resource`, else the list of scopes     |
| `authorization_details` | at a login, for types that are set up and consented to. Client credentials leave them out, without a word     |
| sessions                | `sid` in ID tokens, not in access tokens                                                                      |
| more claims             | of persons, from their attributes (here `job`). A client has no attributes: no `owner`, no task               |
| introspection and       | of JWTs. Asked by clients, of their own tokens only; or by whoever holds a token with a scope, of all. One    |
| revocation              | that is set up for both lets every client ask about, and take back, the tokens of every other one             |
| DPoP                    | yes: `cnf.jkt`                                                                                                |
"""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest

from tests import canary
from tests.ports import free
from tests.servers.authorization import EXCHANGE, b64, client

SCHEMA = Path("/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3")
MODULES = Path("/usr/lib/glewlwyd")

TOOLS, OTHER = "https://tools.acme.example", "https://other.acme.example"
"""Audiences, as `resource` (RFC 8707), which has to be an address there: no `urn:`."""
SCOPES = ("tools", "tools:read", "introspect")
TYPES = ("agent_task", "agent_tool")
CLIENTS: Mapping[str, str] = {"agent": "es256-a", "agent-rs": "rs256-a", "guard": "es256-a"}
"""By the key that signs their tokens."""
_BACK = "http://127.0.0.1:1/cb"
Json = dict[str, Any]
By = Literal["client", "scope", "both"]

_CONFIG = """
port={port}
bind_address="127.0.0.1"
external_url="http://127.0.0.1:{port}"
api_prefix="api"
log_mode="file"
log_level="WARNING"
log_file="{folder}/server.log"
cookie_secure=0
admin_session_authentication="cookie"
hash_algorithm="SHA512"
user_module_path="{modules}/user"
user_middleware_module_path="{folder}/none"
client_module_path="{modules}/client"
user_auth_scheme_module_path="{modules}/scheme"
plugin_module_path="{modules}/plugin"
database={{type="sqlite3" path="{folder}/glewlwyd.db"}};
"""


class Glewlwyd:
    """One running server. Clients, by secret: `agent` (tokens ES256), `agent-rs` (RS256), `guard` (may have the scope `introspect`). A person:
    `alice`; others by `account`. `by`: who may introspect and revoke: a `client`, its own tokens; who holds a token with the scope `introspect`
    (`scope`); `both`."""

    def __init__(self, folder: Path, *, by: By = "client") -> None:
        self.folder = folder
        self._by = by
        self._secrets = {name: secrets.token_urlsafe(24) for name in CLIENTS}
        for each in self._secrets.values():
            canary.secret(each, "a secret of the second server")
        (folder / "none").mkdir()
        base = sqlite3.connect(folder / "glewlwyd.db")
        base.executescript(SCHEMA.read_text())
        base.close()
        self._process = self._started()
        try:
            self._set_up()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.wait()

    # -- what clients are and have -----------------------------------------------------------------------------------------------

    @property
    def issuer(self) -> str:
        return f"{self.base}/api/oidc"

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    def secret(self, name: str) -> str:
        """Of a client or a person."""
        return self._secrets[name]

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """`path` on the host, not below the issuer."""
        return self._http.get(self.base + path)

    def token(self, data: Mapping[str, object], client: str, *, dpop: str | None = None) -> Any:
        """The token endpoint's `httpx.Response`. `dpop`: the header's value."""
        headers = {} if dpop is None else {"DPoP": dpop}
        answer = self._http.post(self.token_endpoint, data=dict(data), auth=(client, self.secret(client)), headers=headers)
        canary.heard(answer)
        return answer

    def client_credentials(self, client: str = "agent", *, scope: str = "tools", resource: str | None = TOOLS, **more: object) -> str:
        data = {"grant_type": "client_credentials", "scope": scope, **more}
        return _token(self.token(data if resource is None else data | {"resource": resource}, client))

    def login(
        self,
        person: str = "alice",
        client: str = "agent",
        *,
        scope: str = "tools",
        resource: str | None = TOOLS,
        details: Sequence[Json] | None = None,
        dpop: str | None = None,
    ) -> Json:
        """A person logs in, consents to the scopes and the types of details, and the client redeems the code (PKCE). The token response."""
        import httpx

        verifier = secrets.token_urlsafe(40)
        asked = {
            "client_id": client, "redirect_uri": _BACK, "response_type": "code", "scope": scope, "state": "s", "nonce": "n", "g_continue": "",
            "code_challenge": b64(sha256(verifier.encode()).digest()), "code_challenge_method": "S256",
        }  # fmt: skip
        data = {"grant_type": "authorization_code", "redirect_uri": _BACK, "code_verifier": verifier}
        if resource is not None:
            asked["resource"] = data["resource"] = resource
        if details is not None:
            asked["authorization_details"] = json.dumps(list(details))
        with _signed_in(self.base, person, self.secret(person)) as browser:
            _ok(browser.put(f"/api/auth/grant/{client}", json={"scope": scope}))
            for name in TYPES:
                _ok(browser.put(f"/api/oidc/rar/{client}/{name}/1"))
            page = browser.get("/api/oidc/auth", params=asked)
        found = httpx.URL(page.headers["location"]).params
        assert "code" in found, page.headers["location"]
        answer = self.token(data | {"code": found["code"]}, client, dpop=dpop)
        assert answer.status_code == 200, answer.text
        tokens: Json = answer.json()
        return tokens

    def account(self, name: str, *, job: str | None = None) -> None:
        """A person to log in as. `job`: an attribute, which is the claim `job` of their access tokens."""
        self._secrets[name] = secrets.token_urlsafe(24)
        canary.secret(self._secrets[name], "a password of the second server")
        person: Json = {"username": name, "name": name, "password": self._secrets[name], "enabled": True, "scope": ["openid", *SCOPES]}
        with self._admin() as admin:
            _ok(admin.post("/api/user", json=person if job is None else person | {"job": job}))

    def exchange(self, subject_token: str, client: str = "agent") -> Any:
        """RFC 8693, which it does not know: the `httpx.Response`."""
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return self.token({"grant_type": EXCHANGE, "subject_token": subject_token, "subject_token_type": kind}, client)

    # -- setting it up -----------------------------------------------------------------------------------------------------------

    def _started(self) -> subprocess.Popen[bytes]:
        import httpx

        self._http = client()
        for _ in range(5):  # somebody else may take the port in between: then it ends by itself
            port = free()
            self.base = f"http://127.0.0.1:{port}"
            config = self.folder / "glewlwyd.conf"
            config.write_text(_CONFIG.format(port=port, folder=self.folder, modules=MODULES))
            with (self.folder / "output.log").open("ab") as output:
                process = subprocess.Popen(
                    [_program(), "-c", str(config)], cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL
                )
            until = time.monotonic() + 20
            while process.poll() is None and time.monotonic() < until:
                try:
                    self._http.get(f"{self.base}/api/oidc")
                except httpx.TransportError:
                    time.sleep(0.05)
                else:
                    return process
            process.kill()
            process.wait()
        self._http.close()
        said = "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))
        raise AssertionError(f"glewlwyd did not start:\n{said[-2000:]}")

    def _admin(self) -> AbstractContextManager[Any]:
        return _signed_in(self.base, "admin", "password")  # as the package's schema makes it; a database of ours, for minutes

    def _set_up(self) -> None:
        with self._admin() as admin:
            for kind, name in (("client", "sign_kid"), ("user", "job")):  # attributes it does not keep unless told to
                module = admin.get(f"/api/mod/{kind}/database").json()
                module["parameters"]["data-format"][name] = {"multiple": False, "read": True, "write": True}
                _ok(admin.put(f"/api/mod/{kind}/database", json=module))
                _ok(admin.put(f"/api/mod/{kind}/database/reset"))
            plugin = {
                "module": "oidc",
                "name": "oidc",
                "display_name": "oidc",
                "parameters": _parameters(self.issuer, by=self._by),
            }
            _ok(admin.post("/api/mod/plugin", json=plugin))
            for name in SCOPES:
                _ok(admin.post("/api/scope", json={"name": name, "display_name": name, "password_required": False, "scheme": {}}))
            for name, kid in CLIENTS.items():
                made: Json = {
                    "client_id": name, "name": name, "enabled": True, "confidential": True, "client_secret": self.secret(name), "sign_kid": kid,
                    "authorization_type": ["client_credentials", "code"], "token_endpoint_auth_method": ["client_secret_basic"],
                    "redirect_uri": [_BACK], "authorization_details_types": list(TYPES),
                    "scope": ["introspect"] if name == "guard" else ["tools", "tools:read"],
                }  # fmt: skip
                _ok(admin.post("/api/client", json=made))
        self.account("alice")


def _parameters(issuer: str, *, by: By) -> Json:
    """Of its OIDC plugin. Access tokens live for five minutes."""
    return {
        "iss": issuer, "jwks-private": json.dumps({"keys": _keys()}), "default-kid": "es256-a", "client-sign_kid-parameter": "sign_kid",
        "jwks-show": True, "subject-type": "public", "allow-non-oidc": True,
        "session-management-allowed": True, "session-cookie-name": "SESSION", "session-cookie-expiration": 600, "front-channel-logout-allowed": True,
        "access-token-duration": 300, "refresh-token-duration": 600, "refresh-token-rolling": False, "code-duration": 60,
        "auth-type-code-enabled": True, "auth-type-client-enabled": True, "pkce-allowed": True,
        "introspection-revocation-allowed": True, "introspection-revocation-allow-target-client": by != "scope",
        "introspection-revocation-auth-scope": [] if by == "client" else ["introspect"],
        "resource-allowed": True, "resource-scope": {name: [TOOLS, OTHER] for name in ("tools", "tools:read")},
        "oauth-dpop-allowed": True, "oauth-dpop-iat-duration": 60,
        "oauth-rar-allowed": True, "rar-allow-auth-unsigned": True, "rar-allow-auth-unencrypted": True,
        "rar-types-client-property": "authorization_details_types",
        "rar-types": {name: {"scopes": ["tools"], "description": name, "locations": [], "actions": [], "datatypes": [], "enriched": []} for name in TYPES},
        "additional-parameters": [{"user-parameter": "job", "token-parameter": "job"}],
    }  # fmt: skip


def _keys() -> list[Json]:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from jwt.algorithms import ECAlgorithm, RSAAlgorithm

    curve: Json = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
    other: Json = RSAAlgorithm(RSAAlgorithm.SHA256).to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True)
    other.pop("key_ops", None)
    for jwk in (curve, other):
        canary.secret(jwk["d"], "a key of the second server")
    return [curve | {"kid": "es256-a", "alg": "ES256", "use": "sig"}, other | {"kid": "rs256-a", "alg": "RS256", "use": "sig"}]


@contextmanager
def _signed_in(base: str, name: str, password: str) -> Iterator[Any]:
    """A browser with a session. The cookie goes by hand: it has an empty domain, which jars of Python do not send back."""
    with client(base) as browser:
        answer = browser.post("/api/auth/", json={"username": name, "password": password})
        _ok(answer)
        browser.headers["cookie"] = answer.headers["set-cookie"].partition(";")[0]
        browser.cookies.clear()
        yield browser


def _ok(answer: Any) -> None:
    assert answer.status_code == 200, f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"


def _token(answer: Any) -> str:
    _ok(answer)
    return str(answer.json()["access_token"])


def _program() -> str:
    return shutil.which("glewlwyd") or "glewlwyd"


def missing() -> str | None:
    """None where it can be started; else why not. Nothing installs it: it comes from Debian, by whoever owns the machine."""
    if shutil.which("glewlwyd") is None or not SCHEMA.is_file() or not MODULES.is_dir():
        return "Debian's glewlwyd is not here (the second authorization server of these tests: apt-get install glewlwyd)"
    return None


@pytest.fixture(scope="session")
def start_glewlwyd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Glewlwyd]]:
    """`start_glewlwyd(by="client")`: one of the test's own. Skips where it is not installed."""
    why = missing()
    if why is not None:
        pytest.skip(why)
    started: list[Glewlwyd] = []

    def start(**options: Any) -> Glewlwyd:
        server = Glewlwyd(tmp_path_factory.mktemp("glewlwyd"), **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def glewlwyd(start_glewlwyd: Callable[..., Glewlwyd]) -> Glewlwyd:
    """The shared one."""
    return start_glewlwyd()
