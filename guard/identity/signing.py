"""The keys of an issuer of ours: a folder of its own, which `guardtrail tts keys` writes and a running service looks at once a second.

| a key is   | it signs                         | it is published                                                              |
|------------|----------------------------------|------------------------------------------------------------------------------|
| new        | from its time on                 | at once: whoever verifies has it before the first token comes                |
| signing    | yes: of those whose time has come, the youngest | yes                                                           |
| older      | no                               | until it is retired                                                          |
| retired    | no; its private half is gone     | until the last token it can have signed is over                              |
| stolen     | no; its private half is gone     | no                                                                           |

| file          | what it is                                                                                                    |
|---------------|---------------------------------------------------------------------------------------------------------------|
| `txn.key`     | 32 bytes that name tasks. Never changed: with others, every token that lives is another task, with its limits whole |
| `<kid>.json`  | one key, 0600: `{"v", "kid", "alg", "made", "signs_from", "retired"?, "stolen"?, "key": JWK}`                  |
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from jwt.algorithms import ECAlgorithm, OKPAlgorithm

from guard.errors import ConfigError, GuardError
from guard.frozen import frozen
from guard.identity._files import secret_bytes, why_not
from guard.reasons import ReasonCode
from guard.tokens.claims import MAX_TIME, SKEW
from guard.tokens.issue import MAX_TTL
from guard.tokens.jose import b64url_encode, strict_json
from guard.tokens.keys import KID, holder_key

__all__ = ["ALGORITHMS", "KEPT", "LEAD", "Ring", "SigningKey", "make_key", "read_keys", "retire_key", "signed", "signing", "txn_key"]

ALGORITHMS: Final = ("ES256", "Ed25519")
LEAD: Final = 600
"""Seconds between publishing a key and signing with it: verifiers look for new ones every 300."""
KEPT: Final = MAX_TTL + SKEW + 60
"""Seconds a retired key is published: the longest life of a token, clocks that differ, and a service that has not looked yet."""

_ES256 = ECAlgorithm(ECAlgorithm.SHA256)
_ED25519 = OKPAlgorithm()
_TXN: Final = "txn.key"
_MEMBERS: Final = {"EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}
State = Literal["new", "signing", "older", "retired", "over", "stolen"]


@frozen
class SigningKey:
    """One key as its file has it. `jwk`: the public half as it is published. `private`: None where it is gone. Times in epoch seconds."""

    kid: str
    alg: str
    made: int
    signs_from: int
    jwk: Mapping[str, str]
    private: Any = field(default=None, repr=False)
    retired: int | None = None
    stolen: bool = False

    def published(self, now: float) -> bool:
        return not self.stolen and (self.retired is None or now < self.retired + KEPT)

    def signs(self, now: float) -> bool:
        return self.private is not None and self.retired is None and self.signs_from <= now

    def state(self, now: float, signing: SigningKey | None) -> State:
        """In one word. `signing`: the one that signs now."""
        if self.stolen:
            return "stolen"
        if self.retired is not None:
            return "retired" if self.published(now) else "over"
        if signing is not None and signing.kid == self.kid:
            return "signing"
        return "new" if self.signs_from > now else "older"


def signing(keys: list[SigningKey], now: float) -> SigningKey | None:
    """Of those whose time has come, the youngest."""
    ready = [key for key in keys if key.signs(now)]
    return max(ready, key=lambda key: (key.signs_from, key.made, key.kid)) if ready else None


# -- the folder ----------------------------------------------------------------------------------------------------------------------


def make_key(folder: Path, *, alg: str = "ES256", lead: int = LEAD, clock: Callable[[], float] = time.time) -> SigningKey:
    """A new key in `folder`, which is made with the first. It signs `lead` seconds from now, and at once where no other one can.

    Raises ConfigError.
    """
    if alg not in ALGORITHMS:
        raise ConfigError(f"keys: the algorithm is {' or '.join(ALGORITHMS)}")
    now = int(clock())
    # What begins with a dot is the draft of somebody who was killed, or is at it: of two who are first at once, one names the tasks.
    first = not folder.is_dir() or all(path.name.startswith(".") for path in folder.iterdir())
    keys = [] if first else read_keys(folder)
    if first:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot(folder, "be made", error) from None
        _write(folder / _TXN, secrets.token_hex(32).encode() + b"\n", replace=False)
    txn_key(folder)
    private: Any = ec.generate_private_key(ec.SECP256R1()) if alg == "ES256" else ed25519.Ed25519PrivateKey.generate()
    jwk: dict[str, Any] = (_ES256 if alg == "ES256" else _ED25519).to_jwk(private.public_key(), as_dict=True)
    public = {name: str(jwk[name]) for name in _MEMBERS[str(jwk["kty"])]}
    kid = f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{sha256(holder_key(public).thumbprint.encode()).hexdigest()[:8]}"
    key = SigningKey(kid, alg, now, now if signing(keys, now) is None else now + lead, public, private)
    _write(folder / f"{kid}.json", _text(key), replace=False)
    return key


def retire_key(folder: Path, kid: str, *, stolen: bool = False, clock: Callable[[], float] = time.time) -> SigningKey:
    """Sign with it no more, and take its private half off the disk. `stolen`: do not publish it any more either. Raises ConfigError."""
    now = int(clock())
    keys = read_keys(folder)
    found = next((key for key in keys if key.kid == kid), None)
    if found is None:
        raise ConfigError(f"keys: there is no key {kid} in {folder}" if KID.fullmatch(kid) else "keys: that is no `kid`")
    if found.retired is not None and (found.stolen or not stolen):
        _forget_drafts(folder, kid)
        return found
    if not stolen and signing([key for key in keys if key.kid != kid], now) is None:
        raise ConfigError(f"keys: {kid} is the only one that can sign now; make another first: guardtrail tts keys new --now")
    gone = SigningKey(found.kid, found.alg, found.made, found.signs_from, found.jwk, None, found.retired or now, stolen)
    _write(folder / f"{kid}.json", _text(gone), replace=True)
    _forget_drafts(folder, kid)
    return gone


def _forget_drafts(folder: Path, kid: str) -> None:
    """Whoever was killed while the key was made may have left its private half under another name."""
    try:
        for path in folder.glob(f".{kid}.json.*"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot(folder, "be written", error) from None


def read_keys(folder: Path) -> list[SigningKey]:
    """All keys, oldest first. Raises ConfigError: a folder of which a part cannot be read is none."""
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError as error:
        raise _cannot(folder, "be read", error) from None
    keys = [_key(path) for path in files]
    return sorted(keys, key=lambda key: (key.made, key.kid))


def txn_key(folder: Path) -> bytes:
    """What names tasks. Raises ConfigError; it is never made anew where keys are: every task would be another."""
    path = folder / _TXN
    if not path.exists():
        have = (
            "is gone; put it back from a copy: with another one every token that lives would be a new task"
            if folder.is_dir()
            else "is not there"
        )
        raise ConfigError(f"keys: {path} {have}" + ("" if folder.is_dir() else f"; make it: guardtrail tts keys new --dir {folder}"))
    raw = secret_bytes(path, who="keys", what="the key that names tasks")
    try:
        key = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"keys: {path} does not hold 32 bytes as hexadecimal digits")
    return key


def _key(path: Path) -> SigningKey:
    raw = secret_bytes(path, who="keys", what="a private key")
    try:
        found = _parsed(strict_json(raw), path.name)
    except Exception:  # not strict JSON, no key, or one the library refuses in a way of its own
        found = None
    if found is None:  # outside the handler: what is said there may quote the file
        raise ConfigError(f"keys: {path} is no key of a token service; take it out of the folder, or put it back from a copy")
    return found


def _parsed(members: Mapping[str, Any], name: str) -> SigningKey | None:
    """None, or any exception, where it is no key."""
    jwk, kid, alg, stolen = dict(members["key"]), members["kid"], members["alg"], members.get("stolen", False)
    times = (members["made"], members["signs_from"], members.get("retired"))
    if members["v"] != 1 or not KID.fullmatch(kid) or name != f"{kid}.json" or alg not in ALGORITHMS or type(stolen) is not bool:
        return None
    if not all(type(at) is int and 0 <= at <= MAX_TIME for at in times if at is not None) or None in times[:2]:
        return None
    public = {member: str(jwk[member]) for member in _MEMBERS[jwk["kty"]]}
    if alg not in holder_key(public).names:
        return None
    private: Any = None
    if "d" in jwk and times[2] is None and not stolen:
        algorithm = _ES256 if alg == "ES256" else _ED25519
        private = algorithm.from_jwk(json.dumps(jwk))
        if {
            member: str(value) for member, value in algorithm.to_jwk(private.public_key(), as_dict=True).items() if member in public
        } != public:
            return None
    return SigningKey(kid, alg, times[0], times[1], public, private, times[2], stolen)


def _text(key: SigningKey) -> bytes:
    members: dict[str, object] = {"v": 1, "kid": key.kid, "alg": key.alg, "made": key.made, "signs_from": key.signs_from}
    if key.retired is not None:
        members |= {"retired": key.retired, "stolen": key.stolen}
    whole: dict[str, Any] = {} if key.private is None else (_ES256 if key.alg == "ES256" else _ED25519).to_jwk(key.private, as_dict=True)
    members["key"] = dict(key.jwk) | ({"d": whole["d"]} if whole else {})
    return json.dumps(members, indent=2).encode("ascii") + b"\n"


def _write(path: Path, data: bytes, *, replace: bool) -> None:
    """Whole or not at all, 0600 from the first byte, and still there after a power failure."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if replace:
                draft.replace(path)
            else:
                os.link(draft, path)  # of two that make it at once, one is first; nothing is ever overwritten
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        if path.name != _TXN:  # another process made it in the same moment: one name for tasks, whoever was first
            raise ConfigError(f"keys: {path} is there already") from None
    except OSError as error:
        raise _cannot(path, "be written", error) from None


