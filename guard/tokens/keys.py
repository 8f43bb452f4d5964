"""An issuer's public keys: JWK Set text to keys that each do exactly one algorithm.

A set that cannot be trusted as a whole is refused as a whole; a key that is for something else is left out:

| in the set                                                        | what happens                                          |
|-------------------------------------------------------------------|-------------------------------------------------------|
| `kid` twice, symmetric key, private member                        | the set is refused: it was not made for publication   |
| RSA under 2048 bits or with a tiny exponent, ROCA-weak modulus    | the set is refused: a forger may hold the private key |
| point not on its curve, malformed member, `alg` of another `kty`  | the set is refused: it is not what its author meant   |
| Ed25519 point of small order                                      | the set is refused: anybody can sign under it         |
| `use` other than `sig`, `key_ops` without `verify`                | the key is left out (IAMs publish encryption keys)    |
| `kty`, `crv` or `alg` not on our list                             | the key is left out (RFC 7517 section 5)              |
| nothing left, more than 64 keys, more than 512 KiB                | the set is refused                                    |

PyJWT's own loader drops `Ed25519` keys and takes short RSA keys; only its algorithms are used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import lru_cache
from hashlib import sha256
from math import prod
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import Algorithm, ECAlgorithm, OKPAlgorithm, RSAAlgorithm, RSAPSSAlgorithm

from guard.errors import ConfigError
from guard.frozen import frozen
from guard.tokens.jose import NotStrict, b64url_decode, b64url_encode, strict_json

__all__ = ["ALGORITHMS", "KID", "Key", "KeySet", "KeysRefused", "holder_key", "published", "thumbprint"]

KID = re.compile(r"[A-Za-z0-9._:@+/=-]{1,128}")
"""What a `kid` may be. It is only ever a dictionary key; `+/=` because real issuers publish plain base64, `@` because RFC 7520 does."""

MAX_SET = 512 * 1024
MAX_KEYS = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192

_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv")
_B64URL = re.compile(r"[A-Za-z0-9_-]+")
_CURVES: Mapping[str, tuple[ec.EllipticCurve, int]] = {
    "P-256": (ec.SECP256R1(), 32),
    "P-384": (ec.SECP384R1(), 48),
    "P-521": (ec.SECP521R1(), 66),
}


@frozen
class _Row:
    """One algorithm: the keys it takes and who computes it."""

    kty: str
    crv: str | None
    algorithm: Algorithm


# The allow list. No HMAC: a verifier that can check could also sign. No `none`, no ES256K, no Ed448.
ALGORITHMS: Mapping[str, _Row] = {
    "ES256": _Row("EC", "P-256", ECAlgorithm(ECAlgorithm.SHA256)),
    "ES384": _Row("EC", "P-384", ECAlgorithm(ECAlgorithm.SHA384)),
    "ES512": _Row("EC", "P-521", ECAlgorithm(ECAlgorithm.SHA512)),
    "EdDSA": _Row("OKP", "Ed25519", OKPAlgorithm()),
    "Ed25519": _Row("OKP", "Ed25519", OKPAlgorithm()),
    "PS256": _Row("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA256)),
    "PS384": _Row("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA384)),
    "PS512": _Row("RSA", None, RSAPSSAlgorithm(RSAPSSAlgorithm.SHA512)),
    "RS256": _Row("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA256)),
    "RS384": _Row("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA384)),
    "RS512": _Row("RSA", None, RSAAlgorithm(RSAAlgorithm.SHA512)),
}

# A key without `alg`: by its curve, else RS256 (RFC 7518). `EdDSA` and `Ed25519` (RFC 9864) are two names of one algorithm.
_IMPLIED: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA", "Ed25519"),
    ("RSA", None): ("RS256",),
}


class KeysRefused(ConfigError):
    """The key set is not usable. The text names the entry by its position and never holds key material."""

    code = "config.keys"


@frozen
class Key:
    """One public key with its one algorithm. `names`: how a token may spell it (two spellings exist for Ed25519 only)."""

    kid: str | None
    names: tuple[str, ...]
    thumbprint: str
    size: int
    """Length of a signature in bytes: for this key there is only one."""
    public: Any = field(repr=False)
    algorithm: Algorithm = field(repr=False)

    def verifies(self, alg: str, signed: bytes, signature: bytes) -> bool:
        """True only for a valid signature by this key with its own algorithm. Never raises."""
        if alg not in self.names or len(signature) != self.size:
            return False
        try:
            if self.names[0][:2] == "ES":  # r or s of zero: never a signature, whatever the library below thinks of it
                half = self.size // 2
                if not any(signature[:half]) or not any(signature[half:]):
                    return False
            return self.algorithm.verify(signed, self.public, signature) is True
        except Exception:
            return False


class KeySet:
    """The keys of one issuer by `kid`. Immutable. A token without `kid` matches only a key without one that stands alone."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Mapping[str | None, Key]) -> None:
        self._keys = dict(keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __repr__(self) -> str:
        return f"KeySet({len(self._keys)} keys)"

    def find(self, kid: str | None) -> Key | None:
        """The key of exactly this `kid`. There is no trying of others."""
        return self._keys.get(kid)

    @classmethod
    def from_jwks(cls, text: str | bytes) -> KeySet:
        """A JWK Set (RFC 7517). Raises `KeysRefused`."""
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        if len(raw) > MAX_SET:
            raise KeysRefused(f"the key set is larger than {MAX_SET // 1024} KiB")
        entries = _entries(raw)
        if not isinstance(entries, list) or not entries:
            raise KeysRefused("the key set is not strict JSON with a list `keys` (a JWK Set, RFC 7517)")
        if len(entries) > MAX_KEYS:
            raise KeysRefused(f"the key set has more than {MAX_KEYS} keys")
        keys: dict[str | None, Key] = {}
        kids: set[str | None] = set()
        for at, entry in enumerate(entries):
            kid = published(entry, at)
            if kid in kids or (kid is None and len(entries) > 1):
                raise KeysRefused(f"keys[{at}]: a `kid` that another key has too, or none although there are several keys")
            kids.add(kid)
            key = _key(entry, kid, at)
            if key is not None:
                keys[kid] = key
        if not keys:
            raise KeysRefused(f"the key set holds no key for signatures that is on the list ({', '.join(ALGORITHMS)})")
        return cls(keys)


def holder_key(jwk: object) -> Key:
    """The one public key a token or proof carries in itself (`cnf.jwk`, header `jwk`). Raises `KeysRefused`; the rules of a key set hold."""
    if not isinstance(jwk, dict) or len(jwk) > 16:
        raise KeysRefused("`jwk` is not an object")
    if all(type(value) is str for value in jwk.values()):
        return _holder_key(tuple(sorted(jwk.items())))
    return _alone(jwk)


@lru_cache(maxsize=256)  # an agent's key comes with each of its tokens and proofs; a pure function, and refusals are not kept
def _holder_key(members: tuple[tuple[str, object], ...]) -> Key:
    return _alone(dict(members))


def _alone(jwk: dict[str, object]) -> Key:
    key = _key(jwk, published(jwk, 0), 0)
    if key is None:
        raise KeysRefused(f"`jwk` is no key for signatures that is on the list ({', '.join(ALGORITHMS)})")
    return key


def _entries(raw: bytes) -> object:
    try:
        return strict_json(raw, members=MAX_KEYS * 32).get("keys")
    except NotStrict:
        return None  # not from inside the handler: the cause would hold the text


def published(entry: object, at: int) -> str | None:
    """The `kid` of an entry. Raises `KeysRefused` for what makes the whole set untrustworthy, whatever the entry is for."""
    if not isinstance(entry, dict):
        raise KeysRefused(f"keys[{at}] is not an object")
    if entry.get("kty") == "oct" or not isinstance(entry.get("kty"), str):
        raise KeysRefused(f"keys[{at}]: symmetric or without `kty`; only public keys belong into a published set")
    if any(name in entry for name in _PRIVATE):
        raise KeysRefused(f"keys[{at}] has private members; this file must hold public keys only, and that key must be replaced")
    kid = entry.get("kid")
    if kid is not None and not (isinstance(kid, str) and KID.fullmatch(kid)):
        raise KeysRefused(f"keys[{at}]: `kid` must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ + / = -")
    return kid


def _key(entry: dict[str, object], kid: str | None, at: int) -> Key | None:
    """The key of one entry; None where it is for something else."""
    kty, crv, alg = entry["kty"], entry.get("crv"), entry.get("alg")
    operations = entry.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and all(isinstance(word, str) for word in operations)):
        raise KeysRefused(f"keys[{at}]: `key_ops` is not a list of words")
    if entry.get("use", "sig") != "sig" or (operations is not None and "verify" not in operations):
        return None
    if not isinstance(kty, str) or (crv is not None and not isinstance(crv, str)) or (alg is not None and not isinstance(alg, str)):
        raise KeysRefused(f"keys[{at}]: `kty`, `crv` and `alg` are words")
    if kty not in _LOADERS or (kty != "RSA" and (kty, crv) not in _IMPLIED) or (alg is not None and alg not in ALGORITHMS):
        return None
    names = _IMPLIED[kty, None if kty == "RSA" else crv] if alg is None else (alg,)
    row = ALGORITHMS[names[0]]
    if row.kty != kty or (row.crv is not None and row.crv != crv):
        raise KeysRefused(f"keys[{at}]: `alg` does not belong to its `kty` and `crv`")
    try:
        public, size, canonical = _LOADERS[kty](entry, at)
    except (ValueError, NotStrict):
        public = None
    else:
        return Key(kid, names, _thumbprint(canonical), size, public, row.algorithm)
    raise KeysRefused(f"keys[{at}] is not a valid {kty} public key")


