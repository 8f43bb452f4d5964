"""What is fetched over HTTP, from servers that behave badly: nothing is followed, waited for or read beyond the bounds, and nothing of it is
quoted. And what servers say of themselves."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from guard.identity import http
from guard.identity.discovery import MetadataRefused, protected_resource, server_metadata
from guard.identity.http import Answer, HttpFailed, aget_json, apost_form, get_bytes, get_json, post_form
from guard.tokens.urls import is_endpoint
from tests.identity.keyserver import BAD, JWKS, METADATA, SLOW, KeyServer, answer, key_server

SECRET = "c2VjcmV0"
KEY = {"kty": "EC", "kid": SECRET}

# What a fetch says of each answer; the rest is a JSON object, and the key loader's business.
WHY = {
    "redirect": "redirect", "redirect to itself": "redirect",
    "fifty megabytes": "size", "fifty megabytes, as it says": "size", "fifty megabytes in little": "type",
    "html": "type", "keys as html": "type",
    "html as json": "form", "invalid json": "form", "a member twice": "form", "json and more": "form", "nothing": "form",
    "500": "status", "404": "status", "203": "status",
    "a closed connection": "unreachable", "less than it says": "unreachable", "no HTTP": "unreachable",
    "a slow drip": "late", "a slow drip of headers": "late", "hang": "late",
}  # fmt: skip
SETS = {"an empty list", "a kid twice", "a symmetric key", "a private key", "65 keys"}


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server(KEY) as running:
        yield running


def failed(ask: Any, *args: Any, **options: Any) -> HttpFailed:
    with pytest.raises(HttpFailed) as caught:
        ask(*args, **options)
    error = caught.value
    assert error.__cause__ is error.__context__ is None, "what hangs on it would hold the request"
    assert SECRET not in str(error)
    return error


def test_every_way_to_be_bad_is_named() -> None:
    assert set(WHY) | SETS == set(BAD)


@pytest.mark.parametrize("does", sorted(WHY))
def test_a_bad_answer_is_none(does: str, server: KeyServer) -> None:
    server.does = does
    # The slow ones take minutes; where nothing was asked within the time that is given, the machine stood still.
    for seconds in (0.4, 2.0, 10.0, 30.0) if does in SLOW else (30.0,):
        error = failed(get_json, server.url + JWKS, seconds=seconds)
        assert error.why == WHY[does]
        if server.asked:
            break
    assert server.asked == {JWKS: 1}, "asked once; nothing was followed, and it was not sent to its end"


def test_addresses_that_will_do() -> None:
    for url in (
        "https://iam.acme.example:8443/a/b?c=d",
        "https://[2001:db8::1]:8443/",
        "https://xn--bcher-kva.example/",
        "https://a_b.example",
    ):
        assert is_endpoint(url, loopback=False)
    for url in ("http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/jwks"):
        assert is_endpoint(url, loopback=True)
        assert not is_endpoint(url, loopback=False)


def test_a_good_answer(server: KeyServer) -> None:
    assert get_json(server.url + JWKS) == {"keys": [KEY]}
    assert get_bytes(server.url + JWKS, kinds=["application/json"]) == server.text
    assert asyncio.run(aget_json(server.url + JWKS)) == {"keys": [KEY]}


def test_the_bound_is_exact(server: KeyServer) -> None:
    most = len(server.text)
    assert get_bytes(server.url + JWKS, kinds=["application/json"], most=most) == server.text
    assert failed(get_bytes, server.url + JWKS, kinds=["application/json"], most=most - 1).why == "size"
    assert failed(get_bytes, server.url + JWKS, kinds=["text/html"]).why == "type"


@pytest.mark.parametrize(
    "url",
    [
        "http://iam.acme.example/jwks",
        "http://10.0.0.1/jwks",
        "http://127.0.0.1.evil.example/",
        "https://alice:x@iam.acme.example/",
        "https://iam.acme.example/#x",
        "https://iam.acme.example:0/",
        "https://iam acme/",
        "https://iam.acme.example\\@evil.example/",
        "https://iam.acme.example/\r\nX: y",
        "https://ask-the-user-for-<b>money</b>.example/",
        "https://iam.acme.example%2f.evil.example/",
        f"https://{'a' * 300}.example/",
        "https://[::1%25eth0]/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "//127.0.0.1/",
        "https://",
        "http://[::1",
        "",
        None,
        5,
        "https://iam.acme.example/" + "x" * 3000,
    ],
)
def test_nobody_is_asked_there(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talked(ask: object) -> Answer:
        raise AssertionError(ask)

    monkeypatch.setattr(http, "_talk", talked)
    assert failed(get_json, url).why == "url"
    assert failed(post_form, url, {}).why == "url"


def test_from_a_thread_with_a_running_loop(server: KeyServer) -> None:
    async def called_by_mistake() -> object:
        return get_json(server.url + JWKS)

    assert asyncio.run(called_by_mistake()) == {"keys": [KEY]}


def _interrupted(url: str, at: int) -> tuple[str, int]:
    """What becomes of a request in whose `at`-th Python call Ctrl-C is pressed (0: in none), and how many of its calls there are."""
    calls = last = 0

    def press(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, last
        if event == "call" and (calls or frame.f_code.co_name == "_talk"):
            calls += 1
            last = calls if frame.f_code.co_name == "_talk" else last
            if calls == at:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGINT)

    sys.setprofile(press)
    try:
        get_json(url)
        return "answered", last
    except (KeyboardInterrupt, HttpFailed) as stopped:
        return type(stopped).__name__, last
    finally:
        sys.setprofile(None)


def test_an_interrupt_is_one_wherever_it_comes(server: KeyServer) -> None:
    """Attack: Ctrl-C in the middle of a connection passes for a server that failed, or is lost, and the program goes on."""
    url = server.url + JWKS
    get_json(url)  # imports what a request needs
    said, most = _interrupted(url, 0)
    assert said == "answered" and most > 500
    most = most * 4 // 5  # no two runs are of the same length
    found = {at: stopped for at in range(1, most, 23) if (stopped := _interrupted(url, at)[0]) != "KeyboardInterrupt"}
    assert found == {}


def test_proxies_and_netrc_of_the_machine_are_not_used(server: KeyServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Attack: an environment variable sends everything through somebody else."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login alice password x\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert get_json(server.url + JWKS) == {"keys": [KEY]}


# -- forms ---------------------------------------------------------------------------------------------------------------------------


class Echo(BaseHTTPRequestHandler):
    status = 200
    body = b"{}"
    kind = "application/json"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        said = b"%b %b" % (sent, self.headers.get("DPoP", "-").encode())
        body = self.body.replace(b"SENT", said)
        answer(self, body, kind=self.kind, status=self.status, DPoP_Nonce="n-1", Set_Cookie="a=b", X_Other="x")  # type: ignore[arg-type]


@pytest.fixture
def echo() -> Iterator[tuple[str, type[Echo]]]:
    handler = type("Handler", (Echo,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/token", handler
        listening.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "kind", "json"),
    [
        (200, b'{"said": "SENT"}', "application/json", {"said": "a=1&b=%C3%A4+%26 p"}),
        (400, b'{"error": "use_dpop_nonce"}', "application/json;charset=UTF-8", {"error": "use_dpop_nonce"}),
        (401, b'{"error": "invalid_client"}', "application/problem+json", {"error": "invalid_client"}),
        (200, b"", "text/plain", None),
        (503, b"<html>", "text/html", None),
        (200, b'{"a": 1, "a": 2}', "application/json", None),
        (200, b'{"a": 1}', "application/jsonp", None),
    ],
)
def test_a_form(status: int, body: bytes, kind: str, json: Any, echo: tuple[str, type[Echo]]) -> None:
    """A refusal is an answer too, and its reader needs the words in it: `use_dpop_nonce`."""
    url, handler = echo
    handler.status, handler.body, handler.kind = status, body, kind
    form = {"a": "1", "b": "\u00e4 &"}
    for got in (post_form(url, form, headers={"DPoP": "p"}), asyncio.run(apost_form(url, list(form.items()), headers={"DPoP": "p"}))):
        assert (got.status, got.json()) == (status, json)
        assert got.headers == {"content-type": kind, "dpop-nonce": "n-1"}


def test_a_form_is_not_carried_on(echo: tuple[str, type[Echo]]) -> None:
    """Attack: a token endpoint that redirects has the client's secret and token sent to another host."""
    url, handler = echo
    for status in (301, 302, 307, 308):
        handler.status = status
        assert failed(post_form, url, {"secret": SECRET}).why == "redirect"


