"""The development issuer: what it mints always verifies and says what was asked; what it cannot mint it says at once."""

from __future__ import annotations

import copy
import json
import os
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from guard.errors import ConfigError
from guard.identity import Issuer, LocalIssuer, TrustedIssuers
from guard.tokens import split, token_json
from guard.tokens.jose import MAX_INT
from tests.tokens.forge import NOW

IAM = LocalIssuer("acme-dev", audience="shop", clock=lambda: NOW)
TRUST = TrustedIssuers(IAM)
MINT: dict[str, Any] = {"origin": "alice", "actor": "payer", "intent": "pay-invoice"}


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


class Plain(Enum):
    ONE = 1


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"origin": 5}, "`origin` must be a visible name"),
        ({"origin": "x" * 257}, "`origin` must be a visible name"),
        ({"workload": ""}, "`workload` must be a visible name"),
        ({"actor": None}, "`actor` is a visible name"),
        ({"actor": b"payer"}, "`actor` is a visible name"),
        ({"actor": {"payer": 1}}, "`actor` is a visible name"),
        ({"actor": ["payer", 5]}, "`actor` is a visible name"),
        ({"actor": [f"a{n}" for n in range(9)]}, "list of 1 to 8"),
        ({"intent": 5}, "`intent` is the name"),
        ({"intent": None, "params": {"a": 1}}, "`params` belong to an `intent`"),
        ({"params": None}, "`params` maps names to values"),
        ({"params": [("a", 1)]}, "`params` maps names to values"),
        ({"params": {1: 1}}, "`params` maps names to values"),
        ({"params": {"a ": 1}}, "`params` maps names to values"),
        ({"params": {f"p{n}": n for n in range(65)}}, "64 at most"),
        ({"params": {"a": {1, 2}}}, "`a` holds a set"),
        ({"params": {"a": b"x"}}, "`a` holds a bytes"),
        ({"params": {"a": Plain.ONE}}, "`a` holds a Plain"),
        ({"params": {"a": Decimal("NaN")}}, "`a` holds a Decimal"),
        ({"params": {"a": float("-inf")}}, "`a` holds a float"),
        ({"params": {"a": MAX_INT + 1}}, "`a` holds a int"),
        ({"params": {"a": {"b": object()}}}, "`a` holds a object"),
        ({"params": {"a": {1: 2}}}, "`a` holds a dict"),
        ({"params": {"a": "half \ud83d"}}, "`a` holds half of a surrogate pair"),
        ({"params": {"a": ["\udc80"]}}, "`a` holds half of a surrogate pair"),
        ({"params": {"a": {"\ud800": 1}}}, "`a` holds half of a surrogate pair"),
        ({"params": {"a": "x" * 13_000}}, "longer than 16 KiB"),
        ({"params": {"a": [{"b": 1}] * 260}}, "256 members"),
        ({"params": {"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "`a` holds a list"),
        ({"params": {"a": [[[[[[[[[[[[[1]]]]]]]]]]]]]}}, "16 levels"),
        ({"ttl": "0s"}, "`ttl` is written as"),
        ({"ttl": "-1m"}, "`ttl` is written as"),
        ({"ttl": "1d"}, "`ttl` is written as"),
        ({"ttl": "10m\n"}, "`ttl` is written as"),
        ({"ttl": "86401s"}, "`ttl` is written as"),
        ({"ttl": "\u0661m"}, "`ttl` is written as"),
        ({"ttl": None}, "`ttl` is written as"),
        ({"tools": []}, "`tools` is a list of tool names"),
        ({"tools": ["pay "]}, "`tools` is a list of tool names"),
        ({"tools": [["pay"]]}, "`tools` is a list of tool names"),
        ({"tools": {"pay": ["order"]}}, "tools[pay] maps argument names"),
        ({"tools": {"pay": {5: {"any": True}}}}, "tools[pay] maps argument names"),
        ({"tools": {"pay": {"": {"any": True}}}}, "tools[pay] maps argument names"),
        ({"tools": {"pay": {f"a{n}": {"any": True} for n in range(65)}}}, "64 at most"),
        ({"tools": {"pay": {"order": {"eqq": 1}}}}, "no kind of constraint `eqq`; did you mean `eq`?"),
        ({"tools": {"pay": {"order": {"eq": "$order"}}}}, "a token has no parameters"),
        ({"tools": {"pay": {"order": {}}}}, "tools[pay].order"),
        ({"tools": {"pay": {"order": {"eq": object()}}}}, "`tools[pay].order` holds a object"),
        ({"tools": [f"t{n}" for n in range(64)]}, "at most 64 entries"),
        ({"tools": ["pay"], "limits": {"mail": 1}}, "`limits` maps names of `tools`"),
        ({"tools": ["pay"], "limits": {"pay": True}}, "`limits` maps names of `tools`"),
        ({"tools": ["pay"], "limits": {"pay": "1"}}, "`limits` maps names of `tools`"),
        ({"tools": ["pay"], "limits": [1]}, "`limits` maps names of `tools`"),
        ({"scope": 5}, "`scope` is one text"),
        ({"scope": ["a"]}, "`scope` is one text"),
        ({"scope": ""}, "`scope` is one text"),
        ({"scope": "a\n"}, "`scope` is one text"),
        ({"scope": " ".join(f"s{n}" for n in range(129))}, "at most 128 words"),
        ({"txn": 5}, "`txn` must be a visible name"),
        ({"now": float("nan")}, "the time of issue"),
        ({"now": float("inf")}, "the time of issue"),
        ({"now": -1}, "the time of issue"),
        ({"now": True}, "the time of issue"),
        ({"now": "1800000000"}, "the time of issue"),
        ({"now": 1e20}, "the time of issue"),
    ],
    ids=lambda given_: None if isinstance(given_, dict) else given_,
)
def test_what_cannot_be_minted_is_said(over: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        IAM.mint(**{**MINT, **over})
    assert says in str(caught.value)
    assert caught.value.code == "config.error"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_clock_that_says_no_time() -> None:
    for clock in (lambda: float("nan"), lambda: None, lambda: "now"):
        broken: Any = clock
        with pytest.raises(ConfigError, match="what `clock` says"):
            LocalIssuer("dev", clock=broken).mint(**MINT)


@pytest.mark.parametrize("name", ["", " a", "https://iam.acme.example", "a/b", "a:b", None, 5, "x" * 257, "a\u200bb"])
def test_a_development_issuer_stands_in_for_nobody(name: Any) -> None:
    with pytest.raises(ConfigError, match="it never stands in for a real issuer"):
        LocalIssuer(name)


@pytest.mark.parametrize("audience", ["", 5, None, "a\n"])
def test_an_audience_is_a_name(audience: Any) -> None:
    with pytest.raises(ConfigError, match="`audience`"):
        LocalIssuer("dev", audience=audience)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("A-17", "A-17"),
        (17, 17),
        (True, True),
        (None, None),
        (1.5, 1.5),
        (Decimal("50.10"), "50.10"),
        (Decimal("1E+3"), "1000"),
        (Decimal("-0.5"), "-0.5"),
        (MAX_INT, MAX_INT),
        (Colour.RED, "red"),
        (Size.LARGE, 3),
        ("\U0001f600 \u00e9", "\U0001f600 \u00e9"),
        (("a", "b"), ["a", "b"]),
        ({"a": [1, {"b": Decimal("1")}]}, {"a": [1, {"b": "1"}]}),
    ],
    ids=repr,
)
def test_what_becomes_of_a_parameter(value: Any, read: Any) -> None:
    found = TRUST.verify(IAM.mint(**MINT, params={"p": value}), now=NOW)
    assert found.params["p"] == read
    assert type(found.params["p"]) is type(read)


