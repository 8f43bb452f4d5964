"""The desk's keys: one file of 32 bytes, `keys/approvals.key`, readable by its owner only. From it come a key that signs answers and, for each task
that asks, a key that encrypts its requests.

A task's key hangs on a salt that lies in the store and is taken away when the task ends: what was encrypted is then lost, also in a backup of the
file. Who may read the key file can sign answers: it belongs to the guard and to those who run `guardtrail approve`, and to no agent.
"""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import OKPAlgorithm

from guard.identity._files import secret_bytes
from guard.record.files import ensure, keep
from guard.tokens import KeySet, thumbprint
from guard.tokens.approval import segments
from guard.tokens.jose import b64url_encode

__all__ = ["Seal"]

_NONCE = 12


class Seal:
    """`folder`: where keys lie; None: drawn by chance, gone with the process."""

    def __init__(self, folder: Path | None) -> None:
        if folder is None:
            root = os.urandom(32)
        else:
            ensure(folder)
            path = folder / "keys" / "approvals.key"
            keep(path, lambda: os.urandom(32))
            root = secret_bytes(path, who="Approvals", what="the key of answers")
        if len(root) != 32:  # a key file that was emptied is a key everybody knows
            raise ValueError("keys/approvals.key does not hold 32 bytes")
        self.__root = root
        self.__signing = Ed25519PrivateKey.from_private_bytes(self._derive(b"sign", b""))
        made = OKPAlgorithm().to_jwk(self.__signing.public_key(), as_dict=True)
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": made["x"], "alg": "Ed25519", "use": "sig"}
        self.kid = thumbprint(jwk)
        self.desk = f"approvals:{self.kid}"
        """`iss` of its answers."""
        self.jwks = json.dumps({"keys": [jwk | {"kid": self.kid}]})
        """The public key, for whoever checks answers elsewhere."""
        key = KeySet.from_jwks(self.jwks).find(self.kid)
        assert key is not None
        self.key = key

    def __repr__(self) -> str:
        return f"Seal({self.kid})"

    def sign(self, typ: str, claims: Mapping[str, object]) -> str:
        """A compact JWS of this desk."""
        signed = segments({"alg": "Ed25519", "typ": typ, "kid": self.kid}, claims)
        return f"{signed}.{b64url_encode(self.__signing.sign(signed.encode('ascii')))}"

    def lock(self, salt: str, about: str, data: bytes) -> str:
        """AES-256-GCM. `about`: what it is and whose (the request's id): under another name it does not open."""
        nonce = os.urandom(_NONCE)
        return b64encode(nonce + AESGCM(self._derive(b"requests", salt.encode())).encrypt(nonce, data, about.encode())).decode("ascii")

    def unlock(self, salt: str, about: str, text: str) -> bytes | None:
        """What `lock` was given; None where it does not open: another key, another name, changed by somebody."""
        try:
            raw = b64decode(text, validate=True)
            return AESGCM(self._derive(b"requests", salt.encode())).decrypt(raw[:_NONCE], raw[_NONCE:], about.encode())
        except (InvalidTag, ValueError):
            return None

    def _derive(self, what: bytes, salt: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt, b"guardtrail approvals v1 " + what).derive(self.__root)
