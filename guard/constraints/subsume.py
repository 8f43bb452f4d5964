"""`subsumes(parent, child)`: whether every value the child admits, the parent admits too. Exact, or no.

| child                       | parent                | decided by                                                      |
|-----------------------------|-----------------------|-----------------------------------------------------------------|
| finitely many values        | anything              | each of them is tried on the parent's own test                  |
| infinitely many, any kind   | `any`                 | yes                                                             |
| infinitely many             | the same kind         | intervals, prefixes, path steps, networks, inclusion of globs   |
| `glob`                      | `prefix`, `suffix`    | its literal head, its literal tail                              |
| `subset`                    | `each`                | each of its values is tried                                     |
| `any_of`                    | anything              | every alternative                                               |
| anything                    | `any_of`              | one alternative takes all of it                                 |
| infinitely many             | another kind          | no                                                              |

A parent of several kinds must be implied kind by kind. The unsound subset checks this replaces are fail-open rows F37 to F39.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final, NamedTuple, cast

from guard.constraints import hosts
from guard.constraints.commands import Form, Operand, operand_includes
from guard.constraints.constraint import WHOLE, Constraint, Part, made
from guard.constraints.globs import includes
from guard.constraints.kinds import Range, build, command_forms, host_fits, listed, networks, same, url_below, url_path_below

__all__ = ["subsumes"]


def subsumes(parent: Constraint, child: Constraint, *, items: bool = False) -> bool:
    """Whether `child` admits nothing that `parent` refuses. False also where that is not decided.

    `items`: both stand on a path that ends in `[]`, where `len` and `subset` speak of the list and all else of each item.
    """
    try:
        return _subsumes(parent, child, items)
    except Exception:  # a specification that makes no sense proves nothing
        return False


def _subsumes(parent: Constraint, child: Constraint, items: bool) -> bool:
    if parent.params or child.params or (child.optional and not parent.optional):
        return False
    values = None if items else child.finite
    if values is not None:
        return all(parent.matches(value) for value in values if child.matches(value))
    return _within(_pieces(parent), _pieces(child), items)


class _Piece(NamedTuple):
    """One part, and whether the constraint it stands in lets an empty list pass."""

    part: Part
    optional: bool


def _pieces(constraint: Constraint) -> tuple[_Piece, ...]:
    return tuple(_Piece(part, constraint.optional) for part in constraint.parts)


def _within(need: tuple[_Piece, ...], have: tuple[_Piece, ...], items: bool) -> bool:
    """Whether whatever meets all of `have` meets all of `need`. Alternatives on the child's side are taken one by one."""
    for at, piece in enumerate(have):
        if piece.part.kind == "any_of":
            rest = have[:at] + have[at + 1 :]
            return all(_within(need, rest + _pieces(one), items) for one in piece.part.inner)
    for wanted in need:
        speaks = tuple(piece for piece in have if not items or (piece.part.kind in WHOLE) == (wanted.part.kind in WHOLE))
        if not _implied(wanted, speaks):
            return False
    return True


def _implied(need: _Piece, have: tuple[_Piece, ...]) -> bool:
    if need.part.kind == "any":
        return True
    if need.part.kind == "any_of":
        return any(_within(_pieces(one), have, False) for one in need.part.inner)
    return any(_implies(piece, need) for piece in have)


def _implies(one: _Piece, other: _Piece) -> bool:
    """Whether one kind alone implies another."""
    have, need = one.part, other.part
    if have.kind == "eq":
        return _meets(other, have.spec)
    if have.kind == "one_of":
        return all(_meets(other, value) for value in have.spec)
    if have.kind in ("each", "subset") and need.kind in ("each", "subset") and one.optional and not other.optional:
        return False  # an empty list
    if have.kind == need.kind:
        return _SAME[have.kind](have, need)
    if have.kind == "glob" and need.kind == "prefix":
        return str(have.spec).partition("*")[0].startswith(need.spec)
    if have.kind == "glob" and need.kind == "suffix":
        return str(have.spec).rpartition("*")[2].endswith(need.spec)
    if have.kind == "subset" and need.kind == "each":
        return all(need.inner[0].matches(value) for value in have.spec)
    if have.kind == "each" and need.kind == "subset":
        values = have.inner[0].finite
        return values is not None and not have.inner[0].optional and all(any(same(value, lit) for lit in need.spec) for value in values)
    return False


def _meets(need: _Piece, value: object) -> bool:
    return made({}, "token", (need.part,), need.optional, frozenset(), None).matches(value)


def _range(have: Part, need: Part) -> bool:
    mine, theirs = Range.of(have.spec), Range.of(need.spec)
    return mine is not None and theirs is not None and mine.within(theirs)


