"""A call in Python syntax, literals and keyword arguments only: `pay(iban="DE89", amount="880")`.

The text is cut into tokens first: nesting and everything that is not a literal is refused before `ast` sees it.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from typing import Final

from guard.frozen import frozen

__all__ = ["Call", "CallError", "parse_call"]

_TOOL: Final = re.compile(r"[^\s()\"',=\[\]{}]{1,200}")
_TOKEN: Final = re.compile(
    r"""(?P<blank>[ \t]+)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
      | (?P<name>[A-Za-z_]\w*)
      | (?P<open>[(\[{]) | (?P<close>[)\]}]) | (?P<mark>[,:=]) | (?P<minus>-(?!\s*-))""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE: Final = re.compile(r"(?<!\\)(?:\\\\)*(\\(?!['\"\\abfnrtv0]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}).)", re.DOTALL)
_NAMED: Final = re.compile(r"[ \t]{0,80}=")
_DEPTH: Final = 32
_LITERALS: Final = {"True", "False", "None"}
_PYTHON: Final = {"true": "True", "false": "False", "null": "None"}
_PAIRS: Final = {"(": ")", "[": "]", "{": "}"}


@frozen
class Call:
    """A call; `end`: where in the text it ends."""

    tool: str
    args: dict[str, object]
    end: int


class CallError(Exception):
    """Not a call of that form. `offset`: where in the text. `positional`: it has an argument without a name."""

    def __init__(self, text: str, offset: int, suggestion: str | None = None, *, tool: str = "", positional: bool = False) -> None:
        super().__init__(text)
        self.offset, self.suggestion, self.tool, self.positional = offset, suggestion, tool, positional


def parse_call(text: str, start: int = 0) -> Call:
    """The call that begins at `start`."""
    head = _TOOL.match(text, start)
    if head is None or not text.startswith("(", head.end()):
        raise CallError("this is not a call", start, "write `tool(argument=value)`")
    tool, opening = head.group(), head.end()
    end, reserved = _scan(text, opening, tool)
    source, names = "_" + text[opening:end], {}
    for place, word in reserved:
        at = place - opening + 1
        names[len(source[:at].encode("utf-8", "surrogatepass"))] = word
        source = source[:at] + "_" * len(word) + source[at + len(word) :]
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise CallError(
            f"the arguments of `{tool}` are not Python literals", opening, tool=tool, positional=_positional(text, opening)
        ) from None
    if not isinstance(tree, ast.Call):
        raise CallError("this is not one call", start)
    if tree.args:
        raise CallError("every argument needs its name", opening + 1, "write `name=value`", tool=tool, positional=True)
    args: dict[str, object] = {}
    for given in tree.keywords:
        if given.arg is None:
            raise CallError("`**` is not used here", opening, tool=tool)
        name = names.get(given.col_offset, given.arg)
        if name in args:
            raise CallError(f"argument `{name}` stands twice", opening + given.col_offset - 1, tool=tool)
        args[name] = _literal(given.value, opening - 1)
    return Call(tool, args, end)


def _positional(text: str, opening: int) -> bool:
    return re.match(r"\(\s*[^\s)=]+\s*[,)]", text[opening : opening + 500]) is not None


def _scan(text: str, opening: int, tool: str) -> tuple[int, list[tuple[int, str]]]:
    """Where the call's closing bracket ends, and the arguments whose names Python keeps for itself (`from`, `in`, `class`): tools have
    such arguments all the same. Refuses all that is not a literal.
    """
    closers: list[str] = []
    reserved: list[tuple[int, str]] = []
    place = opening
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise CallError("only literals can stand here", place, tool=tool, positional=_positional(text, opening))
        kind, token = found.lastgroup, found.group()
        if kind == "open":
            closers.append(_PAIRS[token])
            if len(closers) > _DEPTH or (token == "(" and len(closers) > 1):
                raise CallError("nested too deep" if len(closers) > _DEPTH else "only literals can stand here", place, tool=tool)
        elif kind == "close":
            if not closers or closers.pop() != token:
                raise CallError(f"`{token}` closes nothing", place, tool=tool)
            if not closers:
                return found.end(), reserved
        elif kind == "string" and (bad := _ESCAPE.search(token)):
            raise CallError("this is not an escape of Python", place + bad.start(1), "write `\\\\` for a backslash", tool=tool)
        elif kind == "name" and len(closers) == 1 and token not in _LITERALS and _NAMED.match(text, found.end()):
            if keyword.iskeyword(token):
                reserved.append((place, token))
        elif kind == "name" and token not in _LITERALS:
            hint = f"did you mean `{_PYTHON[token]}`?" if token in _PYTHON else "quote text"
            raise CallError("only literals can stand here", place, hint, tool=tool, positional=_positional(text, opening))
        place = found.end()
    raise CallError("the call does not end", len(text) - 1, "a `)` is missing", tool=tool, positional=_positional(text, opening))


def _literal(node: ast.expr, shift: int) -> object:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (str, bool, int, float))):
        if isinstance(node.value, float) and not math.isfinite(node.value):
            raise CallError("this number is too large", shift + node.col_offset)
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _literal(node.operand, shift)
        if type(number) is int or type(number) is float:
            return -number
    elif isinstance(node, ast.List):
        return [_literal(item, shift) for item in node.elts]
    elif isinstance(node, ast.Dict):
        return _mapping(node, shift)
    raise CallError("only literals can stand here: text, numbers, True, False, None, lists and dictionaries", shift + node.col_offset)


def _mapping(node: ast.Dict, shift: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise CallError("a key must be text", shift + node.col_offset)
        if key.value in found:
            raise CallError("a key stands twice", shift + key.col_offset)
        found[key.value] = _literal(value, shift)
    return found
