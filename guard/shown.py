"""What was shown with one HTTP request: the DPoP proof in its headers, or the client certificate of its connection. One request, one permit.

| the token names | with scheme | and                                 | then                                                        |
|-----------------|-------------|-------------------------------------|-------------------------------------------------------------|
| a key           | `DPoP`      | a good proof of this very request   | its mark is taken with the first call, once                 |
| a certificate   | `Bearer`    | a connection that has it (RFC 8705) | every call of the request                                   |
| nothing         | `Bearer`    | no proof                            | as in process                                               |
| anything else   |             |                                     | refused: a bound token as bearer, a proof that proves nothing |

The mark is looked up when the request comes in, and pinned to this request in the reservation of its calls: the first one sets it, those that
follow in the same request find their own, and a request that shows the same proof, in this process or another, finds somebody else's. Until a call has
taken it the proof must still be fresh. Attack: a copy of a request is held open until the mark is forgotten.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Sequence
from typing import Literal

from guard.drive import Flow, Need
from guard.errors import TokenRefused
from guard.house import House, TaskState
from guard.model import Delegation, Finding
from guard.ops import Applied, Lookup, Pin, Refused
from guard.reasons import ReasonCode
from guard.steps import Draft, failed, forbid
from guard.tokens.proof import KEPT, NonceWanted, verify_certificate, verify_dpop

__all__ = ["Shown"]

_MOST = 64
"""Calls of one request that are looked at for the one that has taken the mark. Of more, some that took it may be forgotten: then the proof must be
fresh, which is the strict side."""


class Shown:
    """Of one request. `proofs`: the values of its `DPoP` headers. `url`: as the client knows it. `certificate`: DER, of the connection."""

    __slots__ = ("_certificate", "_drafts", "_method", "_nonces", "_proofs", "_request", "_scheme", "_url", "_used")

    def __init__(
        self,
        scheme: Literal["dpop", "bearer"],
        proofs: Sequence[str],
        *,
        method: str,
        url: str,
        certificate: bytes | None = None,
        nonces: Container[str] | None = None,
    ) -> None:
        self._scheme = scheme
        self._proofs = tuple(proofs)
        self._method, self._url = method, url
        self._certificate = certificate
        self._nonces = nonces
        self._request = secrets.token_urlsafe(16)
        self._drafts: tuple[Draft, ...] = ()
        self._used = False

    def enters(self, house: House, draft: Draft, found: Delegation, presented: str) -> Flow[Finding | None]:
        """None where the request may open its task. Raises `NonceWanted`: the client is to come again, and nothing is written of it."""
        mark = self._looked(found, presented, draft.at // 1_000_000, self._nonces)
        if mark is None or isinstance(mark, Finding):
            return mark
        answer = yield Need(house.store, house.store.apply, ((Lookup(mark),),), {"now": draft.now, "commit": False})
        if type(answer) is not Applied or len(answer.values) != 1:
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        return _used() if answer.values[0] is not None else None

    def covers(self, draft: Draft, found: Delegation, presented: str, now: int) -> Finding | None:
        """None where the request proves this call, with the pin of its mark in the draft; else the refusal."""
        if self._used or self._taken():
            return None
        mark = self._looked(found, presented, now, None)  # the nonce was looked at when the request came
        if mark is None or isinstance(mark, Finding):
            return mark
        draft.request = Pin(mark, self._request, draft.id, KEPT)
        if not draft.dry:
            self._drafts = (*self._drafts[1 - _MOST :], draft)
        return None

    def takes(self, house: House, draft: Draft, task: TaskState) -> Flow[Finding | None]:
        """Take the mark for what is no call: words of the user, the end of the task, handing on. None where it is this request's.

        Attack: a copy of a request comes first, and leaves words that count as the user's before its calls are denied.
        """
        stop = self.covers(draft, task.delegation, task.token, draft.at // 1_000_000)
        if stop is not None or draft.request is None:
            return stop
        answer = yield Need(house.store, house.store.apply, ((draft.request,),), {"now": draft.now})
        if type(answer) is Refused:
            return _used()
        if type(answer) is not Applied:
            return failed(answer, "state", ReasonCode.STATE_UNAVAILABLE)
        self._used, self._drafts = True, ()
        return None

    def _taken(self) -> bool:
        """Has a call of this request taken the mark? It holds for those that follow, however long the request goes on."""
        if any(draft.taken is not None for draft in self._drafts):
            self._used, self._drafts = True, ()
        return self._used

    def _looked(self, found: Delegation, presented: str, now: int, nonces: Container[str] | None) -> str | Finding | None:
        """The mark; None: there is none to take."""
        try:
            if self._scheme == "dpop":
                return verify_dpop(self._proofs, found, presented, method=self._method, url=self._url, now=now, nonces=nonces)
            if self._proofs:
                return forbid("token", ReasonCode.TOKEN_PROOF, "a proof came with a token that is presented as bearer")
            if found.bound == "x5t#S256":
                verify_certificate(found, self._certificate)
            elif found.bound:
                text = "a token that is bound to a key was presented as bearer"
                return forbid("token", ReasonCode.TOKEN_PROOF, text, "the scheme DPoP, with a proof")
        except NonceWanted:
            raise
        except TokenRefused as refused:
            return Finding("token", "forbid", refused.reason, text=str(refused), fix="a fresh proof for this very request")
        return None


def _used() -> Finding:
    return forbid("token", ReasonCode.TOKEN_PROOF, "this proof was used before", "a fresh proof for this very request")
