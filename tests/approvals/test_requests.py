"""What a request is, where it lies, and how long: shown whole, encrypted, shared, gone when it is over."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from guard import ApprovalRequired, Denied, Guard, Issuer, LocalIssuer, ToolCall
from guard.approvals import AnswerRefused, Approvals
from guard.errors import ConfigError, StateUnavailable
from guard.model import Outcome
from guard.ops import Take
from guard.record import AuditFile, ListSink
from guard.replay import Replay
from guard.sources import read
from guard.state import MemoryState
from tests.approvals.world import POLICY, World, ended

SECRET = "Mustafa Secret-Payee"


def files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_the_exception_names_the_request_and_may_be_kept(tmp_path: Path) -> None:
    world = World(tmp_path)
    call = ToolCall("pay", {"to": SECRET, "amount": "2000"}, id="c-1")
    with world.task(), pytest.raises(ApprovalRequired) as required:
        world.guard.call(call, lambda to, amount: "paid")
    kept = json.loads(json.dumps(required.value.request))
    assert kept == required.value.request and kept["asks"] == ["big", "huge"] and SECRET not in json.dumps(kept)
    assert pickle.loads(pickle.dumps(required.value.decision)).request() == kept  # noqa: S301
    world.start()
    found = world.desk.open(kept["id"])
    assert (found.state, found.left, found.args) == ("open", ("big", "huge"), {"amount": "2000", "to": SECRET})
    assert SECRET not in json.dumps(found.to_dict()) and SECRET in json.dumps(found.to_dict(values=True))
    assert "args_digest" not in found.to_dict(), "a hash anybody can try values on is one: an amount is found in no time"
    for by, groups in (("alice", ()), ("tina", ("treasury",)), ("theo", ("treasury",))):
        world.desk.approve(kept["id"], world.token(by, groups))
    ran: list[str] = []
    with world.task():
        for _ in range(3):  # the same call by the same id: one run
            assert world.guard.call(call, lambda to, amount: ran.append(to) or "paid") == "paid"  # type: ignore[func-returns-value]
    assert ran == [SECRET]


def test_no_file_holds_an_argument_or_a_token(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sink = AuditFile(tmp_path / "log")  # type: ignore[assignment]
    world.start()
    world.pay(200, SECRET)
    token = world.token("alice")
    assert world.desk.open(world.asked[0]).args == {"amount": "200", "to": SECRET}
    world.desk.approve(world.asked[0], token)
    assert world.said(world.pay(200, SECRET)) == "allow"
    whole = files(tmp_path)
    digest = world.desk.to_prove(world.asked[0])["args_digest"]
    assert digest.encode() not in whole and b"groups" not in whole, "an answer names persons, and a hash anybody can try values on"
    assert SECRET.encode() not in whole and token.rpartition(".")[2].encode() not in whole
    assert digest.encode() not in b"".join(path.read_bytes() for path in (tmp_path / "log").glob("audit*")), (
        "of the arguments records hold keyed hashes"
    )


@pytest.mark.parametrize("how", ["approved", "rejected", "used", "expired", "ended"])
def test_arguments_go_when_the_request_is_over(how: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(200, SECRET)
    (id,) = world.asked
    assert world.row(f"ap|v|{id}") is not None
    match how:
        case "approved" | "used":
            world.answer("approve", by="alice")
        case "rejected":
            world.answer("reject", by="alice")
        case "expired":
            world.clock.advance(seconds=900)
        case "ended":
            ended(world)
    if how == "used":
        assert world.said(world.pay(200, SECRET)) == "allow"
    if how == "ended":  # what is there cannot be opened: the key went with the task
        assert list(world.desk.pending(every=True)) == []
        with pytest.raises(AnswerRefused, match="its task has ended"):
            world.desk.open(id)
        return
    assert world.row(f"ap|v|{id}") is None
    assert (world.desk.open(id).state, world.desk.open(id).args) == (how, None)


def test_two_who_answer_at_once_have_answered() -> None:
    """Each of them sees the other's answer not yet: that is no reason to keep the arguments, or to wait for a third."""
    world = World()
    world.pay(2000)
    (id,) = world.asked
    assert world.answer("approve", by="alice") == "ok"
    keep = world.desk._keep

    def late(*args: Any, **kwargs: Any) -> None:
        world.desk._keep = keep  # type: ignore[method-assign]
        assert world.answer("approve", by="tina", groups=("treasury",)) == "ok"
        keep(*args, **kwargs)

    world.desk._keep = late  # type: ignore[method-assign]
    assert world.desk.approve(id, world.token("theo", ("treasury",))).state == "approved"
    assert (world.row(f"ap|v|{id}"), world.desk.open(id).state) == (None, "approved")
    assert world.answer("approve", by="zoe", groups=("treasury",)) == "approval.closed"


