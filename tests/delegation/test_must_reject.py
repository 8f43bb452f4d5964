"""The 28 classes that a verifier of delegated tokens must reject (three of them accept), each as a chain of JWTs through a whole guard.

One world, one valid chain (root, two hops, a proof for each call); each class changes one thing. R12 (no hand-over to oneself) and R17 (sessions) ours
has; R13 (clearance) it has not: a token says what is allowed, not how high somebody stands, so the claim itself is refused.
R15 by the index; on a list that is signed and published: `tests/identity/revoked/test_statuses.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, Issuer, Policy, ToolCall
from guard.identity import RevocationList
from guard.record import ListSink
from guard.testing import FakeApprovals
from tests.delegation.test_attacks import At
from tests.tokens.forge import AUD, ISS, KEY, NOW, OTHER, claims, jwk, token
from tests.tokens.hops import HOLDERS, PAY, READ, chain, hop, proof, public, root

POLICY = """
guardtrail: 1
name: desk
owner: o@acme.example
tools:
  pay: {effect: pay, control: {amount: int}, data: {note: text}}
  read: {effect: read, control: {path: path}}
  fetch: {effect: fetch, control: {url: url}}
  dial: {effect: read, control: {host: text}}
  tag: {effect: write, control: {"names[]": text}}
rules:
  - {id: large, when: {tool: pay, args: {amount: {range: {above: 50}}}}, then: ask}
asks:
  large: {by: {group: treasury, not: [origin, actors]}, count: 2, within: 1h}
"""


@dataclass
class World:
    folder: Path
    revoked: RevocationList = field(default_factory=lambda: RevocationList(clock=lambda: NOW))
    approvals: FakeApprovals = field(default_factory=lambda: FakeApprovals(At()))
    ran: list[str] = field(default_factory=list)
    n: int = 0

    def __post_init__(self) -> None:
        file = self.folder / "jwks.json"
        file.write_text(json.dumps({"keys": [jwk(KEY, "k1")]}))
        self.sink = ListSink()
        self.guard = Guard(
            Policy.from_text(POLICY), trust=Issuer(ISS, audience=AUD, keys=file), sinks=[self.sink], clock=At(), revocations=self.revoked, approvals=self.approvals
        )  # fmt: skip

    def call(self, text: str, tool: str = "pay", args: Mapping[str, object] | None = None, *, key: Any = None) -> str:
        """`accept` where the body ran. `key`: who proves; None: the leaf's holder."""
        self.n += 1
        args = {"amount": 5} if args is None else args
        holder = HOLDERS[text.count("~")] if key is None else key
        from guard.constraints import canonical
        from guard.tokens.proof import digest

        shown = proof(text, holder, jti=f"p-{self.n}", tool=tool, args=digest(canonical(dict(args))))
        try:
            context = copy_context()  # never left: leaving a task ends it
            context.run(self.guard.task(text).__enter__)
            context.run(self.guard.call, ToolCall(tool, args, "", shown), lambda **_: self.ran.append(tool))
        except ApprovalRequired as ask:
            self.asked = ask.decision
            return "ask"
        except Denied as denied:
            return str(denied.code)
        return "accept"


def narrowed(**args: Any) -> list[dict[str, Any]]:
    return [{"type": "agent_tool", "tool": "pay", "args": args, "limit": {"calls": 5}}]


def granted(tool: str, **args: Any) -> str:
    """A chain of two whose root and hop grant `tool` with these arguments."""
    details = [{"type": "agent_tool", "tool": tool, "args": args}]
    return chain({"authorization_details": details}, first={"authorization_details": details})


def _r11(w: World) -> str:
    """The root sets the bounds of what may be made from it: tools, arguments, calls, depth, who (`may_act`)."""
    said = {
        w.call(chain({"authorization_details": [{**PAY, "limit": {"calls": 6}}]})),
        w.call(chain({"mdp": 2}, first={"mdp": 1, "jti": "t-2"})),
        w.call(chain({"act": {"sub": "mallory"}}, first={"may_act": {"sub": "mailer"}, "jti": "t-3"})),
        w.call(chain({"authorization_details": narrowed(amount={"range": {"min": 0, "max": 101}})})),
    }
    assert "accept" not in said
    return min(said)


