"""What the tests of servers share that need no framework: a policy, an address."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
POLICY = """
guardtrail: 1
name: shop
owner: payments@acme.example
tools:
  look: {effect: read, control: {order: id}, data: {pages: int}}
  refund: {effect: pay, control: {order: id}, data: {amount: decimal}}
  wipe: {effect: delete, control: {order: id}}
  echo: {effect: read}
  fail: {effect: read, control: {order: id}}
  resources.read: {effect: read, control: {uri: url}}
  prompts.get: {effect: read, control: {name: name}, data: {arguments.topic: text}}
intents:
  refund-order:
    description: Refund one order.
    params: {order: id}
    ttl: 10m
    allow:
      look: {args: {order: {eq: $order}}}
      refund: {args: {order: {eq: $order}, amount: {range: {min: "0.01", max: "5000"}}}, limit: {calls: 3}}
      echo: {}
      fail: {args: {order: {eq: $order}}}
      resources.read: {args: {uri: {eq: "shop://orders/A-17"}}}
      prompts.get: {args: {name: {eq: greet}, arguments.topic: {any: true}}}
  look-order:
    description: Look at one order.
    params: {order: id}
    ttl: 10m
    allow:
      look: {args: {order: {eq: $order}}}
flow:
  read: {allow: [any]}
  pay: {allow: [any]}
rules:
  - {id: large, when: {tool: refund, args: {amount: {range: {above: "1000"}}}}, then: ask}
asks:
  default: {by: {group: treasury}, within: 1h}
"""


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """`app` on a free loopback port, in a thread."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as own:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, args=([own],), daemon=True)
        thread.start()
        until = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server does not start"
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
