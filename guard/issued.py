"""The record of a token service (record format v1, beside `guard.events`). Not of a guard, and not loaded by one."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from guard.events import FORMAT, filled
from guard.frozen import frozen

__all__ = ["IssueRecord"]


@frozen
class IssueRecord:
    """A token service was asked for a transaction token: of `parent` (credential in) it made `credential` (credential out), or it refused.

    `code`: `permit`, or why not. `client`: who asked, as far as that was proven; "" where it was not. `method`: how. What follows is of the subject
    token once it was verified, and left out before. `origin`: keyed pseudonym. `count`: as in `DecisionRecord`.
    """

    at: int
    issuer: str
    verdict: Literal["issued", "refused"]
    code: str
    client: str = ""
    method: str = ""
    tenant: str = ""
    task: str = ""
    parent: str = ""
    parent_kid: str = ""
    credential: str = ""
    kid: str = ""
    origin: str = ""
    origin_kind: str = ""
    actors: tuple[str, ...] = ()
    workload: str = ""
    intent: str = ""
    scopes: tuple[str, ...] = ()
    expires: int = 0
    text: str = ""
    count: int = 1
    kind: str = field(default="issue", init=False)

    def to_dict(self) -> dict[str, object]:
        return {
            "v": FORMAT,
            "kind": "issue",
            "at": self.at,
            "issuer": self.issuer,
            "verdict": self.verdict,
            "code": self.code,
            "client": self.client,
            "count": self.count,
            **filled(
                method=self.method,
                tenant=self.tenant,
                task=self.task,
                parent=self.parent,
                parent_kid=self.parent_kid,
                credential=self.credential,
                kid=self.kid,
                origin=self.origin,
                origin_kind=self.origin_kind,
                actors=self.actors,
                workload=self.workload,
                intent=self.intent,
                scopes=self.scopes,
                expires=self.expires,
                text=self.text,
            ),
        }
