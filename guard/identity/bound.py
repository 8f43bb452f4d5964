"""Who has proven to be one, by the registry: a key, a workload, or both.

| the key the token is bound to is | the workload that is proven is | who acts counts as                     |
|----------------------------------|--------------------------------|----------------------------------------|
| registered to who acts           | the same, or none is           | its id                                 |
| not registered, or there is none | who acts                       | its id                                 |
| registered to who acts           | another                        | nobody: it equals every other          |
| registered to another            | -                              | nobody                                 |
| not registered, or there is none | another, or none is            | nobody                                 |

That the holder has the key is proven call by call (`guard/proving.py`), before any rule asks who acts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from guard.errors import TokenRefused
from guard.model import Delegation
from guard.ports import Proofs
from guard.reasons import ReasonCode
from guard.tokens.evidence import Workload

if TYPE_CHECKING:
    from guard.identity.registry import Registry

__all__ = ["BoundProofs"]


class BoundProofs:
    """`guard.ports.Proofs` of a `Registry`, and of what else the guard was given."""

    def __init__(self, registry: Registry, beside: Proofs | None) -> None:
        self._registry = registry
        self._beside = beside
        self.inline = beside is None or getattr(beside, "inline", False) is True

    def __repr__(self) -> str:
        return f"BoundProofs({self._registry!r}, {self._beside!r})"

    def actor(self, delegation: Delegation) -> str | None:
        """The id of who acts."""
        key, beside = self._registry.proven(delegation), self._beside
        if beside is None:
            return key
        work = beside.actor(delegation)
        if work is None:  # Attack: the key of one identity in the program of another
            return None if key is None or self._another() else key
        return work if key == work or self._registry.holder(delegation) is None else None

    def behind(self, delegation: Delegation, *, now: int) -> Workload:
        """As `Workloads.behind`, and the key of the token is nobody else's. Raises `TokenRefused`."""
        ask = getattr(self._beside, "behind", None)
        if ask is None:
            raise TokenRefused(ReasonCode.TOKEN_MISSING)
        found = ask(delegation, now=now)
        if type(found) is not Workload:
            raise TokenRefused(ReasonCode.TOKEN_WORKLOAD)
        holder, program = self._registry.holder(delegation), self._registry.program(found)
        if holder is not None and program is not None and holder is not program:
            raise TokenRefused(ReasonCode.TOKEN_WORKLOAD)
        return found

    def _another(self) -> bool:
        """Does a program show that it is one, where it is not who acts? One that has no name here says nothing of anybody."""
        workload, name_of = getattr(self._beside, "workload", None), getattr(self._beside, "name_of", None)
        try:
            return workload is not None and name_of is not None and name_of(workload()) is not None
        except Exception:  # nothing shown, or nothing that counts
            return False