def _r14(w: World) -> str:
    """One of two, somebody of no group, the origin and an actor: not enough."""
    text = chain({}, {})
    assert w.call(text, args={"amount": 60}) == "ask"
    for by, groups in (
        ("tina", ["treasury"]),
        ("tina", ["treasury"]),
        ("mallory", []),
        ("alice", ["treasury"]),
        ("worker-1", ["treasury"]),
    ):
        w.approvals.approve(w.asked, by=by, groups=groups)
        assert w.call(text, args={"amount": 60}) == "ask"
    return "ask"


def _r28(w: World) -> str:
    text = chain({}, {})
    assert w.call(text, args={"amount": 60}) == "ask"
    for by in ("tina", "theo"):
        w.approvals.approve(w.asked, by=by, groups=["treasury"])
    said = w.call(text, args={"amount": 60})
    assert w.call(text, args={"amount": 60}) == "ask", "and once"
    return said


def _taken_back(w: World, at: int) -> str:
    text = chain({}, {})
    assert w.call(text) == "accept"
    w.revoked.revoke("credential", "~".join(["t-1", "h1", "h2"][: at + 1]))
    return w.call(text)


def _r17(w: World) -> str:
    said = {
        w.call(chain({"sid": "s"})),
        w.call(chain({"sid": "s"}, first={"sid": "s", "jti": "t-2"})),
        w.call(chain({"sid": "other"}, first={"sid": "s", "jti": "t-3"})),
    }
    assert w.call(chain({}, first={"sid": "s", "jti": "t-4", "txn": "task-4"})) == "accept", "a hop has its root's"
    (code,) = said
    return code


def _r24(w: World) -> str:
    text = granted("tag", **{"names[]": {"one_of": ["a", "b"]}})
    assert w.call(text, "tag", {"names": ["a", "b"]}) == "accept"
    whole = chain(
        first={
            "jti": "t-2",
            "txn": "task-2",
            "authorization_details": [{"type": "agent_tool", "tool": "tag", "args": {"names[]": {"subset": ["a", "b"]}}}],
        }
    )
    assert w.call(whole, "tag", {"names": ["a", "c"]}) == "grant.args"
    assert w.call(text, "tag", {"names": []}) == "grant.args"
    return w.call(text, "tag", {"names": ["a", "c"]})


def _r25(w: World) -> str:
    both = granted("dial", host={"prefix": "a", "suffix": "z"})
    either = {
        "jti": "t-2",
        "txn": "task-2",
        "authorization_details": [{"type": "agent_tool", "tool": "dial", "args": {"host": {"any_of": [{"eq": "x"}, {"eq": "y"}]}}}],
    }
    assert w.call(both, "dial", {"host": "abz"}) == "accept"
    assert w.call(chain(first=either), "dial", {"host": "y"}) == "accept"
    assert w.call(chain(first={**either, "jti": "t-3"}), "dial", {"host": "z"}) == "grant.args"
    return w.call(both, "dial", {"host": "ab"})