def _bytes(entry: Mapping[str, object], name: str) -> bytes:
    value = entry.get(name)
    if not isinstance(value, str) or not _B64URL.fullmatch(value):
        raise NotStrict
    return b64url_decode(value.encode("ascii"))


def _load_ec(entry: Mapping[str, object], at: int) -> tuple[Any, int, dict[str, str]]:
    crv = str(entry["crv"])
    curve, width = _CURVES[crv]
    x, y = _bytes(entry, "x"), _bytes(entry, "y")
    if len(x) != width or len(y) != width:  # RFC 7518 6.2.1.2: the full size of a coordinate
        raise NotStrict
    public = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)  # refuses a point off the curve
    return public, 2 * width, {"crv": crv, "kty": "EC", "x": str(entry["x"]), "y": str(entry["y"])}


def _load_okp(entry: Mapping[str, object], at: int) -> tuple[Any, int, dict[str, str]]:
    x = _bytes(entry, "x")
    public = ed25519.Ed25519PublicKey.from_public_bytes(x)
    y = int.from_bytes(x, "little") & ((1 << 255) - 1)  # the highest bit is the sign of the other coordinate
    if y >= _P25519 or y in _SMALL_ORDER:
        raise NotStrict
    return public, 64, {"crv": "Ed25519", "kty": "OKP", "x": str(entry["x"])}


