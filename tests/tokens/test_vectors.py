"""Published vectors: Wycheproof signatures and keys, RFC 7520, 8037, 7797. Every invalid one is refused; every valid one is taken or
stands below with the reason why we are stricter."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guard.errors import TokenRefused
from guard.tokens import KeySet, KeysRefused, verify_signature

PRIVATE = ("d", "p", "q", "dp", "dq", "qi")

_NO_MAC = "no symmetric keys: who can check could also sign (RFC 8725 2.1)"
STRICTER = {
    **dict.fromkeys([1, 348, 352, 357, 358, 359, 376, 377], _NO_MAC),
    **dict.fromkeys([372, 373], _NO_MAC + "; and characters outside the alphabet are refused"),
    **dict.fromkeys([346, 350], "the key says PS256, the header PS384: one key, one algorithm"),
    **dict.fromkeys([347, 351], "there is no algorithm `ES521`; the curve's is ES512"),
}


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def public(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in PRIVATE}


def taken(jws: object, keys: list[dict[str, Any]]) -> bool:
    """Whether the signature layer takes it. Only its own two refusals may come out."""
    try:
        verify_signature(jws, KeySet.from_jwks(json.dumps({"keys": [public(key) for key in keys]})))  # type: ignore[arg-type]
    except (TokenRefused, KeysRefused):
        return False
    return True


def test_wycheproof_signatures(corpora: Path) -> None:
    wrong: list[tuple[int, str]] = []
    seen: Counter[str] = Counter()
    for group in read(corpora / "jose/wycheproof/json_web_signature_test.json")["testGroups"]:
        key = group.get("public") or group["private"]
        for test in group["tests"]:
            good = taken(test["jws"], key.get("keys", [key]))
            listed = test["tcId"] in STRICTER
            seen[f"{test['result']} {'taken' if good else 'refused'}"] += 1
            if good != (test["result"] == "valid" and not listed):
                wrong.append((test["tcId"], test["comment"]))
    print(dict(seen))
    assert wrong == []
    assert seen["invalid refused"] == 355
    assert seen["valid taken"] + len(STRICTER) == 46


STRICTER_KEYS = dict.fromkeys([2, 13, 14, 15], _NO_MAC)


def test_wycheproof_keys(corpora: Path) -> None:
    """The key file: an invalid set or key verifies nothing. Sets are as published, so what is private in them is refused for that alone."""
    wrong: list[tuple[int, str]] = []
    seen: Counter[str] = Counter()
    for group in read(corpora / "jose/wycheproof/json_web_key_test.json")["testGroups"]:
        key = group.get("public") or group["private"]
        for test in group["tests"]:
            good = taken(test["jws"], key.get("keys", [key]))
            seen[f"{test['result']} {'taken' if good else 'refused'}"] += 1
            if good != (test["result"] == "valid" and test["tcId"] not in STRICTER_KEYS):
                wrong.append((test["tcId"], test["comment"]))
    print(dict(seen))
    assert wrong == []
    assert seen["invalid refused"] == 21
    assert seen["valid taken"] + len(STRICTER_KEYS) == 5


@pytest.mark.parametrize(
    ("file", "taken_", "why"),
    [
        ("rfc7520/jws/4_1.rsa_v15_signature.json", True, ""),
        ("rfc7520/jws/4_2.rsa-pss_signature.json", True, ""),
        ("rfc7520/jws/4_3.ecdsa_signature.json", True, ""),
        ("rfc7520/jws/4_4.hmac-sha2_integrity_protection.json", False, _NO_MAC),
        ("rfc8037/jws_ed25519.json", True, ""),
    ],
)
def test_rfc_signatures(corpora: Path, file: str, taken_: bool, why: str) -> None:
    path = corpora / "jose" / file
    vector = read(path)
    key = dict(vector["input"]["key"])
    if taken_:
        key["alg"] = vector["input"]["alg"]
    assert taken(vector["output"]["compact"], [key]) is taken_, why


def forms(vector: Any) -> list[object]:
    """Every finished object of a vector: its own output, or those of its steps."""
    if "output" in vector:
        return list(vector["output"].values())
    return [form for step in vector.values() if isinstance(step, dict) for form in forms(step)]


def test_every_other_serialization_is_refused(corpora: Path) -> None:
    """Detached payloads, JSON serialization, several signatures, unencoded payloads, encryption: none is a compact JWS of ours."""
    refused = 0
    for folder in ("rfc7520/jws", "rfc7797", "rfc7520/jwe", "rfc7520/nested"):
        for path in sorted((corpora / "jose" / folder).glob("*.json")):
            vector = read(path)
            if folder == "rfc7520/jws" and path.name[:3] in ("4_1", "4_2", "4_3"):
                continue
            given = vector.get("input", {}).get("key") or {}
            keys = given if isinstance(given, list) else [given]
            for form in forms(vector):
                assert not taken(form, keys), path.name
                refused += 1
    assert refused >= 22


def test_rfc_keys(corpora: Path) -> None:
    """A published set holds public keys and nothing else."""
    folder = corpora / "jose/rfc7520/jwk"
    verdicts = {}
    for path in sorted(folder.glob("*.json")):
        try:
            KeySet.from_jwks(json.dumps({"keys": [read(path)]}))
            verdicts[path.name] = "loads"
        except KeysRefused:
            verdicts[path.name] = "refused"
    assert {name.split(".")[1]: found for name, found in verdicts.items()} == {
        name.split(".")[1]: "loads" if "public" in name else "refused" for name in verdicts
    }
