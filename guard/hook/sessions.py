"""Sessions of coding agents as tasks of a guard: what comes before a call is judged, what comes after it is its outcome.

One lock per session: its events are taken one after the other, those of others beside it. What is remembered of a session on disk is the
folder it began in and how often it has ended, so that a daemon that was killed goes on with the same task.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from guard.errors import Denied, GuardError
from guard.hook.answers import reason_of
from guard.hook.reading import Said
from guard.hook.tokens import Tokens
from guard.model import Decision, Outcome, ToolCall
from guard.reasons import ReasonCode
from guard.runtime import Guard, Task
from guard.server import RequestTask

__all__ = ["Failed", "Sessions"]

_MOST_SESSIONS = 256
_MOST_OPEN = 1000
_MOST_TURNS = 100
_MOST_ACTORS = 64
_MOST_SEEN = 20_000
_MOST_PROMPT = 100_000
_KEPT = 30 * 24 * 3600
RESUME = "resume"
_OF_THE_FOLDER = frozenset({"cwd", "background"})


class Failed(Exception):
    """The agent says that the tool has failed."""


@dataclass(slots=True)
class Open:
    """A call that was allowed and has no outcome yet."""

    decision: Decision
    digest: str
    about: str
    seen: bool = False
    """A second hook has spoken of it."""


@dataclass(slots=True)
class Acting:
    """One token of a session, and the contexts its tasks are current in. The last is the newest."""

    token: str
    tasks: list[tuple[Task, Context]]


@dataclass(slots=True)
class Session:
    """One session of one agent."""

    agent: str
    id: str
    folder: str = ""
    turn: int = 0
    resumed: bool = False
    prompt: str | None = None
    acting: dict[str, Acting] = field(default_factory=dict)
    open: OrderedDict[str, Open] = field(default_factory=OrderedDict)
    seen: OrderedDict[str, str] = field(default_factory=OrderedDict)
    """Call ids -> of which call they were. The guard knows them, too, but takes one with other arguments for another call."""
    counted: OrderedDict[str, int] = field(default_factory=OrderedDict)
    lock: threading.RLock = field(default_factory=threading.RLock)


class Sessions:
    """All sessions of one daemon."""

    def __init__(
        self,
        guard: Guard,
        tokens: Tokens,
        folder: Path,
        *,
        params: Callable[[str], Mapping[str, object]],
        asks: bool,
        note: Callable[[str], None],
    ) -> None:
        """`folder`: where sessions are remembered. `params`: working folder -> parameters of the intent. `asks`: a person can answer. `note`: takes a line without values."""
        self._guard, self._tokens, self._folder, self._params, self._note = guard, tokens, folder, params, note
        self._asks = asks
        self._drawn = token_hex(4)
        self._known: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._lock = threading.Lock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._forget_old()

    def __len__(self) -> int:
        return len(self._known)

    # -- events ------------------------------------------------------------------------------------------------------------------

    def gate(self, agent: str, said: Said) -> str | None:
        """None: it may run. Else why not. Raises nothing that is not the guard's own failure: the door denies then too."""
        session = self._session(agent, said)
        with session.lock:
            call = said.call
            assert call is not None
            digest, about = _digest(call), _about(call)
            if said.follows and not call.id:
                for known in session.open.values():
                    if known.about == about and not known.seen:
                        known.seen = True  # decided a moment ago, under the agent's more general event
                        return None
            key = call.id
            same = session.open.get(f"{said.actor}\0{key}") if key else None
            if same is not None and same.digest == digest:
                return None  # two hooks speak of one call
            if key and session.seen.setdefault(f"{said.actor}\0{key}", digest) != digest:
                return "the same call id was used for another call"
            if not key:
                session.counted[digest] = session.counted.get(digest, 0) + 1
                # Of this session and this daemon: counts begin anew with it, and a task may hold several sessions.
                key = f"{self._drawn}{sha256(session.id.encode()).hexdigest()[:8]}.{digest[:16]}.{session.counted[digest]}"
            try:
                context = self._acting(session, said.actor)
            except Denied as refused:
                return refused.for_model()
            except GuardError as error:
                return f"{error} [{error.code}]"
            decision = context.copy().run(self._guard.before, ToolCall(call.tool, call.args, key))
            if decision.blocks:
                return reason_of(decision, asks=self._asks)
            self._holds(session, f"{said.actor}\0{key}", Open(decision, digest, about), context)
            return None

    def after(self, agent: str, said: Said) -> None:
        """What came of a call. One that is not known is left alone: it was denied, or begun under a daemon that is gone."""
        session = self._known.get((agent, said.session))
        call = said.call
        if session is None or call is None:
            self._note(f"{agent}: an outcome of a session that is not known")
            return
        with session.lock:
            key = f"{said.actor}\0{call.id}"
            if not call.id:
                digest = _digest(call)
                key = next((name for name, one in session.open.items() if one.digest == digest), "")
            if key not in session.open and call.id:  # an agent may not say again which sub-agent it was
                key = next((name for name in session.open if name.partition("\0")[2] == call.id), key)
            known = session.open.pop(key, None)
            if known is None:
                self._note(f"{agent}: an outcome of a call that is not known")
                return
            outcome = Outcome("error", error=Failed("the agent says so")) if said.kind == "failed" else Outcome("ok", _value(said.result))
            self._settle(session, said.actor, known, outcome)

    def prompt(self, agent: str, said: Said) -> None:
        """The user's own words."""
        session = self._session(agent, said)
        with session.lock:
            if not session.acting:
                before = "" if session.prompt is None else f"{session.prompt}\n"
                session.prompt = (before + said.prompt)[-_MOST_PROMPT:]
                return
            task, context = session.acting[""].tasks[-1] if "" in session.acting else (None, None)
            if task is not None and context is not None:
                context.copy().run(task.user_says, said.prompt)

    def start(self, agent: str, said: Said) -> None:
        self._session(agent, said, starts=True)

    def end(self, agent: str, said: Said) -> None:
        """End its task; calls without an outcome are closed as unknown."""
        with self._lock:
            session = self._known.pop((agent, said.session), None)
        if session is None:
            session = self._remembered(agent, said.session)
            if session is None:
                return
        with session.lock:
            self._unknown(session)
            for acting in session.acting.values():
                for task, context in acting.tasks:
                    try:
                        context.run(task.__exit__, None, None, None)
                    except GuardError as error:
                        self._note(f"{agent}: the end of a session: {error}")
            session.acting.clear()
            session.turn += 1
            session.resumed = True  # also for a call that waits for this lock
            self._remember(session)

    def close(self) -> None:
        """The daemon stops: what has no outcome is unknown. Tasks stay open: the next daemon goes on with them."""
        with self._lock:
            left = list(self._known.values())
            self._known.clear()
        for session in left:
            with session.lock:
                self._unknown(session)

    # -- a session ---------------------------------------------------------------------------------------------------------------

    def _session(self, agent: str, said: Said, *, starts: bool = False) -> Session:
        key = (agent, said.session)
        with self._lock:
            session = self._known.get(key)
            if session is None:
                session = self._remembered(agent, said.session)
                if session is None:
                    # One that is resumed, or whose beginning nobody has seen, has a conversation that may hold anything.
                    session = Session(agent, said.session, said.folder, resumed=said.resumed or not starts)
                    self._remember(session)
                self._known[key] = session
                while len(self._known) > _MOST_SESSIONS:
                    _, oldest = self._known.popitem(last=False)
                    with oldest.lock:  # nobody who holds it waits for ours
                        self._unknown(oldest)
            self._known.move_to_end(key)
            return session

    def _acting(self, session: Session, actor: str) -> Context:
        """The context in which the task of `actor` is the current one. Raises Denied, GuardError."""
        if not self._tokens.own:
            actor = ""  # the token says who acts
        _refuse_wide(session.folder)
        acting = session.acting.get(actor)
        if acting is None and len(session.acting) >= _MOST_ACTORS:
            raise GuardError("too many sub-agents act in this session", code=str(ReasonCode.DELEGATION_REFUSED))
        params = self._params(session.folder)
        token = self._tokens.token(session.agent, session.id, session.turn, actor, params, acting.token if acting else "")
        if acting is not None and acting.token == token:
            return acting.tasks[-1][1]
        for _ in range(_MOST_TURNS):
            # The task of a token from a file is not ours to end: other sessions go on under it.
            task = self._guard.task(token, prompt=session.prompt) if self._tokens.own else RequestTask(self._guard, token)
            context = copy_context()
            try:
                context.run(task.__enter__)
            except Denied as refused:
                if refused.code != ReasonCode.TASK_ENDED or not self._tokens.own or session.acting:
                    raise
                session.turn += 1  # it goes on after its end: another task
                session.resumed = True
                self._remember(session)
                token = self._tokens.token(session.agent, session.id, session.turn, actor, params, "")
                continue
            if not self._tokens.own and session.prompt is not None:
                context.copy().run(task.user_says, session.prompt)
            first = not session.acting
            session.acting[actor] = Acting(token, [*(acting.tasks if acting else []), (task, context)])
            if first and session.resumed and self._tokens.own:
                self._resume(session, actor, context)
            return context
        raise GuardError("the session has ended too often", code=str(ReasonCode.TASK_ENDED))

    def _resume(self, session: Session, actor: str, context: Context) -> None:
        """What was read before is in the conversation still: the tool `resume` of the policy brings its labels."""
        decision = context.copy().run(self._guard.before, ToolCall(RESUME, {}, f"{RESUME}.{session.turn}"))
        if decision.code == ReasonCode.CALL_REPLAYED:  # under a daemon before this one
            return
        if decision.blocks:
            del session.acting[actor]
            raise Denied(decision)
        context.copy().run(self._guard.after, decision, Outcome("ok"))

    def _holds(self, session: Session, key: str, one: Open, context: Context) -> None:
        session.open[key] = one
        for kept in (session.seen, session.counted):
            while len(kept) > _MOST_SEEN:
                del kept[next(iter(kept))]
        while len(session.open) > _MOST_OPEN:  # an agent says nothing of a call its user has forbidden
            old, oldest = session.open.popitem(last=False)
            self._settle(session, old.partition("\0")[0], oldest, Outcome("unknown"))

    def _settle(self, session: Session, actor: str, one: Open, outcome: Outcome) -> None:
        for acting in (session.acting.get(actor), *session.acting.values()):
            for _, context in acting.tasks if acting is not None else ():
                context.copy().run(self._guard.after, one.decision, outcome)  # the one that does not know it leaves it alone

    def _unknown(self, session: Session) -> None:
        while session.open:
            key, one = session.open.popitem(last=False)
            self._settle(session, key.partition("\0")[0], one, Outcome("unknown"))

    # -- on disk -----------------------------------------------------------------------------------------------------------------

    def _file(self, agent: str, id: str) -> Path:
        return self._folder / (sha256(b"\0".join((agent.encode(), id.encode()))).hexdigest()[:32] + ".json")

    def _remember(self, session: Session) -> None:
        file = self._file(session.agent, session.id)
        draft = file.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as out:
            json.dump({"folder": session.folder, "turn": session.turn, "resumed": session.resumed}, out)
        draft.replace(file)

    def _remembered(self, agent: str, id: str) -> Session | None:
        """Raises GuardError where something else lies there: a folder that nobody knows is not guessed."""
        try:
            found = json.loads(self._file(agent, id).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            found = None
        match found:
            case {"folder": str(folder), "turn": int(turn), "resumed": bool(resumed)}:
                return Session(agent, id, folder, turn, resumed or turn > 0)
        raise GuardError("what is remembered of this session cannot be read", code=str(ReasonCode.STATE_UNAVAILABLE))

    def _forget_old(self) -> None:
        for file in self._folder.glob("*"):
            try:
                if file.stat().st_mtime < time.time() - _KEPT:
                    file.unlink()
            except OSError:  # another daemon was faster
                continue


def _refuse_wide(folder: str) -> None:
    """Attack: an agent that is started in `/` or in a home has everything below its folder."""
    real, home = os.path.realpath(folder), os.path.realpath(Path.home())
    if real == "/" or home == real or home.startswith(f"{real}/"):
        raise GuardError("start the agent in a project's own folder: this one holds a whole home", code=str(ReasonCode.ARGS_CONSTRAINT))


def _value(result: object) -> object:
    return "" if result is None else result if isinstance(result, str) else json.dumps(result)


def _digest(call: ToolCall) -> str:
    return sha256(json.dumps([call.tool, dict(call.args)], sort_keys=True).encode()).hexdigest()


def _about(call: ToolCall) -> str:
    """What a call is about, however much of it an event tells."""
    args = {name: value for name, value in call.args.items() if name not in _OF_THE_FOLDER}
    return sha256(json.dumps([call.tool.rpartition("/")[2], args], sort_keys=True).encode()).hexdigest()