def test_the_same_call_is_asked_about_once() -> None:
    """An agent that tries again and again makes one request, found under every id it got."""
    world = World()
    with world.task():
        assert world.guard.check(ToolCall("pay", {"to": "bob", "amount": "200"})).verdict == "ask"
    assert list(world.desk.pending(every=True)) == [], "a dry run asks nobody"
    for _ in range(4):
        world.pay(200)
    assert [each.request.id for each in world.desk.pending()] == world.asked[:1]
    assert {world.desk.open(each).request.id for each in world.asked} == {world.asked[0]}
    asked = [note for note in world.sink.records if note.kind == "approval"]
    assert [(note.what, note.request) for note in asked] == [("asked", world.asked[0])]  # type: ignore[union-attr]
    assert world.answer("approve", by="alice", request=3) == "ok"
    assert world.said(world.pay(200)) == "allow"


@pytest.mark.parametrize(("verb", "then"), [("approve", "allow"), ("reject", "deny ask.rejected")])
def test_an_answer_that_comes_between_the_look_and_the_question_is_found_by_the_next_call(verb: str, then: str) -> None:
    """The agent tries again in the very moment in which the person answers. Attack: asks all the time, so that no no is ever seen."""
    world = World()
    world.pay(200)
    find = world.desk.find

    def late(*args: Any, **kwargs: Any) -> Any:
        found = find(*args, **kwargs)
        world.answer(verb, by="alice", request=0)
        return found

    world.desk.find = late  # type: ignore[method-assign]
    assert world.said(world.pay(200)) == "ask big"
    world.desk.find = find  # type: ignore[method-assign]
    assert world.desk.open(world.asked[1]).request.id == world.asked[0]
    assert world.said(world.pay(200)) == then


@pytest.mark.parametrize(("verb", "then"), [("approve", "allow"), ("reject", "deny ask.rejected")])
def test_who_cannot_be_asked_what_was_answered_asks_nobody_anew(verb: str, then: str) -> None:
    """Attack: while the desk is slow, each answer gives way to a new request, and a no is as good as none."""
    world = World()
    world.pay(200)
    assert world.answer(verb, by="alice") == "ok"
    world.clock.advance(seconds=60)
    find, world.desk.find = world.desk.find, lambda *args, **kwargs: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    assert world.said(world.pay(200)) == "deny ask.unavailable"
    world.desk.find = find  # type: ignore[method-assign]
    assert world.said(world.pay(200)) == then


def test_an_answer_that_does_not_do_is_asked_for_anew() -> None:
    """Its approver was locked out since: the request that was answered does not stay in the way of another."""
    world = World()
    world.pay(200)
    assert world.answer("approve", by="alice", more={"sid": "s-1"}) == "ok"
    world.guard._house.revocations.revoke("session", "s-1")  # type: ignore[attr-defined]
    world.clock.advance(6)
    assert world.said(world.pay(200)) == "ask big"
    assert [world.desk.open(each).state for each in world.asked] == ["superseded", "open"]
    assert world.answer("approve", by="alice") == "ok"
    assert world.said(world.pay(200)) == "allow"


def test_what_comes_up_later_is_asked_anew_and_whole() -> None:
    """The policy was changed meanwhile: who approved the smaller list has not approved the longer one."""
    from guard import Policy

    world = World()
    world.pay(200)
    world.answer("approve", by="alice")
    world.guard.reload(Policy.from_text(MORE, file="desk.yaml"))
    assert world.said(world.pay(200)) == "ask big,every"
    assert [world.desk.open(each).state for each in world.asked] == ["superseded", "open"]
    assert world.answer("approve", by="alice", request=0) == "approval.closed"
    assert world.answer("approve", by="alice") == "ok"
    assert world.said(world.pay(200)) == "allow"


