"""The rows of the attack list that only a whole guard can show, by their numbers. Where each of the 120 is: `test_register.py`."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from guard import Denied, Guard, Issuer, LocalIssuer, Policy, ToolCall
from guard.decide import decide
from guard.errors import TokenRefused
from guard.identity.holder import HolderKey
from guard.identity.registry import Registry
from guard.model import ExchangeRequest, Finding
from guard.reasons import REASONS, ReasonCode
from guard.record import AuditFile, ListSink, LogSink, Spans
from guard.testing import FrozenClock
from guard.tokens import IssuerRules
from guard.tokens.chain import verify_presented
from tests.delegation.world import KEYS
from tests.runtime.conftest import POLICY, make_world
from tests.tokens.forge import AUD, ED, ISS, KEY, NOW, OTHER, RULES, jwk, token
from tests.tokens.hops import chain, refusal
from tests.tokens.hops import verdict as hops_verdict

LOOK = {"order": "A-17"}


def code(guard: Guard, tool: str, args: Mapping[str, object], *, proof: str = "") -> str:
    """`allow`, if the body ran, or the refusal's code."""
    ran: list[str] = []
    try:
        guard.call(ToolCall(tool, args, "", proof), lambda **_: ran.append(tool))
    except Denied as denied:
        assert not ran
        return str(denied.code)
    assert ran == [tool]
    return "allow"


# -- A073, A074: who may act ---------------------------------------------------------------------------------------------------------


def registered(folder: Path, **keys: HolderKey) -> Registry:
    """Everybody has an owner and one key."""
    entries = [{"id": name, "kind": "agent", "owner": "o@acme.example", "keys": [key.thumbprint]} for name, key in keys.items()]
    path = folder / "registry.json"
    path.write_text(json.dumps({"registry": 1, "identities": entries}))
    return Registry(path)


def test_a073_the_key_is_registered_to_another_actor(tmp_path: Path) -> None:
    """`act` says support, the key the token is bound to is the mailer's; and the same one hop further down."""
    mine, theirs, third = (HolderKey.generate() for _ in range(3))
    world = make_world(registry=registered(tmp_path, support=mine, mailer=theirs, worker=third))
    for key in (mine, theirs, third):
        key.clock = lambda: world.clock.now().timestamp()
    good, stolen = world.mint(key=mine.public, depth=2), world.mint(key=theirs.public)
    with world.guard.task(stolen):
        assert code(world.guard, "look", LOOK, proof=theirs.prove(stolen, "look", LOOK)) == "identity.key"
    wrong, right = mine.attenuate(good, actor="mailer", key=third), mine.attenuate(good, actor="mailer", key=theirs)
    below = third.attenuate(wrong, actor="worker", key=KEYS[0])
    KEYS[0].clock = mine.clock
    with world.guard.task(good):
        assert code(world.guard, "look", LOOK, proof=mine.prove(good, "look", LOOK)) == "allow"
        with world.guard.task(wrong):
            assert code(world.guard, "look", LOOK, proof=third.prove(wrong, "look", LOOK)) == "identity.key"
        with world.guard.task(below):
            assert code(world.guard, "look", LOOK, proof=KEYS[0].prove(below, "look", LOOK)) == "identity.key", "a hop above is enough"
        with world.guard.task(right):
            assert code(world.guard, "look", LOOK, proof=theirs.prove(right, "look", LOOK)) == "allow"


class Iam(LocalIssuer):
    """Demands `may_act`, as `Issuer(..., may_act=True)` does, and hands on whatever it is asked for."""

    asked = 0

    def rules(self) -> IssuerRules:
        return replace(super().rules(), may_act=self.demands)

    demands = True

    def exchange(self, request: ExchangeRequest) -> str:
        self.asked += 1
        return super().exchange(request)


def handed(iam: Iam, actor: str, **mint: Any) -> str:
    clock = FrozenClock()
    iam.clock = lambda: clock.now().timestamp()
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()], clock=clock)
    token = iam.mint(origin="alice", actor="support", intent=None, tools=["look"], **mint)
    with guard.task(token) as task:
        try:
            with task.delegate(actor):
                return code(guard, "look", LOOK)
        except Denied as denied:
            return str(denied.code)


