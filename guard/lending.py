"""A credential for the body of one call, and back (`credential:` of a tool, RFC 8693 and 7009).

| step                                                                        | what can go wrong                        | what then                          |
|-----------------------------------------------------------------------------|------------------------------------------|------------------------------------|
| the decision is recorded: allow                                             |                                          |                                    |
| whoever made the task's token is asked, for `OBTAIN` seconds at most         | nobody to ask, no answer, late           | deny `credential.unavailable`      |
|                                                                             | it says no                               | deny `credential.refused`          |
|                                                                             | the caller is cancelled                  | deny `call.cancelled`              |
| the token of the task is looked at again, and the task                      | revoked, ended or suspended meanwhile    | taken back; deny `token.revoked`, `task.*` |
| its answer is compared with what was asked                                  | it is other or more                      | taken back; deny `credential.refused` |
| the body runs, and only it can reach the credential (`guard.credential()`)  |                                          |                                    |
| the body has ended, however: closed here, then taken back, for `RETURN` seconds at most | the issuer fails             | recorded and logged; tried again beside the calls (`identity/takeback.py`) |

What is denied here did not run: its reservation is taken back, a second record of the decision says why (as where no sink took the first),
and an outcome record says `not_executed`. An answer that comes after its call was denied is taken back when it comes. A process that is killed takes
nothing back: the credential lives to its end, at most the minutes of `ttl`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from guard.decide import decide
from guard.drive import BEGUN, INTERRUPTS, Failure, Flow, Need
from guard.errors import GuardError
from guard.house import House, TaskState, Ticket
from guard.identity.takeback import again
from guard.lent import CallCredential, LentLease
from guard.model import CredentialRequest, Finding, Issued
from guard.ops import Add, Sum
from guard.policy.data import Downstream
from guard.ports import Credentials
from guard.reasons import REASONS, ReasonCode
from guard.reserving import alive
from guard.steps import Draft, failed, read_clock
from guard.tokens.asking import asked_of
from guard.tokens.lent import Read, exceeds, read
from guard.writing import cancel, decision_of, meanwhile, write

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["OBTAIN", "RETURN", "Lent", "lend_flow", "return_flow"]

OBTAIN: Final = 5.0
RETURN: Final = 3.0
Facts = dict[str, object]


class Lent:
    """What one call was lent, until it is back. `facts`: what its record says."""

    __slots__ = ("_left", "credential", "facts", "issued", "port", "tool")

    def __init__(
        self, tool: str, facts: Facts, port: Credentials | None = None, issued: Issued | None = None, scopes: frozenset[str] = frozenset()
    ) -> None:
        self.tool, self.facts, self.port, self.issued = tool, facts, port, issued
        self._left = [True]
        ends = facts.get("expires", 0)
        self.credential = CallCredential(
            "" if issued is None else issued.token,
            str(facts.get("id", "")),
            str(facts["resource"]),
            scopes,
            ends if isinstance(ends, int) else 0,
        )

    def __repr__(self) -> str:
        return f"Lent({self.credential!r})"

    def lease(self, *, running: bool = False) -> LentLease:
        return LentLease(self.tool, self.credential, running=running)

    def take(self) -> bool:
        """True once: whoever ends the call first."""
        try:
            return self._left.pop()
        except IndexError:
            return False

    def __del__(self) -> None:
        """Nobody ended the call: a caller that was cancelled between the decision and the body of a stream, a task that was dropped."""
        try:
            if self.issued is not None and self.port is not None and self.take():
                self.credential.close()
                _retry(self.port, self.issued, self.facts)()
        except Exception:  # noqa: S110 - the interpreter goes down: it expires
            pass


def lend_flow(house: House, draft: Draft, ticket: Ticket) -> Flow[Ticket]:
    """The ticket, with what its body is lent; or the ticket of a call that was denied, all of it recorded."""
    task, wanted = draft.task, draft.plan.tool.credential if draft.plan is not None and draft.plan.tool is not None else None
    assert task is not None
    assert wanted is not None
    facts: Facts = {"resource": wanted.resource, "scope": sorted(wanted.scopes), "parent": task.credential}
    got: Lent | Finding
    try:
        got = yield from _obtained(house, draft, task, wanted, facts)
    except INTERRUPTS:
        raise
    except BaseException as error:
        # As in `decide_flow` a denial with one code; here it is recorded, and gives back what was taken.
        got = Finding("guard", "forbid", ReasonCode.GUARD_ERROR, text=f"an unexpected {type(error).__name__} inside the guard")
    if type(got) is Lent:
        ticket.lent = got
        if ticket.span is not None:
            ticket.span.lent(str(facts["id"]))
        return ticket
    assert isinstance(got, Finding)
    return (yield from _denied(house, draft, ticket, got, facts))


def _obtained(house: House, draft: Draft, task: TaskState, wanted: Downstream, facts: Facts) -> Flow[Lent | Finding]:
    port = house.lender(task.delegation.issuer)
    if port is None:
        fix = "give the issuer a client, `Issuer(..., client=Client(...))`, or the guard `credentials=`"
        return _forbid(ReasonCode.CREDENTIAL_UNAVAILABLE, f"nobody can be asked for one under a token of {task.delegation.issuer}", fix)
    d, tool = task.delegation, draft.call.tool
    plain = d.intent is None and d.grants is None
    details = None if plain else asked_of(d, [tool], {}, house.layers[0].scopes).details
    asked = CredentialRequest(task.token, d, tool, wanted.resource, frozenset(wanted.scopes), wanted.seconds, details)
    answer = yield Need(BEGUN, _obtaining, (port.obtain, asked), {}, OBTAIN)
    if type(answer) is not Issued:
        _orphan(port, answer, task, facts)
        return _said(answer)
    stop = (yield from read_clock(house, draft)) or (yield from meanwhile(house, draft))  # time has passed while it was asked
    stop = stop or (yield from alive(house, draft, task))
    now = draft.at // 1_000_000
    found = _claims(answer)
    ends = [
        end for end in (now + answer.seconds if type(answer.seconds) is int else None, found.ends if found is not None else None) if end
    ]
    facts |= {"id": _name(task, answer), "expires": min(ends, default=0)}
    lent = Lent(tool, facts, port, answer, asked.scopes if answer.scopes is None else answer.scopes)
    if stop is None and (more := exceeds(asked, answer, now=now)) is not None:
        stop = _forbid(ReasonCode.CREDENTIAL_REFUSED, f"the issuer answered with something else than was asked for: {more}")
    if stop is None:
        return lent
    if answer.token == task.token:  # it was not made for this call, and taking it back would end the task
        lent.take()
        facts |= {"taken_back": False, "why": "it is the token of the task"}
    elif lent.take():
        facts |= yield from _returned(lent)
    return stop


def _denied(house: House, draft: Draft, ticket: Ticket, finding: Finding, facts: Facts) -> Flow[Ticket]:
    """Nothing ran: what was taken is given back, and the records say so."""
    task = draft.task
    assert task is not None
    draft.findings = [*ticket.decision.findings, finding]
    denials = [Add(f"{task.key}|denied", 1, None, window, draft.id) for window in house.windows]
    seen = yield from cancel(house, draft, (Sum(task.step_key), Sum(f"{task.key}|c"), *denials))
    if len(seen) > 1 and type(seen[0]) is tuple and type(seen[1]) is tuple:
        draft.judged = seen[0][0], seen[1][0]  # where in the task it was taken back: a replay takes it back there
    decision = decision_of(house, draft, decide(draft.findings, ()))
    yield from write(house, draft, decision, ticket.span)
    if ticket.span is not None:
        ticket.span.denied(decision)
    refused = Ticket(decision, draft.bound, task, draft.plan, started=ticket.started)
    refused.lent = Lent(draft.call.tool, facts)
    return refused


def return_flow(ticket: Ticket) -> Flow[Mapping[str, object]]:
    """The call has ended: closed, and taken back. What the outcome's record says of it. Never raises."""
    lent, ticket.lent = ticket.lent, None
    if lent is None or not lent.take():
        return {}
    lent.credential.close()
    back: Facts = {}
    if lent.issued is not None:
        back = yield from _returned(lent)
    return {**lent.facts, **back}


