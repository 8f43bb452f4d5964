"""What persons and pages see of a request, and what comes of an answer."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guard.approvals.plain import request_dict
from guard.errors import GuardError
from guard.frozen import frozen
from guard.model import Request
from guard.tokens.approval import Answer

if TYPE_CHECKING:
    from guard.constraints.confusables import Mark

__all__ = ["AnswerRefused", "Answered", "Pending"]


class AnswerRefused(GuardError):
    """An answer that does not count. `code`: `approval.unknown`, `.closed`, `.expired`, `.tenant`, `.person`, `.twice`, `.full`, or the token's own code."""


@frozen
class Answered:
    """An answer that was kept. `id`: its `jti`. `asks`: what it covers. `until`: epoch seconds. `state`: of its request, as `Pending` has it."""

    id: str
    request: str
    yes: bool
    by: str
    asks: tuple[str, ...]
    until: int
    state: str


@frozen
class Pending:
    """A request with what became of it. `state`: `open`, `approved`, `rejected`, `used`, `superseded`, `expired`. `answers`: the verified ones that
    were given; `left`: the asks that are not answered yet. `request.args` is empty where they are gone."""

    request: Request
    state: str
    answers: tuple[Answer, ...]
    left: tuple[str, ...]

    @property
    def args(self) -> dict[str, Any] | None:
        """The arguments; None where they are gone: answered, or nobody can answer any more."""
        found: dict[str, Any] | None = json.loads(self.request.args) if self.request.args else None
        return found

    def marks(self) -> list[Mark]:
        """What in the arguments may look like something else."""
        from guard.constraints.confusables import marks_of

        args = self.args
        return [] if args is None else marks_of(args, self.request.control)

    def to_dict(self, *, values: bool = False) -> dict[str, Any]:
        """As plain data. `values`: with the arguments and their plain hash, and what of them may look like something else."""
        made: dict[str, Any] = {**request_dict(self.request), "state": self.state, "left": list(self.left)}
        if not values:
            del made["args_digest"]  # values can be tried on it, also when the arguments are gone
        made["answers"] = [
            {"yes": each.yes, "by": each.said.approver, "issuer": each.said.issuer, "asks": list(each.said.asks), "at": each.said.at}
            for each in self.answers
        ]
        if values:
            made["args"] = self.args
            made["marks"] = [{"path": each.path, "at": each.at, "char": each.code, "kind": each.kind} for each in self.marks()]
        return made
