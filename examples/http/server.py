"""A resource server: guarded functions behind the door."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from guard import Guard, LocalIssuer
from guard.server import Door


def make(iam: LocalIssuer, url: str) -> Starlette:
    """`iam`: whose tokens count; in production an `Issuer`. `url`: where clients find this server."""
    guard = Guard(Path(__file__).with_name("policy.yaml"), trust=iam)

    @guard.tool
    def look(order: str) -> str:
        return f"order {order}"

    @guard.tool
    def wipe(order: str) -> str:
        return f"{order} is gone"

    def looks(request: Request) -> JSONResponse:
        return JSONResponse(look(request.path_params["order"]))

    def wipes(request: Request) -> JSONResponse:
        return JSONResponse(wipe(request.path_params["order"]))

    routes = [Route("/orders/{order}", looks), Route("/orders/{order}", wipes, methods=["DELETE"])]
    return Starlette(routes=routes, middleware=[Middleware(Door, guard=guard, url=url)])