@pytest.mark.parametrize(("ttl", "seconds"), [("1s", 1), ("30s", 30), ("10m", 600), ("1h", 3600), ("24h", 86_400), ("86400s", 86_400)])
def test_ttl(ttl: str, seconds: int) -> None:
    found = TRUST.verify(IAM.mint(**MINT, ttl=ttl), now=NOW)
    assert (found.issued_at, found.expires_at) == (NOW, NOW + seconds)


@pytest.mark.parametrize(
    ("actor", "actors"),
    [
        ("payer", ("payer",)),
        (["payer"], ("payer",)),
        (["orchestrator", "payer"], ("orchestrator", "payer")),
        (("orchestrator", "payer"), ("orchestrator", "payer")),
        ([f"a{n}" for n in range(8)], tuple(f"a{n}" for n in range(8))),
    ],
)
def test_the_chain_of_actors(actor: Any, actors: tuple[str, ...]) -> None:
    """The opener first, who acts now last; in the token who acts now is outermost (RFC 8693 4.1)."""
    text = IAM.mint(**{**MINT, "actor": actor})
    found = TRUST.verify(text, now=NOW)
    assert (found.actors, found.actor, found.depth) == (actors, actors[-1], len(actors) - 1)
    act: Any = token_json(split(text).payload)["act"]
    assert act["sub"] == actors[-1]


