"""Who issues tokens, whose tokens count, and what was taken back."""

from guard.identity.issuers import Issuer
from guard.identity.local import LocalIssuer
from guard.identity.revocation import RevocationList
from guard.identity.trusted import TrustedIssuers

__all__ = ["Issuer", "LocalIssuer", "RevocationList", "TrustedIssuers"]
