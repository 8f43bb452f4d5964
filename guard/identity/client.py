"""How a program shows at an issuer's endpoints who it is: a client's secret, or a signed assertion. Nothing of it is ever printed.

| given            | shown as                                                          | source                 |
|------------------|-------------------------------------------------------------------|------------------------|
| `secret`         | HTTP Basic, both parts form-encoded                               | RFC 6749 section 2.3.1 |
| `key` (a file)   | `client_assertion`, a minute long, `aud` = the issuer, used once  | RFC 7523 section 2.2   |
| `certificate` (files) | the TLS connection's client certificate, and `client_id`     | RFC 8705 section 2     |
| `holder` besides | a DPoP proof: what is issued is bound to that key                 | RFC 9449 section 5     |
"""

from __future__ import annotations

import json
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote_plus

from guard.errors import ConfigError
from guard.identity._files import secret_bytes
from guard.identity.http import Certificate, checked_certificate
from guard.tokens.assertion import ASSERTION
from guard.tokens.jose import b64url_encode, strict_json
from guard.tokens.keys import KID
from guard.tokens.text import is_name

if TYPE_CHECKING:
    from guard.identity.holder import HolderKey

__all__ = ["Client", "basic_header"]

_LIFE = 60


class Client:
    """One agent of this program, as the issuer knows it."""

    def __init__(
        self,
        id: str,
        *,
        secret: str | None = None,
        key: str | Path | None = None,
        certificate: tuple[str | Path, str | Path] | None = None,
        actor: str | None = None,
        holder: HolderKey | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`id`: the `client_id`. Exactly one of `secret`; `key`, a file that only its owner may read (a private JWK, or PEM); and `certificate`, the
        files of a client certificate and of its key, both PEM. They are read again when they change.

        `actor`: the name the issuer puts into `act.sub` for this client; its id unless said. `holder`: the key its tokens are bound to; an answer that
        is not bound to it is refused. `clock`: epoch seconds, for tests.
        """
        if not is_name(id) or (actor is not None and not is_name(actor)):
            raise ConfigError("Client: `id` and `actor` are visible names of at most 256 characters")
        if [secret, key, certificate].count(None) != 2:
            raise ConfigError("Client: exactly one of `secret`, `key` and `certificate` says who this is")
        if secret is not None and (not 16 <= len(secret) <= 1024):
            raise ConfigError("Client: `secret` is a text of at least 16 characters; shorter ones are guessed")
        self.id = id
        if holder is not None and getattr(holder, "dpop", None) is None:
            raise ConfigError("Client: `holder` is a HolderKey")
        self.actor = actor or id
        self.holder = holder
        self._secret = secret
        self._clock = clock
        self._key = None if key is None else _loaded(Path(key))
        self.certificate = None if certificate is None else _certificate(certificate)

    def __repr__(self) -> str:
        how = "certificate" if self.certificate is not None else "secret" if self._key is None else "key"
        return f"Client({self.id!r}, {how}{', bound' if self.bound else ''})"

    @property
    def bound(self) -> bool:
        """Whether its tokens are bound to a key."""
        return self.holder is not None

    def without_key(self) -> Client:
        """The same client, whose tokens are bound to nothing."""
        other = Client.__new__(Client)
        other.__dict__ |= self.__dict__ | {"holder": None}
        return other

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client holds a secret and is not pickled")

    def shown(self, url: str, issuer: str, nonce: str) -> tuple[dict[str, str], dict[str, str]]:
        """Form members and headers of a request to `url`. Made anew for each: an assertion and a proof are good once."""
        proof = {} if self.holder is None else {"dpop": self.holder.dpop("POST", url, nonce=nonce or None)}
        if self.certificate is not None:
            return {"client_id": self.id}, proof
        if self._key is None:
            return {}, basic_header(self.id, self._secret or "") | proof
        now = int(self._clock())
        claims = {"iss": self.id, "sub": self.id, "aud": issuer, "jti": secrets.token_urlsafe(16), "iat": now, "exp": now + _LIFE}
        return {"client_id": self.id, "client_assertion_type": ASSERTION, "client_assertion": self._key.signed(claims)}, proof


def basic_header(id: str, secret: str) -> dict[str, str]:
    """`client_secret_basic` (RFC 6749 section 2.3.1): both parts form-encoded."""
    pair = f"{quote_plus(id)}:{quote_plus(secret)}"
    return {"authorization": f"Basic {b64encode(pair.encode()).decode('ascii')}"}


def _certificate(given: object) -> Certificate:
    """Raises ConfigError, which never quotes a file."""
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not all(isinstance(one, (str, Path)) for one in given):
        raise ConfigError("Client: `certificate` is two files: (certificate, key)")
    found = str(given[0]), str(given[1])
    secret_bytes(found[1], who="Client", what="a private key")
    why = checked_certificate(found)
    if why is not None:
        raise ConfigError(f"Client: {found[0]} cannot be shown as a client certificate: {why}")
    return found


class _Key:
    """A private key and how it signs."""

    __slots__ = ("_algorithm", "_header", "_private")

    def __init__(self, algorithm: Any, name: str, private: Any, kid: str | None) -> None:
        self._algorithm, self._private = algorithm, private
        header = {"alg": name, "typ": "JWT"} | ({"kid": kid} if kid is not None else {})
        self._header = b64url_encode(json.dumps(header, separators=(",", ":")).encode("ascii"))

    def signed(self, claims: dict[str, object]) -> str:
        signed = f"{self._header}.{b64url_encode(json.dumps(claims, separators=(',', ':')).encode())}"
        return f"{signed}.{b64url_encode(self._algorithm.sign(signed.encode('ascii'), self._private))}"


def _loaded(path: Path) -> _Key:
    """Raises ConfigError, which never quotes the file."""
    found = _private(secret_bytes(path, who="Client", what="a private key"))
    if found is None:
        raise ConfigError(f"Client: {path} holds no private key for ES256, EdDSA or RS256 (a JWK, or PEM without a passphrase)")
    return found


def _private(raw: bytes) -> _Key | None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    algorithms: dict[str, Any] = {"EC": ECAlgorithm, "OKP": OKPAlgorithm, "RSA": RSAAlgorithm}
    kid = None
    try:
        if raw.lstrip()[:1] == b"{":
            jwk = strict_json(raw)
            algorithm = algorithms.get(str(jwk.get("kty")))
            found = jwk.get("kid")
            kid = found if isinstance(found, str) and KID.fullmatch(found) else None
            private = algorithm.from_jwk(json.dumps(jwk)) if algorithm is not None else None
        else:
            private = load_pem_private_key(raw, None)
    except Exception:  # not strict JSON, no key, or one the library refuses in a way of its own
        return None
    if isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1):
        return _Key(ECAlgorithm(ECAlgorithm.SHA256), "ES256", private, kid)
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return _Key(OKPAlgorithm(), "EdDSA", private, kid)
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return _Key(RSAAlgorithm(RSAAlgorithm.SHA256), "RS256", private, kid)
    return None
