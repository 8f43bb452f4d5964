"""Run as a program: a resource server behind the door. python -m tests.server.desk FOLDER URL

State, records' keys and the development issuer's key lie in FOLDER: every process that is started on it is one of several behind the same URL. The
body's first act is a line in `bodies`, handed to the operating system. Prints its own port, and serves until it is killed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from guard import Guard, LocalIssuer
from guard.policy import Policy
from guard.record import AuditFile
from guard.server import Door
from tests.patience import patient

POLICY = """
guardtrail: 1
name: desk
owner: support@acme.example
tools: {look: {effect: read, control: {order: id}}}
flow: {read: {allow: [any]}}
intents: {work: {ttl: 1h, allow: {look: {}}}}
"""


def main(folder: Path, url: str) -> None:
    patient()
    iam = LocalIssuer.load(folder / "issuer.json")
    guard = Guard(
        Policy.from_text(POLICY), trust=iam, state=f"sqlite:{folder / 'state.db'}", sinks=[AuditFile(folder / f"log-{os.getpid()}")]
    )
    bodies = os.open(folder / "bodies", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @guard.tool
    def look(order: str) -> str:
        os.write(bodies, f"{order}\n".encode())
        return order

    def looks(request: Request) -> Response:
        return JSONResponse(look(request.path_params["order"]))

    app = Starlette(routes=[Route("/look/{order}", looks, methods=["POST"])], middleware=[Middleware(Door, guard=guard, url=url)])
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)  # before anybody is told the port
        print(listening.getsockname()[1], flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
