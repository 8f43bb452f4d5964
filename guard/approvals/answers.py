"""From answers to approvals, and which request an answer is about. No effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from guard.errors import StateUnavailable
from guard.model import Approval, Delegation, Request
from guard.tokens.approval import Answer
from guard.tokens.proof import digest

__all__ = ["about", "belongs", "unsaid", "with_args"]


def belongs(answer: Answer, request: Request) -> bool:
    """Is it about this very request?"""
    said = answer.said
    return (
        (said.request, said.task, said.tool) == (request.id, request.task, request.tool)
        and (answer.issuer, answer.args_digest) == (request.issuer, request.args_digest)
        and {ask.name for ask in request.asks} >= set(said.asks)
    )


def about(answer: Answer, request: Request) -> Approval:
    """With the keyed hash of the arguments, which only the request knows."""
    return replace(answer.said, args_hmac=request.args_hmac)


def with_args(request: Request, args: bytes) -> Request:
    if args and digest(args) != request.args_digest:
        raise StateUnavailable("the arguments of a request are not those that were asked about")
    return replace(request, args=args)


def unsaid(claims: Mapping[str, object], person: Delegation, groups: frozenset[str], now: int) -> Approval:
    """An answer before it is known what it covers: who it is, for the rules of who may answer."""
    names = frozenset((person.origin, *([person.person] if person.person else [])))
    name = person.person or person.origin
    return Approval(str(claims["jti"]), "", "", "", (), name, groups, now, "", names, person.issuer)
