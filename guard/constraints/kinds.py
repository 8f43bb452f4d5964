"""The kinds of constraint as tests: a specification with its parameters bound becomes a closure over one value.

How a specification is read is in `specs.py`, how it is said in `words.py`, what it implies in `subsume.py`. One that makes no sense (a
parameter of another kind) becomes a test that never holds.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, cast

from guard.constraints import commands, hosts, paths
from guard.constraints.globs import compile_glob
from guard.constraints.naming import naming
from guard.constraints.text import is_line
from guard.constraints.types import DECIMAL
from guard.frozen import frozen

__all__ = [
    "MAX_ITEMS",
    "Range",
    "Test",
    "build",
    "command_forms",
    "host_fits",
    "listed",
    "networks",
    "never",
    "number",
    "same",
    "url_below",
    "url_path_below",
]

Test = Callable[[object], bool]
MAX_ITEMS: Final = 1000


def same(value: object, literal: object) -> bool:
    """Typed equality: True is not 1, 1 is not 1.0, "1" is not 1."""
    if type(value) is not type(literal):
        return isinstance(value, (list, tuple)) and isinstance(literal, (list, tuple)) and _same_items(value, literal)
    if isinstance(value, (list, tuple)):
        return _same_items(value, cast("list[object]", literal))
    if isinstance(value, dict):
        other = cast("dict[object, object]", literal)
        return value.keys() == other.keys() and all(same(inner, other[key]) for key, inner in value.items())
    return value == literal


def _same_items(value: list[object] | tuple[object, ...], literal: list[object] | tuple[object, ...]) -> bool:
    return len(value) == len(literal) and all(map(same, value, literal))


@lru_cache(maxsize=2048)
def _amount(text: str) -> Decimal | None:
    return Decimal(text) if DECIMAL.fullmatch(text) else None


def number(value: object) -> Decimal | None:
    """An int, decimal text or finite float as a number."""
    if type(value) is int:
        return Decimal(value)
    if type(value) is str:
        return _amount(value) if len(value) < 100 else None
    if type(value) is float and value == value and value not in (float("inf"), float("-inf")):
        return Decimal(repr(value))
    return None


def never(value: object) -> bool:
    return False


# -- tests, one per kind: spec (parameters bound) -> closure ------------------------------------------------------------------------


def _any(spec: object) -> Test:
    return lambda value: value is not None


def _eq(spec: object) -> Test:
    if type(spec) is str:
        return lambda value: value == spec and type(value) is str
    return lambda value: same(value, spec)


def _one_of(spec: object) -> Test:
    literals = cast("list[object]", spec)
    if all(type(literal) is str for literal in literals):
        known = frozenset(cast("list[str]", literals))
        return lambda value: type(value) is str and value in known
    return lambda value: any(same(value, literal) for literal in literals)


@frozen
class Range:
    """A range as numbers: bounds with whether they belong to it."""

    low: Decimal | None
    low_open: bool
    high: Decimal | None
    high_open: bool

    @classmethod
    def of(cls, spec: dict[str, object]) -> Range | None:
        """None where a bound is no number."""
        bounds = {name: number(bound) for name, bound in spec.items()}
        if None in bounds.values():
            return None
        low, above, high, below = (bounds.get(name) for name in ("min", "above", "max", "below"))
        low_open = above is not None and (low is None or above >= low)
        high_open = below is not None and (high is None or below <= high)
        return cls(above if low_open else low, low_open, below if high_open else high, high_open)

    def admits(self, value: Decimal) -> bool:
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        return self.high is None or not (value > self.high or (self.high_open and value == self.high))

    @property
    def empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    def within(self, other: Range) -> bool:
        """Whether everything in here is in `other`."""
        low = other.low is None or (
            self.low is not None and (self.low > other.low or (self.low == other.low and (self.low_open or not other.low_open)))
        )
        high = other.high is None or (
            self.high is not None and (self.high < other.high or (self.high == other.high and (self.high_open or not other.high_open)))
        )
        return low and high


def _range(spec: object) -> Test:
    found = Range.of(cast("dict[str, object]", spec))
    if found is None:
        return never
    low, high, admits = found.low, found.high, found.admits
    if low is not None and high is not None and not found.low_open and not found.high_open:  # the ordinary range

        def closed(value: object) -> bool:
            amount = _amount(value) if type(value) is str and len(value) < 100 else number(value)
            return amount is not None and low <= amount <= high

        return closed

    def test(value: object) -> bool:
        amount = number(value)
        return amount is not None and admits(amount)

    return test


def _prefix(spec: object) -> Test:
    return lambda value: type(value) is str and value.startswith(cast(str, spec)) and is_line(value)


def _suffix(spec: object) -> Test:
    return lambda value: type(value) is str and value.endswith(cast(str, spec)) and is_line(value)


def _glob(spec: object) -> Test:
    match = compile_glob(cast(str, spec))
    return lambda value: type(value) is str and match(value) and is_line(value)


def _under(spec: object) -> Test:
    root = cast(str, spec)
    return lambda value: type(value) is str and value.startswith("/") and paths.is_below(value, root) and paths.lexical(value) == value


def listed(spec: object) -> list[object]:
    return list(spec) if isinstance(spec, (list, tuple)) else [spec]


def host_fits(name: str, pattern: str) -> bool:
    """`acme.example` exactly; `*.acme.example` any name below it."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def url_below(found: hosts.Url, root: hosts.Url) -> bool:
    """The same origin, the path step by step below. A root with a query is that one page."""
    if (found.scheme, found.host, found.port) != (root.scheme, root.host, root.port):
        return False
    if root.query is not None:
        return found.path == root.path and found.query == root.query
    return url_path_below(found.path, root.path)


