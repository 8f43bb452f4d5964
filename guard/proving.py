"""The proof of one call: made here where the task holds the key, else as it came with the call; verified, and then a mark to be taken.

| the token            | with a proof           | without one                                           |
|----------------------|------------------------|-------------------------------------------------------|
| names a key (`jkt`)  | verified, used up once | made with `guard.task(token, key=...)`, else denied   |
| names a certificate  | denied                 | denied: only a door over TLS can see it               |
| either, at a door over HTTP | verified besides | what came with the request (`guard/shown.py`)         |
| names nothing        | denied (attack A104)   | denied where the policy demands one (`proof: {pay: key}`) |

Where the policy demands a workload (`proof: {pay: workload}`), the program must show evidence besides, good at this very call, that it is the actor the
token names: `by_workload`. It is looked at anew for each call, since evidence ends long before a task does.

The mark is looked up and taken in the reservation: of two calls with one proof, anywhere on the same state, one is permitted, and a store that is
full or fails denies. A call that is refused for another reason leaves the proof unused.
"""

from __future__ import annotations

from guard.constraints import canonical
from guard.drive import Failure, Flow, Need
from guard.errors import TokenRefused
from guard.house import House, TaskState
from guard.model import Bound, Finding
from guard.ops import Absent, Mark, Refused
from guard.reasons import ReasonCode
from guard.steps import Draft, forbid
from guard.tokens.evidence import Workload
from guard.tokens.proof import KEPT, verify_pop
from guard.workflow.plan import Plan, Weighed
from guard.workflow.verb import Hold

__all__ = ["by_workload", "proven", "with_marks"]


def proven(draft: Draft, task: TaskState, plan: Plan, bound: Bound, now: int) -> Finding | None:
    """None where the call is proven, with its mark in the draft; else the refusal."""
    found, call, text = task.delegation, draft.call, draft.call.proof
    if type(text) is not str:
        return forbid("token", ReasonCode.TOKEN_PROOF, "a proof is text")
    if not found.bound:
        if text:
            return forbid(
                "token", ReasonCode.TOKEN_PROOF, "a proof came with a token that names no key", "a token that is bound to the key"
            )
        if "key" not in plan.proof:
            return None
        why = f"policy demands a proof for {call.tool}: the token names no key"
        return forbid("token", ReasonCode.TOKEN_PROOF, why, "a token that is bound to a key")
    if task.shown is not None:
        stop = task.shown.covers(draft, found, task.token, now)
        if stop is not None or not text:
            return stop
    if found.bound != "jkt":
        return forbid("token", ReasonCode.TOKEN_PROOF, "the token is bound to a certificate, and a call in process shows none")
    try:
        if text:
            args = canonical(dict(call.args))
        elif task.holder is None:
            return forbid("token", ReasonCode.TOKEN_PROOF, fix="a proof with the call, or `guard.task(token, key=...)`")
        else:
            args = bound.canonical
            text = task.holder.prove(task.token, call.tool, args, audience=found.audience)
        draft.mark = verify_pop(text, found, task.token, tool=call.tool, args=args, now=now)
    except TokenRefused as refused:
        return Finding("token", "forbid", refused.reason, text=str(refused), fix="a fresh proof for this very call")
    except Exception:
        return forbid("token", ReasonCode.TOKEN_PROOF, "the proof could not be made or looked at")
    return None


def by_workload(house: House, draft: Draft, task: TaskState, now: int) -> Flow[Finding | None]:
    """None where the program has proven to be the actor of the token; else the refusal, whatever the reason."""
    behind = getattr(house.proofs, "behind", None)
    if behind is None:
        return _unproven(draft, "the guard was given nobody to ask (`proofs`)")
    answer = draft.ask(house.proofs, behind, (task.delegation,), {"now": now})
    if type(answer) is Need:
        answer = yield answer
    if type(answer) is Workload:  # exactly: whatever else a port of somebody's own answers is no proof
        return None if answer.live(now) else _unproven(draft, "its evidence has ended")
    if type(answer) is Failure and answer.late:
        return _unproven(draft, "its evidence did not come within the guard's deadline")
    if type(answer) is Failure and isinstance(answer.error, TokenRefused):
        code = answer.error.reason
        return _unproven(draft, _WHY.get(code) or f"its evidence was refused ({code})")
    return _unproven(draft, "its evidence could not be looked at")


_WHY = {
    ReasonCode.TOKEN_MISSING: "no evidence is shown",
    ReasonCode.TOKEN_WORKLOAD: "the program is another one than the token's actor",
}


def _unproven(draft: Draft, why: str) -> Finding:
    text = f"policy demands a proven workload for {draft.call.tool}: {why}"
    return forbid(
        "token", ReasonCode.TOKEN_WORKLOAD, text, "good evidence (`Guard(..., proofs=...)`) that the program is the token's actor"
    )


def with_marks(weighed: Weighed, draft: Draft) -> Weighed:
    """The same, and the marks of the proofs: not there yet, or of this very request, and then there. Not taken back, whatever becomes of the call."""
    if draft.request is not None:
        weighed = weighed._replace(holds=(Hold(draft.request, _used), *weighed.holds))
    if draft.mark is None:
        return weighed
    marks = (*weighed.marks, Mark(draft.mark, draft.id, KEPT))
    return weighed._replace(holds=(Hold(Absent(draft.mark), _used), *weighed.holds), marks=marks)


def _used(refused: Refused) -> Finding:
    witnesses = (refused.by,) if refused.by else ()
    text = "this proof was used before"
    return Finding("token", "forbid", ReasonCode.TOKEN_PROOF, text=text, fix="a fresh proof for this very call", witnesses=witnesses)