CLASSES: dict[str, tuple[str, Callable[[World], str]]] = {
    "R01": ("token.signature", lambda w: w.call(f"{root()}~{hop(root(), 1, key=OTHER)}")),
    "R02": ("token.expired", lambda w: w.call(chain({"iat": NOW - 7, "exp": NOW - 6}))),
    "R03": ("token.proof", lambda w: w.call(chain({}, {}), key=HOLDERS[1])),
    "R04": ("token.chain", lambda w: w.call(chain({"mdp": 1}, {"mdp": 1}, first={"mdp": 1}))),
    "R05": ("token.chain", lambda w: w.call(chain({"dep": 2}))),
    "R06": ("delegation.widened", lambda w: w.call(chain({"authorization_details": [{"type": "agent_tool", "tool": "read", "args": {"path": {"under": "/srv"}}}]}), "read", {"path": "/srv/data/x"})),
    "R07": ("delegation.widened", lambda w: w.call(chain({"authorization_details": [PAY, READ, {"type": "agent_tool", "tool": "fetch"}]}))),
    "R08": ("token.chain", lambda w: w.call(f"{root(jti='t-9')}~{hop(root(), 1)}")),
    "R09": ("delegation.widened", lambda w: w.call(chain({"exp": NOW + 601}))),
    "R10": ("token.signature", lambda w: w.call(forged() + "~" + hop(forged(), 1))),
    "R11": ("delegation.widened", _r11),
    "R12": ("token.chain", lambda w: w.call(chain({"cnf": {"jwk": public(HOLDERS[0])}}), key=HOLDERS[0])),
    "R13": ("token.claims", lambda w: w.call(chain({"clearance": 9}))),
    "R14": ("ask", _r14),
    "R15": ("token.revoked", lambda w: _taken_back(w, 2)),
    "R16": ("token.revoked", lambda w: _taken_back(w, 1)),
    "R17": ("token.claims", _r17),
    "R18": ("token.details", lambda w: w.call(chain({"authorization_details": narrowed(amount={"regex": ".*"})}))),
    "R19": ("grant.args", lambda w: w.call(chain({}, {}), args={"amount": 150})),
    "R20": ("grant.args", lambda w: w.call(granted("dial", host={"one_of": ["a", "b"]}), "dial", {"host": "c"})),
    "R21": ("grant.args", lambda w: w.call(granted("dial", host={"cidr": "10.0.0.0/8"}), "dial", {"host": "192.168.1.1"})),
    "R22": ("grant.args", lambda w: w.call(granted("fetch", url={"url": {"scheme": "https", "host": "api.example"}}), "fetch", {"url": "http://169.254.169.254/"})),
    "R23": ("grant.args", lambda w: w.call(chain({}, {}), "read", {"path": "/srv/data/../etc/passwd"})),
    "R24": ("grant.args", _r24),
    "R25": ("grant.args", _r25),
    "R26": ("accept", lambda w: w.call(root())),
    "R27": ("accept", lambda w: w.call(chain({"authorization_details": [PAY]}, {"authorization_details": narrowed(amount={"range": {"min": 0, "max": 10}})}))),
    "R28": ("accept", _r28),
}  # fmt: skip


def forged() -> str:
    return token(claims(scope=..., cnf={"jwk": public(HOLDERS[0])}, mdp=3, authorization_details=[PAY, READ]), key=OTHER)


@pytest.mark.parametrize("name", CLASSES)
def test_class(name: str, tmp_path: Path) -> None:
    """Nothing that is to be rejected runs; the valid chain beside it does, but where its own task was taken back."""
    says, make = CLASSES[name]
    world = World(tmp_path)
    assert make(world) == says
    if says not in ("accept", "token.revoked"):
        world.ran.clear()
        fresh = chain({}, {}, first={"jti": "t-fresh", "txn": "task-fresh"})
        assert world.call(fresh) == "accept", "the world takes what is valid"


def test_the_four_addresses_of_a_grant_let_in_what_is_inside(tmp_path: Path) -> None:
    """R20 to R22 would hold of a grant that lets nothing in."""
    world = World(tmp_path)
    assert world.call(granted("dial", host={"cidr": "10.0.0.0/8"}), "dial", {"host": "10.1.2.3"}) == "accept"
    other = chain(
        first={
            "jti": "t-2",
            "txn": "task-2",
            "authorization_details": [
                {"type": "agent_tool", "tool": "fetch", "args": {"url": {"url": {"scheme": "https", "host": "api.example"}}}}
            ],
        }
    )
    assert world.call(other, "fetch", {"url": "https://api.example/x"}) == "accept"


def test_every_class_is_here(corpora: Path) -> None:
    rows = [json.loads(line) for line in (corpora / "delegation/must_reject.jsonl").read_text("utf-8").splitlines() if line.strip()]
    assert len(rows) == 28
    assert {one["id"]: one["expected"] for one in rows} == {
        name: "accept" if says == "accept" else "reject" for name, (says, _) in CLASSES.items()
    }