def _cannot(path: Path, what: str, error: OSError) -> ConfigError:
    return ConfigError(f"keys: {path} cannot {what}: {why_not(error).lower()}")


# -- the service ---------------------------------------------------------------------------------------------------------------------


class Ring:
    """The keys a running service has. Looks at the folder once a second: a key that was made, retired or stolen needs no restart.

    While the folder cannot be read nothing is signed: a key in it may have been stolen meanwhile.
    """

    def __init__(self, folder: str | Path, *, clock: Callable[[], float] = time.time, every: float = 1.0) -> None:
        """Raises ConfigError."""
        self._folder = Path(folder)
        self._clock, self._every = clock, every
        self.txn = txn_key(self._folder)
        self._keys = read_keys(self._folder)
        self._next = time.monotonic() + every
        self._broken = ""
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Ring({str(self._folder)!r}, {len(self._keys)} keys)"

    def jwks(self) -> dict[str, object]:
        """The published set. Raises GuardError `keys.unavailable`."""
        now = self._clock()
        return {"keys": [{**key.jwk, "kid": key.kid, "alg": key.alg, "use": "sig"} for key in self._look() if key.published(now)]}

    def signing(self) -> SigningKey:
        """The key that signs now. Raises GuardError `keys.unavailable`."""
        found = signing(self._look(), self._clock())
        if found is None:
            raise GuardError("no key of the token service can sign; make one: guardtrail tts keys new", code=ReasonCode.KEYS_UNAVAILABLE)
        return found

    def _look(self) -> list[SigningKey]:
        with self._lock:
            if time.monotonic() >= self._next:
                try:
                    self._keys, self._broken = read_keys(self._folder), ""
                except ConfigError as error:
                    self._broken = str(error)
                self._next = time.monotonic() + self._every
            if self._broken:
                raise GuardError(self._broken, code=ReasonCode.KEYS_UNAVAILABLE)
            return self._keys


def signed(key: SigningKey, payload: bytes) -> str:
    """`payload` as a `txntoken+jwt` by `key`."""
    header = json.dumps({"alg": key.alg, "typ": "txntoken+jwt", "kid": key.kid}, separators=(",", ":")).encode("ascii")
    text = f"{b64url_encode(header)}.{b64url_encode(payload)}"
    raw = text.encode("ascii")
    signature = key.private.sign(raw) if key.alg == "Ed25519" else _ES256.sign(raw, key.private)
    return f"{text}.{b64url_encode(signature)}"
