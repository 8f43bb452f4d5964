"""`guardtrail hook`: coding agents. One hook answered; the resident daemon; what stands in the agents' settings."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guard.cli.files import load_layers
from guard.cli.output import NO, YES, CannotAnswer, Json, WrongUsage, answers, dump, note, say, table
from guard.cli.serving import DEADLINE
from guard.errors import ConfigError

if TYPE_CHECKING:
    from guard.hook.settings import Change

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)


_Agents = Annotated[
    list[str] | None,
    typer.Option("--agent", help="claude-code, codex, gemini-cli, cursor; repeat it (default: all).", metavar="AGENT", show_default=False),
]
_Socket = Annotated[
    Path | None,
    typer.Option("--socket", help="The daemon's socket (default: in $XDG_RUNTIME_DIR, else $GUARDTRAIL_DIR, ~/.guardtrail).", metavar="PATH", show_default=False),
]  # fmt: skip
_Policy = Annotated[
    list[Path] | None,
    typer.Option("--policy", "-p", help="The policy (default: the pack coding-agent); several are layers.", metavar="FILE", show_default=False),
]  # fmt: skip
_Token = Annotated[
    str | None,
    typer.Option("--token", help="Act under the token in this file, read again when it changes.", metavar="@FILE", show_default=False),
]
_Intent = Annotated[str, typer.Option("--intent", help="The kind of task, where the daemon makes the tokens.", metavar="NAME")]
_Issuer = Annotated[str | None, typer.Option("--issuer", help="Who made the token: its exact `iss`.", metavar="URL", show_default=False)]
_Audience = Annotated[str | None, typer.Option("--audience", help="For whom its tokens must be meant.", metavar="NAME", show_default=False)]
_Keys = Annotated[str | None, typer.Option("--keys", help="Its keys: a JWKS file, or an address.", metavar="FILE|URL", show_default=False)]
_Approvers = Annotated[
    str | None,
    typer.Option("--approvers", help="For whom the tokens of those who approve are meant, at the same issuer.", metavar="NAME", show_default=False),
]  # fmt: skip
_State = Annotated[
    str | None,
    typer.Option("--state", help="Where labels and limits lie (default: state.db beside the records).", metavar="sqlite:PATH", show_default=False),
]  # fmt: skip
_Dir = Annotated[
    Path | None,
    typer.Option("--dir", help="Where records, state and keys lie (default: $GUARDTRAIL_DIR, else ~/.guardtrail).", metavar="DIR", show_default=False),
]  # fmt: skip
_User = Annotated[bool, typer.Option("--user", help="In the settings of the user, for all projects; else in those of this folder.")]


@app.callback(invoke_without_command=True)
def hook(
    context: typer.Context,
    agent: Annotated[
        str | None, typer.Option("--agent", help="claude-code, codex, gemini-cli, cursor.", metavar="AGENT", show_default=False)
    ] = None,
    socket: _Socket = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start a daemon where none answers.")] = True,
) -> None:
    """Answer one hook of a coding agent: its JSON on standard input, the answer in the agent's own form, exit 0 or 2.

    The daemon judges (`guardtrail hook serve`); where none answers, one is started. `guardtrail hook install` writes a line that does the same
    without a Python process. Whatever goes wrong: exit 2, and the call does not run.

    \b
    guardtrail hook --agent claude-code < event.json
    guardtrail hook install --agent claude-code
    guardtrail hook status

    \b
    Exit 0: answered, as the JSON says; 2: denied.
    """  # fmt: skip
    if context.invoked_subcommand is None:
        raise typer.Exit(_one(agent, socket, start=start))


def _one(agent: str | None, socket: Path | None, *, start: bool) -> int:
    """One event through the daemon. Never raises: an agent reads every code but 2 as a yes."""
    why = "the daemon did not answer, so this was not judged and is not allowed; see: guardtrail hook status"
    try:
        from guard.hook.client import ask, connected, started
        from guard.hook.door import home, socket_path
        from guard.hook.line import start_command
        from guard.hook.reading import MAX_BODY, event_of
        from guard.hook.tables import AGENTS, PROTOCOL

        known = AGENTS.get(agent or "")
        if known is None:
            raise WrongUsage(f"`--agent` is one of {', '.join(AGENTS)}")
        body = sys.stdin.buffer.read(MAX_BODY + 1)
        event = event_of(body)
        path = str((socket or socket_path()).absolute())
        peer = connected(path) or (started(path, start_command(["--socket", path, "--dir", str(home())])) if start else None)
        said = ask(peer, f"http://localhost/v1/{known.name}/{event}", body).decode() if peer is not None else ""
        head, _, rest = said.partition("|")
        if head == f"{PROTOCOL} 0":
            sys.stdout.write(rest)
            return 0
        reason, found, text = rest.partition("|")
        if head == f"{PROTOCOL} 2" and found:
            sys.stdout.write(text)
            why = reason.removeprefix("guardtrail: ")
    except (WrongUsage, ConfigError) as error:
        why = str(error)
    except Exception as error:
        why = f"an unexpected {type(error).__name__}, so this was not judged and is not allowed"
    sys.stderr.write(f"guardtrail: {why}\n")
    return 2


# -- the daemon ------------------------------------------------------------------------------------------------------------------


@app.command()
@answers
def serve(
    policy: _Policy = None,
    socket: _Socket = None,
    token: _Token = None,
    issuer: _Issuer = None,
    audience: _Audience = None,
    keys: _Keys = None,
    intent: _Intent = "coding",
    state: _State = None,
    approvers: _Approvers = None,
    dir: _Dir = None,
    as_json: Json = False,
) -> int:
    """Judge the calls of the coding agents of this user, until it is ended.

    Each session is a task. Without `--token` it acts under a token of a development issuer: origin the user of this machine, actor the agent; every
    record says `issuer: local`. With it, under the token in that file: then all sessions are that token's one task.

    Records, state and keys lie in $GUARDTRAIL_DIR, or in .guardtrail of the home. Ctrl-C and TERM end it: calls without an outcome are closed as
    unknown, the tasks go on with the next daemon. A second one ends at once.

    \b
    guardtrail hook serve
    guardtrail hook serve --policy policy.yaml --token @task.jwt --issuer https://iam.acme.example --audience agents

    \b
    --json: {"socket", "policy", "pid"}, once it listens
    Exit 0: it was ended; 2: wrong usage; 3: the policy does not load, or a daemon is there already.
    """
    from guard.hook.door import Door, home, socket_path

    os.environ["GUARDTRAIL_DIR"] = str(dir.absolute() if dir is not None else home())
    path = (socket or socket_path()).absolute()
    file = _token_file(token, issuer, audience, keys)
    sessions, about = _wired(policy or [], file, (issuer, audience, keys, approvers), intent, state)
    try:
        door = Door(path, sessions, about)
    except ConfigError as error:
        raise CannotAnswer(str(error)) from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=door.shutdown).start())
    if as_json:
        dump({"socket": str(path), "policy": about["policy"], "pid": os.getpid()})
    else:
        note(f"listening on {path}, policy {about['policy']}, {about['token']}")
    try:
        door.serve_forever(poll_interval=0.2)
    finally:
        door.leave()
    return YES


def _token_file(token: str | None, issuer: str | None, audience: str | None, keys: str | None) -> Path | None:
    if token is None:
        if issuer or audience or keys:
            raise WrongUsage("`--issuer`, `--audience` and `--keys` belong to `--token`")
        return None
    if not token.startswith("@") or token == "@":
        raise WrongUsage("`--token` is `@` and a file: a token on the command line can be read by everybody")
    return Path(token[1:]).absolute()


def _wired(
    policy: Sequence[Path], file: Path | None, given: tuple[str | None, str | None, str | None, str | None], intent: str, state: str | None
) -> tuple[Any, dict[str, object]]:
    """The sessions of a guard under these policies; what it says of itself."""
    from guard.approvals import Approvals
    from guard.cli.trust import named, trusted
    from guard.hook.door import home, private
    from guard.hook.sessions import Sessions
    from guard.hook.tokens import Given, Made, Tokens, issuer, user
    from guard.house import named as said_of
    from guard.identity import LocalIssuer
    from guard.packs import pack_path
    from guard.record import default_sinks
    from guard.runtime import Guard

    private(home())
    layers = load_layers(list(policy) or [pack_path("coding-agent")])
    known = next((layer.intents for layer in layers if layer.intents), {})
    if file is None and intent not in known:
        raise WrongUsage(f"the policy has no intent `{intent}`; `--intent` is one of {', '.join(known) or 'none'}")
    tokens: Tokens
    try:
        trust = issuer() if file is None else trusted(file.read_text("ascii").strip(), *given[:3], False)
        tokens = Made(trust, user(), intent) if file is None else Given(file)  # type: ignore[arg-type]
        asked = trust if isinstance(trust, LocalIssuer) else named(given[0] or "", given[3], given[2]) if given[3] is not None else None
        desk = None if asked is None else Approvals(trust=asked)
        guard = Guard(
            layers, trust=trust, state=state or f"sqlite:{home() / 'state.db'}", approvals=desk, deadline=DEADLINE,
            sinks=default_sinks(DEADLINE / 2),
        )  # fmt: skip
    except OSError as error:
        raise CannotAnswer(f"{file}: {(error.strerror or 'cannot be read').lower()}") from None
    wants = dict(known[intent].params) if intent in known else {}

    def params(folder: str) -> Mapping[str, object]:
        return {"workspace": os.path.realpath(folder)} if "workspace" in wants else {}

    sessions = Sessions(guard, tokens, home() / "hook", params=params, asks=desk is not None, note=note)
    who = "a token in a file" if file is not None else "tokens of its own development issuer"
    return sessions, {"policy": said_of(layers), "token": who}


# -- the settings ----------------------------------------------------------------------------------------------------------------


@app.command()
@answers
def install(
    agent: _Agents = None,
    user: _User = False,
    policy: _Policy = None,
    socket: _Socket = None,
    token: _Token = None,
    issuer: _Issuer = None,
    audience: _Audience = None,
    keys: _Keys = None,
    intent: _Intent = "coding",
    state: _State = None,
    approvers: _Approvers = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Let a hook start a daemon where none answers.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Write the hooks into the agents' settings: this folder's, or with --user the user's.

    What stands there stays, comments too; a copy is made before a change; a second time changes nothing. The line has absolute paths of this machine
    and of this environment: do not commit it. Options of the daemon are those of `guardtrail hook serve`; a hook that starts one gives it them.

    \b
    guardtrail hook install --agent claude-code --dry-run
    guardtrail hook install --user

    \b
    --json: {"files": [{"agent", "file", "state": "changed" | "unchanged" | "would change", "backup": FILE | null}], "curl": FILE | null}
    Exit 0: done; 2: wrong usage; 3: a file is not what its agent would read, or cannot be written.
    """
    from guard.hook.door import home, socket_path
    from guard.hook.line import find_curl, line, start_command
    from guard.hook.settings import change, with_hooks

    chosen = _chosen(agent)
    path = (socket or socket_path()).absolute()
    file = _token_file(token, issuer, audience, keys)
    # Not what the agent's environment says later: a project's settings can set that.
    options = ["--socket", str(path), "--dir", str(home()), "--intent", intent]
    options += [word for each in policy or [] for word in ("--policy", str(each.absolute()))]
    options += ["--token", f"@{file}"] if file is not None else []
    options += [
        word for name, value in (("--issuer", issuer), ("--audience", audience), ("--keys", keys)) if value for word in (name, value)
    ]
    command = start_command(options)
    curl = find_curl()
    done: list[Change] = []
    for one in chosen:
        lines = {event: line(one, event, path, curl=curl, start=command if start else []) for event in one.events}
        done.append(change(one, user=user, edit=lambda text, one=one, lines=lines: with_hooks(one, text, lines), dry=dry_run))  # type: ignore[misc]
    _show(done, as_json, {"curl": curl}, dry=dry_run)
    if curl is None:
        note("there is no curl here: each hook is a Python process, some 30 ms instead of some 10")
    if any(one.name == "codex" for one in chosen):
        note("Codex runs these hooks only after you have looked at them and trusted them: `/hooks` in Codex")
    if not as_json and not dry_run:
        _suggest(command)
    return YES


