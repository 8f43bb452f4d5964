"""A `Toolbox`: the forms of three APIs, calls that cannot be read, the SDKs' own objects and Anthropic's tool runner where they are installed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guard import Denied
from guard.adapters.plain import Answers, Toolbox, coverage
from guard.errors import ConfigError
from guard.testing.conformance import Call, World
from guard.testing.conformance.world import SECRET, taskless
from tests.conformance.drivers.plain import said

ROOT = Path(__file__).resolve().parents[2]
FORMS = ("chat", "responses", "anthropic")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with made.open():
        yield made


@pytest.fixture
def box(world: World) -> Toolbox:
    return Toolbox(world.guard, world.tools())


def texts(answers: Answers) -> list[str]:
    flat = answers.messages[0]["content"] if answers.messages and answers.messages[0].get("role") == "user" else answers.messages
    return [each.get("content") or each["output"] for each in flat]


LOOK = Call("c1", "look", {"order": "A-1"})
ANSWERED: dict[str, list[dict[str, Any]]] = {
    "chat": [{"role": "tool", "tool_call_id": "c1", "content": "order A-1, 1 page(s)"}],
    "responses": [{"type": "function_call_output", "call_id": "c1", "output": "order A-1, 1 page(s)"}],
    "anthropic": [
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "order A-1, 1 page(s)", "is_error": False}],
        }
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_answered_in_its_own(box: Toolbox, form: str) -> None:
    assert box.answer(said(form, (LOOK,))).messages == ANSWERED[form]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_has_its_definitions(box: Toolbox, form: Any) -> None:
    first = box.definitions(form)[0]
    schema = {
        "additionalProperties": False,
        "properties": {"order": {"title": "Order", "type": "string"}, "pages": {"default": 1, "title": "Pages", "type": "integer"}},
        "required": ["order"],
        "type": "object",
    }
    expected = {
        "chat": {"type": "function", "function": {"name": "look", "description": "Look up an order.", "parameters": schema}},
        "responses": {"type": "function", "name": "look", "description": "Look up an order.", "parameters": schema, "strict": False},
        "anthropic": {"name": "look", "description": "Look up an order.", "input_schema": schema},
    }
    assert first == expected[form]


def chat(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def function(id: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def use(id: str, amount: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "refund", "input": {"order": "A-1", "amount": amount}}


GOOD = '{"order": "A-1"}'
REFUSED = {
    "half of an object": (chat(function("c1", "look", '{"order": "A-')), ["args.type"]),
    "a list": (chat(function("c1", "look", '["A-1"]')), ["args.type"]),
    "an argument twice": (chat(function("c1", "look", '{"order": "A-1", "order": "A-2"}')), ["args.type"]),
    "deep without end": (chat(function("c1", "look", "[" * 100_000)), ["args.type"]),
    "not a number": (chat(function("c1", "look", '{"order": "A-1", "pages": NaN}')), ["args.type"]),
    "no arguments": (chat(function("c1", "look", "")), ["args.missing"]),
    "arguments of none": (chat(function("c1", "look", None)), ["args.missing"]),
    "a tool nobody has": (chat(function("c1", "erase", "{}")), ["tool.unknown"]),
    "a tool that is no text": (chat(function("c1", {"look": 1}, GOOD)), ["tool.unknown"]),
    "an id twice": (chat(function("c1", "look", GOOD), function("c1", "look", GOOD)), ["has its id", "has its id"]),
    "no id, twice": (chat(function("", "look", GOOD), function(None, "look", GOOD)), ["has its id", "has its id"]),
    "an id that is no text": (chat(function(7, "look", GOOD)), ["no text"]),
    "a custom tool": (chat({"id": "c1", "type": "custom", "custom": {"name": "look", "input": "A-1"}}), ["args.type"]),
    "a call of no kind": (chat({"id": "c1"}), ["tool.unknown"]),
    "cut off": (
        {"role": "assistant", "stop_reason": "max_tokens", "content": [use("c1", "51"), use("c2", "5")]},
        ["args.constraint", "did not finish"],
    ),
    "an unfinished item": ([{"type": "function_call", "call_id": "c1", "name": "look", "arguments": GOOD, "status": "incomplete"}], ["did not finish"]),
    "a custom item": ([{"type": "custom_tool_call", "call_id": "c1", "name": "look", "input": "A-1"}], ["args.type"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_cannot_be_read_does_not_run(world: World, box: Toolbox, what: str, asynchronous: bool) -> None:
    message, words = REFUSED[what]
    found = texts(asyncio.run(box.aanswer(message)) if asynchronous else box.answer(message))
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True)), found
    assert world.ran == []


@pytest.mark.parametrize(
    "message",
    [None, "look", 7, {}, {"role": "user", "content": []}, chat(function("c1", "look", GOOD), content=[use("c2", "5")])],
)
def test_no_message_of_a_model(world: World, box: Toolbox, message: object) -> None:
    with pytest.raises(ConfigError):
        box.answer(message)
    assert world.ran == []


@pytest.mark.parametrize("message", [{"role": "assistant", "content": "hello"}, {"role": "assistant", "content": []}, [], {"output": []}])
def test_nothing_called(box: Toolbox, message: object) -> None:
    assert box.answer(message) == Answers([])


def test_a_response_and_its_items(world: World, box: Toolbox) -> None:
    """Reasoning, text and calls the API runs itself are passed over."""
    output = [{"type": "reasoning"}, {"type": "web_search_call", "id": "w"}, {"type": "message"}, *said("responses", (LOOK,))]
    assert box.answer({"output": output}).messages == box.answer(SimpleNamespace(output=output)).messages == ANSWERED["responses"]
    assert len(world.ran) == 1, "the same call of the same id"


@pytest.mark.parametrize("form", FORMS)
def test_waiting_can_be_kept_and_read_back(world: World, box: Toolbox, form: str) -> None:
    message = said(form, (Call("c0", "refund", {"order": "A-1", "amount": "5"}), Call("c1", "pay", {"to": "bob", "amount": "1500"})))
    first = box.answer(message)
    assert [(each.id, each.tool) for each in first.waiting] == [("c1", "pay")]
    assert "needs approval" in texts(first)[1]
    kept = Answers(json.loads(json.dumps(first.messages)), first.waiting)
    assert box.answer(message, kept).waiting, "nobody has answered"
    world.approve()
    last = box.answer(message, kept)
    assert texts(last) == ["refunded 5 on A-1", "paid 1500"] and last.waiting == ()
    assert [ran.tool for ran in world.ran] == ["refund", "pay"]
    assert texts(box.answer(message, last)) == texts(last), "nothing waits any more"
    with pytest.raises(ConfigError, match="another message"):
        box.answer(said(form, (LOOK,)), first)


@dataclass
class Receipt:
    total: Decimal


def test_arguments_are_what_the_annotations_say_and_results_become_text(world: World) -> None:
    """JSON has no Decimal; the policy judges what came, the function gets what it asked for."""

    def refund(order: str, amount: Decimal) -> Receipt:
        world.note("refund", order=order, amount=amount)
        return Receipt(amount + 1)

    answers = Toolbox(world.guard, [refund]).answer(chat(function("c1", "refund", '{"order": "A-1", "amount": "4.5"}')))
    assert world.runs("refund") == [{"order": "A-1", "amount": Decimal("4.5")}]
    assert texts(answers) == ['{"total":"5.5"}']


def test_what_a_body_raises(world: World, box: Toolbox) -> None:
    """Its type unless the program says more; never the text by itself."""
    message = chat(function("c1", "fail", json.dumps({"order": SECRET})))
    assert texts(box.answer(message)) == ["failed: ValueError"]
    talking = Toolbox(world.guard, world.tools("fail"), say=lambda error: f"sorry: {len(str(error)) > 0}")
    assert texts(talking.answer(chat(function("c2", "fail", json.dumps({"order": "A-1"}))))) == ["sorry: True"]


def test_what_must_be_awaited(tmp_path: Path) -> None:
    world = World(tmp_path, asynchronous=True)
    with world.open():
        box = Toolbox(world.guard, world.tools())
        with pytest.raises(ConfigError, match="aanswer"):
            box.answer(said("chat", (LOOK,)))
        assert world.ran == [] and world.decisions == []
        assert texts(asyncio.run(box.aanswer(said("chat", (LOOK,))))) == ["order A-1, 1 page(s)"]


def test_what_is_no_tool(world: World) -> None:
    def yields(order: str) -> Any:
        yield order

    def unclear(order: Any, kind: subprocess.Popen[str]) -> str:
        return ""

    for wrong in ([yields], [unclear], [lambda *, x: x, lambda *, x: x], [object()]):
        with pytest.raises(ConfigError):
            Toolbox(world.guard, wrong)  # type: ignore[arg-type]


def test_f33_a_tool_that_is_not_in_the_box(world: World) -> None:
    """The policy knows it, the box does not; or the other way round."""

    def erase(order: str) -> str:
        world.note("erase", order=order)
        return ""

    box = Toolbox(world.guard, [*world.tools("look"), erase])
    found = texts(box.answer(chat(function("c1", "refund", '{"order": "A-1", "amount": "5"}'), function("c2", "erase", GOOD))))
    assert "LookupError" in found[0] and "tool.unknown" in found[1]
    assert world.ran == []
    with taskless(world.guard):
        assert box.definitions("chat") == [] and "task.none" in texts(box.answer(said("chat", (LOOK,))))[0]


def test_f48_functions_in_threads_keep_their_task(world: World, box: Toolbox) -> None:
    calls = tuple(Call(f"c{i}", "where", {"order": "A-1"}) for i in range(4))
    assert texts(asyncio.run(box.aanswer(said("chat", calls)))) == [world.id] * 4


def test_f65_the_function_itself(world: World) -> None:
    world.sealed = True
    box = Toolbox(world.guard, world.tools())
    assert texts(box.answer(said("chat", (LOOK,)))) == ["order A-1, 1 page(s)"] and len(world.decisions) == 1
    wipe = box._tools["wipe"].run
    for way in (wipe, wipe.__wrapped__, wipe.__wrapped__.__wrapped__):
        with pytest.raises(Denied):
            way(order="A-1")
    assert world.runs("wipe") == []


def test_coverage(world: World, box: Toolbox) -> None:
    assert all(seen.covered for seen in coverage(box)) and len(coverage(box)) == 8
    given = [
        *box.definitions("chat"),
        *box.definitions("anthropic"),
        {"type": "web_search_20250305", "name": "web_search"},
        world.tools("wipe")[0],
    ]
    assert [(seen.path, bool(seen.why)) for seen in coverage(given) if not seen.covered] == [("web_search", True), ("wipe", True)]


@pytest.mark.filterwarnings("ignore:Tool 'wipe' not found:UserWarning")  # the SDK, of a call of what it was not given
@pytest.mark.parametrize("awaited", [False, True])
def test_the_tool_runner_of_anthropic(world: World, box: Toolbox, awaited: bool) -> None:
    """A real runner over a transport that answers as the API does."""
    anthropic = pytest.importorskip("anthropic")
    http = _http_of(anthropic)
    turns = iter(
        [
            [
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"order": "A-1"}},
                {"type": "tool_use", "id": "c2", "name": "refund", "input": {"order": "A-1", "amount": "51"}},
                {"type": "tool_use", "id": "c3", "name": "wipe", "input": {"order": "A-1"}},
                {"type": "tool_use", "id": "c4", "name": "look", "input": {"order": ["A-1"]}},
            ],
            [{"type": "text", "text": "done"}],
        ]
    )
    asked: list[Any] = []

    def answer(request: Any) -> Any:
        asked.append(json.loads(request.content))
        content = next(turns)
        stop = "tool_use" if content[0]["type"] == "tool_use" else "end_turn"
        body = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": stop}
        return http.Response(200, json={**body, "usage": {"input_tokens": 1, "output_tokens": 1}})

    about: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
    transport = http.MockTransport(answer)
    if awaited:

        async def run() -> None:
            async with anthropic.AsyncAnthropic(api_key="none", http_client=http.AsyncClient(transport=transport)) as client:
                async for _ in client.beta.messages.tool_runner(tools=box.runner_tools(awaited=True), **about):
                    pass

        asyncio.run(run())
    else:
        with anthropic.Anthropic(api_key="none", http_client=http.Client(transport=transport)) as client:
            for _ in client.beta.messages.tool_runner(tools=box.runner_tools(), **about):
                pass
    results = asked[1]["messages"][-1]["content"]
    read = [(each["tool_use_id"], each.get("is_error", False), json.dumps(each["content"])) for each in results]
    assert [(id, failed) for id, failed, _ in read] == [("c1", False), ("c2", True), ("c3", True), ("c4", True)]
    assert "order A-1" in read[0][2] and "args.constraint" in read[1][2] and "args.type" in read[3][2]
    assert [ran.tool for ran in world.ran] == ["look"]
    assert "wipe" not in {tool["name"] for tool in asked[0]["tools"]}
    assert all(seen.covered for seen in coverage(box.runner_tools(awaited=awaited)))


def _http_of(anthropic: Any) -> Any:
    """The HTTP library that this release of the SDK stands on."""
    module = next(kind.__module__.partition(".")[0] for kind in anthropic.DefaultHttpxClient.__mro__ if kind.__name__ == "Client")
    return __import__(module)


def test_the_example() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "adapters" / "plain.py")], capture_output=True, text=True, timeout=60, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "offered: look, refund" and lines[-1] == "Refunded 20.00 on A-17."
    assert [line.partition(":")[0] for line in lines[1:-1]] == ["c1", "c2", "c3", "c4", "c5"]
    assert "args.constraint" in lines[3] and "intent.tool" in lines[4] and lines[5] == "c5: refunded 20.00 on A-17"
