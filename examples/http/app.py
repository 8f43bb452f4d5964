"""A resource server on loopback and an agent that holds a key: what one proof is good for."""

import socket
import threading

import httpx
import uvicorn
from client import DPoP
from server import make

from guard import LocalIssuer
from guard.identity import HolderKey

iam, key = LocalIssuer("acme-dev"), HolderKey.generate()
listening = socket.create_server(("127.0.0.1", 0))
url = f"http://127.0.0.1:{listening.getsockname()[1]}"
server = uvicorn.Server(uvicorn.Config(make(iam, url), log_level="error"))
serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
serving.start()

token = iam.mint(origin="alice", actor="desk", intent="work", key=key.public)


def show(what: str, response: httpx.Response) -> None:
    body = response.json()
    print(f"{what:27} {response.status_code} {body if isinstance(body, str) else body.get('error') or body.get('code')}")


with httpx.Client(base_url=url, auth=DPoP(token, key)) as agent:
    first = agent.get("/orders/A-17")
    show("a proof", first)
    show("the next request", agent.get("/orders/B-2"))
    show("what the policy denies", agent.delete("/orders/A-17"))
    show("the first request again", httpx.get(first.request.url, headers=first.request.headers))
    show("the token without a proof", httpx.get(first.request.url, headers={"authorization": f"Bearer {token}"}))
    stolen = {"authorization": f"DPoP {token}", "dpop": HolderKey.generate().dpop("GET", str(first.request.url), presented=token)}
    show("a thief's own key", httpx.get(first.request.url, headers=stolen))

server.should_exit = True
serving.join()
