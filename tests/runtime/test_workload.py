"""`proof: {pay: workload}`: the program must be the actor of its token, by evidence that is good at this very call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guard import Denied, Guard, Policy, ToolCall
from guard.errors import TokenRefused
from guard.identity import TrustBundles, Workloads
from guard.identity._files import WatchedFile
from guard.identity.holder import HolderKey
from guard.model import Delegation
from guard.reasons import ReasonCode
from guard.record import ListSink
from guard.testing import FrozenClock
from guard.tokens.evidence import Workload
from tests.identity.test_workload import CLEARER, KEY, PAYER, keys, svid, write
from tests.runtime.conftest import POLICY, World, make_world

DEMANDS = POLICY + "proof: {pay: workload}\n"
EXTRA = "guardtrail: 1\nname: careful\nowner: security@acme.example\nproof: {pay: key}\n"
NAMES = {PAYER: "support", CLEARER: "clearer"}


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = WatchedFile.__init__
    monkeypatch.setattr(WatchedFile, "__init__", lambda self, path, *, most, every=1.0: made(self, path, most=most, every=0.0))


@pytest.fixture
def trust(tmp_path: Path) -> TrustBundles:
    return TrustBundles({"acme.example": write(tmp_path / "acme.json", keys((KEY, "k1"), use="jwt-svid"))}, audience="guard")


def refund(world: World) -> str:
    try:
        world.call("refund", order="A-17", amount="5")
    except Denied as denied:
        return str(denied)
    return "ran"


def test_the_program_shows_evidence_at_each_call(trust: TrustBundles, tmp_path: Path) -> None:
    shown = tmp_path / "svid.jwt"
    world = make_world(DEMANDS, proofs=Workloads(trust, names=NAMES, shown=shown))
    with world.guard.task(world.mint()):
        world.call("look", order="A-17")  # what demands nothing needs nothing
        assert "its evidence was refused (keys.unavailable)" in refund(world)
        write(shown, svid(CLEARER))
        assert "another one than the token's actor [token.workload]" in refund(world)
        write(shown, svid(PAYER, exp=int(world.clock.now().timestamp()) + 60))
        world.clock.advance(120)
        assert "its evidence was refused (token.expired) [token.workload]" in refund(world)  # stale
        write(shown, svid(PAYER, exp=int(world.clock.now().timestamp()) + 60))
        assert world.guard.check(ToolCall("refund", {"order": "A-17", "amount": "5"})).verdict == "allow"
        assert refund(world) == "ran"
    assert len(world.ran) == 2
    (denied,) = {r.code for r in world.sink.decisions if r.verdict == "deny"}
    assert denied == "token.workload"
    assert all("proofs=" in str(r.fix) for r in world.sink.decisions if r.verdict == "deny")


def test_nothing_shown_and_nobody_to_ask(trust: TrustBundles) -> None:
    for options, why in (({"proofs": Workloads(trust, names=NAMES)}, "no evidence is shown"), ({}, "nobody to ask")):
        world = make_world(DEMANDS, **options)
        with world.guard.task(world.mint()):
            assert why in refund(world)
        assert world.ran == []


class Port:
    """A port of somebody's own that answers with anything."""

    inline = False

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def actor(self, delegation: Delegation) -> str | None:
        return delegation.actor

    def behind(self, delegation: Delegation, *, now: int) -> Any:
        return self._answer()


def _raises(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "answer",
    [
        lambda: None,
        lambda: True,
        lambda: "spiffe://acme.example/payer",
        lambda: object(),
        lambda: Workload("oidc", "x", "y", "z", 0),
        lambda: Workload("oidc", "x", "y", "z", "9" * 30),  # type: ignore[arg-type]
        lambda: _raises(ValueError("secret")),
        lambda: _raises(TokenRefused(ReasonCode.TOKEN_EXPIRED)),
    ],
)
@pytest.mark.parametrize("inline", [True, False])
def test_whatever_a_port_does_denies(answer: Callable[[], Any], inline: bool) -> None:
    port = Port(answer)
    port.inline = inline
    world = make_world(DEMANDS, proofs=port)
    with world.guard.task(world.mint()):
        said = refund(world)
    assert said.startswith("refund denied: ") and "secret" not in said
    assert world.codes == ["deny token.workload"] or world.codes == ["deny guard.error"]
    assert world.ran == []


def test_a_good_port_that_blocks(trust: TrustBundles) -> None:
    world = make_world(DEMANDS, proofs=Port(lambda: Workload("oidc", "x", "y", "z", 2**40)))
    with world.guard.task(world.mint()):
        assert refund(world) == "ran"


def test_of_two_layers_both_are_asked(trust: TrustBundles, tmp_path: Path) -> None:
    """The strictest wins: a key is no workload, and a workload no key."""
    clock = FrozenClock()
    world = make_world(DEMANDS)
    key = HolderKey.generate(clock=lambda: clock.now().timestamp())
    call = ToolCall("refund", {"order": "A-17", "amount": "5"})
    workloads = Workloads(trust, names=NAMES)
    for order in (0, 1):
        layers = [Policy.from_text(DEMANDS), Policy.from_text(EXTRA)]
        if order:
            layers = [Policy.from_text(POLICY + "proof: {pay: key}\n"), Policy.from_text(EXTRA.replace("key", "workload"))]
        guard = Guard(layers, trust=world.iam, sinks=[ListSink()], clock=clock, proofs=workloads)
        with guard.task(world.mint(key=key.public), key=key):
            assert guard.check(call).code == "token.workload"
            with workloads.showing(svid(PAYER)):
                assert guard.check(call).verdict == "allow"
        with guard.task(world.mint()), workloads.showing(svid(PAYER)):
            assert guard.check(call).code == "token.proof"


def test_a_bound_token_needs_its_proof_all_the_same(trust: TrustBundles) -> None:
    world = make_world(DEMANDS, proofs=(workloads := Workloads(trust, names=NAMES)))
    key = HolderKey.generate(clock=lambda: world.clock.now().timestamp())
    with world.guard.task(world.mint(key=key.public)), workloads.showing(svid(PAYER)):
        assert "[token.proof]" in refund(world)