MORE = """
guardtrail: 1
name: desk
tools:
  pay: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}
  give: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}
intents: {work: {description: d, allow: {pay: {args: {amount: {range: {min: "0"}}, to: {len: {max: 30}}}}}}}
rules:
  - {id: big, when: {effect: pay, args: {amount: {range: {above: "100"}}}}, then: ask}
  - {id: every, when: {effect: pay, args: {to: {eq: bob}}}, then: ask}
"""


def test_what_may_look_like_something_else_is_marked() -> None:
    world = World()
    world.pay(200, "p\u0430ypal")
    made = world.desk.open(world.asked[0]).to_dict(values=True)
    assert made["args"]["to"] == "p\u0430ypal"
    assert made["marks"] == [{"path": "to", "at": 1, "char": "U+0430 CYRILLIC SMALL LETTER A", "kind": "mixed"}]


def test_records_name_who_answered_by_a_pseudonym_and_a_replay_comes_to_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sink = AuditFile(tmp_path / "log")  # type: ignore[assignment]
    world.start()
    for amount, verbs in ((200, ["approve"]), (201, ["reject"]), (202, []), (5, [])):
        world.pay(amount)
        for verb in verbs:
            assert world.answer(verb, by="alice") == "ok"
            world.pay(amount)
    ask, world.desk.ask = world.desk.ask, lambda *args, **kwargs: ""  # type: ignore[method-assign]
    assert world.said(world.pay(203)) == "deny ask.unavailable"
    world.desk.ask = ask  # type: ignore[method-assign]
    world.pay(204)
    world.answer("approve", by="alice")
    take, world.desk.take = world.desk.take, lambda *args, **kwargs: False  # type: ignore[method-assign]
    assert world.said(world.pay(204)) == "deny ask.used"
    world.desk.take = take  # type: ignore[method-assign]
    assert world.said(world.pay(204)) == "allow"
    rows = [json.loads(line) for path in (tmp_path / "log").glob("audit*.jsonl") for line in path.read_text().splitlines()]
    notes = [row for row in rows if row["kind"] == "approval"]
    assert [(note["what"], bool(note["by"]), note["asks"]) for note in notes] == [
        ("asked", False, ["big"]), ("approved", True, ["big"]), ("used", True, ["big"]),
        ("asked", False, ["big"]), ("rejected", True, ["big"]), ("asked", False, ["big"]),
        ("asked", False, ["big"]), ("approved", True, ["big"]), ("used", True, ["big"]),
    ]  # fmt: skip
    decisions = {row["id"]: row for row in rows if row["kind"] == "decision"}
    used = notes[2]
    assert decisions[used["decision"]]["verdict"] == "allow" and decisions[used["request"]]["verdict"] == "ask"
    person = decisions[used["request"]]["origin"]
    assert {note["by"] for note in notes if note["by"]} == {person} and "alice" not in json.dumps(rows)
    run = Replay([POLICY])  # type: ignore[arg-type]
    for event in read([tmp_path / "log"]):
        list(run.feed(event))
    list(run.close())
    assert (run.summary.differ, dict(run.summary.not_judged), run.summary.calls) == (0, {}, 10)


def test_a_denial_for_an_approval_that_was_used_up_is_a_denial_of_the_task(tmp_path: Path) -> None:
    """Attack: two guards race for one approval, and whoever loses has been denied nothing, as far as a limit of denials knows."""
    from guard import Policy

    policy = Policy.from_text(
        MORE.replace("rules:\n", "rules:\n  - {id: enough, when: {tool: pay}, limit: {denied: 1}}\n"), file="desk.yaml"
    )
    world = World(tmp_path)
    world.sink = AuditFile(tmp_path / "log")  # type: ignore[assignment]
    world.start()
    world.guard.reload(policy)
    world.pay(200)
    world.answer("approve", by="alice")
    world.desk.take = lambda *args, **kwargs: False  # type: ignore[method-assign]
    assert world.said(world.pay(200)) == "deny ask.used"
    assert world.said(world.pay(5, "carol")) == "deny rule.limit"
    run = Replay([policy])
    for event in read([tmp_path / "log"]):
        list(run.feed(event))
    list(run.close())
    assert (run.summary.differ, run.summary.calls) == (0, 3)


