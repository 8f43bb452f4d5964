"""The credential of a call, in every kind of body: there while it runs, closed and taken back however it ends, and never shown by itself."""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import pickle
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from guard import Denied, ToolCall
from guard.drive import BEGUN, Failure, Need, adrive, drive
from guard.errors import ConfigError, GuardError
from guard.identity import RevocationList
from guard.identity.takeback import TakeBack, again
from guard.lent import CallCredential
from guard.model import CredentialRequest, Issued, Outcome
from guard.reasons import ReasonCode
from guard.testing import FakeCredentials
from guard.tokens.lent import ACCESS_TOKEN
from tests.lending.world import RESOURCE, Desk

ENDS = ("ok", "error", "interrupt", "early", "cancel")


class Left(Exception):
    """What a body raises."""


class Seen:
    """What a body saw, and left behind."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.kept = desk, list[CallCredential]()

    def look(self) -> None:
        found = self.desk.guard.credential()
        assert self.desk.lender.alive(found.reveal())
        assert found.headers() == {"Authorization": f"Bearer {found.reveal()}"}
        self.kept.append(found)


def _end(how: str) -> None:
    if how == "error":
        raise Left
    if how == "interrupt":
        raise KeyboardInterrupt


def sync(seen: Seen, how: str) -> None:
    @seen.desk.guard.tool
    def create_issue(repo: str, title: str) -> None:
        seen.look()
        _end(how)

    create_issue("acme/web", title="broken")


def method(seen: Seen, how: str) -> None:
    class Tracker:
        @seen.desk.guard.tool(name="create_issue")
        def create(self, repo: str, title: str) -> None:
            seen.look()
            _end(how)

    Tracker().create("acme/web", "broken")


def called(seen: Seen, how: str) -> None:
    def body(**_: object) -> None:
        seen.look()
        _end(how)

    seen.desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), body)


def framework(seen: Seen, how: str) -> None:
    guard = seen.desk.guard
    decision = guard.before(ToolCall("create_issue", {"repo": "a", "title": "b"}))
    assert not decision.blocks
    found = guard.credential(decision)
    assert seen.desk.lender.alive(found.reveal())
    seen.kept.append(found)
    try:
        _end(how)
    except Left as error:
        guard.after(decision, Outcome("error", None, error))
        raise
    except KeyboardInterrupt:
        guard.after(decision, Outcome("unknown"))
        raise
    guard.after(decision, Outcome("ok"))


def generator(seen: Seen, how: str, *, by_call: bool = False) -> None:
    def create_issue(repo: str, title: str) -> Generator[int, str, str]:
        seen.look()
        try:
            assert (yield 1) == "sent"
            seen.look()  # also after it has waited
            try:
                yield 2
            except Left:
                seen.look()
                raise
            return "value"
        finally:
            seen.look()  # and while it cleans up

    guard = seen.desk.guard
    made: Any
    if by_call:
        made = guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), create_issue)
    else:
        made = guard.tool(create_issue)("a", "b")
    assert next(made) == 1
    with pytest.raises(GuardError, match="no body runs here"):
        guard.credential()  # whoever reads the stream is not the body
    if how == "early":
        made.close()
        return
    assert made.send("sent") == 2
    if how == "error":
        made.throw(Left())
    elif how == "interrupt":
        made.throw(KeyboardInterrupt())
    with pytest.raises(StopIteration) as stop:
        next(made)
    assert stop.value.value == "value"


async def coroutine(seen: Seen, how: str) -> None:
    @seen.desk.guard.tool
    async def create_issue(repo: str, title: str) -> None:
        await asyncio.sleep(0)
        seen.look()
        if how == "cancel":
            await asyncio.sleep(60)
        _end(how)

    await _to_its_end(create_issue("acme/web", "broken"), seen, how)


async def acalled(seen: Seen, how: str) -> None:
    async def body(**_: object) -> None:
        await asyncio.sleep(0)
        seen.look()
        if how == "cancel":
            await asyncio.sleep(60)
        _end(how)

    await _to_its_end(seen.desk.guard.acall(ToolCall("create_issue", {"repo": "a", "title": "b"}), body), seen, how)


async def awaited_later(seen: Seen, how: str) -> None:
    async def body(**_: object) -> None:
        await asyncio.sleep(0)
        seen.look()
        if how == "cancel":
            await asyncio.sleep(60)
        _end(how)

    await _to_its_end(seen.desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), body), seen, how)


async def agenerator(seen: Seen, how: str) -> None:
    @seen.desk.guard.tool
    async def create_issue(repo: str, title: str) -> AsyncGenerator[int, None]:
        seen.look()
        try:
            yield 1
            seen.look()
            if how == "cancel":
                await asyncio.sleep(60)
            _end(how)
            yield 2
        finally:
            seen.look()

    made: Any = create_issue("a", "b")
    assert await anext(made) == 1
    with pytest.raises(GuardError, match="no body runs here"):
        seen.desk.guard.credential()
    if how == "early":
        await made.aclose()
        return

    async def rest() -> None:
        assert [each async for each in made] == [2]

    await _to_its_end(rest(), seen, how)


async def _to_its_end(work: Any, seen: Seen, how: str) -> None:
    if how != "cancel":
        await work
        return
    task = asyncio.ensure_future(work)
    while len(seen.kept) < 1 or not task:
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    task.cancel()
    await task


SYNC = {"sync": sync, "method": method, "called": called, "framework": framework, "generator": generator,
        "generator by call": functools.partial(generator, by_call=True)}  # fmt: skip
ASYNC = {"coroutine": coroutine, "acalled": acalled, "awaited later": awaited_later, "async generator": agenerator}
RAISED = {"error": Left, "interrupt": KeyboardInterrupt, "cancel": asyncio.CancelledError}
CELLS = [
    (kind, how)
    for kind in (*SYNC, *ASYNC)
    for how in ENDS
    if (how != "early" or "generator" in kind) and (how != "cancel" or kind in ASYNC) and not (how == "interrupt" and kind in ASYNC)
]


@pytest.mark.parametrize(("kind", "how"), CELLS)
def test_there_while_it_runs_and_taken_back_at_its_end(kind: str, how: str) -> None:
    desk, began = Desk(), time.time()
    seen = Seen(desk)
    raised: type[BaseException] | None = None
    with desk.task():
        try:
            if kind in SYNC:
                SYNC[kind](seen, how)
            else:
                asyncio.run(ASYNC[kind](seen, how))
        except (Left, KeyboardInterrupt, asyncio.CancelledError) as error:
            raised = type(error)
    assert raised is RAISED.get(how)
    assert len(set(map(id, seen.kept))) == 1
    (kept,), (issued,), (said,) = set(seen.kept), desk.lender.issued, desk.lent
    assert desk.lender.taken_back == [issued]
    for use in (kept.reveal, kept.headers):
        with pytest.raises(GuardError, match="has ended") as closed:
            use()
        assert closed.value.code == "credential.none"
    wanted = {"ok": "ok", "error": "error"}.get(how, "unknown")
    assert [each.status for each in desk.sink.outcomes] == [wanted]
    decision = desk.sink.decisions[0]
    assert said == {
        "id": said["id"], "resource": RESOURCE, "scope": ["issues.write"], "expires": said["expires"], "parent": decision.credential,
        "taken_back": True,
    }  # fmt: skip
    assert said["id"].startswith("hmac:")
    assert began + 100 < said["expires"] <= time.time() + 122
    assert issued.token not in desk.text


# -- it does not show itself ---------------------------------------------------------------------------------------------------------


class Walks(json.JSONEncoder):
    """As a careless logger writes an object down."""

    def default(self, o: object) -> object:
        names = [name for name in dir(o) if not name.startswith("__")]
        return {name: repr(getattr(o, name)) for name in names} | {"vars": str(getattr(o, "__dict__", ""))}


def test_it_never_shows_its_text() -> None:
    from rich.pretty import pretty_repr
    from structlog.processors import JSONRenderer

    desk, shown = Desk(), list[str]()

    def body(**_: object) -> None:
        found = desk.guard.credential()
        shown.extend([repr(found), str(found), f"{found}", f"{found:>200}", format(found), ascii(found)])
        shown.extend([json.dumps({"a": found}, cls=Walks), json.dumps(found, default=repr), pretty_repr(found, expand_all=True)])
        shown.append(str(JSONRenderer()(None, "", {"credential": found})))
        shown.extend([repr(desk.guard.current().state.tickets), repr([found]), repr(desk.lender.issued[0]), repr(desk.lender.asked[0])])
        for show in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, functools.partial(pickle.dumps, protocol=0)):
            with pytest.raises(TypeError) as refused:
                show(found)
            shown.append(str(refused.value))
        with pytest.raises(TypeError):
            vars(found)
        shown.append(desk.lender.issued[0].token)

    with desk.task() as task:
        desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), body)
    token = shown.pop()
    assert len(token) > 20 and len(shown) == 19
    assert not any(token in each or task.token in each for each in shown)


def test_as_auth_of_a_client_it_goes_to_its_resource_alone() -> None:
    desk, got = Desk(), list[str]()

    def body(to: str) -> None:
        transport = httpx.MockTransport(lambda request: (got.append(request.headers["authorization"]), httpx.Response(200))[1])
        with httpx.Client(transport=transport) as client:
            client.get(f"{RESOURCE}:443/x?y", auth=desk.guard.credential())
            for other in ("https://api.acme.example.evil", "http://api.acme.example", "https://evil@evil.example", f"{RESOURCE}:444"):
                with pytest.raises(ConfigError, match="elsewhere"):
                    client.get(other, auth=desk.guard.credential())

    with desk.task():
        desk.guard.call(ToolCall("pay", {"to": "bob"}), body)
    assert got == [f"Bearer {desk.lender.issued[0].token}"]


def test_where_none_is() -> None:
    desk = Desk()
    for decision in (None, desk.guard.check(ToolCall("look", {"repo": "a"}))):
        with pytest.raises(GuardError, match="no body runs here"):
            desk.guard.credential(decision)
    with desk.task():

        def body(repo: str) -> None:
            with pytest.raises(GuardError, match="no body runs here") as refused:
                desk.guard.credential()
            assert refused.value.code == "credential.none"

        look = desk.guard.tool(body, name="look")
        look("a")

        @desk.guard.tool
        def create_issue(repo: str, title: str) -> None:
            mine = desk.guard.credential()
            look(repo)  # a call inside: what this one was lent is not that one's
            assert desk.guard.credential() is mine

        create_issue("a", "b")
        assert create_issue.check("a", "b").verdict == "allow"
    assert len(desk.lender.asked) == 1, "a dry run asks nobody, nor does a tool that declares none"


def test_a_body_that_calls_its_own_tool_again_is_judged_again() -> None:
    """Attack: the lease of a body that runs already opens the same tool once more, with arguments nobody judged."""
    desk, ran = Desk(), list[str]()
    with desk.task():

        @desk.guard.tool
        def create_issue(repo: str, title: str) -> None:
            ran.append(title)
            if title == "b":
                create_issue("a", "inner")

        create_issue("a", "b")
    assert ran == ["b", "inner"]
    assert [record.tool for record in desk.sink.decisions] == ["create_issue", "create_issue"]


def test_a_coroutine_that_calls_its_own_tool_again_is_judged_again() -> None:
    desk, ran = Desk(), list[str]()

    @desk.guard.tool
    async def create_issue(repo: str, title: str) -> None:
        ran.append(title)
        if title == "b":
            await create_issue("a", "inner")

    async def main() -> None:
        async with desk.task():
            await create_issue("a", "b")

    asyncio.run(main())
    assert ran == ["b", "inner"]
    assert [record.tool for record in desk.sink.decisions] == ["create_issue", "create_issue"]


def test_a_repeated_call_has_its_outcome_and_no_second_credential() -> None:
    desk = Desk()
    with desk.task():
        for _ in range(2):
            desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}, "call-1"), lambda **_: "done")
    assert len(desk.lender.issued) == 1


# -- nobody lends --------------------------------------------------------------------------------------------------------------------


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Denied) as denied:
        call()
    return str(denied.value.code)


@pytest.mark.parametrize("store", ["memory:", "sqlite:"])
def test_without_a_credential_nothing_runs_and_nothing_is_used_up(store: str, tmp_path: Path) -> None:
    desk, ran = Desk(state=f"{store}{tmp_path / 'state.db' if store == 'sqlite:' else ''}"), list[str]()

    def create(id: str = "") -> object:
        return desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}, id), lambda **_: ran.append("x"))

    with desk.task():
        desk.lender.refuse = True
        assert refused(lambda: create("call-1")) == "credential.refused"
        desk.lender.refuse, desk.lender.fail = False, True
        assert refused(lambda: create("call-1")) == "credential.unavailable"
        desk.lender.fail = False
        create("call-1")  # the same id: it has not run
        create()
        create()
        assert refused(create) == "limit.calls", "three in all, and none for those that did not run"
    assert len(ran) == 3
    second = desk.sink.decisions[1]
    assert (second.verdict, second.judged) == ("deny", (1, 0)), "where in the task it was taken back"
    statuses = [each.status for each in desk.sink.outcomes]
    assert statuses == ["not_executed", "not_executed", "ok", "ok", "ok"]
    by_id: dict[str, list[str]] = {}
    for each in desk.sink.decisions:
        by_id.setdefault(each.id, []).append(f"{each.verdict} {each.code}")
    first, second, *rest = by_id.values()
    assert (first, second) == (["allow permit", "deny credential.refused"], ["allow permit", "deny credential.unavailable"])
    assert rest == [["allow permit"]] * 3 + [["deny limit.calls"]]


def test_what_is_revoked_while_the_issuer_is_asked_does_not_run() -> None:
    """Attack: a slow issuer holds a call between decision and body, and the kill switch comes in between."""
    revoked, ran = RevocationList(), list[str]()

    class Slow(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Issued:
            revoked.revoke("actor", "support")
            return super().obtain(request)

    desk = Desk(credentials=Slow(), revocations=revoked)
    lender = desk.guard._house.credentials
    with desk.task():
        code = refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: ran.append("x")))
    assert (code, ran) == ("token.revoked", [])
    assert lender.taken_back == lender.issued != []  # type: ignore[union-attr]
    assert desk.lent[0]["taken_back"] is True


def test_what_has_ended_while_the_issuer_is_asked_does_not_run() -> None:
    """Attack: a rule suspends the task, or its program ends it, and a call that waits for its credential runs all the same."""
    opened: list[Any] = []

    class Ends(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Issued:
            opened[0].end()
            return super().obtain(request)

    desk, ran = Desk(credentials=(lender := Ends())), list[str]()
    with desk.task() as task:
        opened.append(task)
        code = refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: ran.append("x")))
    assert (code, ran) == ("task.ended", [])
    assert [each.token for each in lender.taken_back] == [each.token for each in lender.issued]
    assert [each.status for each in desk.sink.outcomes] == ["not_executed"]


def test_a_refused_credential_counts_as_a_denial() -> None:
    desk = Desk()
    desk.lender.refuse = True
    with desk.task():
        codes = [refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), print)) for _ in range(4)]
    assert codes == ["credential.refused"] * 3 + ["rule.limit"]


@pytest.mark.parametrize("answer", [None, 7, "token", Outcome("ok"), ValueError("TOKENTEXT"), KeyError("x"), BaseException("x")])
def test_a_lender_of_ones_own_that_is_none(answer: object) -> None:
    class Own(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

    desk = Desk(credentials=Own())
    with desk.task():
        assert refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), print)) == "credential.unavailable"
    assert "TOKENTEXT" not in desk.text


@pytest.mark.parametrize(
    ("broken", "value"),
    [
        ("scopes", 1.5),
        ("scopes", ["a"]),
        ("seconds", 1.5),
        ("seconds", "60"),
        ("seconds", None),
        ("more", 1.5),
        ("scheme", None),
        ("token", 1.5),
    ],
)
def test_an_answer_of_strange_types_does_not_pass_and_goes_back(broken: str, value: object, short: None) -> None:
    class Own(FakeCredentials):
        def obtain(self, request: CredentialRequest) -> Issued:
            good = super().obtain(request)
            given: dict[str, Any] = {name: getattr(good, name) for name in ("token", "kind", "scheme", "seconds", "scopes", "more")}
            return Issued(**given | {broken: value})

    desk = Desk(credentials=(own := Own()))
    with desk.task():
        code = refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), print))
    assert code in ("guard.error", "credential.refused")
    assert [each.status for each in desk.sink.outcomes] == ["not_executed"]
    until = time.monotonic() + 20
    while not own.taken_back and time.monotonic() < until:
        time.sleep(0.01)
    assert len(own.taken_back) == 1


# -- slow, cancelled, many ------------------------------------------------------------------------------------------------------------


class Slow(FakeCredentials):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go, self.back = threading.Event(), threading.Event(), threading.Event()

    def obtain(self, request: CredentialRequest) -> Issued:
        self.begun.set()
        self.go.wait(20)
        return super().obtain(request)

    def take_back(self, issued: Issued) -> None:
        super().take_back(issued)
        self.back.set()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(again, "_waits", (0.05, 0.05, 0.05, 0.05))


def test_what_comes_too_late_is_taken_back(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.lending.OBTAIN", 0.2)
    desk = Desk(credentials=(slow := Slow()))
    with desk.task():
        assert refused(lambda: desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), print)) == "credential.unavailable"
    assert not slow.issued
    slow.go.set()
    assert slow.back.wait(20)
    assert slow.taken_back == slow.issued != []


def test_cancelled_in_the_middle_of_the_exchange(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.lending.OBTAIN", 60.0)
    monkeypatch.setattr("guard.lending.RETURN", 0.2)
    desk = Desk(credentials=(slow := Slow()))

    async def body(**_: object) -> None:
        pytest.fail("it ran")

    async def main() -> None:
        with desk.task():
            call = asyncio.ensure_future(desk.guard.acall(ToolCall("create_issue", {"repo": "a", "title": "b"}), body))
            while not slow.begun.is_set():
                await asyncio.sleep(0.005)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(call, 20)  # it does not wait for the issuer
            assert not slow.issued

    asyncio.run(main())
    assert [each.code for each in desk.sink.decisions] == ["permit", "call.cancelled"]
    assert [each.status for each in desk.sink.outcomes] == ["not_executed"]
    slow.go.set()  # the loop is closed, and now it answers
    assert slow.back.wait(20)
    assert slow.taken_back == slow.issued != []


def test_what_could_not_be_taken_back_is_said_and_tried_again(short: None) -> None:
    class Keeps(FakeCredentials):
        """It, once."""

        def take_back(self, issued: Issued) -> None:
            self.keeps = not self.keeps
            super().take_back(issued)

    desk = Desk(credentials=(lender := Keeps()))
    with desk.task():
        desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: "done")
    (said,) = desk.lent
    assert (said["taken_back"], said["why"]) == (False, "the issuer failed")
    until = time.monotonic() + 20
    while not lender.taken_back and time.monotonic() < until:
        time.sleep(0.01)
    assert lender.taken_back == lender.issued != []


def test_an_issuer_that_does_not_answer_when_it_is_given_back(short: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guard.lending.RETURN", 0.2)
    wait, back = threading.Event(), threading.Event()

    class Stuck(FakeCredentials):
        def take_back(self, issued: Issued) -> None:
            wait.wait(20)
            super().take_back(issued)
            back.set()

    desk = Desk(credentials=(lender := Stuck()))
    with desk.task():
        desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: "done")
    assert (desk.lent[0]["taken_back"], desk.lent[0]["why"]) == (False, "the issuer had not answered yet")
    wait.set()
    assert back.wait(20)
    assert len(lender.taken_back) == 1


@pytest.mark.parametrize("says", [False, True, "done"])
def test_only_silence_says_that_it_was_taken_back(says: object, short: None) -> None:
    """A port of somebody's own that answers is not one that keeps the contract: it is recorded as what nobody knows, and tried again."""

    class Answers(FakeCredentials):
        def take_back(self, issued: Issued) -> Any:
            super().take_back(issued)
            return says

    desk = Desk(credentials=Answers())
    with desk.task():
        desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: None)
    assert (desk.lent[0]["taken_back"], desk.lent[0]["why"]) == (False, "the issuer failed")