@app.command()
@answers
def uninstall(
    agent: _Agents = None,
    user: _User = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
    as_json: Json = False,
) -> int:
    """Take our hooks out of the agents' settings, and nothing else.

    \b
    guardtrail hook uninstall --agent cursor

    \b
    --json: {"files": [{"agent", "file", "state": "changed" | "unchanged" | "would change", "backup": FILE | null}]}
    Exit 0: done; 2: wrong usage; 3: a file cannot be read or written.
    """
    from guard.hook.settings import change, with_hooks

    done = [change(one, user=user, edit=lambda text, one=one: with_hooks(one, text, {}), dry=dry_run) for one in _chosen(agent)]  # type: ignore[misc]
    _show(done, as_json, {}, dry=dry_run)
    return YES


@app.command()
@answers
def status(socket: _Socket = None, as_json: Json = False) -> int:
    """Is the daemon there, and where do hooks stand, of this folder and of the user?

    \b
    guardtrail hook status

    \b
    --json: {"daemon": {"pid", "policy", "sessions", "token", ...} | null, "socket", "hooks": [{"agent", "file", "state"}]}
            state: "installed" | "in part" | "switched off" | "not installed" | "not readable"
    Exit 0: the daemon answers; 1: it does not.
    """
    from guard.hook.door import socket_path
    from guard.hook.settings import installed

    path = (socket or socket_path()).absolute()
    about = _about(str(path))
    hooks = [{"agent": one.name, "file": str(file), "state": state} for one in _chosen(None) for file, state in installed(one)]
    if as_json:
        dump({"daemon": about, "socket": str(path), "hooks": hooks})
        return YES if about is not None else NO
    if about is not None:
        say(f"daemon  pid {about.get('pid')}, policy {about.get('policy')}, {about.get('sessions')} sessions, {about.get('token')}")
    else:
        say(f"daemon  none answers on {path}")
    there = [hook for hook in hooks if hook["state"] != "not installed"]
    if there:
        table(["agent", "state", "file"], [[hook["agent"], hook["state"], hook["file"]] for hook in there])
    else:
        say("hooks   installed nowhere: guardtrail hook install")
    for name in {hook["agent"] for hook in there}:
        if sum(hook["agent"] == name for hook in there) > 1:
            note(
                f"{name} has hooks twice, so each call is asked about twice; take one out: guardtrail hook uninstall --agent {name} [--user]"
            )
    return YES if about is not None else NO