# -- where something fails ---------------------------------------------------------------------------------------------------------


class Down(MemoryState):
    down = False

    def apply(self, ops: Any, *, now: Any, commit: bool = True) -> Any:
        if self.down:
            raise StateUnavailable("down")
        return super().apply(ops, now=now, commit=commit)


def test_a_request_that_cannot_be_kept_is_a_denial() -> None:
    world = World()
    store = world.desk._drawer.store = Down()
    store.down = True
    decision = world.pay(200)
    assert (world.said(decision), decision.step) == ("deny ask.unavailable", 1)
    assert world.said(world.pay(5)) == "allow", "who is not asked about waits for nobody"
    store.down = False
    assert world.said(world.pay(200)) == "ask big"
    world.answer("approve", by="alice")
    store.down = True
    assert world.said(world.pay(200)) == "deny ask.unavailable"
    store.down = False
    assert world.said(world.pay(200)) == "allow", "nothing was used up"


def test_an_approval_that_cannot_be_used_up_does_not_run() -> None:
    world = World()
    world.pay(200)
    world.answer("approve", by="alice")
    take, world.desk.take = world.desk.take, lambda *args, **kwargs: False  # type: ignore[method-assign]
    decision = world.pay(200)
    assert world.said(decision) == "deny ask.used"
    for answer in (None, 1, "yes", True):
        world.desk.take = lambda *args, answer=answer, **kwargs: answer  # type: ignore[method-assign,assignment]
        assert (world.said(world.pay(200)) == "allow") is (answer is True)
    world.desk.take = take  # type: ignore[method-assign]


@pytest.mark.parametrize("answer", [None, True, 1, "", [], {"approved": True}])
def test_a_desk_that_keeps_nothing_has_not_asked(answer: object) -> None:
    world = World()
    world.desk.ask = lambda *args, **kwargs: answer  # type: ignore[method-assign,assignment,return-value]
    assert world.said(world.pay(200)) == "deny ask.unavailable"


def test_what_is_revoked_while_an_approval_is_used_up_does_not_run() -> None:
    """Attack: the desk's store is held up, and the task taken back in that time runs all the same."""
    world = World()
    world.pay(200)
    world.answer("approve", by="alice")
    take = world.desk.take

    def slow(*args: Any, **kwargs: Any) -> bool:
        world.guard._house.revocations.revoke("task", "t")  # type: ignore[attr-defined]
        return take(*args, **kwargs)

    world.desk.take = slow  # type: ignore[method-assign]
    assert world.said(world.pay(200)) == "deny token.revoked"


def test_a_store_that_says_nothing_has_kept_nothing() -> None:
    """Attack: a person is told that their no was kept, and the request stays open."""
    world = World()
    world.pay(200)
    apply = world.desk._drawer.store.apply

    def mute(ops: Any, **kwargs: Any) -> Any:
        return apply(ops, **kwargs) if kwargs.get("commit") is False else None

    world.desk._drawer.store.apply = mute  # type: ignore[method-assign]
    for verb in ("approve", "reject"):
        with pytest.raises(StateUnavailable):
            world.answer(verb, by="alice")
    with pytest.raises(StateUnavailable):
        world.desk.forget("acme-dev", "acme-dev", "t", now=0)


def test_no_answer_counts_unrecorded() -> None:
    world = World()
    world.pay(200)

    def fails(record: object) -> None:
        raise OSError("disk full")

    world.sink.note = fails  # type: ignore[method-assign,assignment]
    assert world.answer("approve", by="alice") == "record.unavailable"
    del world.sink.note
    assert world.said(world.pay(200)) == "ask big"


