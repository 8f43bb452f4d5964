"""Who issues tokens, whose tokens count, and what was taken back."""

from importlib import import_module
from typing import TYPE_CHECKING, Final

from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.identity.revocation import RevocationList
from guard.identity.trusted import TrustedIssuers

if TYPE_CHECKING:
    from guard.identity.client import Client
    from guard.identity.holder import HolderKey
    from guard.identity.registry import Registry
    from guard.identity.workload import TrustBundles, WorkloadIssuer, Workloads

__all__ = [
    "Client", "HolderKey", "Issuer", "LocalIssuer", "Registry", "RevocationList", "TrustBundles", "TrustedIssuers", "WorkloadIssuer", "Workloads",
]  # fmt: skip

_ROOMS: Final = {
    "Client": "client", "HolderKey": "holder", "Registry": "registry", "TrustBundles": "workload", "WorkloadIssuer": "workload", "Workloads": "workload",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """What only some need, loaded when it is asked for: who only verifies does not pay for it."""
    if name in _ROOMS:
        return getattr(import_module(f"guard.identity.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'guard.identity' has no attribute {name!r}")
