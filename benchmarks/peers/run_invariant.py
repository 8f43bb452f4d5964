"""CPU microseconds of the local check of one pending call at 10 and at 30 calls. Runs in an environment of its own; prints JSON."""

import json
import os
from time import process_time

# Its own bound of 100 evaluation cycles ends this rule before ten calls: lifted, so that there is something to measure.
os.environ["INVARIANT_MAX_ITERATIONS"] = "1000000"

from invariant.analyzer import LocalPolicy

RULE = """
raise "pay after a page" if:
    (before: ToolCall) -> (call: ToolCall)
    before is tool:fetch_page
    call is tool:pay
"""


def called(number: int, tool: str) -> dict:
    function = {"name": tool, "arguments": {"order": f"A-{number}"}}
    return {"role": "assistant", "content": "", "tool_calls": [{"id": str(number), "type": "function", "function": function}]}


def cost(calls: int) -> float:
    policy = LocalPolicy.from_string(RULE)
    past = []
    for number in range(calls):
        past += [called(number, "fetch_page" if number == 0 else "read"), {"role": "tool", "tool_call_id": str(number), "content": "ok"}]
    best = 1e9
    for _ in range(5):
        began = process_time()
        found = policy.analyze_pending(past, [called(calls, "pay")])
        best = min(best, process_time() - began)
        if len(found.errors) != 1:
            raise SystemExit("the rule was not judged")
    return best * 1e6


print(json.dumps({f"{calls}": cost(calls) for calls in (10, 30)}))