def test_a074_an_exchange_for_whom_the_token_does_not_name() -> None:
    """Missing is nobody where the issuer is one that says it (`may_act=True`); another name is nobody everywhere, and the issuer is not even asked."""
    iam = Iam("acme-dev")
    assert handed(iam, "mailer", may_act="mailer") == "allow"
    asked = iam.asked
    assert handed(iam, "mailer") == "delegation.widened"
    assert handed(iam, "mailer", may_act="worker") == "delegation.widened"
    iam.demands = False
    assert handed(iam, "mailer", may_act="worker") == "delegation.widened"
    assert iam.asked == asked
    assert handed(iam, "mailer", may_act="mailer") == "allow"
    assert handed(iam, "mailer") == "allow", "its issuer decides, who authenticates whoever asks"


def test_a074_an_answer_for_another_than_the_token_names() -> None:
    class Liar(Iam):
        def exchange(self, request: ExchangeRequest) -> str:
            return super().exchange(replace(request, actor="worker"))

    assert handed(Liar("acme-dev"), "mailer", may_act="mailer") == "delegation.widened"


def test_a074_offline() -> None:
    """The first hop is for whom the root names; what a hop grants further rests on the depth it was given."""
    for root, first, says in (
        ({"may_act": {"sub": "worker-1"}}, "worker-1", "allow"),
        ({"may_act": {"sub": "worker-1"}}, "mallory", "delegation.widened"),
        ({"may_act": {"client_id": "worker-1"}}, "worker-1", "delegation.widened"),
        ({}, "worker-1", "allow"),
    ):
        text = chain({"act": {"sub": first}}, {}, first=root)
        assert hops_verdict(text) == says
    strict = {ISS: replace(RULES, may_act=True)}
    assert offline(chain({}), strict) == "delegation.widened"
    assert offline(chain({}, first={"may_act": {"sub": "worker-1"}}), strict) == "allow"


def offline(text: str, issuers: Mapping[str, IssuerRules]) -> str:
    try:
        verify_presented(text, issuers, now=NOW)
    except TokenRefused as refused:
        return refusal(refused)
    return "allow"


# -- A075, A076: over the wire of an exchange, whatever the issuer says ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["a075 scope", "a076 details"])
def test_a_child_that_is_broader_at_the_exchange(name: str) -> None:
    class Generous(LocalIssuer):
        def exchange(self, request: ExchangeRequest) -> str:
            more: tuple[dict[str, object], ...] = ({"type": "agent_tool", "tool": "look"}, {"type": "agent_tool", "tool": "wipe"})
            wide = replace(request, scopes=request.scopes | {"orders.write"}) if "scope" in name else replace(request, details=more)
            return super().exchange(wide)

    iam = Generous("acme-dev")
    guard = Guard(Policy.from_text(POLICY), trust=iam, sinks=[ListSink()])
    with guard.task(iam.mint(origin="alice", actor="support", intent=None, tools=["look"])) as task, pytest.raises(Denied) as caught:
        task.delegate("mailer")
    assert caught.value.code == "delegation.widened"


# -- A086, A091, A092: values against a grant, in a call -------------------------------------------------------------------------------

FILES = """
guardtrail: 1
name: files
owner: o@acme.example
tools:
  read: {effect: read, control: {path: path}}
  set: {effect: write, control: {name: text, n: int}}
"""


def granted(folder: Path | None = None, **args: Any) -> tuple[Guard, str]:
    iam = LocalIssuer("acme-dev")
    guard = Guard(Policy.from_text(FILES), trust=iam, sinks=[ListSink()])
    tools = {"read": {"path": {"under": str(folder)}}} if folder is not None else {"set": args}
    return guard, iam.mint(origin="alice", actor="a", intent=None, tools=tools)


def test_a086_tricks_with_paths(tmp_path: Path) -> None:
    data = tmp_path / "d\u00e4ta"  # NFC
    (data / "sub").mkdir(parents=True)
    (tmp_path / "d\u00e4ta2").mkdir()
    (tmp_path / "secret").write_text("x")
    (data / "out").symlink_to(tmp_path / "secret")
    (data / "up").symlink_to(tmp_path)
    guard, token = granted(data)
    with guard.task(token):
        assert code(guard, "read", {"path": f"{data}/sub/file"}) == "allow"
        for path in (
            f"{data}2/x", f"{data}/../secret", f"{data}/sub/../../secret", f"{data}/out", f"{data}/up/secret", f"{data}/x\0", f"{data}\\..\\secret",
            f"{data}/%2e%2e/secret", str(data).upper(), f"{tmp_path}/D\u00e4ta/x", unicodedata.normalize("NFD", f"{data}/x"), f"/{tmp_path}/secret", "x", "", "/",
            f"{data}/../d\u00e4ta2/x", f"{data}/.../../../secret",
        ):  # fmt: skip
            assert code(guard, "read", {"path": path}) in ("grant.args", "args.type", "args.path"), path


