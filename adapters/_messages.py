"""How three APIs write a model's calls and their results: OpenAI chat completions, OpenAI responses, Anthropic messages.

Reads the SDKs' objects and the same as plain data, and imports none of them. What cannot be read as a call's arguments is handed on as it is: the guard
refuses it (`args.type`), so that it stands in the records like any other call.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

from ._core import ConfigError

__all__ = ["Asked", "Form", "Result", "block", "blocks", "calls", "definition", "field", "messages", "parsed", "text_of"]

Form = Literal["chat", "responses", "anthropic"]

_WHOLE = (None, "tool_use", "end_turn", "stop_sequence", "pause_turn")
"""Reasons to stop after which the last call is complete. The SDK reads the beginning of a call that was cut off as if it were one: 5 of "500"."""


class Asked(NamedTuple):
    """One call of the model. `args`: as it sent them. `form`: that of its result. `why`: it is refused without being judged."""

    id: str
    tool: str
    args: Any
    form: str
    why: str = ""


class Result(NamedTuple):
    """What the model reads. `request`: the call needs a person."""

    text: str
    failed: bool
    request: Mapping[str, object] | None = None


def field(thing: object, name: str) -> Any:
    """Of an object of an SDK, or of the same as plain data."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def calls(message: object) -> list[Asked]:
    """The calls in one message of a model. Raises ConfigError for what is no such message."""
    if isinstance(message, (list, tuple)):
        found = _items(message, None)
    elif isinstance(output := field(message, "output"), (list, tuple)):
        found = _items(output, None)
    elif field(message, "role") == "assistant":
        content = field(message, "content")
        found = [_chat(call) for call in field(message, "tool_calls") or ()]
        blocks = _items(content, field(message, "stop_reason")) if isinstance(content, (list, tuple)) else []
        if found and blocks:
            raise ConfigError("a message with calls of two APIs at once")
        found = found or blocks
    else:
        raise ConfigError("expected what the model said: `choices[0].message`, a response or its output items, an Anthropic message")
    return _told_apart(found)


def _chat(call: object) -> Asked:
    custom = field(call, "custom")
    about = custom if custom is not None else field(call, "function")
    return _asked(call, "id", field(about, "name"), parsed(field(about, "arguments")) if custom is None else field(about, "input"), "chat")


def _items(items: Iterable[object], stopped: object) -> list[Asked]:
    found = []
    for item in items:
        match field(item, "type"):
            case "tool_use":
                found.append(_asked(item, "id", field(item, "name"), field(item, "input"), "anthropic"))
            case "function_call":
                found.append(
                    _finished(item, _asked(item, "call_id", field(item, "name"), parsed(field(item, "arguments")), "function_call_output"))
                )
            case "custom_tool_call":
                found.append(_finished(item, _asked(item, "call_id", field(item, "name"), field(item, "input"), "custom_tool_call_output")))
    if found and stopped not in _WHOLE:
        found[-1] = found[-1]._replace(why="the model did not finish it")
    return found


def _finished(item: object, asked: Asked) -> Asked:
    return asked if field(item, "status") in (None, "completed") else asked._replace(why="the model did not finish it")


def _asked(call: object, id: str, tool: object, args: object, form: str) -> Asked:
    given = field(call, id)
    known = isinstance(given, str) or given is None
    return Asked(str(given or ""), tool if isinstance(tool, str) else "", args, form, "" if known else "its id is no text")


def _told_apart(found: list[Asked]) -> list[Asked]:
    """Of calls that share an id none runs: the model could not tell their results apart."""
    often = Counter(call.id for call in found)
    return [call if often[call.id] == 1 else call._replace(why="another call of this message has its id") for call in found]


def parsed(text: object) -> Any:
    """Arguments as JSON text; some servers send the object itself, or nothing at all. What is no JSON object (a name twice, NaN, half of one) stays a text."""
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_never) if text.strip() else {}
    except (ValueError, RecursionError):
        return text


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def _never(word: str) -> object:
    raise ValueError(word)


def blocks(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results in `messages`, one for each call, in order."""
    return said[0]["content"] if said and said[0].get("role") == "user" else said


def messages(found: list[tuple[Asked, dict[str, Any]]]) -> list[dict[str, Any]]:
    """What is added to the conversation. Anthropic takes all results of a message in one."""
    made = [block for _, block in found]
    return [{"role": "user", "content": made}] if found and found[0][0].form == "anthropic" else made


def block(call: Asked, result: Result) -> dict[str, Any]:
    """One result as its API writes it. Only Anthropic has a mark for errors."""
    if call.form == "chat":
        return {"role": "tool", "tool_call_id": call.id, "content": result.text}
    if call.form == "anthropic":
        return {"type": "tool_result", "tool_use_id": call.id, "content": result.text, "is_error": result.failed}
    return {"type": call.form, "call_id": call.id, "output": result.text}


definition: Mapping[Form, Callable[[str, str, Mapping[str, Any]], dict[str, Any]]] = {
    "chat": lambda name, text, schema: {"type": "function", "function": {"name": name, "description": text, "parameters": schema}},
    "responses": lambda name, text, schema: {"type": "function", "name": name, "description": text, "parameters": schema, "strict": False},
    "anthropic": lambda name, text, schema: {"name": name, "description": text, "input_schema": schema},
}
"""A tool as each API wants it: name, description, JSON Schema of its arguments."""


def text_of(value: object) -> str:
    """A result as a model reads it: a text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    from pydantic_core import to_json

    return to_json(value, fallback=repr).decode()