def _returned(lent: Lent) -> Flow[Facts]:
    lent.credential.close()
    port, issued = lent.port, lent.issued
    assert port is not None
    assert issued is not None
    retry = _retry(port, issued, lent.facts)
    lent.issued = None
    answer = yield Need(BEGUN, _returning, (partial(port.take_back, issued),), {}, RETURN)
    if answer is None:  # and nothing else: a port of somebody's own that answers `False` has not taken it back
        return {"taken_back": True}
    if type(answer) is not Failure:
        retry()
        return {"taken_back": False, "why": "the issuer failed"}
    if answer.pending is not None:
        answer.pending.add_done_callback(partial(_ended, retry))
        return {"taken_back": False, "why": "the issuer had not answered yet"}
    if isinstance(answer.error, GuardError) and answer.error.code == ReasonCode.CREDENTIAL_REFUSED:
        return {"taken_back": False, "why": "the issuer refused"}  # it will again: nothing but its end ends it
    retry()
    return {"taken_back": False, "why": "the issuer failed"}


def _retry(port: Credentials, issued: Issued, facts: Facts) -> Callable[[], None]:
    seconds = issued.seconds if type(issued.seconds) is int and 0 < issued.seconds <= 86_400 else 900
    return partial(again.put, partial(port.take_back, issued), str(facts.get("id", "")), str(facts["resource"]), float(seconds))


