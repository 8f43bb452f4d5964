"""Fetching security events (RFC 8936), where no sender can reach us."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

from guard.errors import GuardError
from guard.identity.revoked.asking import Post, posting
from guard.identity.revoked.inbox import Inbox, Receipt
from guard.reasons import ReasonCode
from guard.tokens.events import EventRefused
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.text import is_name

__all__ = ["Polled", "Poller"]

_MOST_BODY = 4 * 1024 * 1024
_MOST_EVENTS = 100
_POST = posting(30.0, _MOST_BODY)


class Polled(NamedTuple):
    """What one request brought. `refused`: jti -> the word of RFC 8935. `left`: what could not be taken now and comes again."""

    receipts: tuple[Receipt, ...]
    refused: Mapping[str, str]
    left: int
    more: bool


class Poller:
    """Asks `url` for events and puts them into `inbox`. What was taken is acknowledged with the next request: lost on the way, it comes
    again, and the inbox knows it. Not for several threads at once."""

    def __init__(self, url: str, inbox: Inbox, *, post: Post = _POST, client: Callable[[], Mapping[str, str]] = dict) -> None:
        """`client`: the headers by which the sender knows us."""
        self._url, self._inbox, self._post, self._client = url, inbox, post, client
        self._acks: list[str] = []
        self._errors: dict[str, dict[str, str]] = {}

    def poll(self, *, most: int = _MOST_EVENTS, wait: bool = False) -> Polled:
        """One request. `most`: events wanted, 0 only acknowledges. `wait`: the sender may hold the answer until there is one.

        Raises GuardError where no usable answer came; what was to be acknowledged is kept for the next time.
        """
        asked: dict[str, object] = {"maxEvents": min(most, _MOST_EVENTS), "returnImmediately": not wait}
        acks, errors = list(self._acks), dict(self._errors)
        if acks:
            asked["ack"] = acks
        if errors:
            asked["setErrs"] = errors
        sets, more = self._ask(asked)
        del self._acks[: len(acks)]
        for jti in errors:
            del self._errors[jti]
        receipts: list[Receipt] = []
        refused: dict[str, str] = {}
        left = 0
        for jti, text in sets.items():
            try:
                receipt = self._take(text)
            except EventRefused as error:
                refused[jti] = error.err
                self._errors[jti] = {"err": error.err, "description": str(error)}
            except GuardError:
                left += 1  # neither taken nor refused: the store or the keys are away, and it must come again
            else:
                receipts.append(receipt)
                self._acks.append(jti)
        return Polled(tuple(receipts), refused, left, more)

    def drain(self, *, requests: int = 100) -> list[Polled]:
        """Poll until nothing more is there, and acknowledge all of it."""
        done: list[Polled] = []
        while requests > 0:
            requests -= 1
            done.append(self.poll())
            if not done[-1].more or done[-1].left:
                break
        if self._acks or self._errors:
            self.poll(most=0)
        return done

    def _take(self, text: object) -> Receipt:
        if not isinstance(text, str):
            raise EventRefused("invalid_request", "not a security event token in compact form")
        return self._inbox.receive(text)

    def _ask(self, asked: Mapping[str, object]) -> tuple[dict[str, object], bool]:
        body = json.dumps(asked).encode("ascii")
        headers = {"Content-Type": "application/json", "Accept": "application/json", **self._client()}
        try:
            status, raw = self._post(self._url, body, headers)
            told = strict_json(raw, members=4 * _MOST_EVENTS) if status == 200 and len(raw) <= _MOST_BODY else {}
        except NotStrict:
            told = {}
        except Exception:
            raise _unavailable("did not answer") from None
        sets, more = told.get("sets", {}), told.get("moreAvailable", False)
        if not told or not isinstance(sets, dict) or len(sets) > _MOST_EVENTS or type(more) is not bool or not all(map(is_name, sets)):
            raise _unavailable("gave no usable answer")
        return sets, more


def _unavailable(why: str) -> GuardError:
    return GuardError(f"the sender of events {why}", code=ReasonCode.REVOCATION_UNAVAILABLE)