def test_a091_a_call_without_an_argument_the_grant_requires() -> None:
    guard, token = granted(name={"eq": "x"}, n={"range": {"min": 0, "max": 5}})
    with guard.task(token):
        assert code(guard, "set", {"name": "x", "n": 1}) == "allow"
        for args in ({"name": "x"}, {"n": 1}, {}, {"name": "x", "n": None}, {"name": None, "n": 1}):
            assert code(guard, "set", args) in ("grant.args", "args.type", "args.missing"), args


def test_a092_one_is_not_true() -> None:
    guard, token = granted(name={"eq": "x"}, n={"eq": 1})
    with guard.task(token):
        assert code(guard, "set", {"name": "x", "n": 1}) == "allow"
        for n in (True, 1.0, "1", "1.0", [1], 1 + 0j):
            assert code(guard, "set", {"name": "x", "n": n}) != "allow", n


# -- A115, A118: what is seen from outside ----------------------------------------------------------------------------------------------


class Seen:
    """A guard of which everything that comes out is kept: records, spans, logs, refusals."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.stream, self.folder, self.texts = io.StringIO(), folder / "audit", list[str]()
        self.logs = LogSink(self.stream)
        self.audit = AuditFile(self.folder)
        self.world = make_world(sinks=[self.audit, Spans(provider=provider), self.logs], **options)

    def call(self, presented: object, tool: str, args: Mapping[str, object], *, proof: str = "") -> str:
        guard = self.world.guard
        try:
            with guard.task(presented):  # type: ignore[arg-type]
                guard.call(ToolCall(tool, args, "", proof), self.world.body)
        except Denied as denied:
            notes = getattr(denied, "__notes__", [])
            self.texts += [
                str(denied),
                repr(denied),
                denied.for_model(),
                json.dumps(denied.decision.to_dict()),
                repr(denied.decision),
                *notes,
            ]
            assert denied.__cause__ is None
            return str(denied.code)
        return "allow"

    def everything(self) -> str:
        self.logs.flush()
        self.audit.close()
        files = [path.read_text("utf-8") for path in self.folder.rglob("*.jsonl")]
        return "\n".join([*files, self.stream.getvalue(), *(span.to_json() for span in self.exporter.get_finished_spans()), *self.texts])


def secrets(*tokens: str) -> set[str]:
    """Every segment of every token, but the header, which is the same for all of a kind and says nothing."""
    return {part for text in tokens for one in text.split("~") for part in (one, *one.split(".")[1:]) if len(part) > 8}


def test_a115_no_token_text_in_logs_spans_or_records(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seen = Seen(tmp_path)
    key, other = HolderKey.generate(), HolderKey.generate()
    key.clock = other.clock = lambda: seen.world.clock.now().timestamp()
    plain, bound = seen.world.mint(), seen.world.mint(key=key.public, depth=1)
    hop = key.attenuate(bound, actor="mailer", key=other, tools=["look"])
    proof, second = key.prove(bound, "look", LOOK), other.prove(hop, "look", LOOK)
    forged = plain[:-8] + ("A" * 8 if plain[-8:] != "A" * 8 else "B" * 8)
    assert [
        seen.call(plain, "look", LOOK), seen.call(plain, "look", LOOK), seen.call(forged, "look", LOOK), seen.call(bound, "look", LOOK),
        seen.call(bound + "~" + hop.rpartition("~")[2] + "x", "look", LOOK), seen.call(hop, "mail", {"to": ["a@acme.example"], "body": "x"}, proof=second),
        seen.call("Bearer " + plain, "look", LOOK), seen.call(plain, plain, LOOK), seen.call(seen.world.mint(), "look", {"order": "A", plain: 1}),
    ].count("allow") == 1  # fmt: skip
    out = seen.everything() + caplog.text
    assert "token.proof" in out
    for secret in secrets(plain, bound, hop, proof, second):
        assert secret not in out, secret[:12]


def test_a115_a_token_in_the_query_of_a_request_counts_nowhere(tmp_path: Path) -> None:
    """At the doors that are here. That of a resource server: tests/server/test_door.py."""
    httpx = pytest.importorskip("httpx")
    from tests.server.test_events import EDR, SET
    from tests.server.test_events import World as Door
    from tests.tokens.sets import payload, signed

    door = Door(tmp_path, authorization="Bearer of the sender")
    text = signed(payload())
    for query in (f"?access_token={EDR}", f"?token={text}", "?authorization=Bearer%20of%20the%20sender", f"?SET={text}"):
        answer = door.send(f"/events{query}", b"", SET)
        assert answer.status_code == 401
        assert door.send(f"/signals{query}", b"{}", {}).status_code == 401
        assert text not in answer.text and EDR not in answer.text
    assert door.revoked.entries() == []
    assert httpx is not None


PARAMS = {"order": "PARAM-CANARY", "ceiling": "31337.17"}
WHO = {"origin": "origin-canary", "person": "person-canary", "workload": "workload-canary", "params": PARAMS}
NARROW = {"look": {"order": {"one_of": ["GRANT-CANARY", "GRANT-CANARY-2"]}}}
DENIALS: list[tuple[str, dict[str, Any], str, dict[str, object]]] = [
    ("args.constraint", {}, "refund", {"order": "ARG-CANARY", "amount": "1"}),
    ("args.constraint", {}, "refund", {"order": "PARAM-CANARY", "amount": "99999.99"}),
    ("args.constraint", {}, "note", {"path": "/etc/arg-canary", "text": "x"}),
    ("args.constraint", {}, "mail", {"to": ["arg-canary@evil.example"], "body": "x"}),
    ("args.type", {}, "refund", {"order": "PARAM-CANARY", "amount": "ARG-CANARY"}),
    ("args.unknown", {}, "look", {"order": "ARG-CANARY", "more": "ARG-CANARY"}),
    ("grant.args", {"tools": NARROW}, "look", {"order": "ARG-CANARY"}),
    ("grant.tool", {"tools": NARROW}, "close", {}),
    ("tool.unknown", {}, "nothing", {"x": "ARG-CANARY"}),
    ("intent.tool", {}, "wipe", {"order": "ARG-CANARY"}),
    ("intent.unknown", {"intent": "unheard-of"}, "look", LOOK),
    ("intent.params", {"params": {"order": "PARAM-CANARY"}}, "look", LOOK),
    ("token.proof", {"bound": True}, "look", {"order": "ARG-CANARY"}),
    ("token.expired", {"now": 1_000_000_000.0}, "look", LOOK),
    ("token.not_yet", {"now": 4_000_000_000.0}, "look", LOOK),
]


def test_a118_a_denial_has_its_code_and_no_value(tmp_path: Path) -> None:
    """Each kind of refusal there is a short way to: nothing of it quotes what a claim, an argument, a key or a token says. (The id of the task is
    its name: it stands in the decision, not in the texts.)"""
    key = HolderKey.generate()
    for n, (says, over, tool, args) in enumerate(DENIALS):
        seen = Seen(tmp_path / str(n))
        key.clock = lambda seen=seen: seen.world.clock.now().timestamp()  # type: ignore[misc]
        more = {"key": key.public} if over.pop("bound", False) else {}
        minted = seen.world.mint(**{**WHO, "txn": "txn-canary", **over, **more})
        assert seen.call(minted, tool, args) == says
        shown = [seen.texts[0], seen.texts[2]]
        assert f"[{says}]" in shown[0]
        out = seen.everything()
        for word in ("origin-canary", "person-canary", "arg-canary", "param-canary", "grant-canary", *secrets(minted)):
            assert word.lower() not in out.lower(), f"{says}: {word[:16]}"
        for number in ("31337", "99999"):  # and not as a part of a hash
            assert not re.search(rf"(?<![0-9a-f]){number}(?![0-9a-f])", out), f"{says}: {number}"
        for word in ("canary", key.thumbprint, key.public["x"]):
            assert all(word not in text.lower() for text in shown), f"{says}: {word}"


def test_every_reason_code_has_words_that_name_nothing() -> None:
    for one in REASONS.values():
        assert "{" not in one.meaning + one.public and "%" not in one.meaning + one.public


# -- A116: what a transport says beside the body ----------------------------------------------------------------------------------------


def test_a116_another_tool_beside_the_body_is_not_believed() -> None:
    """A proof names the tool it is for: what a header, or a caller, says beside it changes nothing, and the two must agree."""
    world = make_world()
    key = HolderKey.generate(clock=lambda: world.clock.now().timestamp())
    token = world.mint(key=key.public)
    with world.guard.task(token):
        for named, body in (("look", "close"), ("close", "look")):
            args: dict[str, object] = dict(LOOK) if body == "look" else {}
            assert code(world.guard, body, args, proof=key.prove(token, named, args)) == "token.proof"
        assert code(world.guard, "look", LOOK, proof=key.prove(token, "look", LOOK)) == "allow"


def test_a116_two_credentials_in_one_text_are_none() -> None:
    """A header that is sent twice reaches a program as one text with a comma, or as two: none of them is a token."""
    world = make_world()
    first, second = world.mint(), world.mint(origin="bob")
    for text in (
        f"{first},{second}",
        f"{first}, {first}",
        f"{first} {second}",
        [first, second],
        (first,),
        f"{first}~{second}",
        first + second,
    ):
        with pytest.raises(Denied) as caught, world.guard.task(cast("str", text)):
            pass
        assert str(caught.value.code).startswith("token.")


def test_a116_over_http() -> None:
    """Of the door of a resource server: a credential twice is refused unread, a transaction token's own header is not read at all."""
    door = pytest.importorskip("guard.server.door").Door
    world = make_world()
    token = world.mint().encode()
    ran: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])

    async def asked(*headers: tuple[bytes, bytes], query: bytes = b"") -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/x",
            "raw_path": b"/x",
            "query_string": query,
            "headers": list(headers),
            "extensions": {},
        }
        await door(app, world.guard, url="https://desk.example")(scope, None, send)
        return int(sent[0]["status"]) if sent else 0

    bearer = (b"authorization", b"Bearer " + token)
    assert asyncio.run(asked(bearer)) == 0
    assert ran.pop() == "/x"
    for headers in (
        (bearer, bearer),
        ((b"txn-token", token), (b"txn-token", token)),
        ((b"authorization", b"Bearer " + token + b"," + token),),
        ((b"txn-token", token),),
    ):
        assert asyncio.run(asked(*headers)) in (400, 401)
    assert asyncio.run(asked(query=b"access_token=" + token)) == 400
    assert ran == []


