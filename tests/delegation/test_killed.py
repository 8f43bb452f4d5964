"""kill -9 between a proof and its body: a proof that was used stays used, whoever comes after. (Revocations: tests/identity/revoked/test_store.py.)"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from guard.identity.holder import HolderKey
from guard.state import SqliteState
from tests.runtime.test_proof import LOOK
from tests.tokens.forge import KEY, jwk
from tests.tokens.forge import token as forged

ROOT = Path(__file__).resolve().parents[2]
CAMPAIGN = os.environ.get("HYPOTHESIS_PROFILE") == "campaign"
KILLS = 50 if CAMPAIGN else 4
PROOFS = 60

CHILD = """
import os, sys
from datetime import timedelta
from guard import Denied, Guard, Issuer, Policy, ToolCall
from guard.record import AuditFile
from guard.state import SqliteState
from tests.runtime.conftest import POLICY
from tests.runtime.test_proof import LOOK
folder = sys.argv[1]
trust = Issuer("https://iam.example", audience="local", keys=folder + "/jwks.json")
patient = timedelta(seconds=30)  # a busy machine is no refusal
log, state = AuditFile(folder + "/log", patience=patient), SqliteState(folder + "/state.db", timeout=30)
guard = Guard(Policy.from_text(POLICY), trust=trust, state=state, sinks=[log], deadline=patient)
guard.task(sys.stdin.readline().strip()).__enter__()
os.write(1, b"ready\\n")
for n, proof in enumerate(sys.stdin):
    try:
        guard.call(ToolCall("look", LOOK, "", proof.strip()), lambda **args: os.write(1, b"ran %d\\n" % n))
    except Denied as denied:
        os.write(1, b"%s %d\\n" % (denied.code.encode(), n))
os.write(1, b"end\\n")
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_used_proof_stays_used(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
    SqliteState(tmp_path / "state.db").close()  # older than the token: the past is known
    now, key, r = int(time.time()) + 1, HolderKey.generate("Ed25519"), Random(3)
    token = forged(
        {"iss": "https://iam.example", "aud": "local", "sub": "alice", "client_id": "agent-7", "jti": "t-1", "txn": "task-1", "iat": now, "exp": now + 3000,
         "scope": "orders.read", "act": {"sub": "payer"}, "cnf": {"jwk": dict(key.public)}}
    )  # fmt: skip
    stopped = 0
    for _ in range(KILLS):
        proofs = [key.prove(token, "look", LOOK) for _ in range(PROOFS)]
        ran: Counter[str] = Counter()
        first = _through(tmp_path, token, proofs, r.random() * 0.05)
        stopped += "end" not in first
        for _ in range(2):
            first += _through(tmp_path, token, proofs, None)
        ran.update(line for line in first if line.startswith("ran"))
        assert max(ran.values()) == 1, ran
        assert first[-PROOFS - 1 :] == [*(f"token.proof {n}" for n in range(PROOFS)), "end"], "in the end every one is used"
        assert len(ran) >= PROOFS - 1, "one was in flight: used, and its body may not have begun"
    assert stopped == KILLS, "nobody was killed midway"


def _through(folder: Path, token: str, proofs: list[str], kill: float | None) -> list[str]:
    """What a process says of these proofs; killed so many seconds after it began, and never after its end: it waits for the last proof then."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(token + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        try:
            process.stdin.write("".join(f"{proof}\n" for proof in (proofs if kill is None else proofs[:-1])))
            process.stdin.flush()
            if kill is not None:
                time.sleep(kill)
                process.send_signal(signal.SIGKILL)
            process.stdin.close()
        except BrokenPipeError:
            pass
        return process.stdout.read().split("\n")[:-1]