def _ended(retry: Callable[[], None], future: Future[object]) -> None:
    """It was not waited for any longer. What failed at last is tried again, unless the answer is a no."""
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or (error is not None and getattr(error, "code", "") != ReasonCode.CREDENTIAL_REFUSED):
        retry()


def _orphan(port: Credentials, answer: object, task: TaskState, facts: Facts) -> None:
    """A credential that comes after its call was denied is taken back, whenever it comes."""

    def back(issued: object) -> None:
        if type(issued) is Issued and issued.token != task.token:
            _retry(port, issued, facts | {"id": _name(task, issued)})()

    if type(answer) is Failure:
        back(answer.answer)
        if answer.pending is not None:
            answer.pending.add_done_callback(
                lambda future: None if future.cancelled() or future.exception() is not None else back(future.result())
            )


def _name(task: TaskState, issued: Issued) -> str:
    """Its issuer and `jti`, where it is a JWT that says so (nothing of it is trusted: it is a name); else a keyed hash of its text."""
    found = _claims(issued)
    if found is not None and found.name:
        return found.name
    return f"hmac:{task.args_hmac(b'credential|' + str(issued.token).encode('utf-8', 'surrogatepass'))}"


def _claims(issued: Issued) -> Read | None:
    """Of a port of the program's own the token may be of any type: it is refused all the same, and given back."""
    return read(issued.token) if type(issued.token) is str else None


def _said(answer: object) -> Finding:
    """An issuer that gave no credential."""
    error = answer.error if type(answer) is Failure and not answer.late and not answer.interrupted else None
    if isinstance(error, GuardError):
        refused = error.code == ReasonCode.CREDENTIAL_REFUSED
        return _forbid(ReasonCode.CREDENTIAL_REFUSED if refused else ReasonCode.CREDENTIAL_UNAVAILABLE, str(error))
    if type(answer) is Failure and answer.late:
        return _forbid(ReasonCode.CREDENTIAL_UNAVAILABLE, f"no answer within {OBTAIN:g} seconds")
    return failed(answer, "external", ReasonCode.CREDENTIAL_UNAVAILABLE)


def _forbid(code: ReasonCode, why: str, fix: str | None = None) -> Finding:
    return Finding("external", "forbid", code, text=f"{REASONS[code].meaning}: {why}", fix=fix)


# -- threads of their own: whoever waits for an issuer takes none away from those that wait for a store -------------------------------

_pools: dict[str, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _obtaining(ask: Callable[[CredentialRequest], Issued], asked: CredentialRequest) -> Future[Issued]:
    return _pool("obtain", 32).submit(ask, asked)


def _returning(take_back: Callable[[], None]) -> Future[Any]:
    return _pool("return", 16).submit(take_back)


def _forked() -> None:
    """Threads do not come along into the child of a fork, and a lock may be held there for ever."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _pool(name: str, most: int) -> ThreadPoolExecutor:
    with _lock:
        if name not in _pools:
            from concurrent.futures import ThreadPoolExecutor

            _pools[name] = ThreadPoolExecutor(most, thread_name_prefix=f"guardtrail-{name}")
        return _pools[name]