def _about(path: str) -> dict[str, object] | None:
    import json

    from guard.hook.client import connected

    peer = connected(path)
    if peer is None:
        return None
    try:
        with peer:
            peer.settimeout(3)
            peer.sendall(b"GET /v1/status HTTP/1.0\r\n\r\n")
            got = b""
            while piece := peer.recv(65536):
                got += piece
        found = json.loads(got.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _chosen(names: Sequence[str] | None) -> list[Any]:
    from guard.hook.tables import AGENTS

    for name in names or []:
        if name not in AGENTS:
            raise WrongUsage(f"`--agent` is one of {', '.join(AGENTS)}")
    return [one for name, one in AGENTS.items() if not names or name in names]


def _show(done: Sequence[Change], as_json: bool, more: dict[str, object], *, dry: bool) -> None:
    if as_json:
        dump(
            {
                "files": [
                    {
                        "agent": one.agent,
                        "file": str(one.file),
                        "state": one.state,
                        "backup": None if one.backup is None else str(one.backup),
                    }
                    for one in done
                ],
                **more,
            }
        )
        return
    for one in done:
        say(f"{one.state:12}  {one.agent:12}  {one.file}")
        if one.backup is not None:
            note(f"as it was before: {one.backup}")
        if dry:
            for shown in one.diff:
                say(shown)


def _suggest(command: Sequence[str]) -> None:
    """How the daemon starts with the session, for who does not want to wait for the first hook."""
    import shlex

    words = shlex.join(command)
    note("a hook starts the daemon where none answers; or let the system do it:")
    if sys.platform == "darwin":
        note("  ~/Library/LaunchAgents/guardtrail-hook.plist: ProgramArguments as below, RunAtLoad and KeepAlive true")
        note(f"  {words}")
    else:
        note("  ~/.config/systemd/user/guardtrail-hook.service, then: systemctl --user enable --now guardtrail-hook")
        for text in ("[Service]", f"ExecStart={words}", "Restart=on-failure", "[Install]", "WantedBy=default.target"):
            note(f"    {text}")