def test_a_no_is_not_asked_again(short: None) -> None:
    asked: list[Issued] = []

    class No(FakeCredentials):
        def take_back(self, issued: Issued) -> None:
            asked.append(issued)
            raise GuardError("it answered 400", code=ReasonCode.CREDENTIAL_REFUSED)

    desk = Desk(credentials=No())
    with desk.task():
        desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), lambda **_: "done")
    assert (desk.lent[0]["taken_back"], desk.lent[0]["why"]) == (False, "the issuer refused")
    time.sleep(0.2)
    assert len(asked) == 1


@pytest.mark.parametrize("error", [GuardError("x", code=ReasonCode.CREDENTIAL_UNAVAILABLE), ValueError("x")])
def test_it_is_tried_a_few_times_and_no_more(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    tries, done = list[float](), threading.Event()

    def fails() -> None:
        tries.append(time.monotonic())
        if len(tries) == 4:
            done.set()
        raise error

    def logged() -> list[dict[str, object]]:
        """Of this one: what other tests have left to be taken back may come to its end here."""
        found = [json.loads(record.getMessage()) for record in caplog.records if record.name == "guardtrail.credentials"]
        return [each for each in found if each["id"] == "hmac:1"]

    TakeBack((0.01, 0.01, 0.01, 0.01)).put(fails, "hmac:1", RESOURCE, 60)
    assert done.wait(20)
    until = time.monotonic() + 20
    while not logged() and time.monotonic() < until:
        time.sleep(0.01)
    (said,) = logged()
    assert said == {"event": "guardtrail.credential", "what": "left to expire", "id": "hmac:1", "resource": RESOURCE, "tries": 4}
    assert len(tries) == 4


def test_what_has_expired_is_not_tried() -> None:
    tries: list[int] = []
    room = TakeBack((0.05,))
    room.put(lambda: tries.append(1), "hmac:1", RESOURCE, 0.01)
    time.sleep(0.15)
    assert tries == []


@pytest.fixture
def many() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(50) as pool:
        yield pool


def test_fifty_at_once_have_one_each(many: ThreadPoolExecutor) -> None:
    import contextvars

    desk = Desk()
    used: list[str] = []
    start = threading.Barrier(50)

    def body(to: str) -> None:
        mine = desk.guard.credential()
        used.append(mine.reveal())
        time.sleep(0.01)
        assert desk.guard.credential().reveal() == used[used.index(mine.reveal())] and desk.lender.alive(mine.reveal())

    def one(n: int) -> None:
        start.wait(20)
        desk.guard.call(ToolCall("pay", {"to": f"p{n}"}), body)

    with desk.task():
        for each in [many.submit(contextvars.copy_context().run, one, n) for n in range(50)]:
            each.result(30)
    assert len(set(used)) == 50 == len(desk.lender.taken_back)
    assert len({each["id"] for each in desk.lent}) == 50 and all(each["taken_back"] for each in desk.lent)


def test_fifty_coroutines_at_once_some_cancelled() -> None:
    desk = Desk()
    used: list[str] = []

    async def body(to: str) -> None:
        used.append(desk.guard.credential().reveal())
        await asyncio.sleep(0.02)
        assert desk.guard.credential().reveal() in used

    async def main() -> None:
        with desk.task():
            calls = [asyncio.ensure_future(desk.guard.acall(ToolCall("pay", {"to": f"p{n}"}), body)) for n in range(50)]
            for n, each in enumerate(calls):
                if n % 5 == 0:
                    asyncio.get_running_loop().call_later(n / 1000, each.cancel)
            await asyncio.wait(calls, timeout=30)
            assert all(each.done() for each in calls)

    asyncio.run(main())
    until = time.monotonic() + 20
    while len(desk.lender.taken_back) < len(desk.lender.asked) and time.monotonic() < until:  # each is answered, be it late
        time.sleep(0.01)
    assert len(used) == len(set(used)) >= 40
    assert {each.token for each in desk.lender.taken_back} == {each.token for each in desk.lender.issued}


def test_a_call_that_nobody_ends_gives_it_back(short: None) -> None:
    """Between the decision of a stream and its body the caller is cancelled: the ticket is nobody's."""
    from guard.flow import decide_flow

    desk = Desk()
    with desk.task():
        state = desk.guard.current().state
        ticket = drive(decide_flow(desk.guard._house, state, ToolCall("create_issue", {"repo": "a", "title": "b"})), 30.0)
        assert ticket.lent is not None
        del ticket

        async def main() -> None:
            again = await adrive(decide_flow(desk.guard._house, state, ToolCall("create_issue", {"repo": "a", "title": "b"})), 30.0)
            assert again.lent is not None

        asyncio.run(main())
    until = time.monotonic() + 20
    while len(desk.lender.taken_back) < 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(desk.lender.taken_back) == 2


def test_a_call_without_after_is_given_back_where_its_with_is_left() -> None:
    """Also while somebody else has the task open; and a loop goes on meanwhile."""

    class Slow(FakeCredentials):
        def take_back(self, issued: Issued) -> None:
            asked.set()
            ticked.wait(20)
            super().take_back(issued)

    asked, ticked = threading.Event(), threading.Event()
    desk = Desk(credentials=(lender := Slow()))
    token = desk.iam.mint(origin="alice", actor="support", intent="triage")

    async def ticking() -> None:
        while not asked.is_set():
            await asyncio.sleep(0.01)
        for _ in range(4):
            await asyncio.sleep(0.01)
        ticked.set()

    async def main() -> None:
        beside = asyncio.create_task(ticking())
        async with desk.guard.task(token):
            decision = desk.guard.before(ToolCall("create_issue", {"repo": "a", "title": "b"}))
            kept = desk.guard.credential(decision)
        assert ticked.is_set(), "the loop stood still while the issuer was waited for"
        assert [each.token for each in lender.taken_back] == [each.token for each in lender.issued]
        assert "closed" in repr(kept)
        await beside

    with desk.guard.task(token):
        asyncio.run(main())
        assert [each.status for each in desk.sink.outcomes] == ["unknown"]
        assert not lender.alive(lender.issued[0].token)


def test_an_answer_in_the_very_moment_of_the_deadline_is_taken_back(short: None) -> None:
    """Between the time-out and the look at what became of it the answer came."""

    class Edge(Future[Issued]):
        def result(self, timeout: float | None = None) -> Issued:
            if not self.done():
                self.set_result(Issued("came-late", ACCESS_TOKEN, "Bearer", 60))
                raise TimeoutError
            return super().result(timeout)

    flow_answer: list[object] = []

    def flow() -> Any:
        flow_answer.append((yield Need(BEGUN, Edge, (), {}, 0.1)))

    drive(flow(), 1.0)
    (failure,) = flow_answer
    assert type(failure) is Failure and failure.late and failure.answer == Issued("came-late", ACCESS_TOKEN, "Bearer", 60)


def test_a_lender_that_cannot_take_back_is_refused_at_the_start() -> None:
    class Half:
        obtain = FakeCredentials().obtain

    for wrong in (Half(), object()):
        with pytest.raises(ConfigError, match="take_back"):
            Desk(credentials=wrong)


@pytest.mark.parametrize("kind", ["generator", "async", "coroutine"])
def test_a_body_that_outlives_its_task_has_one_outcome(kind: str) -> None:
    desk = Desk()
    went_on: list[str] = []

    def steps(repo: str, title: str) -> Generator[int]:
        yield 1
        went_on.append(repr(desk.guard.credential()))

    async def asteps(repo: str, title: str) -> AsyncGenerator[int]:
        yield 1
        went_on.append(repr(desk.guard.credential()))

    async def whole(repo: str, title: str) -> None:
        went_on.append(repr(desk.guard.credential()))

    async def main() -> None:
        async with desk.task():
            if kind == "async":
                begun = desk.guard.tool(asteps, name="create_issue")("a", "b")
                await anext(begun)
            else:
                later = desk.guard.call(ToolCall("create_issue", {"repo": "a", "title": "b"}), whole if kind == "coroutine" else steps)
                if kind == "generator":
                    next(later)  # type: ignore[call-overload]
        assert [each.status for each in desk.sink.outcomes] == ["unknown"]
        if kind == "async":
            assert [each async for each in begun] == []
        elif kind == "coroutine":
            await later  # type: ignore[misc]
        else:
            assert list(later) == []  # type: ignore[call-overload]

    asyncio.run(main())
    assert [each.status for each in desk.sink.outcomes] == ["unknown"]
    assert len(went_on) == 1 and "closed" in went_on[0]


def test_cancelled_while_a_with_is_left_closes_the_rest_and_ends_the_task() -> None:
    class Slow(FakeCredentials):
        def take_back(self, issued: Issued) -> None:
            begun.set()
            time.sleep(0.2)
            super().take_back(issued)

    desk, begun = Desk(credentials=(lender := Slow())), threading.Event()

    async def main() -> None:
        async def leaves() -> None:
            async with desk.task():
                for title in ("a", "b", "c"):
                    assert not desk.guard.before(ToolCall("create_issue", {"repo": "a", "title": title})).blocks

        leaving = asyncio.create_task(leaves())
        while not begun.is_set():
            await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving

    asyncio.run(main())
    assert [each.status for each in desk.sink.outcomes] == ["unknown"] * 3
    assert [type(each).__name__ for each in desk.sink.records].count("TaskRecord") == 1
    until = time.monotonic() + 20
    while len(lender.taken_back) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(lender.taken_back) == 3
