"""Whose tokens count on the command line: an issuer that was named, or the development issuer whose key lies here."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from guard.cli.output import CannotAnswer, WrongUsage
from guard.errors import ConfigError, GuardError, TokenRefused
from guard.identity import Issuer, LocalIssuer
from guard.record import directory
from guard.tokens import split, token_json

__all__ = ["development", "issuer_file", "named", "peek", "trusted"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LONGEST = timedelta(hours=24)


def issuer_file(name: str) -> Path:
    """Where the key of the development issuer `name` lies. The name may come from an untrusted token: it is never a path."""
    if not _NAME.fullmatch(name):
        raise WrongUsage("an issuer's name is up to 64 letters, digits, `.`, `_` and `-`, as in `acme-dev`")
    return directory() / "issuers" / f"{name}.json"


def peek(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a token as they stand, trusted by nobody. Raises TokenRefused."""
    jws = split(token)
    return token_json(jws.header), token_json(jws.payload)


def trusted(token: str | None, url: str | None, audience: str | None, keys: str | None, local: bool) -> Issuer | LocalIssuer:
    """Whom to believe. Without `--issuer` the development issuer the token names, if its key is here."""
    if local and url is not None:
        raise WrongUsage("`--local` and `--issuer` exclude each other")
    if url is not None:
        if audience is None:
            raise WrongUsage("`--issuer` needs `--audience`: for whom its tokens must be meant")
        return named(url, audience, keys)
    if audience is not None or keys is not None:
        raise WrongUsage("`--audience` and `--keys` belong to `--issuer URL`")
    try:
        claims = peek(token)[1] if token is not None else {}
    except TokenRefused:
        claims = {}  # the guard itself says what is wrong with it; any issuer will do
    issuer = development(claims.get("iss"))
    if issuer is not None:
        return issuer
    if claims and not local:
        raise CannotAnswer(
            f"nothing here verifies this token: there is no development issuer of that name in {directory() / 'issuers'}; "
            "give `--issuer URL --audience NAME`"
        )
    return LocalIssuer("nobody")


def named(url: str, audience: str, keys: str | None) -> Issuer:
    """The issuer the user named, with its keys: from a file, from an address, or from where its metadata says. They are here afterwards."""
    file = Path(keys) if keys is not None and "://" not in keys else None
    if file is not None and not file.is_file():
        raise CannotAnswer(f"key file {file} cannot be read: {'it is a directory' if file.is_dir() else 'no such file'}")
    try:
        issuer = Issuer(url, audience=audience, keys=file or keys, max_ttl=LONGEST)
    except ConfigError as error:
        raise WrongUsage(str(error)) from None
    try:
        issuer.fetch()
    except GuardError as error:
        raise CannotAnswer(str(error), code=error.code) from None
    return issuer


def development(iss: object) -> LocalIssuer | None:
    """The development issuer whose key file is here, None where there is none of that name."""
    if not isinstance(iss, str) or not _NAME.fullmatch(iss) or not issuer_file(iss).is_file():
        return None
    return LocalIssuer.load(issuer_file(iss))