def test_the_local_workload_is_named() -> None:
    assert TRUST.verify(IAM.mint(**MINT), now=NOW).workload == "local"
    found = TRUST.verify(IAM.mint(**MINT, workload="ci-runner"), now=NOW)
    assert (found.workload, found.local, found.issuer, found.tenant, found.audience) == ("ci-runner", True, "acme-dev", "acme-dev", "shop")
    assert TRUST.verify(IAM.mint(**{**MINT, "actor": "local"}), now=NOW).actors == ("local",), "the workload itself may act"


def test_two_tokens_are_two_credentials_and_two_tasks_unless_said() -> None:
    one, two = (TRUST.verify(IAM.mint(**MINT), now=NOW) for _ in range(2))
    assert one.credential != two.credential
    assert one.task != two.task
    one, two = (TRUST.verify(IAM.mint(**MINT, txn="t-1"), now=NOW) for _ in range(2))
    assert one.credential != two.credential
    assert one.task == two.task


def test_grants_and_limits() -> None:
    found = TRUST.verify(IAM.mint(**MINT, tools={"pay": {"order": {"eq": "A"}}, "look": None, "mail": {}}, limits={"pay": 1}), now=NOW)
    assert found.grants is not None
    grants = {tool: grant for tool, (grant,) in found.grants.items()}
    assert grants["pay"].calls == 1
    assert grants["pay"].args is not None
    assert grants["pay"].args["order"].matches("A")
    assert grants["look"].args is None
    assert grants["mail"].args == {}
    assert grants["mail"].calls is None


