"""Tokens, pure: text and keys in, a verified `Delegation` or `TokenRefused` out. The clock is an argument; nothing is fetched."""

from guard.tokens.jose import split, token_json
from guard.tokens.keys import Key, KeySet, KeysRefused, thumbprint
from guard.tokens.rules import IssuerRules
from guard.tokens.verify import verify, verify_signature

__all__ = ["IssuerRules", "Key", "KeySet", "KeysRefused", "split", "thumbprint", "token_json", "verify", "verify_signature"]
