"""The adapters there are and what each is tested with: read from `adapters.yaml`, beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import yaml

__all__ = ["ADAPTERS", "Adapter", "installed"]


@dataclass(frozen=True, slots=True)
class Adapter:
    """`title`: as its makers write it. `module`: what is imported to see whether it is here; "": nothing is needed. `newest`, `oldest`: requirements, pinned.
    `seam`: where a call is intercepted, a line of the support matrix. `usual`: part of `make test`. `suite` False: there is
    no adapter, the decorator alone stands before its tools, and its `tests` show that. `tests`: more test files that run in its environments."""

    name: str
    title: str
    module: str
    newest: tuple[str, ...]
    oldest: tuple[str, ...]
    seam: str
    usual: bool
    suite: bool
    tests: tuple[str, ...]


def _read() -> dict[str, Adapter]:
    found = yaml.safe_load((Path(__file__).parent / "adapters.yaml").read_text("utf-8"))
    return {
        name: Adapter(
            name, one["title"], one.get("module", ""), tuple(one.get("newest", ())), tuple(one.get("oldest", ())), one["seam"], one.get("usual", False), one.get("suite", True), tuple(one.get("tests", ()))
        )
        for name, one in found.items()
    }  # fmt: skip


ADAPTERS = _read()


def installed(name: str) -> bool:
    """Is its framework in this environment?"""
    module = ADAPTERS[name].module
    try:
        return not module or find_spec(module) is not None
    except ModuleNotFoundError:  # of the package it lies in
        return False
