"""Your own dispatch loop, a policy of your own, state that survives the process.

`guardtrail lint examples/own_policy/policy.yaml` and `guardtrail test examples/own_policy/policy.yaml` check the same file.
"""

import tempfile
from pathlib import Path

from guard import Denied, Guard, LocalIssuer, ToolCall

iam = LocalIssuer("acme-dev")
folder = Path(tempfile.mkdtemp())
guard = Guard(Path(__file__).with_name("policy.yaml"), trust=iam, state=f"sqlite:{folder / 'state.db'}")

TOOLS = {
    "read_file": lambda path: Path(path).read_text(),
    "write_file": lambda path, text: Path(path).write_text(text),
    "pay": lambda iban, amount: f"paid {amount}",
}

# What a model might ask for, in the order in which it asks.
CALLS = [
    ToolCall("pay", {"iban": "DE89370400440532013000", "amount": "60"}, id="call-1"),
    ToolCall("pay", {"iban": "DE89370400440532013000", "amount": "60"}, id="call-2"),
    ToolCall("write_file", {"path": str(folder / "done.txt"), "text": "paid 60"}, id="call-3"),
    ToolCall("read_file", {"path": "/etc/passwd"}, id="call-4"),
    ToolCall("delete_file", {"path": "/etc/passwd"}, id="call-5"),
]

with guard.task(iam.mint(origin="alice", actor="clerk", intent="settle", params={"folder": str(folder), "ceiling": "80"})):
    for call in CALLS:
        try:
            result = guard.call(call, TOOLS.get(call.tool, print))
        except Denied as denied:
            result = denied.for_model()
        print(call.id, result)