# -- A117, A119 -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", ["true", 1, True, None, "", "PERMIT", "Permit", "allow", [], {"decision": True}, b"permit", 1.0])
def test_a117_only_a_permit_permits(says: Any) -> None:
    """There is no external decision point yet. At the place where its answer will stand, nothing but the one word is a permit."""
    own = Finding("token", "permit", ReasonCode.PERMIT)
    assert decide([own, Finding("external", says, ReasonCode.PERMIT)], ("token", "external")).verdict == "deny"
    assert decide([own], ("token", "external")).verdict == "deny", "no answer is no permit"
    assert decide([own, Finding("external", "permit", ReasonCode.PERMIT)], ("token", "external")).verdict == "allow"


def test_a119_an_unknown_key_and_a_bad_signature_look_alike(tmp_path: Path) -> None:
    """Code, text, record and log are the same. (An unknown `kid` is told sooner: it tells which keys are published, and these are public.)"""
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
    told = []
    for bad in (token(kid="k9"), token(key=OTHER), token(key=OTHER, kid="k9"), token(alg="ES384"), token(key=ED, alg="EdDSA")):
        sink = ListSink()
        guard = Guard(Policy.from_text(POLICY), trust=Issuer(ISS, audience=AUD, keys=file), sinks=[sink], clock=At())
        with pytest.raises(Denied) as caught, guard.task(bad):
            pass
        record = {name: value for name, value in sink.decisions[0].to_dict().items() if name not in ("id", "at", "trace", "span")}
        told.append((str(caught.value), caught.value.for_model(), json.dumps(record, default=str)))
    assert len(set(told)) == 1, told
    assert "token.signature" in told[0][0]


class At:
    """The time of the forged tokens."""

    inline = True

    def now(self) -> datetime:
        return datetime.fromtimestamp(NOW, UTC)

    def monotonic(self) -> float:
        return 0.0
