"""Who issues tokens, whose tokens count, and what was taken back."""

from typing import TYPE_CHECKING

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


def __getattr__(name: str) -> object:
    """What only some need, loaded when it is asked for: who only verifies does not pay for it."""
    if name == "Client":
        from guard.identity.client import Client

        return Client
    if name == "HolderKey":
        from guard.identity.holder import HolderKey

        return HolderKey
    if name == "Registry":
        from guard.identity.holder import HolderKey
    from guard.identity.registry import Registry

        return Registry
    if name in ("TrustBundles", "WorkloadIssuer", "Workloads"):
        from guard.identity import workload

        return getattr(workload, name)
    raise AttributeError(name)
