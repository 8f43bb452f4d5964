"""Which workload this is: files that change, evidence that ends, and separation of duty in a real guard."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from guard import Denied, Guard, LocalIssuer, Policy, ToolCall
from guard.errors import ConfigError, TokenRefused
from guard.identity import TrustBundles, WorkloadIssuer, Workloads
from guard.identity._files import WatchedFile
from guard.identity.workload import proven_workload
from guard.model import Credential, Delegation
from guard.record import ListSink
from guard.testing import FrozenClock
from tests.tokens.forge import jwk, token

KEY, NEXT = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
CLOCK = FrozenClock()
NOW = int(CLOCK.now().timestamp())
PAYER, CLEARER = "spiffe://acme.example/payer", "spiffe://acme.example/clearer"
CI = "https://ci.example"
NAMES: dict[str | tuple[str, str], str] = {PAYER: "payer", CLEARER: "clearer", (CI, "job:acme/desk:main"): "deployer"}


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at each time, not once a second."""
    made = WatchedFile.__init__
    monkeypatch.setattr(WatchedFile, "__init__", lambda self, path, *, most, every=1.0: made(self, path, most=most, every=0.0))


def keys(*given: tuple[Any, str], **more: object) -> str:
    return json.dumps({"keys": [jwk(key, kid, **more) for key, kid in given]})


def svid(sub: str = PAYER, key: Any = KEY, kid: str = "k1", **over: object) -> str:
    return token({"sub": sub, "aud": "guard", "exp": NOW + 300, **over}, key=key, header={"alg": "ES256", "typ": "JWT", "kid": kid})


def job(sub: str = "job:acme/desk:main", **over: object) -> str:
    claims = {"iss": CI, "sub": sub, "aud": "guard", "iat": NOW, "exp": NOW + 300, **over}
    return token(claims, key=NEXT, header={"alg": "ES256", "typ": "JWT", "kid": "c1"})


def write(path: Path, text: str) -> Path:
    """As those who renew such files do: beside it, then in its place."""
    beside = path.with_suffix(".new")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "acme.json", keys((KEY, "k1"), use="jwt-svid"))


@pytest.fixture
def trust(bundle: Path) -> TrustBundles:
    return TrustBundles({"acme.example": bundle}, audience="guard")


def workloads(*trust: Any, now: int = NOW, **given: Any) -> Workloads:
    given.setdefault("names", NAMES)
    return Workloads(*trust, clock=lambda: now, **given)


def code(ask: Callable[[], object]) -> str:
    try:
        ask()
    except TokenRefused as refused:
        return str(refused.code)
    return "ok"


D = Delegation(
    "at+jwt",
    "t",
    "https://iam.example",
    "x1",
    Credential("https://iam.example", "j", "k"),
    "alice",
    "person",
    ("payer",),
    NOW,
    NOW + 60,
    "a",
)


def test_evidence_from_a_file_that_is_renewed(trust: TrustBundles, tmp_path: Path) -> None:
    shown = tmp_path / "svid.jwt"
    here = workloads(trust, shown=shown)
    assert here.inline
    assert code(here.workload) == "keys.unavailable"
    write(shown, svid() + "\n")
    assert here.workload().id == PAYER
    write(shown, svid(CLEARER))
    assert here.workload().id == CLEARER
    write(shown, "x" * 40_000)
    assert code(here.workload) == "keys.unavailable"
    shown.unlink()
    assert code(here.workload) == "keys.unavailable"
    assert here.actor(D) is None


def test_evidence_ends(trust: TrustBundles) -> None:
    """Attack: evidence that was good once is kept, and still counts an hour later."""
    text = svid()
    here = workloads(trust, shown=lambda: text)
    assert here.workload(now=NOW).id == PAYER
    assert here.workload(now=NOW + 304).id == PAYER
    assert code(lambda: here.workload(now=NOW + 305)) == "token.expired"
    assert proven_workload(here, D, now=NOW + 304) is not None
    assert proven_workload(here, D, now=NOW + 305) is None


def test_a_bundle_that_changes(trust: TrustBundles, bundle: Path) -> None:
    """A key that is taken out of the bundle is dead at once, also for what was verified before."""
    texts = {"old": svid(), "new": svid(key=NEXT, kid="k2")}
    shown = ["old"]
    here = workloads(trust, shown=lambda: texts[shown[0]])
    assert here.workload().id == PAYER
    write(bundle, keys((NEXT, "k2"), use="jwt-svid"))
    assert code(here.workload) == "token.signature"
    shown[0] = "new"
    assert here.workload().id == PAYER
    for broken in ("", "{}", keys((NEXT, "k2"), use="wit-svid"), keys((NEXT, "k2"), (KEY, "k2"), use="jwt-svid")):
        write(bundle, broken)
        assert code(here.workload) == "keys.unavailable", broken[:20]
    bundle.unlink()
    assert code(here.workload) == "keys.unavailable"
    write(bundle, keys((NEXT, "k2"), use="jwt-svid"))
    assert here.workload().id == PAYER