def test_who_could_approve_with_a_tasks_token_is_not_let_in() -> None:
    keys = Path(__file__)
    one = Issuer("https://iam.acme.example", audience="tools", keys=keys)
    with pytest.raises(ConfigError, match="have the audience of the tasks' tokens, tools"):
        Guard(
            POLICY,
            trust=one,
            sinks=[ListSink()],
            approvals=Approvals("memory:", trust=Issuer("https://iam.acme.example", audience="tools", keys=keys)),
        )
    Guard(
        POLICY,
        trust=one,
        sinks=[ListSink()],
        approvals=Approvals("memory:", trust=Issuer("https://iam.acme.example", audience="approvals", keys=keys)),
    )
    with pytest.raises(ConfigError, match="a guard needs `trust=`"):
        Guard(POLICY, trust=one, sinks=[ListSink()], approvals=Approvals("memory:"))


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"trust": []}, "`trust` is"), ({"trust": "https://iam.acme.example"}, "`trust` is"), ({"trust": None, "groups": 1}, ""),
        ({"clients": []}, "`clients` is"), ({"clients": "page"}, "`clients` is"), ({"groups": ""}, "`groups` is"), ({"groups": {"https://other.example": "g"}}, "`groups` is"),
    ],
)  # fmt: skip
def test_what_makes_no_desk(what: dict[str, Any], says: str) -> None:
    if not says:
        Approvals("memory:", **what)
        return
    with pytest.raises(ConfigError, match=says):
        Approvals("memory:", **{"trust": LocalIssuer("acme-dev"), **what})


def test_only_the_clients_where_persons_log_in(tmp_path: Path) -> None:
    """Attack: an agent exchanges the token it holds of a person, at a server that leaves no `act`, for one to approve with. Also elsewhere: the
    request says which clients count."""
    world = World(tmp_path)
    world.desk = Approvals(world.store, trust=world.iam, folder=tmp_path, clients=["page"])
    world.guard = Guard(
        POLICY,
        trust=world.iam,
        state=world.state,
        sinks=[world.sink],
        clock=world.clock,
        approvals=world.desk,
        deadline=timedelta(seconds=60),
    )
    world.pay(200)
    elsewhere = Approvals(world.store, folder=tmp_path, sinks=[world.sink], clock=lambda: world.clock.now().timestamp())
    for desk in (world.desk, elsewhere):
        with pytest.raises(AnswerRefused) as refused:
            desk.approve(world.asked[0], world.iam.login("alice", client="payer"))
        assert refused.value.code == "token.claims"
    assert elsewhere.approve(world.asked[0], world.iam.login("alice", client="page")).state == "approved"
    assert world.said(world.pay(200)) == "allow"


def test_a_key_file_that_was_emptied_is_no_key(tmp_path: Path) -> None:
    Approvals(folder=tmp_path)
    (tmp_path / "keys" / "approvals.key").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"approvals\.key"):
        Approvals(folder=tmp_path)


def test_a_key_file_that_others_may_open_is_no_key(tmp_path: Path) -> None:
    """Attack: an agent under another user reads it, and answers for anybody."""
    World(tmp_path)
    (tmp_path / "keys" / "approvals.key").chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        World(tmp_path)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pay(200)
    (tmp_path / "keys" / "approvals.key").write_bytes(b"x" * 32)
    world.start()
    assert world.answer("approve", by="alice") == "approval.unknown"
    assert world.said(world.pay(200)) == "ask big"


def test_a_desk_of_a_guard_is_told_nothing_by_a_stranger_with_the_file(tmp_path: Path) -> None:
    """Who answers elsewhere needs to be told no issuer: the request says whose tokens count, and nobody can bring one of their own."""
    world = World(tmp_path)
    world.pay(200)
    elsewhere = Approvals(world.store, folder=tmp_path, sinks=[world.sink], clock=lambda: world.clock.now().timestamp())
    with pytest.raises(AnswerRefused) as refused:
        elsewhere.approve(world.asked[0], world.token("alice", issuer="unknown"))
    assert refused.value.code == "token.issuer"
    assert elsewhere.approve(world.asked[0], world.token("alice")).state == "approved"
    assert world.said(world.pay(200)) == "allow"
    mine = Approvals(
        world.store, trust=world.others["unknown"], folder=tmp_path, sinks=[world.sink], clock=lambda: world.clock.now().timestamp()
    )
    world.pay(300)
    with pytest.raises(AnswerRefused) as refused:
        mine.approve(world.asked[-1], world.token("alice", issuer="unknown"))
    assert refused.value.code == "approval.tenant"


