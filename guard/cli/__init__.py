"""The command line: `guardtrail`. One module per verb; what all of them share is in `output.py`, `files.py`, `trust.py`."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from guard.cli import token as _token
from guard.cli.approvals import app as _approvals
from guard.cli.approvals import approve, reject
from guard.cli.audit import app as _audit
from guard.cli.check import check
from guard.cli.doctor import doctor
from guard.cli.explain import explain
from guard.cli.hook import app as _hook
from guard.cli.identity import app as _identity
from guard.cli.init import init
from guard.cli.lint import lint
from guard.cli.mcp import mcp
from guard.cli.output import YES, say
from guard.cli.replay import replay
from guard.cli.revoke import revoke, revoked
from guard.cli.ssf import app as _ssf
from guard.cli.test import test
from guard.cli.tts import app as _tts

__all__ = ["app", "main"]

_VERBS = """\
guardtrail: authorization for the tool calls of AI agents

in the order of the work
  init            a first policy from your functions      guardtrail init tools:TOOLS
  lint            what does not mean what you think       guardtrail lint policy.yaml
  test            the policy's own tests                  guardtrail test policy.yaml
  token mint      a development token                     guardtrail token mint --issuer acme-dev --origin alice ...
  token login     a development token of an approver      guardtrail token login --issuer acme-dev --person bob ...
  token inspect   what a token says                       guardtrail token inspect @task.jwt
  check           what would the guard say to this call   guardtrail check --policy policy.yaml --token @task.jwt < call.json
  doctor          tools that no guard stands before       guardtrail doctor --coverage app
  explain         one recorded decision and its chain     guardtrail explain last
  approvals list  calls that wait for a person            guardtrail approvals list
  approve         say yes to one of them (or `reject`)    guardtrail approve 01KAW5C --token @bob.jwt
  mcp             a gateway in front of MCP servers       guardtrail mcp -p policy.yaml --token @task.jwt -- SERVER...
  replay          recorded runs under a policy            guardtrail replay traces/*.jsonl --policy policy.yaml
  revoke          the kill switch: deny from now on       guardtrail revoke --task 5d2e --state sqlite:.guardtrail/state.db
  revoked         what was taken back                     guardtrail revoked --state sqlite:.guardtrail/state.db
  ssf serve       receive events of identity providers    guardtrail ssf serve --issuer URL --audience NAME --keys FILE ...
  tts serve       access tokens in, tasks out             guardtrail tts serve --config tts.yaml
  hook install    judge the calls of coding agents        guardtrail hook install --agent claude-code
  identity check  agents nobody owns, old secrets         guardtrail identity check registry.yaml
  audit verify    edited, deleted, reordered records      guardtrail audit verify

`guardtrail VERB --help` says more. Exit codes: 0 yes, 1 no, 2 wrong usage, 3 could not answer. `--json` everywhere."""

app = typer.Typer(
    name="guardtrail",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            number = version("guardtrail")
        except PackageNotFoundError:
            number = "of an unknown version (not installed)"
        say(f"guardtrail {number}")
        raise typer.Exit(YES)


@app.callback(invoke_without_command=True)
def verbs(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)] = False,
) -> None:
    """Authorization for the tool calls of AI agents: policies, tokens, decisions, records.

    \b
    Exit codes: 0 yes, 1 no (denied, violation, failed test, lint error), 2 wrong usage, 3 could not answer.
    Results go to standard output, notes to standard error; colour only on a terminal. `--json` everywhere.
    """
    if context.invoked_subcommand is None:
        for line in _VERBS.splitlines():
            say(line)


app.command()(init)
app.command()(lint)
app.command()(test)
app.add_typer(_token.app, name="token")
app.command()(check)
app.command()(explain)
app.command()(doctor)
app.add_typer(_approvals, name="approvals")
app.command()(approve)
app.command()(reject)
app.command()(mcp)
app.command()(replay)
app.command()(revoke)
app.command()(revoked)
app.add_typer(_ssf, name="ssf")
app.add_typer(_tts, name="tts")
app.add_typer(_identity, name="identity")
app.add_typer(_hook, name="hook")
app.add_typer(_audit, name="audit")


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")  # a terminal without UTF-8 shows escapes, not an exception
    app(prog_name="guardtrail")
