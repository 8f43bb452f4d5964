"""A model on loopback for the agents themselves: it speaks Anthropic messages, OpenAI responses and Gemini, calls the tools of a script one by
one, and says "done". Written from the public descriptions of those interfaces; just as much as the agents need."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Step(NamedTuple):
    tool: str
    args: dict[str, Any] | str
    """A text: a tool that takes free text."""


class Model:
    """`with Model(steps) as model:` `model.url`; `model.told`: results the agent gave back."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps, self.told, self.server = steps, [], ThreadingHTTPServer(("127.0.0.1", 0), Speaker)
        self.told: list[str] = []
        self.server.model = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def next(self, results: list[Any]) -> tuple[int, Step | None]:
        if len(results) > len(self.told):
            self.told = [json.dumps(each) for each in results]
        return len(results), self.steps[len(results)] if len(results) < len(self.steps) else None


class Speaker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.json({"data": [], "models": []})

    def do_POST(self) -> None:
        try:
            asked = json.loads(self.body() or b"{}")
        except ValueError:
            asked = {}
        model: Model = self.server.model  # type: ignore[attr-defined]
        if "count" in self.path:
            self.json({"input_tokens": 1, "totalTokens": 1})
        elif "/v1/messages" in self.path:
            self.anthropic(model, asked)
        elif self.path.endswith("/responses"):
            self.openai(model, asked)
        elif "enerateContent" in self.path:
            self.gemini(model, asked)
        else:
            self.json({})

    def anthropic(self, model: Model, asked: Any) -> None:
        parts = [part for said in asked.get("messages", []) if isinstance(said["content"], list) for part in said["content"]]
        number, step = model.next([part for part in parts if part.get("type") == "tool_result"])
        step = step if len(asked.get("tools") or []) > 3 else None  # titles and the like have no tools
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta: dict[str, Any] = {"type": "text_delta", "text": "done"}
        if step is not None:
            block = {"type": "tool_use", "id": f"toolu_{number}", "name": step.tool, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(step.args)}
        stop = "end_turn" if step is None else "tool_use"
        said = {
            "id": "msg",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "stop_sequence": None,
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        if not asked.get("stream"):
            return self.json({**said, "content": [{"type": "text", "text": "done"}], "stop_reason": "end_turn"})
        return self.events([
            {"type": "message_start", "message": {**said, "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
        ])  # fmt: skip

    def openai(self, model: Model, asked: Any) -> None:
        results = [item for item in asked.get("input", []) if isinstance(item, dict) and str(item.get("type")).endswith("call_output")]
        number, step = model.next(results)
        item: dict[str, Any] = {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "done"}]}
        if step is not None and isinstance(step.args, str):
            item = {"type": "custom_tool_call", "id": f"c{number}", "call_id": f"call_{number}", "name": step.tool, "input": step.args}
        elif step is not None:
            item = {
                "type": "function_call",
                "id": f"c{number}",
                "call_id": f"call_{number}",
                "name": step.tool,
                "arguments": json.dumps(step.args),
            }
        usage = {"input_tokens": 1, "input_tokens_details": None, "output_tokens": 1, "output_tokens_details": None, "total_tokens": 2}
        self.events([
            {"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_item.done", "item": item},
            {"type": "response.completed", "response": {"id": "r", "usage": usage}},
        ])  # fmt: skip

    def gemini(self, model: Model, asked: Any) -> None:
        parts = [part for said in asked.get("contents", []) for part in said.get("parts", [])]
        _, step = model.next([part for part in parts if "functionResponse" in part])
        step = step if asked.get("tools") else None
        part = {"text": "done"} if step is None else {"functionCall": {"name": step.tool, "args": step.args}}
        said = {
            "candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}],
            "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2},
        }
        return self.events([said], named=False) if "stream" in self.path else self.json(said)

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        got = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            got += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return got

    def events(self, said: list[dict[str, Any]], *, named: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for each in said:
            self.wfile.write(((f"event: {each['type']}\n" if named else "") + f"data: {json.dumps(each)}\n\n").encode())
        self.close_connection = True

    def json(self, said: Any) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
