"""`Guard`: the public face of one wired house. Everything that decides is below; here calls come in and answers go out.

Open tasks are in `tasks`, bodies that go on after the call in `streams`, policies from files in `loading`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast, overload

from guard.constraints import Binder, Shape
from guard.drive import adrive, drive
from guard.errors import ConfigError, Denied, GuardError
from guard.flow import call_flow, decide_flow, decline_flow, finish_flow
from guard.house import House, SystemClock, TaskState, Ticket, named
from guard.identity import Issuer, LocalIssuer, RevocationList, TrustedIssuers
from guard.model import Decision, Finding, Outcome, ToolCall
from guard.ports import Approvals, Clock, Credentials, Proofs, Prover, Registrations, Revocations, Signals, Sink, StateStore, Verifier
from guard.reasons import ReasonCode
from guard.record import AuditFile, Blinds, Spans, default_sinks, directory
from guard.state import MemoryState, open_state
from guard.streams import STREAMS, lent_steps, unseen
from guard.suggest import did_you_mean
from guard.taskflow import begin_flow
from guard.tasks import Frame, Task, denied
from guard.wrap import GuardedTool, guarded

if TYPE_CHECKING:
    from guard.judging import Bind
    from guard.lent import CallCredential
    from guard.loading import PolicySource
    from guard.policy import Policy
    from guard.server.requests import Keeper

__all__ = ["Guard", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
TrustSource = Issuer | LocalIssuer


class Guard:
    """Judges, records and runs the tool calls of one program under one policy."""

    def __init__(
        self,
        policy: PolicySource | Sequence[PolicySource],
        *,
        trust: TrustSource | Sequence[TrustSource],
        state: StateStore | str = "memory:",
        sinks: Sequence[Sink] | None = None,
        deadline: timedelta = timedelta(milliseconds=250),
        revocations: Revocations | Sequence[Revocations] | None = None,
        clock: Clock | None = None,
        approvals: Approvals | None = None,
        signals: Signals | None = None,
        proofs: Proofs | None = None,
        registry: Registrations | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Load and lint `policy`; raise PolicyError with every error found, never the first only.

        `trust`: whose tokens count. There is no default and no "none". `state`: `memory:` (one process), `sqlite:PATH` (one machine).
        `sinks`: None means the audit file `$GUARDTRAIL_DIR/audit.jsonl` (default `.guardtrail/`) plus OpenTelemetry as configured; a
        list replaces both and needs one sink with `required = True`. Several policies are layers. `deadline`: the whole decision,
        I/O included; later is a deny. `revocations`: what was taken back, asked on every call; a list of such lists; None: the index in `state`
        where that names a store on disk, else one in memory. `clock`: for tests. `signals`, `proofs`: what is
        said of devices and sessions, which actors have proven to be one; None: there are none. `approvals`: where persons are asked and
        answer (`guard.approvals.Approvals`); None: an ask stays one, and nothing runs. `registry`: what is known of the agents that act
        (`guard.identity.Registry`): the names under which they count come of it, by the keys and workloads that are registered to them.
        `credentials`: who makes what tools need downstream (`credential:`); None: the issuer of the token.
        """
        from guard.loading import load_layers

        layers = load_layers(policy)
        given = sinks is not None
        chosen = tuple(sinks) if sinks is not None else tuple(default_sinks())
        spans = next((sink for sink in chosen if isinstance(sink, Spans)), None)
        if not any(getattr(sink, "required", None) is True for sink in chosen):
            raise ConfigError("`sinks` needs one sink with `required = True`: no tool runs unrecorded")
        seconds = deadline.total_seconds()
        if not 0 < seconds <= 60:
            raise ConfigError("`deadline` must be more than 0 and at most 60 seconds")
        if credentials is not None and not all(callable(getattr(credentials, name, None)) for name in ("obtain", "take_back")):
            raise ConfigError("`credentials` has `obtain` and `take_back`: what nobody can take back is not lent")
        clock = clock or SystemClock()
        base = layers[0]
        store = open_state(state) if isinstance(state, str) else state
        taken_back, verifier = _taken_back(revocations, store if isinstance(state, str) else None, TrustedIssuers(trust, registry=registry))
        self._house = House(
            layers,
            named(layers),
            verifier,
            taken_back,
            store,
            tuple(sorted((sink for sink in chosen if sink is not spans), key=lambda sink: sink.required is not True)),
            clock,
            Blinds((_keys_beside(chosen) or getattr(approvals, "home", None)) if given else directory()),
            spans,
            os.path.realpath,
            seconds,
            approvals=approvals,
            signals=signals,
            proofs=proofs if registry is None else registry.proofs(proofs),
            registry=registry,
            credentials=credentials,
        )
        attach = getattr(approvals, "attach", None)
        if attach is not None:
            attach(self._house, trust)
        self._house.wall0, self._house.steady0 = clock.now().timestamp(), clock.monotonic()
        self._house.binders = {name: Binder(name, None, tool.types) for name, tool in base.tools.items()}
        self._current: ContextVar[Frame | None] = ContextVar("guardtrail_task", default=None)
        self._opened: dict[tuple[str, str, str], int] = {}
        self._openers: set[tuple[str, str, str]] = set()
        self._keeper: Keeper | None = None

    def reload(self, policy: PolicySource | Sequence[PolicySource]) -> None:
        """Judge by `policy` from the next call on, also in tasks that are open; calls in flight end under what they began with.

        Raises PolicyError where it does not load, ConfigError where a guarded function does not fit it (a tool it does not name may
        stay: its calls are denied), GuardError `state.unavailable`: then nothing has changed. What a new rule counts begins now, so a
        task that is older asks (`state.incomplete`); other processes of the same state that still have the older policy deny then.
        """
        from guard.loading import load_layers

        layers = load_layers(policy)
        for tool, shape, _ in self._house.fitted:
            if tool in layers[0].tools:
                self._fits(layers[0], tool, shape)
        house = self._house.under(layers)
        refused = drive(begin_flow(self._house, newest=False), house.seconds) if self._house.since is None else None
        refused = refused or drive(begin_flow(house, late=bool(self._opened) or type(house.store) is not MemoryState), house.seconds)
        if refused is not None:
            raise GuardError(f"the policy is not reloaded: {refused.text}", code=str(refused.code))
        self._house = house

    # -- tools -----------------------------------------------------------------------------------------------------------------

    @overload
    def tool(self, function: Callable[P, R], /, *, name: str | None = None) -> GuardedTool[P, R]: ...

    @overload
    def tool(self, function: None = None, /, *, name: str | None = None) -> Callable[[Callable[P, R]], GuardedTool[P, R]]: ...

    def tool(
        self, function: Callable[P, R] | None = None, /, *, name: str | None = None
    ) -> GuardedTool[P, R] | Callable[[Callable[P, R]], GuardedTool[P, R]]:
        """Decorator, bare or called. The tool name is `name` or the function's; what the tool is stands in the policy only.

        Sync, async and generator functions, methods, callables; signature, docstring and types are kept. Unknown tool or argument:
        ConfigError at decoration. The result has `.check(*args, **kw) -> Decision` (dry run). The body under `__wrapped__` runs only
        inside a call the guard opened. Calling raises Denied or ApprovalRequired; an exception of the body passes through unchanged.
        """
        if function is None:
            return lambda given: self.tool(given, name=name)
        if not callable(function):
            raise ConfigError("@guard.tool takes a function; the name goes in as `@guard.tool(name=...)`")
        own = name or getattr(function, "__name__", None)
        if own is None:
            raise ConfigError("@guard.tool: this callable has no name; give it one: `guard.tool(callable, name=...)`")
        return guarded(self, function, own)

    def declare(self, tool: str, schema: Mapping[str, object]) -> None:
        """Bind calls of `tool` to its JSON Schema (as MCP and function-calling APIs give it): required and known arguments, defaults.

        A tool the policy does not name is left alone: it is denied when called.
        """
        spec = self._house.layers[0].tools.get(tool)
        if spec is not None:
            self._house.binders[tool] = Binder(tool, Shape.from_schema(schema), spec.types)

    def argument_names(self, tool: str) -> frozenset[str]:
        """The top-level arguments the policy declares for `tool`. Raises ConfigError for an unknown tool, with the nearest name."""
        return _declared(self._house.layers[0], tool)

    def fit(self, tool: str, shape: Shape) -> int:
        """The number of the binder of `tool` for a callable of this shape. Raises ConfigError where the policy and the callable do not fit."""
        self._fits(self._house.layers[0], tool, shape)
        binder = Binder(tool, shape, self._house.layers[0].tools[tool].types)
        self._house.binders[tool] = binder
        self._house.fitted.append((tool, shape, binder))
        return len(self._house.fitted) - 1

    def _fits(self, base: Policy, tool: str, shape: Shape) -> None:
        declared = _declared(base, tool)
        names = frozenset(shape.names)
        for argument in sorted(names - declared):
            raise ConfigError(
                f"@guard.tool `{tool}`: argument `{argument}` is not declared in {base.file}{did_you_mean(argument, declared)}"
            )
        for argument in sorted(declared - names) if not shape.open else ():
            raise ConfigError(
                f"@guard.tool `{tool}`: {base.file} declares `{argument}`, which the function does not take{did_you_mean(argument, names)}"
            )

    def visible(self, tools: Iterable[str]) -> list[str]:
        """Those the current delegation and intent could ever allow. A convenience for lists, not protection."""
        frame = self._current.get()
        if frame is None:
            return []
        state = frame.state
        return [tool for tool in tools if state.plan(self._house, tool).possible]

    # -- tasks -----------------------------------------------------------------------------------------------------------------

    def task(self, token: str, *, prompt: str | None = None, key: Prover | None = None) -> Task:
        """Verify `token` and open its task: `with` or `async with`; also makes it current for this context.

        Raise Denied (`token.*`, `task.*`) on entry. `prompt`: the user's own words; pass nothing that a tool or page returned.
        Nothing in the arguments can name the task: its id is the token's `txn`. `key`: the `HolderKey` a bound token names: each call is then
        proven with it; without it, a call brings its own proof (`ToolCall.proof`) or is denied `token.proof`.
        """
        if prompt is not None and not isinstance(prompt, str):
            raise ConfigError("`prompt` is the user's own words as one text, not messages or bytes")
        return Task(self, token, prompt, key)

    def current(self) -> Task:
        """The task of this context; Denied `task.none` outside one. Threads take it along through `contextvars.copy_context()`."""
        frame = self._current.get()
        if frame is None:
            text = "called outside a task; open one with `with guard.task(token):`"
            finding = Finding("task", "forbid", ReasonCode.TASK_NONE, text=text)
            raise Denied(Decision("", "deny", "enforce", ReasonCode.TASK_NONE, (finding,), None, (), "", 0, "", "", self._house.policy))
        return frame.task

    # -- calls -----------------------------------------------------------------------------------------------------------------

    def call(self, call: ToolCall, execute: Callable[..., T]) -> T:
        """Judge, record, then `execute(**call.args)` once, record the outcome. For dispatch loops and adapters.

        Same errors as a guarded function. A second call with the same (task, call id, args) returns the recorded outcome or is
        denied `call.replayed`; it never runs again.
        """
        return cast("T", self.run(call, execute, None))

    async def acall(self, call: ToolCall, execute: Callable[..., Awaitable[T]]) -> T:
        """`call` for a coroutine function."""
        return cast("T", await self.arun(call, execute, None))

    def check(self, call: ToolCall) -> Decision:
        """Judge only: consumes and records nothing. Never use the answer to run something yourself: that is `call`."""
        return self.dry(call, None)

    async def acheck(self, call: ToolCall) -> Decision:
        """`check` where an event loop runs: a store that blocks does not stop it."""
        return (await adrive(decide_flow(self._house, self._state(), call, dry=True), self._house.seconds)).decision

    def decline(self, call: ToolCall) -> Decision:
        """Put on record that the program said no to `call`, before it was made: a deny `ask.declined`, and nothing runs. For frameworks whose own "rejected"
        comes instead of the call. It closes no request: what a person has approved stays approved.
        """
        return drive(decline_flow(self._house, self._state(), call), self._house.seconds)

    async def adecline(self, call: ToolCall) -> Decision:
        """`decline` where an event loop runs."""
        return await adrive(decline_flow(self._house, self._state(), call), self._house.seconds)

    async def arefuse(self, call: ToolCall, code: ReasonCode, text: str, fix: str = "") -> Decision:
        """Deny `call`, and record it, for what its arguments do not show and whoever hands it over has found: a tool that is described otherwise than it was
        pinned, a token in the arguments. Whatever else speaks against the call is said too; nothing makes it a permit."""
        finding = Finding("call", "forbid", code, text=text, fix=fix)
        return (await adrive(decide_flow(self._house, self._state(), call, finding), self._house.seconds)).decision

    def before(self, call: ToolCall) -> Decision:
        """For frameworks whose hooks cannot wrap: decide and record; never raises. The body runs with `arguments(decision)`. A decision without `after` is
        closed as `unknown` with its task. A call whose outcome is known is denied `call.replayed`: here nobody can hand it out again."""
        try:
            return self._begun(drive(decide_flow(self._house, self._state(), call), self._house.seconds))
        except Exception as error:
            return self._broken(call, error)

    async def abefore(self, call: ToolCall) -> Decision:
        """`before`, where an event loop must not wait for a store."""
        try:
            return self._begun(await adrive(decide_flow(self._house, self._state(), call), self._house.seconds))
        except Exception as error:
            return self._broken(call, error)

    def arguments(self, decision: Decision) -> Mapping[str, object]:
        """What the body of an open decision of `before` is to run with: as judged, with defaults, paths resolved. GuardError elsewhere."""
        state = self._state()
        ticket = state.tickets.get(decision.id) if state is not None else None
        if ticket is None or ticket.bound is None:
            raise GuardError("no call is open under this decision")
        return ticket.bound.args

    def after(self, decision: Decision, outcome: Outcome) -> None:
        """Close a decision of `before` with what happened. Unknown or closed decisions are ignored."""
        ticket, happened = self._ended(decision, outcome)
        if ticket is not None:
            drive(finish_flow(self._house, ticket, happened), self._house.seconds)

    async def aafter(self, decision: Decision, outcome: Outcome) -> None:
        """`after`, where an event loop must not wait for a store."""
        ticket, happened = self._ended(decision, outcome)
        if ticket is not None:
            await adrive(finish_flow(self._house, ticket, happened), self._house.seconds)

    def credential(self, decision: Decision | None = None) -> CallCredential:
        """Inside the body of a tool that declares one (`credential:` in the policy): the credential of this very call, which nobody else has and which
        is taken back when the body has ended. `decision`: that of `before`, where a framework runs the body. GuardError `credential.none` elsewhere.
        """
        from guard.lent import lent_here, none_open

        if decision is None:
            return lent_here()
        state = self._state()
        ticket = state.tickets.get(decision.id) if state is not None else None
        if ticket is None or ticket.lent is None:
            raise none_open()
        found: CallCredential = ticket.lent.credential
        return found

    # -- what the decorator and the adapters stand on ------------------------------------------------------------------------------

    def run(self, call: ToolCall, execute: Callable[..., object], bind: Bind | None) -> object:
        """`call`, with the arguments bound by `bind` (positional ones included)."""
        house, frame = self._house, self._current.get()
        ticket, outcome = drive(call_flow(house, None if frame is None else frame.state, call, execute, bind), house.seconds)
        return self._answer(ticket, outcome)

    async def arun(self, call: ToolCall, execute: Callable[..., object], bind: Bind | None) -> object:
        """`run` for coroutines."""
        ticket, outcome = await adrive(call_flow(self._house, self._state(), call, execute, bind), self._house.seconds)
        return self._answer(ticket, outcome)

    def dry(self, call: ToolCall, bind: Bind | None) -> Decision:
        """`check`, with the arguments bound by `bind`."""
        return drive(decide_flow(self._house, self._state(), call, bind, dry=True), self._house.seconds).decision

    def open_call(self, call: ToolCall, bind: Bind | None) -> Ticket:
        """Decide and record a call whose body the caller runs (generators); `close_call` ends it. Raises Denied."""
        return self._streaming(drive(decide_flow(self._house, self._state(), call, bind), self._house.seconds))

    async def aopen_call(self, call: ToolCall, bind: Bind | None) -> Ticket:
        return self._streaming(await adrive(decide_flow(self._house, self._state(), call, bind), self._house.seconds))

    def close_call(self, ticket: Ticket, outcome: Outcome) -> None:
        if _open(ticket):
            drive(finish_flow(self._house, ticket, outcome), self._house.seconds)

    async def aclose_call(self, ticket: Ticket, outcome: Outcome) -> None:
        if _open(ticket):
            await adrive(finish_flow(self._house, ticket, outcome), self._house.seconds)

    def _state(self) -> TaskState | None:
        frame = self._current.get()
        return frame.state if frame is not None else None

    def _streaming(self, ticket: Ticket) -> Ticket:
        if ticket.decision.blocks:
            raise denied(ticket.decision)
        ticket.streamed = True
        unseen(ticket)
        self._hold(ticket)
        return ticket

    def _begun(self, ticket: Ticket) -> Decision:
        if ticket.replay is not None:  # its outcome cannot be handed out here, and who asks runs the body
            return self._again(ticket.decision)
        self._hold(ticket)
        return ticket.decision

    def _ended(self, decision: Decision, outcome: Outcome) -> tuple[Ticket | None, Outcome]:
        state = self._state()
        ticket = state.tickets.pop(decision.id, None) if state is not None else None
        return ticket, outcome if type(outcome) is Outcome else Outcome("unknown")  # the body may have run, whatever is said of it

    def _hold(self, ticket: Ticket) -> None:
        if ticket.task is not None and not ticket.decision.blocks:
            ticket.task.tickets[ticket.decision.id] = ticket

    def _answer(self, ticket: Ticket, outcome: Outcome) -> object:
        if ticket.decision.verdict != "allow":
            raise denied(ticket.decision)
        if outcome.error is not None:
            raise outcome.error
        if type(outcome.value).__name__ in STREAMS and ticket.replay is None:
            ticket.streamed = type(outcome.value).__name__ != "coroutine"
            unseen(ticket)
            self._hold(ticket)  # the body has only begun: its outcome is recorded when the stream ends, at the latest with the task
            return STREAMS[type(outcome.value).__name__](self, ticket, lent_steps(ticket, outcome.value))
        return outcome.value

    def _again(self, decision: Decision) -> Decision:
        text = "a call with this id and these arguments was decided before"
        finding = Finding("state", "forbid", ReasonCode.CALL_REPLAYED, text=text)
        return Decision(
            decision.id,
            "deny",
            "enforce",
            ReasonCode.CALL_REPLAYED,
            (finding,),
            None,
            (),
            decision.task,
            decision.step,
            decision.tool,
            decision.args_hmac,
            decision.policy,
        )

    def _broken(self, call: ToolCall, error: Exception) -> Decision:
        finding = Finding("guard", "forbid", ReasonCode.GUARD_ERROR, text=f"an unexpected {type(error).__name__} inside the guard")
        tool = call.tool if isinstance(getattr(call, "tool", None), str) else ""
        return Decision("", "deny", "enforce", ReasonCode.GUARD_ERROR, (finding,), None, (), "", 0, tool, "", self._house.policy)