def _load_rsa(entry: Mapping[str, object], at: int) -> tuple[Any, int, dict[str, str]]:
    n_bytes, e_bytes = _bytes(entry, "n"), _bytes(entry, "e")
    if n_bytes[0] == 0 or e_bytes[0] == 0:  # RFC 7518 2: the minimum number of octets
        raise NotStrict
    n, e = int.from_bytes(n_bytes, "big"), int.from_bytes(e_bytes, "big")
    if not MIN_RSA_BITS <= n.bit_length() <= MAX_RSA_BITS or e < 65537 or e.bit_length() > 64 or not e % 2 or not n % 2:
        raise KeysRefused(f"keys[{at}]: an RSA key must have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits and an odd exponent from 65537 up")
    if _roca(n):
        raise KeysRefused(f"keys[{at}]: the RSA modulus has the ROCA fingerprint (CVE-2017-15361); its private key can be computed")
    public = rsa.RSAPublicNumbers(e, n).public_key()
    return public, (n.bit_length() + 7) // 8, {"e": str(entry["e"]), "kty": "RSA", "n": str(entry["n"])}


# RFC 8032 5.1.3: coordinates below p. And the eight points whose multiples are eight points: under such a "key" a signature for any
# message is made without a private key, and the library below checks it with success.
_P25519 = 2**255 - 19
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _P25519 - 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)

_LOADERS = {"EC": _load_ec, "OKP": _load_okp, "RSA": _load_rsa}

# CVE-2017-15361: primes of the form k*M + (65537^a mod M). The modulus is then a power of 65537 modulo every small prime.
_ROCA_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)
_ROCA_POWERS = tuple(frozenset(pow(65537, a, p) for a in range(p - 1)) for p in _ROCA_PRIMES)


def _roca(n: int) -> bool:
    small = n % prod(_ROCA_PRIMES)
    return all(small % p in powers for p, powers in zip(_ROCA_PRIMES, _ROCA_POWERS, strict=True))


def thumbprint(jwk: Mapping[str, object]) -> str:
    """RFC 7638: SHA-256 over the required members of a public key, in their one canonical form."""
    names = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}.get(str(jwk.get("kty")), ())
    if not names or not all(isinstance(jwk.get(name), str) for name in names):
        raise KeysRefused("a thumbprint needs an EC, OKP or RSA key with all its members")
    return _thumbprint({name: str(jwk[name]) for name in names})


def _thumbprint(canonical: Mapping[str, str]) -> str:
    text = json.dumps(dict(canonical), sort_keys=True, separators=(",", ":"))
    return b64url_encode(sha256(text.encode("ascii")).digest())
