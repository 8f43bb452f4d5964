"""`guardtrail init`: a first policy from plain Python functions, or from running MCP servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from guard.cli.guess import Argument, Guess, guess
from guard.cli.mcp import PINS, Env, Header, Name, PinsOption, ServerOption, Servers, Url, specs_of
from guard.cli.modules import attribute, load_module
from guard.cli.output import YES, CannotAnswer, Json, WrongUsage, answers, columns, count, dump, note, pad, say
from guard.policy import Policy
from guard.policy.table import NAMES

__all__ = ["init", "policy_text"]

_INTENT = "everything-listed"


@answers
def init(
    functions: Annotated[
        list[str] | None,
        typer.Argument(
            help="Where your functions are: a list, tuple or dict of them. With --mcp: the server's command, after `--`.",
            metavar="MODULE:NAME | -- COMMAND...",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the policy goes; `-` is standard output.")] = Path("policy.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    mcp: Annotated[bool, typer.Option("--mcp", help="From MCP servers: started, asked for their tools, and pinned.")] = False,
    url: Url = None,
    server: ServerOption = None,
    servers: Servers = None,
    name: Name = "",
    env: Env = None,
    header: Header = None,
    pins: PinsOption = PINS,
    as_json: Json = False,
) -> int:
    """Write a first policy for your tools: what each does and takes is guessed from names and types.

    MODULE is imported from the working directory. What was guessed is marked `# guess`; correct those lines.

    \b
    guardtrail init tools:TOOLS
    guardtrail init app.tools:TOOLS -o policies/app.yaml
    guardtrail init --mcp -- mcp-server-git --repository .       and pins what the server says of its tools
    guardtrail init --mcp --url https://tools.acme.example/mcp

    \b
    --json: {"ok", "file", "tools": [{"name", "effect", "sure", "reversible", "control": {path: type}, "data": {path: type},
             "left_out": [str]}], "intents": [str]}
    """
    if not force and str(output) != "-" and output.exists():
        raise WrongUsage(f"{output} exists; `--force` replaces it, `-o FILE` writes another")
    if mcp:
        from guard.cli.initmcp import asked_servers

        source, named, guesses = asked_servers(specs_of(functions, url, server, servers, name, env, header), pins)
    elif url or server or servers or name or env or header or functions is None or len(functions) != 1:
        raise WrongUsage(
            "say where your functions are, as in `guardtrail init tools:TOOLS`; of MCP servers: `guardtrail init --mcp -- COMMAND`"
        )
    else:
        source = named = functions[0]
        guesses = [_guess(own, function) for own, function in _functions(source).items()]
    text = policy_text(source, guesses, named)
    Policy.from_text(text, file=str(output))  # what is written loads; if not, nothing is written
    if str(output) == "-":
        print(text, end="")
        return YES
    _write(output, text)
    if as_json:
        dump({"ok": True, "file": str(output), "tools": [_dict(each) for each in guesses], "intents": [_INTENT]})
        return YES
    say(f"read {count(len(guesses), 'tool' if mcp else 'function')} from {source}")
    for line in columns([_row(each) for each in guesses], gap=3, most=100):
        say(line)
    say(f"wrote {output}: {count(len(guesses), 'tool')}, 1 intent `{_INTENT}` (grants exactly these tools), 0 rules, 1 test")
    if mcp:
        say(f"pinned what they say of their tools in {pins}: read it (`guardtrail mcp --pin` shows it), a model will")
    say(f"next: correct the lines marked `# guess`, then  guardtrail lint {output}")
    return YES


# -- reading the functions -----------------------------------------------------------------------------------------------------


def _functions(spec: str) -> dict[str, Callable[..., object]]:
    """Tool name -> function, in the order written."""
    module, colon, name = spec.partition(":")
    if module.endswith(".py") or "/" in module:
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise WrongUsage(f"`{spec}`: a module is named, not a file; write `{dotted}:{name or 'TOOLS'}`")
    if not colon or not name or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise WrongUsage(f"`{spec}` is not of the form MODULE:NAME, as in `tools:TOOLS`")
    value = attribute(load_module(module), module, name)
    if isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        items = [(_name(each), each) for each in value]
    else:
        raise WrongUsage(f"{spec} is a {type(value).__name__}; it must be a list, tuple or dict of functions")
    return _checked(spec, items)


def _name(function: object) -> str:
    return str(getattr(function, "__guardtrail__", None) or getattr(function, "__name__", type(function).__name__))


def _checked(spec: str, items: Sequence[tuple[str, Any]]) -> dict[str, Callable[..., object]]:
    found: dict[str, Callable[..., object]] = {}
    for number, (name, function) in enumerate(items, 1):
        if not callable(function):
            raise WrongUsage(f"{spec}: entry {number} is a {type(function).__name__}, not a function")
        if not re.match(NAMES["tool"], name):
            raise WrongUsage(
                f"{spec}: entry {number} is called `{name}`, which is no tool name; a dict gives it one: `{{'name': function}}`"
            )
        if name in found:
            raise WrongUsage(f"{spec}: two functions are called `{name}`; a dict gives each its own name")
        found[name] = function
    if not found:
        raise WrongUsage(f"{spec} is empty: there are no functions to describe")
    return found


def _guess(name: str, function: Callable[..., object]) -> Guess:
    try:
        made = guess(name, function)
    except ValueError:
        raise CannotAnswer(f"the signature of `{name}` cannot be read; wrap it in a function that names its arguments") from None
    for argument in made.left_out:
        note(f"note: `{name}`: {argument} is left out; a policy names every argument")
    return made


# -- writing the policy --------------------------------------------------------------------------------------------------------


def policy_text(source: str, guesses: Sequence[Guess], named: str = "") -> str:
    """The policy as a commented YAML text. `source`: where the tools are from; `named`: what it is called after."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", (named or source).partition(":")[0]).strip("-._")[:128] or "tools"
    wide = max(len(_key(each.name)) for each in guesses) + 2
    tools = [f"  {pad(_key(each.name) + ':', wide)}{{{_tool(each)}}}   {_mark(each)}" for each in guesses]
    allow = [f"      {pad(_key(each.name) + ':', wide)}{{}}   {_narrower(each)}".rstrip() for each in guesses]
    return "\n".join(
        [
            f"# A first policy, written by `guardtrail init {source}`. Lines marked `# guess` were guessed from names and types:",
            "# correct them and take the mark away. A tool or an argument that is not named here is denied.",
            "guardtrail: 1",
            f"name: {_key(name)}",
            "owner: you@example.com   # guess: who answers for this policy",
            "",
            "# What each tool is. `control`: arguments that decide whom or what a call reaches; `data`: what it carries there.",
            "tools:",
            *tools,
            "",
            "# Kinds of task: a token names one, and its parameters. This one allows everything above, with any arguments. Replace it",
            "# by kinds of work you know, each with what it needs and no more: parameters, constraints, limits.",
            "intents:",
            f"  {_INTENT}:   # guess",
            "    description: Every tool that is listed, with any arguments.",
            "    ttl: 1h",
            "    allow:",
            *allow,
            "",
            "# What no task may do too much of, for example",
            "# rules:",
            f"#   - {{id: not-too-many, when: {{tool: {_key(guesses[0].name)}}}, limit: {{calls: 20, within: 1h, per: [origin]}}, then: ask}}",
            "",
            "# Run by `guardtrail test`: who acts, what is called, what must come of it.",
            "tests:",
            "  - name: a tool that is not listed is denied",
            f"    as: {{origin: alice, actor: agent, intent: {_INTENT}}}",
            "    trace: |",
            "      not_a_listed_tool()",
            "    expect: [deny tool.unknown]",
            "",
        ]
    )