def _open(ticket: Ticket) -> bool:
    """True once. A body that outlives its task was closed with it, as unknown: its call has one outcome, and what it leaves is counted once."""
    return ticket.task is None or ticket.task.tickets.pop(ticket.decision.id, None) is not None


def _taken_back(
    given: Revocations | Sequence[Revocations] | None, store: StateStore | None, verifier: Verifier
) -> tuple[Revocations, Verifier]:
    """Whom to ask what was taken back, and the verifier under those of them that need the token's own text (`over`)."""
    if given is None:
        if store is None or type(store) is MemoryState:
            return RevocationList(), verifier
        from guard.identity.revoked.store import StoreRevocations

        return StoreRevocations(store), verifier  # so that `guardtrail revoke --state` reaches this guard
    parts = given if isinstance(given, Sequence) else (given,)
    for part in parts:
        over = getattr(part, "over", None)
        if over is not None:
            verifier = over(verifier)
    if not isinstance(given, Sequence):
        return given, verifier
    from guard.identity.revoked.several import AnyRevocations

    return AnyRevocations(given), verifier


def _keys_beside(sinks: Sequence[Sink]) -> Path | None:
    """The keys of pseudonyms and argument hashes lie beside the log, so that they outlive the process and its siblings have the same."""
    return next((sink.directory for sink in sinks if isinstance(sink, AuditFile)), None)


def _declared(base: Policy, tool: str) -> frozenset[str]:
    spec = base.tools.get(tool)
    if spec is None:
        raise ConfigError(f"@guard.tool `{tool}` is not in {base.file}{did_you_mean(tool, base.tools)}")
    return frozenset(path.split(".")[0].removesuffix("[]") for path in spec.types)
