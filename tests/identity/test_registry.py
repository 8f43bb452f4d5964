"""The registry of identities: what it says of who acts, that a change reaches an open task, and that half of it is none of it."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guard import Guard, LocalIssuer, Policy
from guard.errors import ApprovalRequired, ConfigError, Denied
from guard.identity.registered import SCHEMA, RegistryUnreadable, read_registry
from guard.identity.registry import Registry
from guard.model import Credential, Delegation
from guard.record import ListSink
from guard.testing import FakeApprovals, FrozenClock

TABLE: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "registry.yaml").read_text("utf-8"))
NOW = datetime(2026, 11, 28, tzinfo=UTC).timestamp()
ISS = "https://idp.example"
DELEGATION = Delegation(
    "at+jwt", ISS, ISS, "t-1", Credential(ISS, "j-1", "k1"), "alice", "person", ("payer",), int(NOW), int(NOW) + 300, "tools"
)  # fmt: skip


def thumb(letter: str) -> str:
    return letter * 43


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


def table() -> dict[str, Any]:
    found = json.loads(json.dumps(TABLE["registry"]))
    for one in found["identities"]:
        if "keys" in one:
            one["keys"] = [thumb(each) for each in one["keys"]]
    return found


@pytest.mark.parametrize("name", TABLE["cases"])
def test_what_is_said(name: str, tmp_path: Path) -> None:
    case = TABLE["cases"][name]
    effects = {key: case[key] for key in ("unregistered", "unowned", "overdue", "chain") if key in case}
    registry = Registry(written(tmp_path / "r.json", table()), clock=lambda: NOW, **effects)
    credential = Credential(ISS, "j-1", "k1", thumb(case["key"]) if "key" in case else None)
    found = replace(DELEGATION, actors=tuple(case["who"]), credential=credential, workload=case.get("workload"))
    findings = registry.findings(found)
    assert [f"{f.says} {f.code}" for f in findings] == case["says"]
    assert {f.judge for f in findings} <= {"token"}
    assert registry.proofs().actor(found) == case.get("proven")


def test_every_hop_is_bound_to_a_key_of_its_actor(tmp_path: Path) -> None:
    """A chain's upper hops come in `above`: an attacker's key in the middle is found there."""
    registry = Registry(written(tmp_path / "r.json", table()), clock=lambda: NOW)

    class Chain:
        above = (replace(DELEGATION, actors=("payer",), credential=Credential(ISS, "j-0", "k1", thumb("B"))),)

        def __getattr__(self, name: str) -> object:
            return getattr(DELEGATION, name)

    assert [f.code for f in registry.findings(Chain())] == ["identity.key"]  # type: ignore[arg-type]


def test_a_workload_that_works_for_itself_is_asked_about_with_the_chain(tmp_path: Path) -> None:
    path = written(tmp_path / "r.json", table())
    own = replace(DELEGATION, origin="robot", origin_kind="workload")
    assert Registry(path, clock=lambda: NOW).findings(own) == ()
    assert [f.code for f in Registry(path, chain=True, clock=lambda: NOW).findings(own)] == ["identity.unregistered"]


# -- what cannot be relied on -------------------------------------------------------------------------------------------------------

HEAD = "registry: 1\nidentities:\n"
WRONG = {
    "an unknown member": (HEAD + "  - {id: a, kind: agent, ownr: b}\n", "3:26", "`ownr` is not a member"),
    "an unknown kind": (HEAD + "  - {id: a, kind: robot}\n", "3:13", "`kind`"),
    "no kind": (HEAD + "  - {id: a}\n", "3:5", "needs `kind`"),
    "an unknown status": (HEAD + "  - {id: a, kind: agent, status: Active}\n", "3:26", "`status`"),
    "a number for a name": (HEAD + "  - {id: 7, kind: agent}\n", "3:6", "`id`"),
    "text for a truth": (HEAD + '  - {id: a, kind: agent, third_party: "no"}\n', "3:26", "`third_party`"),
    "a day that is none": (HEAD + '  - {id: a, kind: agent, rotated: "2026-02-30"}\n', "3:26", "a day"),
    "an invisible name": (HEAD + '  - {id: "a\\u200b", kind: agent}\n', "3:6", "visible"),
    "the same name twice": (HEAD + "  - {id: a, kind: agent}\n  - {id: a, kind: workload}\n", "4:5", "registered already"),
    "the same key twice": (
        HEAD + f"  - {{id: a, kind: agent, keys: [{thumb('A')}]}}\n  - {{id: b, kind: agent, keys: [{thumb('A')}]}}\n",
        "4:5",
        "registered already",
    ),
    "a name that is another's SPIFFE id": (
        HEAD + '  - {id: a, kind: workload, status: suspended, spiffe: ["spiffe://x/a"]}\n  - {id: "spiffe://x/a", kind: agent, issuer: "https://i"}\n',
        "4:5",
        "another's SPIFFE id",
    ),
    "a key of nobody": (HEAD + f"  - {{id: k, kind: key, of: a, keys: [{thumb('A')}]}}\n", "3:5", "names no identity"),
    "a key without an identity": (HEAD + f"  - {{id: k, kind: key, keys: [{thumb('A')}]}}\n", "3:5", "`of`"),
    "a short thumbprint": (HEAD + "  - {id: a, kind: agent, keys: [abc]}\n", "3:33", "thumbprint"),
    "another form": ("registry: 2\nidentities: []\n", "1:1", "registry: 1"),
    "no list": ("registry: 1\nidentities: {a: b}\n", "1:1", "is a list"),
    "a member given twice": (HEAD + "  - {id: a, kind: agent, owner: b, owner: c}\n", "3:36", "owner"),
    "an alias": (HEAD + "  - &x {id: a, kind: agent}\n  - *x\n", "3:5", ""),
    "nothing": ("", "1:1", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_denies_with_its_place(name: str, tmp_path: Path) -> None:
    text, place, said = WRONG[name]
    path = written(tmp_path / "r.yaml", text)
    (finding,) = Registry(path).findings(DELEGATION)
    assert (finding.says, finding.code) == ("forbid", "identity.unavailable")
    assert f"r.yaml:{place}" in finding.text
    with pytest.raises(RegistryUnreadable) as caught:
        read_registry(text.encode(), "r.yaml")
    first = caught.value.problems[0]
    assert f"{first.line}:{first.column}" == place
    assert said in first.text
    assert "ownr" not in finding.text, "what stands in the file goes to who mends it, not into records"
    if name == "an unknown member":
        assert first.suggestion == "did you mean `owner`?"


def test_what_is_no_file_denies(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        (finding,) = Registry(path).findings(DELEGATION)
        assert (finding.says, finding.code) == ("forbid", "identity.unavailable")
        assert Registry(path).proofs().actor(DELEGATION) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"{" * 100_000,
        b'{"Resources":' + b"[" * 100_000,
        ("registry: 1\nidentities:\n" + "  - {id: a, kind: agent}\n" * 20_000).encode(),
        b"registry: 1\nidentities: [" + b"x, " * 50_000 + b"x]\n",
        b"- " * 200_000,
    ],
    ids=["no-utf8", "deep", "deep-scim", "many-twins", "many-wrong", "deep-yaml"],
)
def test_a_hostile_file_is_refused_in_bounded_time(raw: bytes) -> None:
    started = time.thread_time()
    with pytest.raises(RegistryUnreadable) as caught:
        read_registry(raw, "r")
    assert len(str(caught.value)) < 200
    assert len(caught.value.problems) <= 600
    assert time.thread_time() - started < 20


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda t: ("registry: 1\nidentities: " + t).encode("utf-8", "ignore"))))
def test_bytes_are_a_registry_or_refused(raw: bytes) -> None:
    try:
        read_registry(raw, "r")
    except RegistryUnreadable:
        pass


ROWS = st.fixed_dictionaries(
    {"id": st.sampled_from("abcd"), "kind": st.sampled_from(["agent", "workload", "service_account"])},
    optional={
        "owner": st.just("o"),
        "issuer": st.sampled_from([ISS, "https://other.example"]),
        "keys": st.lists(st.sampled_from("ABC").map(thumb), max_size=2),
        "status": st.sampled_from(["active", "suspended", "retired"]),
        "rotate_every": st.just("90d"),
    },
)


@given(st.lists(ROWS, max_size=6), st.sampled_from("abcde"), st.one_of(st.none(), st.sampled_from("ABCZ").map(thumb)))
def test_laws(rows: list[dict[str, Any]], actor: str, key: str | None) -> None:
    """Proven only where nothing is forbidden, and never by a key of two; strictest settings never say less."""

    class Source:
        name = "rows"

        def changed(self) -> bool:
            return False

        def read(self) -> Any:
            return read_registry(json.dumps({"registry": 1, "identities": rows}).encode(), "rows")

    Source.changed = lambda self: True  # type: ignore[method-assign]
    found = replace(DELEGATION, actors=(actor,), credential=Credential(ISS, "j", "k", key))
    lax = Registry(Source(), unregistered="alert", unowned="alert", clock=lambda: NOW)
    strict = Registry(Source(), unowned="deny", overdue="deny", clock=lambda: NOW)
    said, strictly = lax.findings(found), strict.findings(found)
    assert [f.code for f in said] == [f.code for f in strictly]
    assert all(f.says == "forbid" for f in strictly)
    if lax.proven(found) is not None:
        assert all(f.says == "permit" for f in said)
        assert [one["id"] for one in rows if key in one.get("keys", ())] == [actor]


# -- SCIM -----------------------------------------------------------------------------------------------------------------------

LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
AGENT = "urn:ietf:params:scim:schemas:core:2.0:Agent"


def scim(*resources: object, **more: object) -> bytes:
    return json.dumps({"schemas": [LIST], "totalResults": len(resources), "Resources": list(resources), **more}).encode()


def test_a_scim_list_is_read_and_what_is_unknown_in_it_ignored() -> None:
    der = b"0\x82certificate"
    found = read_registry(
        scim(
            {"schemas": [USER], "userName": "alice", "active": True},
            {"schemas": [USER, ENTERPRISE], "userName": "payer", "userType": "Agent", ENTERPRISE: {"manager": {"value": "payments"}}, "x": 1,
             "x509Certificates": [{"value": b64encode(der).decode()}]},
            {"schemas": [AGENT], "name": "mailer", "active": False, "owners": [{"value": "mail"}], SCHEMA: {"rotate_every": "90d", "new": 1}},
            {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "all"},
        ),
        "scim.json",
    )  # fmt: skip
    x5t = urlsafe_b64encode(sha256(der).digest()).rstrip(b"=").decode()
    assert [(one.id, one.kind, one.owner, one.status, one.keys, one.rotate_every) for one in found] == [
        ("payer", "agent", "payments", "active", (x5t,), None),
        ("mailer", "agent", "mail", "suspended", (), 90 * 86400),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        scim(totalResults=3),
        scim({"schemas": [AGENT], "name": "a"}, totalResults=0),
        scim({"schemas": [AGENT], "name": "a", "active": "false"}),
        scim({"schemas": [AGENT]}),
        scim({"schemas": [AGENT], "name": "a"}, {"schemas": [AGENT], "name": "a"}),
        scim({"schemas": [AGENT], "name": "a", "x509Certificates": [{"value": "?"}]}),
        scim({"schemas": [AGENT], "name": "a", SCHEMA: {"status": "on"}}),
        scim("payer"),
        scim(schemas=["urn:other"]),
        scim(totalResults=True),
        b'{"Resources": [], "Resources": []}',
    ],
)
def test_half_a_scim_list_is_none(raw: bytes) -> None:
    with pytest.raises(RegistryUnreadable) as caught:
        read_registry(raw, "scim.json")
    assert str(caught.value).startswith("scim.json")


def test_an_extension_cannot_undo_what_iam_says() -> None:
    (one,) = read_registry(scim({"schemas": [AGENT], "name": "a", "active": False, SCHEMA: {"status": "active", "id": "b"}}), "scim.json")
    assert (one.id, one.status) == ("a", "suspended")


# -- in a guard -------------------------------------------------------------------------------------------------------------------

POLICY = Policy.from_text(
    "guardtrail: 1\nname: p\nowner: o\ntools: {look: {effect: read, control: {id: id}}}\n"
    "intents: {work: {description: d, ttl: 10m, allow: {look: {}}}}\n"
    "asks: {identity.unowned: {by: {persons: [carol]}, within: 1h}}\n"
)  # fmt: skip

LIMITED = (
    "guardtrail: 1\nname: p\nowner: o\ntools: {look: {effect: read, control: {id: id}}}\n"
    "intents: {work: {description: d, ttl: 10m, allow: {look: {limit: {calls: 2}}}}}\n"
)


def _look(id: str) -> str:
    return id


def wired(path: Path, tmp_path: Path, **more: Any) -> tuple[Guard, LocalIssuer, ListSink, Any]:
    issuer, sink = LocalIssuer("acme-dev"), ListSink()
    guard = Guard(POLICY, trust=issuer, sinks=[sink], registry=Registry(path, check_every=0, **more))
    return guard, issuer, sink, guard.tool(_look, name="look")


def test_a_change_of_the_file_reaches_an_open_task(tmp_path: Path) -> None:
    path = written(tmp_path / "r.yaml", HEAD + "  - {id: payer, kind: agent, owner: o}\n")
    guard, issuer, sink, look = wired(path, tmp_path)
    with guard.task(issuer.mint(origin="alice", actor="payer", intent="work")):
        assert look(id="a") == "a"
        for text, code in (
            (HEAD + "  - {id: payer, kind: agent, owner: o, status: suspended}\n", "identity.suspended"),
            (HEAD + "  - {id: other, kind: agent, owner: o}\n", "identity.unregistered"),
            (HEAD + "  - {id: payer, kind: agent, owner: o\n", "identity.unavailable"),
        ):
            written(path, text)
            with pytest.raises(Denied) as caught:
                look(id="a")
            assert caught.value.decision.code == code
        path.unlink()
        with pytest.raises(Denied, match="identity.unavailable"):
            look(id="a")
        written(path, HEAD + "  - {id: payer, kind: agent, owner: o}\n")
        assert look(id="a") == "a"
        written(path, HEAD + "  - {id: payer, kind: agent}\n")
        with pytest.raises(ApprovalRequired, match="no owner"):
            look(id="a")
        assert guard.visible(["look"]) == ["look"], "an ask can still be answered"
    assert [r.code for r in sink.decisions if r.tool == "look"] == [
        "permit", "identity.suspended", "identity.unregistered", "identity.unavailable", "identity.unavailable", "permit", "identity.unowned",
    ]  # fmt: skip


def test_a_person_can_answer_for_what_nobody_owns(tmp_path: Path) -> None:
    clock = FrozenClock()
    issuer, approvals = LocalIssuer("acme-dev", clock=lambda: clock.now().timestamp()), FakeApprovals(clock)
    path = written(tmp_path / "r.yaml", HEAD + "  - {id: payer, kind: agent}\n")
    guard = Guard(POLICY, trust=issuer, sinks=[ListSink()], registry=Registry(path), clock=clock, approvals=approvals)
    look = guard.tool(_look, name="look")
    with guard.task(issuer.mint(origin="alice", actor="payer", intent="work")):
        with pytest.raises(ApprovalRequired) as caught:
            look(id="a")
        approvals.approve(caught.value.decision, by="carol")
        assert look(id="a") == "a"
        with pytest.raises(ApprovalRequired):
            look(id="a")


def test_an_ask_about_who_acts_uses_up_no_limit(tmp_path: Path) -> None:
    """Attack: an agent nobody owns spends the limit of the task without running anything."""
    path = written(tmp_path / "r.yaml", HEAD + "  - {id: payer, kind: agent, owner: o}\n")
    issuer = LocalIssuer("acme-dev")
    once = Policy.from_text(LIMITED)
    guard = Guard(once, trust=issuer, sinks=[ListSink()], registry=Registry(path, check_every=0))
    look = guard.tool(_look, name="look")
    with guard.task(issuer.mint(origin="alice", actor="payer", intent="work")):
        assert look(id="a") == "a"  # from now on the counters stand, and the shortest way is taken
        written(path, HEAD + "  - {id: payer, kind: agent}\n")
        for _ in range(3):
            with pytest.raises(ApprovalRequired):
                look(id="a")
        written(path, HEAD + "  - {id: payer, kind: agent, owner: o}\n")
        assert look(id="a") == "a"
        with pytest.raises(Denied, match="limit.calls"):
            look(id="a")


def test_what_comes_due_in_an_open_task_shows(tmp_path: Path) -> None:
    day = datetime.fromtimestamp(time.time() - 5 * 86400, UTC).date().isoformat()
    path = written(tmp_path / "r.yaml", HEAD + f'  - {{id: payer, kind: agent, owner: o, rotated: "{day}", rotate_every: 30d}}\n')
    clock = [time.time()]
    for effect, verdict in (("alert", "allow"), ("deny", "deny")):
        clock[0] = time.time()
        guard, issuer, sink, look = wired(path, tmp_path, overdue=effect, clock=lambda: clock[0])
        with guard.task(issuer.mint(origin="alice", actor="payer", intent="work")):
            look(id="a")
            clock[0] += 26 * 86400
            if verdict == "deny":
                with pytest.raises(Denied, match="identity.overdue"):
                    look(id="a")
            else:
                look(id="a")
        first, second = (r for r in sink.decisions if r.tool == "look")
        assert [f.code for f in first.findings if f.code.startswith("identity")] == []
        assert [f.code for f in second.findings if f.code.startswith("identity")] == ["identity.overdue"]
        assert second.verdict == verdict


def test_effects_are_three_words_and_a_url_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `alert`"):
        Registry(tmp_path / "r", overdue="alrt")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ScimSource"):
        Registry("https://iam.example/scim/v2/Agents")
