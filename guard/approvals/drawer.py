"""Where requests and answers lie: a state store of their own.

Not in the guard's state: who answers needs no hand on limits and marks, arguments must not get into copies of the state, and a store that is slow
here delays no ordinary call. A store by the contract of `guard.ports.StateStore`, because that is tested for what matters: a list is applied whole or
not at all, across processes, also when one is killed; rows end by themselves.

| key                | holds                                                                            | until                     |
|--------------------|----------------------------------------------------------------------------------|---------------------------|
| `ap|q|ID`          | the request without its arguments, encrypted: whoever writes into the file cannot change it | twice the time it waits |
| `ap|v|ID`          | its arguments, encrypted                                                         | answered, or it waits no more |
| `ap|x|ID`          | why it is closed: `rejected`, `used` (and all answers to it with it), `superseded` | three weeks             |
| `ap|a|ID|N`        | an answer, signed and encrypted (32 at most): it names persons, and a plain hash of the arguments | as the request |
| `ap|p|ID|NAME`     | that this person has approved (by a hash)                                        | the approval lapses       |
| `ap|d|ID`          | a later decision that asked the same: the request                                | as the request            |
| `ap|c|CALL`        | the request about this very call                                                 | as the request            |
| `ap|s|TASK`        | the salt of the task's key; gone with the task, and what it locked with it       | three months              |
| `ap|n`, `ap|l|N`   | how many requests there were, and their ids in that order                        | as the request            |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from os import urandom
from random import random
from time import sleep
from typing import Any, NamedTuple

from guard.approvals.plain import request_dict, request_from
from guard.approvals.sealing import Seal
from guard.errors import StateUnavailable
from guard.model import Approval, Request
from guard.ops import Absent, Add, Applied, Know, Lookup, Mark, Op, Pin, Refused, Require, Sum, Take, parse_map
from guard.ports import StateStore

__all__ = ["MOST_ANSWERS", "Drawer", "Held"]

MOST_ANSWERS = 32
_SALT, _USED = 90 * 86400, 21 * 86400
_SPARE = 3600
_TRIES = 64
_LISTED = 4096
"""So many requests, the newest, are looked through for a list."""


class Held(NamedTuple):
    """A request as it lies there. `readable`: its arguments do too. `trust`: who may answer, as plain data."""

    request: Request
    trust: list[dict[str, Any]]
    closed: str
    answers: tuple[str, ...]
    readable: bool
    salt: str

    @property
    def kept(self) -> int:
        """Seconds its rows are kept from the asking on."""
        return kept(self.request)


def kept(request: Request) -> int:
    return 2 * (request.until - request.at) + _SPARE


class Drawer:
    """Raises StateUnavailable where the store does not answer. `now`: epoch seconds."""

    def __init__(self, store: StateStore, seal: Seal) -> None:
        self.store = store
        self._seal = seal

    # -- asking ----------------------------------------------------------------------------------------------------------------

    def put(self, request: Request, trust: Sequence[Mapping[str, Any]], *, now: int, answered: Callable[[Held], bool]) -> str:
        """Keep it; the id of the one that persons see: an open one about the same call that asks the same stays, and takes no second answer.

        `answered`: whether a request was just answered, with yes or no, between the guard's look and this: then it stays too, and the next call finds
        the answer. Attack: an agent that asks all the time has each no forgotten.
        """
        call, salt = (
            _call(request.task, request.tool, request.args_hmac),
            self._salt(_task(request.tenant, request.issuer, request.task), now),
        )
        meta = json.dumps({"request": request_dict(request), "trust": list(trust)}, separators=(",", ":")).encode()
        new, ttl, waits = request.id, kept(request), max(1, request.until - request.at)
        owner = _task(request.tenant, request.issuer, request.task)
        rows: list[Op] = [
            Mark(f"ap|q|{new}", ttl=ttl, value=f"{owner}.{self._seal.lock(salt, f'request|{new}', meta)}"),
            Mark(f"ap|v|{new}", ttl=waits, value=self._seal.lock(salt, f"arguments|{new}", request.args)),
            Mark(f"ap|c|{call}", ttl=ttl, value=new),
        ]
        for turn in range(_TRIES):
            known, counted = self._values((Lookup(f"ap|c|{call}"), Sum("ap|n")), now)
            count = counted[0] if isinstance(counted, tuple) else 0
            old = self.read(known, now=now) if isinstance(known, str) else None
            if old is not None and _same(old, request):
                waiting = not old.closed and old.readable and now < old.request.until
                if waiting or answered(old):
                    stays: list[Op] = [Require(f"ap|x|{known}") if old.closed else Absent(f"ap|x|{known}")]
                    stays += [Require(f"ap|v|{known}")] if waiting else []
                    if type(self._apply([*stays, Mark(f"ap|d|{new}", ttl=ttl, value=str(known))], now)) is Applied:
                        return str(known)
                    continue
            # Only over the one that was seen: two processes that ask at once make one request.
            begin: list[Op] = [Absent(f"ap|c|{call}")]
            if isinstance(known, str):
                begin = [Require(f"ap|c|{call}"), Pin(f"ap|c|{call}", known)]
                if old is None or not old.closed:
                    begin += [Mark(f"ap|x|{known}", ttl=ttl, value="superseded"), Take(f"ap|v|{known}", need=False)]
            numbered: list[Op] = [
                Absent(f"ap|l|{count + 1}"), Mark(f"ap|l|{count + 1}", ttl=ttl, value=new), Add("ap|n", 1, max=count + 1)
            ]  # fmt: skip
            if type(self._apply([*begin, *rows, *numbered], now)) is Applied:
                return new
            sleep(random() * 0.001 * (turn + 1))  # noqa: S311 - another process wrote first
        raise StateUnavailable("requests could not be kept: others write all the time")

    def _salt(self, owner: str, now: int) -> str:
        ops = (Know(f"ap|s|{owner}", "k", urandom(16).hex(), ttl=_SALT), Lookup(f"ap|s|{owner}"))
        answer = self._apply(ops, now)
        salt = parse_map(answer.values[1]).get("k", "") if type(answer) is Applied else ""
        if len(salt) != 32:
            raise StateUnavailable("the key of a task's requests is not there")
        return salt

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def read(self, given: str, *, now: int) -> Held | None:
        """The request of this id, or of the decision that asked the same later; None: it lapsed, its task has ended, or it never was."""
        looks = [Lookup(f"ap|q|{given}"), Lookup(f"ap|d|{given}"), Lookup(f"ap|x|{given}"), Lookup(f"ap|v|{given}")]
        found = self._values((*looks, *(Lookup(f"ap|a|{given}|{n}") for n in range(MOST_ANSWERS))), now)
        meta, other, closed, args, *answers = found
        if not isinstance(meta, str):
            return self.read(other, now=now) if isinstance(other, str) and other != given else None
        owner, _, locked = meta.partition(".")
        (salts,) = self._values((Lookup(f"ap|s|{owner}"),), now)
        salt = parse_map(salts).get("k", "")
        raw = self._seal.unlock(salt, f"request|{given}", locked)
        if raw is None:
            return None
        plain = json.loads(raw)
        request = request_from(plain["request"])
        opened = [self._seal.unlock(salt, f"answer|{given}", each) for each in answers if isinstance(each, str)]
        said = tuple(each.decode("utf-8", "replace") for each in opened if each is not None)
        return Held(request, plain["trust"], closed if isinstance(closed, str) else "", said, isinstance(args, str), salt)

    def about(self, task: str, tool: str, args_hmac: str, *, now: int) -> Held | None:
        """The request about this very call."""
        (known,) = self._values((Lookup(f"ap|c|{_call(task, tool, args_hmac)}"),), now)
        return self.read(known, now=now) if isinstance(known, str) else None

    def args(self, held: Held, *, now: int) -> bytes | None:
        """Its canonical arguments; None where they are gone."""
        (locked,) = self._values((Lookup(f"ap|v|{held.request.id}"),), now)
        return self._seal.unlock(held.salt, f"arguments|{held.request.id}", locked) if isinstance(locked, str) else None

    def ids(self, *, now: int) -> Iterator[str]:
        """Requests, the newest first."""
        (counted,) = self._values((Sum("ap|n"),), now)
        last = counted[0] if isinstance(counted, tuple) and type(counted[0]) is int else 0
        for start in range(last, max(0, last - _LISTED), -256):
            numbers = range(start, max(0, start - 256), -1)
            for each in self._values(tuple(Lookup(f"ap|l|{n}") for n in numbers), now):
                if isinstance(each, str):
                    yield each

    # -- answering -------------------------------------------------------------------------------------------------------------

    def answer(
        self, held: Held, text: str, names: Sequence[str], *, yes: bool, ends: int, last: bool, now: int, commit: bool = True
    ) -> str:
        """Keep an answer; "" where it is kept, else why not: `closed`, `gone`, `twice`, `full`. `last`: nothing more is asked then."""
        request = held.request.id
        ttl = max(1, held.request.at + held.kept - now)
        locked = self._seal.lock(held.salt, f"answer|{request}", text.encode())
        whole: list[Op] = [Require(f"ap|q|{request}"), Absent(f"ap|x|{request}")]
        persons = [f"ap|p|{request}|{_hash(name)}" for name in names]
        if yes:
            whole += [Require(f"ap|v|{request}"), *map(Absent, persons)]
            whole += [Mark(each, ttl=max(1, ends - now)) for each in persons]
        else:
            whole += [Mark(f"ap|x|{request}", ttl=ttl, value="rejected")]
        if last or not yes:
            whole.append(Take(f"ap|v|{request}", need=False))
        for place in range(MOST_ANSWERS):
            key = f"ap|a|{request}|{place}"
            ops = (*whole, Absent(key), Mark(key, ttl=ttl, value=locked))
            answer = self._apply(ops, now, commit=commit)
            if not isinstance(answer, Refused):
                return ""
            if answer.index < len(whole):
                refused = whole[answer.index]
                key = getattr(refused, "key", "")
                return "twice" if key in persons else "closed" if key == f"ap|x|{request}" else "gone"
        return "full"

    def answered(self, id: str, *, now: int) -> None:
        """Nobody needs to see its arguments any more."""
        self._apply((Take(f"ap|v|{id}", need=False),), now)

    def take(self, approvals: Sequence[Approval], decision: str, *, now: int) -> bool:
        """Use up the requests they answer, all or none. False: one was used before, or closed by a no meanwhile.

        One whose request was superseded since they were found counts: another call, made at the same time, has asked for itself.
        """
        requests = list(dict.fromkeys(one.request for one in approvals))
        for _ in range(2):
            stands = self._values(tuple(Lookup(f"ap|x|{each}") for each in requests), now)
            ops: list[Op] = [Require(f"ap|q|{each}") for each in requests]
            for each, why in zip(requests, stands, strict=True):
                ops.append(Pin(f"ap|x|{each}", "superseded") if why == "superseded" else Absent(f"ap|x|{each}"))
            for each in requests:
                ops += [Mark(f"ap|x|{each}", decision, _USED, "used"), Take(f"ap|v|{each}", need=False)]
            if type(self._apply(ops, now)) is Applied:
                return True
        return False

    def forget(self, tenant: str, issuer: str, task: str, *, now: int) -> None:
        """The task has ended: what was locked under its key cannot be opened any more."""
        self._apply((Take(f"ap|s|{_task(tenant, issuer, task)}", need=False),), now)

    # -- the store -------------------------------------------------------------------------------------------------------------

    def _values(self, ops: Sequence[Op], now: int) -> tuple[object, ...]:
        answer = self._apply(ops, now, commit=False)
        if type(answer) is not Applied or len(answer.values) != len(ops):
            raise StateUnavailable("the store of requests gave no answer")
        return answer.values

    def _apply(self, ops: Sequence[Op], now: int, *, commit: bool = True) -> Applied | Refused:
        answer = self.store.apply(ops, now=datetime.fromtimestamp(now, UTC), commit=commit)
        if type(answer) is Applied or type(answer) is Refused:
            return answer
        raise StateUnavailable("the store of requests gave no answer")


def _same(old: Held, new: Request) -> bool:
    """Would whoever answers the old one answer the new one?"""
    then = old.request
    asks = then.asks == new.asks and (then.origin, then.person, then.actors) == (new.origin, new.person, new.actors)
    return asks and old.closed in ("", "rejected") and then.args_digest == new.args_digest


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _call(task: str, tool: str, args_hmac: str) -> str:
    return _hash(f"{task}\0{tool}\0{args_hmac}")


def _task(tenant: str, issuer: str, task: str) -> str:
    return _hash(f"{tenant}\0{issuer}\0{task}")
