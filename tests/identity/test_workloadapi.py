"""The Workload API client against a stub: a gRPC server on a socket of its own that speaks the official protocol (the messages that the
`spiffe` package ships) and is no SPIRE: it issues whatever the test says, to anybody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from guard.errors import ConfigError, TokenRefused
from guard.identity.workload import Workloads, proven_workload
from guard.identity.workloadapi import AGAIN, FRESH, STALE, WorkloadApi
from guard.model import Credential, Delegation
from tests.tokens.forge import jwk, token

grpc = pytest.importorskip("grpc", reason="the extra [spiffe] is not installed")
pytest.importorskip("spiffe", reason="the extra [spiffe] is not installed")

KEY, NEXT = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
ME = "spiffe://acme.example/payer"
D = Delegation("at+jwt", "t", "https://iam.example", "x", Credential("i", "j", "k"), "alice", "person", ("payer",), 0, 9, "a")


class Stub:
    """What the agent will say, and what it was asked."""

    def __init__(self) -> None:
        from spiffe._proto import workload_pb2, workload_pb2_grpc

        self.pb = workload_pb2
        self.bundles: dict[str, bytes] = {"spiffe://acme.example": jwks((KEY, "k1")), "spiffe://partner.example": jwks((NEXT, "p1"))}
        self.key, self.kid, self.now, self.life = KEY, "k1", 1_800_000_000, 300
        self.silent = False
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        stub = self

        class Servicer(workload_pb2_grpc.SpiffeWorkloadAPIServicer):  # type: ignore[misc]
            def FetchJWTSVID(self, request: Any, context: Any) -> Any:
                stub._heard("svid", context, tuple(request.audience))
                claims = {"sub": request.spiffe_id or ME, "aud": list(request.audience), "exp": stub.now + stub.life}
                text = token(claims, key=stub.key, header={"alg": "ES256", "typ": "JWT", "kid": stub.kid})
                return stub.pb.JWTSVIDResponse(svids=[stub.pb.JWTSVID(spiffe_id=claims["sub"], svid=text)])

            def FetchJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:
                stub._heard("bundles", context, ())
                yield stub.pb.JWTBundlesResponse(bundles=stub.bundles)

        self.servicer, self.add = Servicer(), workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server

    def _heard(self, what: str, context: Any, audience: tuple[str, ...]) -> None:
        self.asked.append((what, audience))
        if self.silent or ("workload.spiffe.io", "true") not in [tuple(pair) for pair in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")


def jwks(*given: tuple[Any, str], **more: object) -> bytes:
    return json.dumps({"keys": [jwk(key, kid, **more) for key, kid in given]}).encode()


class Times:
    def __init__(self, stub: Stub) -> None:
        self.stub, self.steady = stub, 0.0

    def go(self, seconds: float) -> None:
        self.steady += seconds
        self.stub.now += int(seconds)


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stub, Times, WorkloadApi]]:
    stub = Stub()
    server = grpc.server(ThreadPoolExecutor(2))
    stub.add(stub.servicer, server)
    socket = f"unix://{tmp_path}/agent.sock"
    assert server.add_insecure_port(socket)
    server.start()
    monkeypatch.setattr("guard.identity.workloadapi._PATIENCE", 30.0)  # a stub that answers, on a machine that stands still
    times = Times(stub)
    # The library reads an SVID's time against the real clock: the stub lives far from it, in the future.
    api = WorkloadApi(audience="guard", domains=["acme.example"], socket=socket, clock=lambda: float(stub.now), steady=lambda: times.steady)
    yield stub, times, api
    api.close()
    server.stop(None).wait(5)


Agent = tuple[Stub, Times, WorkloadApi]


def code(api: WorkloadApi, text: str, now: int) -> str:
    try:
        return api.verify(text, now=now).id
    except TokenRefused as refused:
        return str(refused.code)


def test_what_the_agent_hands_out_proves_the_workload(agent: Agent) -> None:
    stub, _, api = agent
    here = Workloads(api, names={ME: "payer"}, shown=api.svid, clock=lambda: stub.now)
    assert not here.inline
    assert here.actor(D) == "payer"
    assert proven_workload(here, D, now=stub.now) is not None
    assert ("svid", ("guard",)) in stub.asked


def test_it_is_asked_seldom_and_renewed_at_half_of_its_life(agent: Agent) -> None:
    stub, times, api = agent
    first = api.svid()
    times.go(149)
    assert api.svid() == first
    times.go(2)
    assert api.svid() != first
    for _ in range(5):
        assert code(api, api.svid(), stub.now) == ME
    assert [what for what, _ in stub.asked] == ["svid", "svid", "bundles"]


def test_a_key_that_is_taken_out_is_dead(agent: Agent) -> None:
    stub, times, api = agent
    text, before = api.svid(), api.generation()
    assert code(api, text, stub.now) == ME
    stub.bundles["spiffe://acme.example"] = jwks((NEXT, "k2"))
    times.go(FRESH)
    assert code(api, text, stub.now) == "token.signature"
    assert api.generation() != before


def test_a_federated_domain_counts_only_where_it_is_named(agent: Agent) -> None:
    """Attack: the agent federates with a partner, whose authority makes a workload of its own."""
    stub, _, api = agent
    theirs = token(
        {"sub": "spiffe://partner.example/x", "aud": ["guard"], "exp": stub.now + 60},
        key=NEXT,
        header={"alg": "ES256", "typ": "JWT", "kid": "p1"},
    )
    assert code(api, theirs, stub.now) == "token.issuer"


def test_a_silent_agent(agent: Agent) -> None:
    """What it said last counts for an hour; then nothing does, and it is heard again when it speaks."""
    stub, times, api = agent
    stub.life = 7200
    api._seconds = 7200
    text = api.svid()
    assert code(api, text, stub.now) == ME
    stub.silent = True
    times.go(STALE)
    assert code(api, text, stub.now) == ME
    times.go(1)
    assert code(api, text, stub.now) == "keys.unavailable"
    stub.silent = False
    times.go(AGAIN)
    assert code(api, text, stub.now) == ME


def test_an_agent_that_never_spoke(agent: Agent) -> None:
    stub, _, api = agent
    stub.silent = True
    with pytest.raises(TokenRefused) as refused:
        api.svid()
    assert (str(refused.value.code), refused.value.__cause__, refused.value.__context__) == ("keys.unavailable", None, None)
    assert Workloads(api, names={ME: "payer"}, shown=api.svid, clock=lambda: stub.now).actor(D) is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"socket": "unix:///no/such/agent.sock"}, "no such socket"),
        ({"socket": "tcp:127.0.0.1:1"}, "no such socket"),
        ({"domains": []}, "trust domains"),
        ({"domains": "acme.example"}, "trust domains"),
        ({"id": "payer"}, "SPIFFE id"),
        ({"audience": ""}, "audience"),
    ],
)
def test_misuse(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        WorkloadApi(**({"audience": "guard", "domains": ["acme.example"]} | given))
