"""Who may ask the token service, and how he shows who he is (RFC 6749 section 2.3; RFC 7523). Every failure is one refusal, whatever was wrong."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import NoReturn
from urllib.parse import unquote_plus

from guard.errors import ConfigError, TokenRefused
from guard.frozen import frozen
from guard.reasons import ReasonCode
from guard.server.forms import Refusal
from guard.tokens import KeySet
from guard.tokens.assertion import ASSERTION, LONGEST, named_client, verify_assertion
from guard.tokens.claims import SKEW
from guard.tokens.text import is_name

__all__ = ["METHODS", "Requester", "Requesters", "method_of"]

METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")
Use = Callable[[str, int, Refusal], None]
"""(mark, seconds, refusal): the mark is taken as used; raises the refusal where it was before."""


@frozen
class Requester:
    """A client that may ask. Exactly one of `secrets` (SHA-256 of each; two while one is being rotated) and `keys`.

    `workload`: its name in `req_wl`. `acts`: the client is an agent, and acts from now on under that name; None: it only passes on.
    """

    id: str
    workload: str
    acts: str | None = None
    secrets: tuple[bytes, ...] = ()
    keys: KeySet | None = None


def method_of(form: Mapping[str, str], header: str) -> str:
    """How the client shows who it is, for the record."""
    if "client_assertion" in form:
        return "private_key_jwt"
    return "client_secret_basic" if header else "client_secret_post" if "client_secret" in form else ""


class Requesters:
    """Those who may ask `issuer`. Raises ConfigError."""

    def __init__(self, clients: Sequence[Requester], issuer: str) -> None:
        if not clients:
            raise ConfigError("tts: there is no client; whoever may ask must be known, or a stolen token would be a task of its thief's")
        self._clients = {client.id: client for client in clients}
        if len(self._clients) != len(clients):
            raise ConfigError("tts: two clients have one `id`")
        self._issuer = issuer

    def authenticated(self, form: Mapping[str, str], header: str, now: int, use: Use) -> Requester:
        """By exactly one method (RFC 6749 2.3). Every failure is the same to whoever asks."""
        shown = [bool(header), "client_secret" in form, "client_assertion" in form or "client_assertion_type" in form]
        if sum(shown) != 1:
            _no_client("no credentials, or several at once")
        if shown[2]:
            return self._asserted(form, now, use)
        name, secret = _basic(header) if header else (form.get("client_id", ""), form["client_secret"])
        if form.get("client_id", name) != name:
            _no_client("two clients in one request")
        client = self._clients.get(name)
        given = sha256(secret.encode("utf-8", "surrogatepass")).digest()
        known = client.secrets if client is not None else ()
        # All of them are compared, and something always is: how long it takes tells nothing of which clients there are.
        right = [compare_digest(given, one) for one in (*known, bytes(32))]
        if client is None or not any(right[: len(known)]):
            _no_client("an unknown client or another secret")
        return client

    def _asserted(self, form: Mapping[str, str], now: int, use: Use) -> Requester:
        text = form.get("client_assertion", "")
        if form.get("client_assertion_type") != ASSERTION:
            _no_client("an assertion of another type")
        name = named_client(text)
        client = self._clients.get(name) if name is not None else None
        if client is None or client.keys is None or form.get("client_id", name) != name:
            _no_client("an unknown client, or one without keys")
        try:
            jti = verify_assertion(text, client.keys, client=client.id, audience=self._issuer, now=now)
        except TokenRefused as refused:
            raise Refusal(ReasonCode.TTS_CLIENT, text=f"its assertion: {refused.code}") from None
        mark = f"tts|assertion|{sha256(f'{client.id}|{jti}'.encode()).hexdigest()}"
        use(mark, LONGEST + 4 * SKEW, Refusal(ReasonCode.TTS_CLIENT, text="this assertion was used before"))
        return client


def _basic(header: str) -> tuple[str, str]:
    """RFC 6749 2.3.1: HTTP Basic, both parts form-encoded."""
    scheme, _, text = header.partition(" ")
    try:
        name, colon, secret = b64decode(text.strip().encode("ascii"), validate=True).decode("utf-8").partition(":")
    except ValueError:
        name = colon = secret = ""
    if scheme.lower() != "basic" or not colon or not is_name(unquote_plus(name)):
        _no_client("a header that is no HTTP Basic")
    return unquote_plus(name), unquote_plus(secret)


def _no_client(text: str) -> NoReturn:
    raise Refusal(ReasonCode.TTS_CLIENT, text=text)