def test_one_missing_bundle_does_not_stop_the_others(bundle: Path, tmp_path: Path) -> None:
    """Case S27: a file that does not exist; its domain alone is refused."""
    both = TrustBundles({"gone.example": tmp_path / "gone.json", "acme.example": bundle}, audience="guard")
    assert both.verify(svid(), now=NOW).id == PAYER
    assert code(lambda: both.verify(svid("spiffe://gone.example/x"), now=NOW)) == "keys.unavailable"
    assert code(lambda: both.verify(svid("spiffe://third.example/x"), now=NOW)) == "token.issuer"


def test_platform_and_bundles_together(trust: TrustBundles, tmp_path: Path) -> None:
    platform = WorkloadIssuer(CI, audience="guard", keys=write(tmp_path / "ci.json", keys((NEXT, "c1"))), prefixes=["job:acme/desk:"])
    for order in ((trust, platform), (platform, trust)):
        here = workloads(*order)
        for text, says in ((svid(), PAYER), (job(), "job:acme/desk:main")):
            with here.showing(text):
                assert here.workload().id == says
        for text, says in (
            (svid(exp=NOW - 60), "token.expired"),
            (job(aud="x"), "token.audience"),
            (svid("spiffe://b.example/x"), "token.issuer"),
        ):
            with here.showing(text):
                assert code(here.workload) == says
    with here.showing(job()):
        assert here.actor(replace(D, actors=("deployer",))) == "deployer"


class TestProven:
    """Evidence belongs to a delegation where the workload is its actor, or the client it was issued to."""

    def test_by_name(self, trust: TrustBundles) -> None:
        here = workloads(trust, shown=svid)
        assert here.actor(D) == "payer"
        assert proven_workload(here, D, now=NOW) is not None

    def test_another_workload_with_a_stolen_token(self, trust: TrustBundles) -> None:
        here = workloads(trust, shown=lambda: svid(CLEARER))
        assert here.actor(D) is None
        assert proven_workload(here, D, now=NOW) is None

    def test_a_workload_without_a_name(self, trust: TrustBundles) -> None:
        here = workloads(trust, shown=lambda: svid("spiffe://acme.example/new"))
        assert here.actor(D) is None
        assert proven_workload(here, D, now=NOW) is None

    def test_the_client_it_was_issued_to(self, trust: TrustBundles) -> None:
        """Proven for an effect; for a separation of duty it has no name, and equals every other."""
        here = workloads(trust, shown=lambda: svid("spiffe://acme.example/new"))
        issued = replace(D, workload="spiffe://acme.example/new")
        assert proven_workload(here, issued, now=NOW) is not None
        assert here.actor(issued) is None

    def test_the_client_under_the_name_of_another(self, trust: TrustBundles) -> None:
        here = workloads(trust, shown=lambda: svid(CLEARER))
        assert here.actor(replace(D, workload=CLEARER)) is None

    def test_a_platforms_subject_is_not_a_client(self, tmp_path: Path) -> None:
        """Attack: a platform lets its users choose a `sub` that is another software's SPIFFE id."""
        path = write(tmp_path / "ci.json", keys((NEXT, "c1")))
        platform = WorkloadIssuer(CI, audience="guard", keys=path, subjects=[PAYER])
        here = workloads(platform, shown=lambda: job(PAYER))
        assert here.workload().id == PAYER
        assert here.actor(D) is None
        assert proven_workload(here, replace(D, workload=PAYER), now=NOW) is None

    @pytest.mark.parametrize("proofs", [None, object(), "payer"])
    def test_no_proofs(self, proofs: Any) -> None:
        assert proven_workload(proofs, D, now=NOW) is None

    @pytest.mark.parametrize("shown", [lambda: 1 / 0, lambda: None, lambda: 5, lambda: "", lambda: b"x"])
    def test_a_source_that_fails(self, trust: TrustBundles, shown: Any) -> None:
        here = workloads(trust, shown=shown)
        assert here.actor(D) is None
        assert proven_workload(here, D, now=NOW) is None

    def test_names_that_fail(self, trust: TrustBundles) -> None:
        class Broken:
            def actor_of(self, workload: object) -> str:
                raise RuntimeError("payer")

        here = workloads(trust, shown=svid, names=Broken())
        assert here.actor(D) is None

    def test_nothing_shown(self, trust: TrustBundles) -> None:
        assert code(workloads(trust).workload) == "token.missing"


def test_showing_is_for_one_caller(trust: TrustBundles) -> None:
    """Attack: two requests at once, and one runs under the evidence of the other."""
    here = workloads(trust)

    async def request(sub: str) -> list[str]:
        seen = []
        with here.showing(svid(sub)):
            for _ in range(20):
                await asyncio.sleep(0)
                seen.append(here.workload().id)
        return seen

    async def both() -> list[list[str]]:
        return await asyncio.gather(request(PAYER), request(CLEARER))

    assert asyncio.run(both()) == [[PAYER] * 20, [CLEARER] * 20]
    assert code(here.workload) == "token.missing"