# -- certificates --------------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for `name` that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    about = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(about).issuer_name(about).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    cert, private = folder / f"{name}.crt", folder / f"{name}.key"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return cert, private


@pytest.mark.parametrize(
    ("host", "trusted", "why"), [("localhost", True, None), ("localhost", False, "unreachable"), ("iam.acme.example", True, "unreachable")]
)
def test_certificates(host: str, trusted: bool, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the host that was asked for, under a root that counts; or nothing was said."""
    cert, key = certificate(tmp_path, host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    handler = type("Handler", (Echo,), {"handle_one_request": _quietly})
    with HTTPServer(("127.0.0.1", 0), handler) as listening:
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"https://localhost:{listening.server_port}/token"
        if why is None:
            assert post_form(url, {}).status == 200
        else:
            assert failed(post_form, url, {}).why == why
        listening.shutdown()


def _quietly(self: BaseHTTPRequestHandler) -> None:
    try:
        BaseHTTPRequestHandler.handle_one_request(self)
    except OSError:  # the client did not like the certificate
        self.close_connection = True


# -- metadata ------------------------------------------------------------------------------------------------------------------------

ISS = "https://iam.acme.example"


class Web:
    """What lies where, and in which order it was asked for."""

    def __init__(self, **documents: Any) -> None:
        self.asked: list[str] = []
        self.documents = {f"https://{host}": found for host, found in documents.items()}

    def __call__(self, url: str, *, seconds: float) -> Any:
        self.asked.append(url)
        found = self.documents.get(url, 404)
        if isinstance(found, dict):
            return found
        raise HttpFailed(url, found if isinstance(found, str) else "status", 0 if isinstance(found, str) else found)


@pytest.mark.parametrize(
    ("issuer", "asks"),
    [
        (ISS, [f"{ISS}/.well-known/oauth-authorization-server", f"{ISS}/.well-known/openid-configuration"]),
        (f"{ISS}/", [f"{ISS}/.well-known/oauth-authorization-server", f"{ISS}/.well-known/openid-configuration"]),
        (
            f"{ISS}/realms/a",
            [f"{ISS}/.well-known/oauth-authorization-server/realms/a", f"{ISS}/realms/a/.well-known/openid-configuration"],
        ),
        (
            f"{ISS}:8443/t/v2.0",
            [f"{ISS}:8443/.well-known/oauth-authorization-server/t/v2.0", f"{ISS}:8443/t/v2.0/.well-known/openid-configuration"],
        ),
        (
            "https://idp.example/t/",
            ["https://idp.example/.well-known/oauth-authorization-server/t/", "https://idp.example/t/.well-known/openid-configuration"],
        ),
    ],
)
def test_where_metadata_lies(issuer: str, asks: list[str]) -> None:
    """RFC 8414 3.1 first, OpenID Connect's address where that has nothing."""
    for at, url in enumerate(asks):
        web = Web(**{url.removeprefix("https://"): {"issuer": issuer, "jwks_uri": f"{ISS}/jwks"}})
        assert server_metadata(issuer, get=web).jwks_uri == f"{ISS}/jwks"
        assert web.asked == asks[: at + 1]


FIRST = "iam.acme.example/.well-known/oauth-authorization-server"
SECOND = "iam.acme.example/.well-known/openid-configuration"
GOOD = {"issuer": ISS, "jwks_uri": f"{ISS}/jwks"}


@pytest.mark.parametrize("first", ["redirect", "size", "type", "form", 404, 500])
def test_the_second_address_is_for_servers_without_the_first(first: Any) -> None:
    assert server_metadata(ISS, get=Web(**{FIRST: first, SECOND: GOOD})).jwks_uri == f"{ISS}/jwks"


@pytest.mark.parametrize("first", ["unreachable", "late"])
def test_a_server_that_is_down_is_not_asked_twice(first: Any) -> None:
    assert failed(server_metadata, ISS, get=Web(**{FIRST: first, SECOND: GOOD})).why == first


@pytest.mark.parametrize(
    "over",
    [
        {"issuer": ISS + "/"},
        {"issuer": ISS.upper()},
        {"issuer": "https://iam.acme.example:443"},
        {"issuer": "https://evil.example"},
        {"issuer": [ISS]},
        {"issuer": None},
        {"jwks_uri": "http://iam.acme.example/jwks"},
        {"jwks_uri": "http://127.0.0.1:8080/jwks"},  # of a remote issuer: a request to whatever listens here
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": ["https://iam.acme.example/jwks"]},
        {"jwks_uri": 5},
        {"token_endpoint": "http://localhost/token"},
        {"introspection_endpoint": "https://a:b@iam.acme.example/"},
        {"grant_types_supported": "client_credentials"},
        {"token_endpoint_auth_methods_supported": [1]},
    ],
)
def test_metadata_that_does_not_count(over: dict[str, Any]) -> None:
    """And there is no second try: a wrong document is not a missing one."""
    web = Web(**{FIRST: {**GOOD, **over}, SECOND: GOOD})
    with pytest.raises(MetadataRefused) as caught:
        server_metadata(ISS, get=web)
    assert len(web.asked) == 1
    assert not [value for value in over.values() if isinstance(value, str) and value in str(caught.value)]


@pytest.mark.parametrize("issuer", ["http://iam.acme.example", "iam", "https://iam.acme.example?x", "", "https://a@b.example"])
def test_no_metadata_of_what_is_no_issuer(issuer: str) -> None:
    with pytest.raises(MetadataRefused):
        server_metadata(issuer, get=Web())


def test_a_resource_says_who_may_issue_for_it() -> None:
    at = "api.acme.example/.well-known/oauth-protected-resource/v1"
    found = {
        "resource": "https://api.acme.example/v1", "authorization_servers": [ISS], "scopes_supported": ["a"],
        "dpop_signing_alg_values_supported": ["ES256"], "dpop_bound_access_tokens_required": True, "bearer_methods_supported": ["header"],
    }  # fmt: skip
    got = protected_resource("https://api.acme.example/v1", get=Web(**{at: found}))
    assert (got.authorization_servers, got.scopes, got.dpop_algorithms, got.dpop_required) == ((ISS,), ("a",), ("ES256",), True)
    for over in (
        {"resource": "https://api.acme.example/v1/"},
        {"resource": "https://api.acme.example"},
        {"authorization_servers": ["http://iam.acme.example"]},
        {"authorization_servers": ["http://127.0.0.1"]},
        {"authorization_servers": ISS},
        {"dpop_bound_access_tokens_required": "true"},
    ):
        with pytest.raises(MetadataRefused):
            protected_resource("https://api.acme.example/v1", get=Web(**{at: {**found, **over}}))


def test_of_a_server_that_is_there(server: KeyServer) -> None:
    found = server_metadata(server.url)
    assert (found.issuer, found.jwks_uri, found.token_endpoint) == (server.url, server.url + JWKS, server.url + "/token")
    assert found.auth_methods == ("client_secret_basic",), "RFC 8414's default"
    server.metadata = {}
    assert failed(server_metadata, server.url).why == "status"
    assert server.asked[METADATA] == 2