def _tool(tool: Guess) -> str:
    parts = [f"effect: {tool.effect}"]
    for word, control in (("control", True), ("data", False)):
        arguments = tool.part(control)
        if arguments:
            parts.append(f"{word}: {{{', '.join(f'{_key(each.path)}: {each.type}' for each in arguments)}}}")
    return ", ".join(parts)


def _mark(tool: Guess) -> str:
    if not tool.sure:
        return "# guess: the name does not say what it does"
    return "# guess" + (f"; not described: {', '.join(tool.left_out)}" if tool.left_out else "")


def _narrower(tool: Guess) -> str:
    """How a person might narrow it: an example, in a comment."""
    if tool.effect == "read":
        return ""
    control = tool.part(True)
    args = f"args: {{{_key(control[0].path)}: {{eq: ${re.sub('[^A-Za-z0-9_]', '', control[0].path)}}}}}, " if control else ""
    return f"# narrower: {{{args}limit: {{calls: 1}}}}"


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})


def _key(word: str) -> str:
    return word if _PLAIN_KEY.fullmatch(word) and word.lower() not in _YAML_WORDS else f'"{word}"'


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise CannotAnswer(f"{path} cannot be written: {(error.strerror or type(error).__name__).lower()}") from None


# -- showing it ----------------------------------------------------------------------------------------------------------------


def _row(tool: Guess) -> list[str]:
    why = "guessed from name and types" if tool.sure else "effect guessed blindly: its name has no verb known here"
    return [
        tool.name,
        tool.effect,
        "reversible: no" if tool.irreversible else "",
        ", ".join(_argument(each) for each in tool.arguments),
        why,
    ]


def _argument(argument: Argument) -> str:
    part = "control" if argument.control else "data"
    return f"{argument.path} {part}" + ("" if argument.type == "text" else f" {argument.type}")


def _dict(tool: Guess) -> dict[str, Any]:
    parts = {word: {each.path: each.type for each in tool.part(control)} for word, control in (("control", True), ("data", False))}
    about = {"name": tool.name, "effect": tool.effect, "sure": tool.sure, "reversible": not tool.irreversible}
    return {**about, **parts, "left_out": list(tool.left_out)}