POLICY = """
guardtrail: 1
name: desk
owner: payments@acme.example
tools:
  pay: {effect: pay, control: {iban: iban}}
  approve: {effect: approve, control: {iban: iban}}
intents:
  clear:
    description: Pay what another has approved.
    ttl: 10m
    allow: {pay: {args: {iban: {any: true}}}, approve: {args: {iban: {any: true}}}}
rules:
  - id: two-programs
    when: {tool: pay}
    require_before: {tool: approve, outcome: ok, match: {iban: args.iban}, distinct: actor, within: 1h}
"""
IBAN = "DE89370400440532013000"


@pytest.mark.parametrize(
    ("approves", "pays", "says"),
    [
        pytest.param(("clearer", CLEARER), ("payer", PAYER), "permit", id="two proven programs"),
        pytest.param(("payer", PAYER), ("payer", PAYER), "rule.require_before", id="one program"),
        pytest.param(("clearer", PAYER), ("payer", PAYER), "rule.require_before", id="one program under two names"),
        pytest.param(("clearer", None), ("payer", PAYER), "rule.require_before", id="the first is not proven"),
        pytest.param(("clearer", CLEARER), ("payer", None), "rule.require_before", id="the second is not proven"),
        pytest.param(
            ("clearer", CLEARER), ("payer", "spiffe://b.example/payer"), "rule.require_before", id="of a domain that is not trusted"
        ),
    ],
)
@pytest.mark.parametrize("asked", [False, True], ids=["inline", "on a helper thread"])
def test_separation_of_duty(trust: TrustBundles, approves: Any, pays: Any, says: str, asked: bool) -> None:
    """The names in the tokens differ in every row: what counts is which program has proven to be which."""
    clock, sink = FrozenClock(), ListSink()
    iam = LocalIssuer("acme-dev", clock=lambda: clock.now().timestamp())
    here = workloads(trust)
    proofs = _Asked(here) if asked else here
    guard = Guard(Policy.from_text(POLICY), trust=iam, clock=clock, sinks=[sink], proofs=proofs)
    codes = []
    for tool, (actor, sub) in (("approve", approves), ("pay", pays)):
        text = iam.mint(origin="alice", actor=actor, intent="clear", ttl="10m")
        with here.showing("" if sub is None else svid(sub)), guard.task(text):
            try:
                guard.call(ToolCall(tool, {"iban": IBAN}), lambda iban: "done")
                codes.append("permit")
            except Denied as denied:
                codes.append(str(denied.decision.code))
    assert codes == ["permit", says]
    assert [record.verdict for record in sink.decisions if record.tool == "pay"] == ["allow" if says == "permit" else "deny"]
    assert not any(svid()[:30] in repr(record) for record in sink.decisions)


class _Asked:
    """The same behind the guard's deadline, as a source that may block is asked."""

    inline = False

    def __init__(self, inner: Workloads) -> None:
        self.actor = inner.actor


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: TrustBundles({}, audience="guard"), "trust domains"),
        (lambda p: TrustBundles({"spiffe://acme.example": p}, audience="guard"), "trust domains"),
        (lambda p: TrustBundles({"Acme.example": p}, audience="guard"), "trust domains"),
        (lambda p: TrustBundles({"acme.example": '{"keys": []}'}, audience="guard"), "path"),
        (lambda p: TrustBundles({"acme.example": p}, audience=""), "audience"),
        (lambda p: TrustBundles({"acme.example": p}, audience="guard", max_ttl=timedelta(days=2)), "max_ttl"),
        (lambda p: WorkloadIssuer("http://ci.example", audience="guard", keys=p, subjects=["a"]), "url"),
        (lambda p: WorkloadIssuer(CI, audience="guard", keys=p), "whose tokens count"),
        (lambda p: WorkloadIssuer(CI, audience="guard", keys=p, subjects="job"), "lists"),
        (lambda p: WorkloadIssuer(CI, audience="guard", keys=p, prefixes=["job:acme/desk"]), "ends with"),
        (lambda p: Workloads(names=NAMES), "who vouches"),
        (lambda p: Workloads(TrustBundles({"acme.example": p}, audience="guard"), names={}), "names"),
        (lambda p: Workloads(TrustBundles({"acme.example": p}, audience="guard"), names=NAMES, shown=svid()), "path"),
        (lambda p: Guard(Policy.from_text(POLICY), trust=WorkloadIssuer(CI, audience="guard", keys=p, subjects=["a"])), "trust"),  # type: ignore[arg-type]
    ],
)
def test_misuse(bundle: Path, make: Callable[[Path], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        make(bundle)
    assert "eyJ" not in str(raised.value), "no evidence in a text"


def test_who_does_not_ask_for_it_does_not_load_it() -> None:
    script = "import sys, guard; print([name for name in sys.modules if name.endswith(('.workload', '.svid', '.oidc', '.evidence'))])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