def test_a_frameworks_endorsement_is_a_request_too() -> None:
    from guard import Policy

    world = World()
    world.guard.reload(Policy.from_text(VOUCH, file="v.yaml"))
    with world.task() as task:
        with pytest.raises(ApprovalRequired) as required:
            task.endorse("pay", "to", "bob")
        found = world.desk.open(str(required.value.request["id"]))
        assert (found.request.tool, found.args) == ("task.endorse", {"argument": "to", "tool": "pay", "value": "bob"})
        world.desk.approve(found.request.id, world.token("alice"))
        assert task.endorse("pay", "to", "bob").verdict == "allow"
        assert world.desk.open(found.request.id).state == "used"
        with pytest.raises(ApprovalRequired) as required:
            task.endorse("pay", "to", "eve")
        world.desk.reject(str(required.value.request["id"]), world.token("alice"))
        with pytest.raises(Denied) as refused:
            task.endorse("pay", "to", "eve")
        assert refused.value.code == "ask.rejected"


VOUCH = """
guardtrail: 1
name: desk
tools: {pay: {effect: pay, control: {to: name}, data: {amount: decimal}, returns: none}}
flow: {pay: {allow: [endorsed]}}
intents: {work: {description: d, allow: {pay: {args: {amount: {range: {min: "0"}}}}}}}
"""


# -- waiting -----------------------------------------------------------------------------------------------------------------------


def test_waiting() -> None:
    world = World()
    world.pay(200)
    (id,) = world.asked
    assert world.desk.wait(id, 0) == "open"
    answering = threading.Timer(0.2, lambda: world.answer("approve", by="alice"))
    answering.start()
    began = time.monotonic()
    assert world.desk.wait(id, 60) == "approved"
    assert time.monotonic() - began < 30
    answering.join()
    assert world.desk.wait("01M8GP739Y6VRW9HZ8000067E5", 60) == "expired", "nobody waits for what is not there"


def test_who_waits_holds_up_no_call() -> None:
    """Attack: somebody waits for an answer while the store is slow, and every call that rests on an approval waits with them."""
    world = World()
    world.pay(200)
    (id,) = world.asked
    looking, go_on, state = threading.Event(), threading.Event(), world.desk._state

    def slow(id: str) -> str:
        looking.set()
        go_on.wait(60)
        return state(id)

    world.desk._state = slow  # type: ignore[method-assign]
    waiting = threading.Thread(target=world.desk.wait, args=(id, 60))
    waiting.start()
    assert looking.wait(60)
    calling = threading.Thread(target=world.answer, args=("approve",), kwargs={"by": "alice"})
    calling.start()
    calling.join(30)
    held_up = calling.is_alive()
    go_on.set()
    waiting.join(60)
    assert not held_up and not waiting.is_alive()


def test_waiting_holds_up_nobody() -> None:
    world = World()
    world.pay(200)
    (id,) = world.asked

    async def story() -> None:
        waiting = asyncio.create_task(world.desk.await_answer(id, 60))
        await asyncio.sleep(0.05)
        done = await world.desk.areject(id, world.token("alice"))
        assert (done.yes, await waiting) == (False, "rejected")
        with pytest.raises(AnswerRefused):
            await world.desk.aapprove(id, world.token("alice"))

    asyncio.run(story())


def test_a_call_that_waits_is_run_when_it_is_approved(tmp_path: Path) -> None:
    """Another process answers; the agent's own waits for it."""
    world = World(tmp_path)

    async def story() -> str:
        call, ran = ToolCall("pay", {"to": "bob", "amount": "200"}, id="c"), "paid"

        async def body(to: str, amount: object) -> str:
            return ran

        with world.task():
            try:
                return await world.guard.acall(call, body)
            except ApprovalRequired as required:
                id = str(required.request["id"])
            elsewhere = Approvals(world.store, folder=tmp_path, sinks=[world.sink], clock=lambda: world.clock.now().timestamp())
            threading.Timer(0.1, lambda: elsewhere.approve(id, world.token("alice"))).start()
            assert await world.desk.await_answer(id, 60) == "approved"
            return await world.guard.acall(call, body)

    assert asyncio.run(story()) == "paid"