def _len(have: Part, need: Part) -> bool:
    low, high = need.spec.get("min", 0), need.spec.get("max")
    return have.spec.get("min", 0) >= low and (high is None or ("max" in have.spec and have.spec["max"] <= high))


def _below(child: str, parent: str) -> bool:
    """Host patterns: whether everything `child` fits, `parent` fits."""
    if child.startswith("*."):
        return child == parent or (parent.startswith("*.") and child.endswith(parent[1:]))
    return host_fits(child, parent)


def _all_below(children: list[Any], parents: list[Any]) -> bool:
    return all(any(_below(str(child), str(parent)) for parent in parents) for child in children)


def _url(have: Part, need: Part) -> bool:
    mine, theirs = dict(have.spec), need.spec
    root = mine.get("under")
    whole = hosts.split_url(str(root)) if root is not None and not str(root).startswith("/") else None
    if whole is not None:  # the root says scheme, host and port; a child that also says another admits nothing
        if not build("url", {name: part for name, part in mine.items() if name != "under"})(whole.text):
            return True
        mine |= {"scheme": [whole.scheme], "host": [whole.host], "port": [whole.port]}
    for name in ("scheme", "port"):
        if name in theirs and not (
            name in mine and all(any(same(one, other) for other in listed(theirs[name])) for one in listed(mine[name]))
        ):
            return False
    if "host" in theirs and not ("host" in mine and _all_below(listed(mine["host"]), listed(theirs["host"]))):
        return False
    if "under" not in theirs:
        return True
    limit = str(theirs["under"])
    if limit.startswith("/"):
        path = whole.path if whole is not None else root
        return path is not None and url_path_below(str(path), limit)
    return whole is not None and url_below(whole, hosts.split_url(limit))


def _cidr(have: Part, need: Part) -> bool:
    mine, theirs = networks(have.spec), networks(need.spec)
    return all(any(_inside(one, other) for other in theirs) for one in mine)


def _inside(child: IPv4Network | IPv6Network, parent: IPv4Network | IPv6Network) -> bool:
    if isinstance(child, IPv4Network) and isinstance(parent, IPv4Network):
        return child.subnet_of(parent)
    return isinstance(child, IPv6Network) and isinstance(parent, IPv6Network) and child.subnet_of(parent)


def _command(have: Part, need: Part) -> bool:
    """Each form of the child within one form of the parent: then each simple command it admits is."""
    theirs = command_forms(need.spec)
    return all(any(_form(mine, other) for other in theirs) for mine in command_forms(have.spec))


def _form(mine: Form, other: Form) -> bool:
    if not mine.programs <= other.programs:
        return False
    if other.flags is None and other.operands is None:
        return True
    if mine.valued != other.valued:  # else the two would take the same words apart differently
        return False
    if other.flags is not None and (mine.flags is None or not mine.flags <= other.flags):
        return False
    if mine.flags is None and mine.operands is None:  # what a shell expands passes there
        return False
    return other.operands is None or _operands(mine, other, other.operands)


def _operands(mine: Form, other: Form, theirs: tuple[Operand, ...]) -> bool:
    if mine.operands is None or (mine.more and not other.more):
        return False
    least, most = len(mine.operands) - mine.more, len(theirs) - other.more
    if least < most or (not other.more and len(mine.operands) > most):
        return False
    longest = max(len(mine.operands), len(theirs))
    for number in range(longest if mine.more else len(mine.operands)):
        one, limit = mine.operands[min(number, len(mine.operands) - 1)], theirs[min(number, len(theirs) - 1)]
        if not all(any(operand_includes(said, word) for said in limit) for word in one):
            return False
    return True


_SAME: Final[dict[str, Callable[[Part, Part], bool]]] = {
    "any": lambda have, need: True,
    "range": _range,
    "prefix": lambda have, need: cast(str, have.spec).startswith(need.spec),
    "suffix": lambda have, need: cast(str, have.spec).endswith(need.spec),
    "glob": lambda have, need: includes(need.spec, have.spec),
    "under": lambda have, need: have.spec == need.spec or cast(str, have.spec).startswith(str(need.spec).rstrip("/") + "/"),
    "url": _url,
    "email": lambda have, need: _all_below(listed(have.spec["domain"]), listed(need.spec["domain"])),
    "cidr": _cidr,
    "command": _command,
    "mentions": lambda have, need: set(listed(have.spec)) <= set(listed(need.spec)),
    "len": _len,
    "subset": lambda have, need: all(any(same(one, lit) for lit in need.spec) for one in have.spec),
    "each": lambda have, need: subsumes(need.inner[0], have.inner[0]),
}
