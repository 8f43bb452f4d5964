"""JWT-SVIDs and the trust bundles that verify them (SPIFFE: SPIFFE-ID, JWT-SVID, SPIFFE Trust Domain and Bundle).

What a bundle may hold, and what becomes of it:

| entry                                                     | what happens                                                     |
|-----------------------------------------------------------|------------------------------------------------------------------|
| `use: jwt-svid` with a `kid`                              | a key for JWT-SVIDs                                              |
| `use: jwt-svid` without a `kid`, or a `kid` twice         | the bundle is refused                                            |
| `use: x509-svid`, `wit-svid` or any other word            | left out: for other documents; a X.509 entry has one certificate |
| no `use`, and no entry of the bundle has one              | a key for JWT-SVIDs: the Workload API hands out plain JWK Sets   |
| no `use`, although other entries have one                 | left out, as Bundle 4.2.2 says                                   |
| private or symmetric, weak RSA, point off its curve       | the bundle is refused, as `keys.py` says                         |
| Ed25519 (not an algorithm of JWT-SVIDs)                   | left out                                                         |
| nothing left                                              | the bundle is refused: nothing of its trust domain counts        |

Stricter than the standard, on purpose: `kid` is required, one audience, a path in the id (a trust domain alone is no workload).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from guard.errors import TokenRefused
from guard.reasons import ReasonCode
from guard.tokens.evidence import Json, Workload, checked, for_us, header, times
from guard.tokens.jose import Jws, NotStrict, strict_json
from guard.tokens.keys import MAX_KEYS, MAX_SET, KeySet, KeysRefused, published

__all__ = ["ALGORITHMS", "Bundle", "SpiffeId", "verify_svid"]

ALGORITHMS = frozenset(f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512))
"""JWT-SVID 3.1: these and no others, so also no EdDSA."""

MAX_ID = 2048
MAX_DOMAIN = 255

_DOMAIN = re.compile(r"[a-z0-9._-]+")
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_HEADER = frozenset({"alg", "kid", "typ"})
_TYPS: frozenset[str | None] = frozenset({"JWT", "JOSE", None})


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A SPIFFE id in its one spelling. `path`: with its leading slash, "" for the trust domain itself."""

    domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.domain}{self.path}"

    @classmethod
    def read(cls, text: object) -> SpiffeId | None:
        """The id, or None. SPIFFE-ID 2: lower-case scheme and trust domain, no port, user, query, fragment or percent sign; no empty, `.` or
        `..` segment, no slash at the end. Nothing is normalised: two spellings of one id would be two registry entries."""
        if type(text) is not str or len(text) > MAX_ID or not text.startswith("spiffe://"):
            return None
        domain, slash, rest = text[9:].partition("/")
        if len(domain) > MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
            return None
        if slash and not all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in rest.split("/")):
            return None
        return cls(domain, slash + rest)


def is_domain(text: object) -> bool:
    """The name of a trust domain, without scheme."""
    return type(text) is str and len(text) <= MAX_DOMAIN and _DOMAIN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Bundle:
    """The keys of one trust domain for JWT-SVIDs. `sequence`, `refresh`: `spiffe_sequence`, `spiffe_refresh_hint` (seconds), None where not said."""

    keys: KeySet
    sequence: int | None = None
    refresh: int | None = None

    @classmethod
    def read(cls, text: str | bytes) -> Bundle:
        """A bundle document, or the plain JWK Set of the Workload API. Raises `KeysRefused`."""
        raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
        if len(raw) > MAX_SET:
            raise KeysRefused(f"the bundle is larger than {MAX_SET // 1024} KiB")
        document = _document(raw)
        entries = document.get("keys") if document is not None else None
        if document is None or type(entries) is not list or not 0 < len(entries) <= MAX_KEYS:
            raise KeysRefused(f"the bundle is not strict JSON with a list `keys` of 1 to {MAX_KEYS} entries (a SPIFFE bundle)")
        numbers = [_number(document, name) for name in ("spiffe_sequence", "spiffe_refresh_hint")]
        plain = not any(isinstance(entry, dict) and "use" in entry for entry in entries)
        chosen = [entry for at, entry in enumerate(entries) if _chosen(entry, at, plain=plain)]
        if not chosen:
            raise KeysRefused("the bundle holds no key for JWT-SVIDs (`use: jwt-svid`)")
        found = KeySet.from_jwks(json.dumps({"keys": chosen}))
        keys = KeySet({key.kid: key for key in found if key.names[0] in ALGORITHMS})
        if not len(keys):
            raise KeysRefused(f"the bundle holds no key of an algorithm of JWT-SVIDs ({', '.join(sorted(ALGORITHMS))})")
        return cls(keys, *numbers)


def _document(raw: bytes) -> dict[str, object] | None:
    try:
        return strict_json(raw, members=MAX_KEYS * 32)
    except NotStrict:
        return None  # not from inside the handler: the cause would hold the text


def _number(document: Json, name: str) -> int | None:
    value = document.get(name)
    if value is not None and (type(value) is not int or value < 0):
        raise KeysRefused(f"`{name}` of the bundle is not a whole number")
    return value if type(value) is int else None


def _chosen(entry: dict[str, object], at: int, *, plain: bool) -> bool:
    """Whether the entry is a key for JWT-SVIDs, which it then no longer says (a JWK Set knows only `sig`). What is wrong with an entry
    that is for something else still refuses the bundle: its author published a secret, or meant something else."""
    kid = published(entry, at)
    use = entry.pop("use", None)
    if use == "x509-svid" and not (type(entry.get("x5c")) is list and len(entry["x5c"]) == 1):  # type: ignore[arg-type]
        raise KeysRefused(f"keys[{at}]: an entry for X.509 has exactly one certificate")
    if use != "jwt-svid" and not plain:
        return False
    if kid is None:
        raise KeysRefused(f"keys[{at}]: a key for JWT-SVIDs needs a `kid`")
    return True


def verify_svid(token: str, bundles: Mapping[str, Bundle], *, audience: str, now: int, max_ttl: int = 3600) -> Workload:
    """The workload that `token` (a JWT-SVID) proves, or `TokenRefused` and nothing else. `bundles`: by trust domain. `now`: epoch seconds.

    The trust domain of `sub` selects the bundle and nothing else does. Attack: the authority of one domain signs an id of another, with
    an `iss` of its own; a verifier that asks `iss` takes it.
    """

    def read(jws: Jws, claims: Json) -> Workload:
        alg, kid = header(jws.header, allowed=_HEADER, typs=_TYPS, algorithms=ALGORITHMS)
        subject = SpiffeId.read(claims.get("sub"))
        if subject is None or not subject.path:
            raise TokenRefused(ReasonCode.TOKEN_CLAIMS, "the claim `sub` is not the SPIFFE id of a workload")
        bundle = bundles.get(subject.domain)
        if bundle is None:
            raise TokenRefused(ReasonCode.TOKEN_ISSUER, "no bundle is held for the trust domain of `sub`")
        key = bundle.keys.find(kid)
        if key is None or not key.verifies(alg, jws.signed, jws.signature):
            raise TokenRefused(ReasonCode.TOKEN_SIGNATURE)
        expires_at = times(claims, now=now, max_ttl=max_ttl, issued=False)
        for_us(claims, audience)
        return Workload("jwt-svid", str(subject), subject.domain, kid, expires_at)

    return checked(token, read)