def url_path_below(path: str, root: str) -> bool:
    # An encoded slash is a step for some servers and a letter for others: such a path is below nothing.
    if any(mark in path for mark in ("%2F", "%5C", "%00")) or "//" in path:
        return path == root
    return paths.is_below(path, root) if not root.endswith("/") or root == "/" else path.startswith(root) or path == root[:-1]


def _url(spec: object) -> Test:
    given = cast("dict[str, object]", spec)
    schemes = frozenset(listed(given["scheme"])) if "scheme" in given else None
    names = [str(name) for name in listed(given["host"])] if "host" in given else None
    ports = listed(given["port"]) if "port" in given else None
    root = given.get("under")
    below = None if root is None or str(root).startswith("/") else hosts.split_url(str(root))

    def test(value: object) -> bool:
        if type(value) is not str:
            return False
        found = hosts.split_url(value)
        return (
            (schemes is None or found.scheme in schemes)
            and (names is None or any(host_fits(found.host, name) for name in names))
            and (ports is None or found.port in ports)
            and (below is None or url_below(found, below))
            and (root is None or below is not None or url_path_below(found.path, str(root)))
        )

    return test


def _email(spec: object) -> Test:
    domains = [str(name) for name in listed(cast("dict[str, object]", spec)["domain"])]
    exact = frozenset(name for name in domains if not name.startswith("*."))
    below = [name for name in domains if name not in exact]

    def test(value: object) -> bool:
        if type(value) is not str:
            return False
        domain = hosts.split_email(value)[1]
        return domain in exact or any(host_fits(domain, name) for name in below)

    return test


Network = IPv4Network | IPv6Network


def networks(spec: object) -> list[Network]:
    found: list[Network] = []
    for text in listed(spec):
        network = ip_network(cast(str, text))
        if isinstance(network, IPv6Network) and network.prefixlen >= 96 and (mapped := network.network_address.ipv4_mapped) is not None:
            network = ip_network(f"{mapped}/{network.prefixlen - 96}")
        found.append(network)
    return found


def _cidr(spec: object) -> Test:
    nets = networks(spec)

    def test(value: object) -> bool:
        if type(value) is not str:
            return False
        address = ip_address(value.strip("[]") if value.startswith("[") else value)
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in net for net in nets)

    return test


def command_forms(spec: object) -> list[commands.Form]:
    """One form, or a list of them."""
    return [_form(cast("dict[str, object]", one)) for one in listed(spec)]


def _form(given: dict[str, object]) -> commands.Form:
    flags = cast("list[str]", listed(given["flags"])) if "flags" in given else None
    operands = cast("list[str | list[str]]", listed(given["operands"])) if "operands" in given else None
    return commands.form(cast("list[str]", listed(given["program"])), flags, operands)


def _command(spec: object) -> Test:
    forms = command_forms(spec)
    return lambda value: commands.fits(value, forms)


def _mentions(spec: object) -> Test:
    mentioned = naming(cast("list[str]", listed(spec)))
    return lambda value: mentioned(value) if type(value) is str else isinstance(value, (list, tuple)) and any(map(mentioned, value))


def _len(spec: object) -> Test:
    given = cast("dict[str, int]", spec)
    low, high = given.get("min", 0), given.get("max")
    return lambda value: isinstance(value, (str, list, tuple)) and len(value) >= low and (high is None or len(value) <= high)


_BUILD: Final[dict[str, Callable[[object], Test]]] = {
    "any": _any,
    "eq": _eq,
    "one_of": _one_of,
    "range": _range,
    "prefix": _prefix,
    "suffix": _suffix,
    "glob": _glob,
    "under": _under,
    "url": _url,
    "email": _email,
    "cidr": _cidr,
    "command": _command,
    "mentions": _mentions,
    "len": _len,
}


def build(kind: str, spec: object) -> Test:
    """The test of one kind, its parameters bound. A specification that makes no sense (a bound parameter of another kind) never holds."""
    try:
        return _BUILD[kind](spec)
    except Exception:
        return never