def test_spans_say_who_answered() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from guard.record import Spans

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    world = World()
    world.guard = Guard(
        POLICY, trust=world.iam, state=world.state, sinks=[world.sink, Spans(provider)], clock=world.clock, approvals=world.desk,
        deadline=timedelta(seconds=60),
    )  # fmt: skip
    with world.guard.task(world.iam.mint(origin="alice", actor="payer", intent="work", txn="t")):  # left again: its span is nobody else's
        first = world.guard.before(ToolCall("pay", {"to": "bob", "amount": "200"}))
        world.desk.approve(first.id, world.token("alice"))
        second = world.guard.before(ToolCall("pay", {"to": "bob", "amount": "200"}))
        world.guard.after(second, Outcome("ok"))
    said = [
        span.attributes["guardtrail.approvals"]
        for span in exporter.get_finished_spans()
        if "guardtrail.approvals" in (span.attributes or {})
    ]
    assert len(said) == 1 and said[0][0].startswith("big by p-") and "alice" not in str(said)


@pytest.mark.parametrize("what", [None, 1, True, b"x", [], {}, object(), "\ud800", "x" * 10_000, "a\x00b", " "])
def test_what_is_no_id_token_or_proof_is_refused_as_such(what: Any) -> None:
    world = World()
    world.pay(200)
    token = world.token("alice")
    for call in (
        lambda: world.desk.approve(what, token), lambda: world.desk.reject(what, token), lambda: world.desk.open(what),
        lambda: world.desk.approve(world.asked[0], what),
    ):  # fmt: skip
        with pytest.raises(AnswerRefused):
            call()
    if what:
        with pytest.raises(AnswerRefused) as refused:
            world.desk.approve(world.asked[0], token, proof=what)
        assert refused.value.code == "token.proof"
    assert world.desk.wait(what, 0) == "expired"
    assert world.answer("approve", by="alice") == "ok"


def test_a_request_as_large_as_arguments_may_be(tmp_path: Path) -> None:
    """A megabyte of letters that look like others, shown whole."""
    from guard import Policy

    world = World(tmp_path)
    world.guard.reload(Policy.from_text(LARGE, file="large.yaml"))
    text = "\u0430a " * 300_000
    with world.task():
        decision = world.guard.before(ToolCall("note", {"text": text}))
        assert decision.verdict == "ask"
        found = world.desk.open(decision.id)
        assert found.args == {"text": text} and len(found.marks()) == 300_000
        assert world.desk.approve(decision.id, world.token("alice")).state == "approved"
        assert not world.guard.before(ToolCall("note", {"text": text})).blocks


LARGE = """
guardtrail: 1
name: desk
tools: {note: {effect: write, data: {text: text}, returns: none}}
intents: {work: {description: d, allow: {note: {}}}}
rules: [{id: every, when: {tool: note}, then: ask}]
"""


def test_who_takes_the_mark_of_use_away_has_no_second_call() -> None:
    world = World()
    world.pay(200)
    world.answer("approve", by="alice")
    assert world.said(world.pay(200)) == "allow"
    assert world.row(f"ap|x|{world.asked[0]}") == "used"
    world.desk._drawer.store.apply((Take(f"ap|x|{world.asked[0]}"),), now=world.clock.now())
    assert world.said(world.pay(200)) == "ask big", "the guard's own state has that mark too"


def test_an_older_copy_of_the_file_brings_no_approval_back(tmp_path: Path) -> None:
    """Attack: `approvals.db` is copied after the answer and put back after the call. The state knows what was used."""
    import shutil

    world = World(tmp_path)
    world.pay(200)
    assert world.answer("approve", by="alice") == "ok"
    world.desk._drawer.store.close()  # type: ignore[attr-defined]
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    world.start()
    assert world.said(world.pay(200)) == "allow"
    world.desk._drawer.store.close()  # type: ignore[attr-defined]
    for path in tmp_path.glob("approvals.db*"):
        path.unlink()
    shutil.copy(tmp_path.parent / "copy" / "approvals.db", tmp_path / "approvals.db")
    world.start()
    assert world.desk.open(world.asked[0]).state == "approved"
    assert world.said(world.pay(200)) == "ask big"
