"""A reader of other people's signed chains: Ed25519 over RFC 8785, as `signed_chains/` in the corpora has them. No JWTs, and nothing of the guard."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def hashed(value: object) -> str:
    return "sha256:" + sha256(rfc8785.dumps(value)).hexdigest()  # type: ignore[arg-type]


def signed(data: bytes, signature: bytes, key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _by(value: Mapping[str, Any], signature: Mapping[str, Any], known: Mapping[str, str]) -> bool:
    """`known`: `did` -> public key, hex. A key that only the signature itself names is nobody's."""
    named = known.get(str(signature.get("kid")))
    if named is None or named != signature.get("pubkey") or signature.get("alg") != "EdDSA":
        return False
    return signed(rfc8785.dumps(dict(value)), bytes.fromhex(signature["sig"]), bytes.fromhex(named))


def verdict(fixture: Mapping[str, Any], known: Mapping[str, str]) -> str:
    """`valid`, `invalid` or `deny`, by the rules of the corpus's README: a bad signature is invalid; more than one algorithm of the root is invalid; a
    revoked link with a signed deny receipt is deny; else valid. A revoked link without such a receipt is invalid."""
    header = fixture["header_value"]
    links, root = header["delegation_chain"], header["delegation_chain_root"]
    if hashed(links) != root:
        return "invalid"
    for n, link in enumerate(links):
        content = {name: value for name, value in link.items() if name != "signature"}
        if not _by(content, link["signature"], known) or link["signature"]["pubkey"] != link["delegated_by"]:
            return "invalid"
        if n and link["delegated_by"] not in {before["delegated_to"] for before in links[:n]} | {links[0]["delegated_by"]}:
            return "invalid"
    for said in _said(header):
        if not _by(said["payload"], said["signature"], known) or said["payload"]["delegation_chain_root"] != root:
            return "invalid"
    if not any(link.get("status") == "revoked" for link in links):
        return "valid"
    receipt = header.get("deny_receipt")
    return "deny" if receipt is not None and _by(receipt["payload"], receipt["signature"], known) else "invalid"


def _said(header: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from header.get("attestations", ())
    yield from header.get("agent_card", {}).get("trust", {}).get("signals", ())


def receipt_holds(receipt: Mapping[str, Any], jwks: Mapping[str, Any]) -> bool:
    """A receipt by the published key it names: plain Ed25519 over its canonical form without the signature."""
    key = next((one for one in jwks["keys"] if one["kid"] == receipt["kid"]), None)
    if key is None or receipt["algorithm"] != "ed25519":
        return False
    body = {name: value for name, value in receipt.items() if name != "signature"}
    return signed(rfc8785.dumps(body), bytes.fromhex(receipt["signature"]), base64.urlsafe_b64decode(key["x"] + "="))


def envelope_holds(envelope: Mapping[str, Any], jwks: Mapping[str, Any]) -> bool:
    """DSSE: the signature covers type and payload with their lengths."""
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"].encode()
    covered = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    keys = {one["kid"]: base64.urlsafe_b64decode(one["x"] + "=") for one in jwks["keys"]}
    return all(signed(covered, base64.b64decode(one["sig"]), keys.get(one["keyid"], b"")) for one in envelope["signatures"])
