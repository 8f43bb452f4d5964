"""Who issues tokens, whose tokens count, and what was taken back."""

from typing import TYPE_CHECKING

from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.identity.revocation import RevocationList
from guard.identity.trusted import TrustedIssuers

if TYPE_CHECKING:
    from guard.identity.client import Client
    from guard.identity.registry import Registry

__all__ = ["Client", "Issuer", "LocalIssuer", "Registry", "RevocationList", "TrustedIssuers"]


def __getattr__(name: str) -> object:
    """`Client`, `Registry`: loaded when asked for; who only verifies does not pay for them."""
    if name == "Client":
        from guard.identity.client import Client

        return Client
    if name == "Registry":
        from guard.identity.registry import Registry

        return Registry
    raise AttributeError(name)