NAMES = ["alice", "bob", "payer", "a b", "zo\u00eb", "x" * 256, "$x", "\u0430lice"]
good = st.sampled_from(NAMES)
several = st.permutations(NAMES).flatmap(lambda all_: st.integers(1, len(all_)).map(lambda n: all_[:n]))
names = good | st.text(max_size=300) | st.sampled_from(["zoe\u0308", " a", "", "local"])
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.decimals() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ordinary = st.fixed_dictionaries(
    {"origin": st.just("carol"), "actor": good | several, "intent": good},
    optional={
        "workload": good,
        "params": several.flatmap(lambda all_: st.fixed_dictionaries({name: st.integers() | good for name in all_[:3]})),
        "tools": several | several.map(lambda all_: dict.fromkeys(all_)) | several.map(lambda all_: {name: {} for name in all_}),
        "scope": st.sampled_from(["a", "a b"]),
        "now": st.integers(0, 2**36),
    },
)
odd = st.fixed_dictionaries(
    {},
    optional={
        "origin": names,
        "actor": names | st.lists(names, max_size=9),
        "intent": names | st.none(),
        "workload": names,
        "params": st.dictionaries(names, plain, max_size=3),
        "tools": st.lists(names, max_size=3) | st.dictionaries(names, st.none() | st.dictionaries(names, plain, max_size=2), max_size=2),
        "scope": st.text(max_size=10),
        "now": st.integers() | st.floats(),
    },
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(ordinary, st.just({}) | odd)
@example({**MINT, "params": {"p": Decimal("1.50")}, "tools": {"t": {"x": {"eq": 1}}}, "scope": "s"}, {})
def test_what_is_minted_verifies_and_says_what_was_asked(asked: dict[str, Any], over: dict[str, Any]) -> None:
    """A token or a ConfigError; a token that its own verifier refuses would be a mistake found much later."""
    asked = {**asked, **over}
    try:
        text = IAM.mint(**asked)
    except ConfigError:
        event("refused")
        return
    event("minted")
    found = TRUST.verify(text, now=int(asked.get("now", NOW)))
    assert (found.origin, found.origin_kind, found.workload) == (asked["origin"], "person", asked.get("workload", "local"))
    assert found.intent == asked["intent"]
    assert found.actors == ((asked["actor"],) if isinstance(asked["actor"], str) else tuple(asked["actor"]))
    assert found.params.keys() == asked.get("params", {}).keys()
    assert (found.grants is None) is ("tools" not in asked)


# -- the file ------------------------------------------------------------------------------------------------------------------------------


def test_what_is_published_is_a_key_set_for_others(tmp_path: Path) -> None:
    """The public half verifies elsewhere, and cannot be used under another name."""
    (tmp_path / "jwks.json").write_text(IAM.jwks)
    (key,) = json.loads(IAM.jwks)["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "alg", "use", "kid"}
    assert key["kid"] == IAM.kid
    issuer = Issuer("https://iam.acme.example", audience="shop", keys=tmp_path / "jwks.json")
    with pytest.raises(Exception, match="not exactly an issuer") as caught:
        TrustedIssuers(issuer).verify(IAM.mint(**MINT), now=NOW)
    assert caught.value.code == "token.issuer"  # type: ignore[attr-defined]


def test_saved_over_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "issuer.json"
    path.write_text("old")
    path.chmod(0o644)
    IAM.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["issuer.json"], "no draft is left"
    again = LocalIssuer.load(path, clock=lambda: NOW)
    assert (again.name, again.audience, again.kid, again.local) == (IAM.name, IAM.audience, IAM.kid, True)
    assert TRUST.verify(again.mint(**MINT), now=NOW).origin == "alice"


def test_saved_over_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "issuer.json"
    target.write_text("mine")
    path.symlink_to(target)
    IAM.save(path)
    assert target.read_text() == "mine"
    assert not path.is_symlink()


@pytest.mark.parametrize("where", ["missing/issuer.json", "folder", "file/issuer.json"])
def test_a_place_that_cannot_be_written(where: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").touch()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        IAM.save(tmp_path / where)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def private(curve: ec.EllipticCurve) -> dict[str, Any]:
    found: dict[str, Any] = ECAlgorithm(ECAlgorithm.SHA256).to_jwk(ec.generate_private_key(curve), as_dict=True)
    return found


P256 = private(ec.SECP256R1())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nothing", None),
        ("a list", []),
        ("no key", {"name": "a", "audience": "b"}),
        ("a public key", {"name": "a", "audience": "b", "key": {k: v for k, v in P256.items() if k != "d"}}),
        ("a key of another curve", {"name": "a", "audience": "b", "key": private(ec.SECP384R1())}),
        ("a key whose halves do not belong together", {"name": "a", "audience": "b", "key": P256 | {"d": private(ec.SECP256R1())["d"]}}),
        ("a symmetric key", {"name": "a", "audience": "b", "key": {"kty": "oct", "k": "AAAA"}}),
        ("a name that is a number", {"name": 1, "audience": "b", "key": P256}),
        ("a key that is a text", {"name": "a", "audience": "b", "key": json.dumps(P256)}),
        ("too large", {"name": "a", "audience": "b", "key": P256, "note": "x" * 70_000}),
    ],
    ids=lambda given_: given_ if isinstance(given_, str) else "",
)
def test_a_file_it_did_not_write(name: str, content: Any, tmp_path: Path) -> None:
    path = tmp_path / "issuer.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="was not written by LocalIssuer.save") as caught:
        LocalIssuer.load(path)
    assert caught.value.__context__ is None or "d" not in str(caught.value.__context__).split(), name


@pytest.mark.parametrize("content", [{"name": "https://iam.acme.example", "audience": "b"}, {"name": "a", "audience": ""}])
def test_a_file_that_was_edited_stands_in_for_nobody_either(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "issuer.json"
    path.write_text(json.dumps(content | {"key": P256}))
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        LocalIssuer.load(path)


def test_a_pipe_or_a_folder_is_no_saved_issuer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="was not written by"):
        LocalIssuer.load(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="LocalIssuer"):
        LocalIssuer.load(tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        LocalIssuer.load(tmp_path / "missing")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_file_that_others_may_open(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "issuer.json"
    IAM.save(path)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        LocalIssuer.load(path)


def test_a_private_key_is_not_copied() -> None:
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds a private key"):
            copied(IAM)
