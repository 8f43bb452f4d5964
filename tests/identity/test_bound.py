"""Who counts as whom for a separation of duty: the registered name of a proven key or workload. And whose owner stands in the records."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.identity import HolderKey, Registry, TrustBundles, WorkloadIssuer, Workloads
from guard.identity._files import WatchedFile
from guard.identity.registered import SCHEMA, RegistryUnreadable, read_registry
from guard.model import Credential, Delegation
from guard.record import AuditFile, ListSink
from guard.telemetry import OWNER
from guard.testing import FrozenClock
from guard.tokens.evidence import Workload
from tests.identity.test_workload import CI, CLEARER, KEY, NEXT, PAYER, job, keys, svid, write

IBAN = "DE89370400440532013000"
RULE = """
guardtrail: 1
name: two
owner: payments@acme.example
tools:
  pay: {effect: pay, control: {iban: iban}}
  approve: {effect: approve, control: {iban: iban}}
intents: {clear: {ttl: 10m, allow: {pay: {args: {iban: {any: true}}}, approve: {args: {iban: {any: true}}}}}}
rules:
  - id: two-programs
    when: {tool: pay}
    require_before: {tool: approve, outcome: ok, match: {iban: args.iban}, distinct: actor, within: 1h}
"""
K, L = HolderKey.generate(), HolderKey.generate()
ALIAS = "spiffe://acme.example/alias"


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = WatchedFile.__init__
    monkeypatch.setattr(WatchedFile, "__init__", lambda self, path, *, most, every=1.0: made(self, path, most=most, every=0.0))


class World:
    """One guard with a registry; everybody it knows has a key, a program, or both."""

    def __init__(self, folder: Path, identities: list[dict[str, Any]], *, workloads: bool = False, policy: str = RULE) -> None:
        self.file, self.sink, self.ran = folder / "registry.json", ListSink(), list[str]()
        self.register(identities)
        clock = FrozenClock()
        self.iam = LocalIssuer("acme-dev", clock=lambda: clock.now().timestamp())
        self.registry = Registry(self.file, unregistered="alert", check_every=0.0)
        bundle = write(folder / "acme.json", keys((KEY, "k1"), use="jwt-svid"))
        platform = write(folder / "ci.json", keys((NEXT, "c1")))
        self.workloads = Workloads(
            TrustBundles({"acme.example": bundle}, audience="guard"),
            WorkloadIssuer(CI, audience="guard", keys=platform, prefixes=["job:"]),
            names=self.registry, clock=lambda: clock.now().timestamp(),
        )  # fmt: skip
        self.keys = {key.thumbprint: HolderKey(key._HolderKey__private, clock=lambda: clock.now().timestamp()) for key in (K, L)}  # type: ignore[attr-defined]
        self.guard = Guard(
            Policy.from_text(policy), trust=self.iam, sinks=[self.sink], clock=clock, registry=self.registry,
            proofs=self.workloads if workloads else None,
        )  # fmt: skip

    def register(self, identities: list[dict[str, Any]]) -> None:
        write(self.file, json.dumps({"registry": 1, "identities": identities}))

    @contextmanager
    def task(self, actor: str, key: HolderKey | None, shown: str = "") -> Iterator[None]:
        token = self.iam.mint(origin="alice", actor=actor, intent="clear", ttl="10m", key=None if key is None else key.public)
        with ExitStack() as open_:
            if shown:
                open_.enter_context(self.workloads.showing(shown))
            open_.enter_context(self.guard.task(token, key=None if key is None else self.keys[key.thumbprint]))
            yield

    def call(self, tool: str) -> str:
        try:
            self.guard.call(ToolCall(tool, {"iban": IBAN}), lambda **_: self.ran.append(tool))
        except Denied as denied:
            return str(denied.code)
        return "ran"

    def both(self, first: tuple[str, HolderKey | None, str], second: tuple[str, HolderKey | None, str]) -> str:
        with self.task(*first):
            assert self.call("approve") == "ran"
        with self.task(*second):
            return self.call("pay")

    @property
    def proven(self) -> list[str]:
        return [record.proven for record in self.sink.decisions if record.tool != "task.end"]


MAKER = {"id": "maker", "kind": "agent", "owner": "desk@acme.example", "keys": [K.thumbprint], "spiffe": [PAYER, ALIAS]}
CHECKER = {"id": "checker", "kind": "agent", "owner": "audit@acme.example", "keys": [L.thumbprint], "spiffe": [CLEARER]}
NAMED = {"id": "maker", "kind": "agent", "owner": "desk@acme.example", "spiffe": [PAYER, ALIAS]}
RUNNER = {"id": "runner", "kind": "workload", "owner": "ci@acme.example", "workloads": [{"issuer": CI, "subject": "job:acme/desk:main"}]}


@pytest.mark.parametrize(
    ("first", "second", "ends", "proven"),
    [
        (("maker", K, ""), ("checker", L, ""), "ran", ["maker", "checker"]),
        (("maker", K, ""), ("maker", K, ""), "rule.require_before", ["maker", "maker"]),
        # Two names of one key are one actor: the maker under its other name is no checker.
        (("maker", K, ""), (PAYER, K, ""), "rule.require_before", ["maker", "maker"]),
        (("maker", K, ""), ("checker", None, ""), "rule.require_before", ["maker", ""]),
        (("maker", None, ""), ("checker", L, ""), "rule.require_before", ["", "checker"]),
        (("maker", None, ""), ("checker", None, ""), "rule.require_before", ["", ""]),
        # The key of another: refused by itself, and nobody is proven.
        (("maker", K, ""), ("checker", K, ""), "identity.key", ["maker", ""]),
        # By their programs.
        (("maker", None, svid(PAYER)), ("checker", None, svid(CLEARER)), "ran", ["maker", "checker"]),
        (("maker", None, svid(PAYER)), ("checker", None, svid(PAYER)), "rule.require_before", ["maker", ""]),
        (("maker", None, svid(PAYER)), (ALIAS, None, svid(ALIAS)), "rule.require_before", ["maker", "maker"]),
        (("maker", K, ""), ("runner", None, job()), "ran", ["maker", "runner"]),
        (("maker", K, ""), ("runner", None, job("job:other:main")), "rule.require_before", ["maker", ""]),
        # A key and a program that agree, and two that do not.
        (("maker", K, svid(PAYER)), ("checker", L, svid(CLEARER)), "ran", ["maker", "checker"]),
        (("maker", K, ""), ("checker", L, svid(PAYER)), "rule.require_before", ["maker", ""]),
        # A program that nobody here knows says nothing of anybody; evidence that does not count neither.
        (("maker", K, ""), ("checker", L, svid("spiffe://acme.example/unknown")), "ran", ["maker", "checker"]),
        (("maker", K, ""), ("checker", L, "no.evidence.this"), "ran", ["maker", "checker"]),
    ],
)  # fmt: skip
def test_maker_and_checker(
    first: tuple[str, HolderKey | None, str], second: tuple[str, HolderKey | None, str], ends: str, proven: list[str], tmp_path: Path
) -> None:
    world = World(tmp_path, [MAKER, CHECKER, RUNNER], workloads=True)
    assert world.both(first, second) == ends
    assert world.proven == proven


def test_without_workloads_the_registry_speaks_for_keys(tmp_path: Path) -> None:
    world = World(tmp_path, [MAKER, CHECKER])
    assert world.both(("maker", K, ""), ("checker", L, "")) == "ran"
    assert world.proven == ["maker", "checker"]


def test_what_is_taken_from_an_identity_reaches_its_open_tasks(tmp_path: Path) -> None:
    """Attack: a program is unbound from an identity, and its open tasks go on counting as that one."""
    world = World(tmp_path, [NAMED, CHECKER], workloads=True)
    with world.task("maker", None, svid(PAYER)):
        assert world.call("approve") == "ran"
        world.register([{**NAMED, "spiffe": []}, CHECKER])
        assert world.call("approve") == "ran"
        world.register([NAMED, CHECKER])
        assert world.call("approve") == "ran"
        world.register([{**NAMED, "status": "suspended"}, CHECKER])
        assert world.call("approve") == "identity.suspended"
    assert world.proven == ["maker", "", "maker", ""]


def test_two_issuers_may_have_one_of_the_same_name(tmp_path: Path) -> None:
    """Attack: a token of another issuer says `maker`, in the program that is the maker of this one."""
    here, other = (
        {**NAMED, "issuer": "acme-dev"},
        {"id": "maker", "kind": "agent", "issuer": "https://other.example", "keys": [L.thumbprint]},
    )
    registry = Registry(write(tmp_path / "r.json", json.dumps({"registry": 1, "identities": [here, other]})))
    program = Workload("jwt-svid", PAYER, "acme.example", "k1", 2**40)
    found = Delegation("at+jwt", "t", "acme-dev", "x", Credential("acme-dev", "j", "k"), "alice", "person", ("maker",), 0, 60, "a")
    there = replace(found, issuer="https://other.example")
    assert (registry.actor_in(program, found), registry.actor_in(program, there)) == ("maker", None)
    assert registry.actor_of(program) == "maker"
    bound = replace(there, credential=Credential("https://other.example", "j", "k", L.thumbprint), bound="jkt")
    assert (registry.proven(bound), registry.proven(replace(bound, issuer="acme-dev"))) == ("maker", None)


@pytest.mark.parametrize(
    "wrong",
    [
        [{**NAMED, "workloads": [{"issuer": CI}]}],
        [{**NAMED, "workloads": [{"issuer": CI, "subject": "x", "more": 1}]}],
        [{**NAMED, "workloads": ["job:acme/desk:main"]}],
        [{**NAMED, "workloads": [{"issuer": CI, "subject": 7}]}],
        [RUNNER, {**RUNNER, "id": "other"}],
        [{**RUNNER, "workloads": RUNNER["workloads"] * 2}],  # type: ignore[operator]
        [{"id": "a", "kind": "agent"}, {"id": "k", "kind": "key", "of": "a", "keys": ["x" * 43], "spiffe": [PAYER]}],
    ],
)
def test_a_program_is_one_identity(wrong: list[dict[str, Any]]) -> None:
    with pytest.raises(RegistryUnreadable):
        read_registry(json.dumps({"registry": 1, "identities": wrong}).encode(), "r.json")


def test_iam_may_say_which_programs_it_is() -> None:
    agent = {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Agent"], "name": "runner", "active": True,
        SCHEMA: {"spiffe": [PAYER], "workloads": [{"issuer": CI, "subject": "job:acme/desk:main"}]},
    }  # fmt: skip
    page = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"], "totalResults": 1, "Resources": [agent]}
    (found,) = read_registry(json.dumps(page).encode(), "scim.json")
    assert (found.id, found.spiffe, found.workloads) == ("runner", (PAYER,), ((CI, "job:acme/desk:main"),))


DEMANDS = RULE + "proof: {pay: workload, approve: workload}\n"


@pytest.mark.parametrize(
    ("who", "ends"),
    [
        (("maker", None, svid(PAYER)), "ran"),
        (("maker", K, svid(PAYER)), "ran"),
        (("maker", K, ""), "token.workload"),  # a key is no workload
        (("maker", K, svid(CLEARER)), "token.workload"),
        (("maker", None, svid(CLEARER)), "token.workload"),
        (("maker", None, svid("spiffe://acme.example/unknown")), "token.workload"),
        (("maker", None, svid(PAYER, exp=1)), "token.workload"),
        (("runner", None, job()), "ran"),
        (("runner", None, job("job:other:main")), "token.workload"),
        (("nobody", None, svid(PAYER)), "token.workload"),
    ],
)
def test_what_demands_a_workload_asks_the_registry_who_it_is(who: tuple[str, HolderKey | None, str], ends: str, tmp_path: Path) -> None:
    world = World(tmp_path, [MAKER, CHECKER, RUNNER], workloads=True, policy=DEMANDS)
    with world.task(*who):
        assert world.call("approve") == ends
    assert len(world.ran) == (ends == "ran")


def test_a_registry_alone_proves_no_workload(tmp_path: Path) -> None:
    world = World(tmp_path, [MAKER], policy=DEMANDS)
    with world.task("maker", K):
        assert world.call("approve") == "token.workload"


def test_the_owner_stands_in_the_records(tmp_path: Path) -> None:
    world = World(tmp_path, [MAKER, {"id": "checker", "kind": "agent"}])
    with world.task("maker", K):
        world.call("approve")
        world.register([{**MAKER, "owner": "other@acme.example"}])
        world.call("approve")
    with world.task("nobody", None):
        world.call("approve")
    owners = [record.to_dict().get("owner") for record in world.sink.decisions if record.tool == "approve"]
    assert owners == ["desk@acme.example", "other@acme.example", None]


def test_no_registry_no_owner(tmp_path: Path) -> None:
    iam, sink = LocalIssuer("acme-dev"), ListSink()
    guard = Guard(Policy.from_text(RULE), trust=iam, sinks=[sink])
    with guard.task(iam.mint(origin="alice", actor="maker", intent="clear")):
        guard.call(ToolCall("approve", {"iban": IBAN}), lambda iban: iban)
    assert all("owner" not in record.to_dict() for record in sink.decisions)


def test_a_registry_of_somebody_elses_that_fails_has_no_owner(tmp_path: Path) -> None:
    class Odd(Registry):
        def owner(self, delegation: Delegation) -> str | None:
            raise RuntimeError

    path = write(tmp_path / "r.json", json.dumps({"registry": 1, "identities": [MAKER]}))
    iam, sink = LocalIssuer("acme-dev"), ListSink()
    guard = Guard(Policy.from_text(RULE), trust=iam, sinks=[sink], registry=Odd(path))
    with guard.task(iam.mint(origin="alice", actor="maker", intent="clear")):
        guard.call(ToolCall("approve", {"iban": IBAN}), lambda iban: iban)
    assert sink.decisions[0].owner == ""


def test_spans_and_explain_show_it(tmp_path: Path) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from typer.testing import CliRunner

    from guard.cli import app
    from guard.record import Spans

    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    registry = Registry(write(tmp_path / "r.json", json.dumps({"registry": 1, "identities": [MAKER]})))
    iam = LocalIssuer("acme-dev")
    log = tmp_path / "log"
    guard = Guard(Policy.from_text(RULE), trust=iam, sinks=[AuditFile(log), Spans(provider=provider)], registry=registry)
    with guard.task(iam.mint(origin="alice", actor="maker", intent="clear", key=K.public), key=K):
        guard.call(ToolCall("approve", {"iban": IBAN}), lambda iban: iban)
    assert {span.attributes[OWNER] for span in exporter.get_finished_spans() if span.attributes} == {"desk@acme.example"}
    said = CliRunner().invoke(app, ["explain", "last", "--dir", str(log)])
    assert said.exit_code == 0 and "owner    desk@acme.example   actor proven as maker" in said.output
