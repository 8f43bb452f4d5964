"""`make bench`: every row in one run; a table on the terminal and `benchmarks/results.json`.

python -m benchmarks.run [--only PREFIX] [--quick]

`--quick`, or BENCH=quick: few rounds, short chains, a short log.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any

import jwt

from benchmarks.adapters import adapter_rows
from benchmarks.chain import chain_rows
from benchmarks.delegation import delegation_rows
from benchmarks.foreign import foreign_rows
from benchmarks.gateway import gateway_rows
from benchmarks.hook import hook_rows
from benchmarks.house import CALL, cached_decision, directory_guard, empty, policy_text, span_reference
from benchmarks.measure import Row, interleave
from benchmarks.peers import make_peers, peers
from benchmarks.replay import replay_rows
from guard import LocalIssuer
from guard.tokens import verify

RESULTS = Path(__file__).parent / "results.json"


def spans(rounds: int) -> Iterator[Row]:
    span = span_reference()
    yield interleave("self.span", span, "span", span_reference(), rounds=rounds)
    yield interleave("reference.empty_call", empty(), "span", span, rounds=rounds, batch=2000)


def decisions(rounds: int) -> Iterator[Row]:
    span = span_reference()
    spread, dense = policy_text(100, 20, dense=False), policy_text(100, 20, dense=True)
    yield interleave("decision.cached", cached_decision(spread), "span", span, bar=0.8, rounds=rounds)
    yield interleave("decision.cached_dense", cached_decision(dense), "span", span, bar=1.25, rounds=rounds)
    few, many = cached_decision(policy_text(10, 2, dense=False)), cached_decision(policy_text(1000, 200, dense=False))
    yield interleave("decision.tools_1000", many, "decision.tools_10", few, bar=1.1, rounds=rounds)


def tokens(rounds: int) -> Iterator[Row]:
    """A token seen for the first time: strict parse, signature, claims, three grants; against PyJWT's decode of the same token."""
    iam = LocalIssuer("bench")
    grants = {f"tool_{i}": {"order": {"eq": f"A-{i}"}} for i in range(3)}
    token = iam.mint(origin="alice", actor="worker", intent="work", params={"order": "A-17", "ceiling": "50"}, tools=grants)
    rules = iam.rules()
    issuers, now = {rules.url: rules}, int(time())
    key: Any = next(iter(rules.keys)).public

    def ours(n: int) -> None:
        for _ in range(n):
            verify(token, issuers, now=now)

    def theirs(n: int) -> None:
        for _ in range(n):
            jwt.decode(token, key, algorithms=["ES256"], audience=rules.audience, issuer=rules.url)

    yield interleave("token.first_seen", ours, "jwt.decode", theirs, bar=0.9, rounds=rounds, batch=50)


def calls(rounds: int) -> Iterator[Row]:
    span = span_reference()
    text = policy_text(100, 20, dense=False)
    with tempfile.TemporaryDirectory() as folder:
        for name, state, bar, program in (
            ("call.guarded", "memory:", 3.2, False),
            ("call.guarded_sdk_provider", "memory:", None, True),
            ("call.guarded_sqlite", f"sqlite:{folder}/state.db", 8.0, False),
        ):
            guard, token = directory_guard(text, Path(folder) / name, state=state, program=program)

            @guard.tool(name="tool_0")
            def body(order: str, to: str, amount: str) -> None:
                return None

            def work(n: int, body: Callable[..., object] = body) -> None:
                for _ in range(n):
                    body(**CALL)

            with guard.task(token):
                yield interleave(name, work, "span", span, bar=bar, rounds=rounds, batch=100)


def imports(rounds: int) -> Iterator[Row]:
    """CPU of `import guard` beyond what pydantic, pyjwt and opentelemetry.sdk.trace cost by themselves, in milliseconds; bar 60."""
    base = "import pydantic, jwt, opentelemetry.sdk.trace"
    code = "import time; s=time.process_time(); {}; print(time.process_time()-s)"
    costs: dict[str, list[float]] = {"base": [], "guard": []}
    with tempfile.TemporaryDirectory() as cache:
        # Compiled once, as an installed package is: a machine that keeps no .pyc files would measure the compiler.
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        for turn in range(max(5, rounds // 4) + 1):
            for name, statement in (("base", base), ("guard", base + "; import guard")):
                out = subprocess.run(
                    [sys.executable, "-c", code.format(statement)], capture_output=True, text=True, check=True, env=environ
                )
                if turn:
                    costs[name].append(float(out.stdout))
    beyond = sorted(g - b for g, b in zip(costs["guard"], costs["base"], strict=True))
    middle = beyond[len(beyond) // 2]
    yield Row(
        "import.guard", round(middle * 1e6, 1), "60 ms beyond pydantic, pyjwt, opentelemetry.sdk.trace", round(middle / 0.060, 3), 1.0
    )


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "self": spans,
    "decision": decisions,
    "token": tokens,
    "delegation": delegation_rows,
    "call": calls,
    "gateway": gateway_rows,
    "import": imports,
    "adapter": adapter_rows,
    "chain": chain_rows,
    "replay": replay_rows,
    "replay.foreign": foreign_rows,
    "hook": hook_rows,
    "peers": peers,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="groups whose name starts with this")
    parser.add_argument("--quick", action="store_true", help="few rounds: a smoke test, not a measurement")
    parser.add_argument("--make-peers", action="store_true", help="first make the environments of the others")
    given = parser.parse_args()
    given.quick = given.quick or os.environ.get("BENCH") == "quick"
    if given.make_peers:
        make_peers()
    rounds = 5 if given.quick else 41
    rows: list[Row] = []
    for name, group in GROUPS.items():
        if name.startswith(given.only):
            for row in group(rounds):
                rows.append(row)
                bar = f"<= {row.bar}" if row.bar is not None else ""
                print(
                    f"{row.name:24} {row.cpu_us_median:10.2f} us   {row.ratio:7.3f} x {row.reference:20} {bar:8} {'' if row.ok else 'OVER'}",
                    flush=True,
                )
    versions = {"python": platform.python_version()}
    for package in ("pydantic", "pyjwt", "cryptography", "opentelemetry-sdk"):
        with suppress(Exception):
            versions[package] = version(package)
    listed = [{"name": r.name, "cpu_us_median": r.cpu_us_median, "reference": r.reference, "ratio": r.ratio} for r in rows]
    RESULTS.write_text(json.dumps({"versions": versions, "rows": listed}, indent=1) + "\n")
    return 0 if all(row.ok for row in rows) or given.quick else 1


if __name__ == "__main__":
    sys.exit(main())
