"""What servers say of themselves: RFC 8414 (authorization servers; OpenID Connect Discovery where that is missing), RFC 9728 (resources).

A document counts only if it names, byte for byte, the very identifier it was asked for: it lies at an address that is made from that
identifier, and whoever can write somewhere else on the host must not speak for it. Every address in it goes by the rules of `urls.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from guard.errors import GuardError
from guard.identity.http import SECONDS, HttpFailed, get_json
from guard.tokens.urls import is_endpoint, is_issuer, plain

__all__ = ["MetadataRefused", "ResourceMetadata", "ServerMetadata", "protected_resource", "server_metadata"]

Get = Callable[..., dict[str, object]]
_METHODS, _GRANTS = ("client_secret_basic",), ("authorization_code", "implicit")
_ENDPOINTS = ("jwks_uri", "token_endpoint", "introspection_endpoint", "revocation_endpoint")


class MetadataRefused(GuardError):
    """A document that is no metadata of what was asked for. The text names the member that is wrong and never quotes it."""

    code = "metadata.refused"


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """RFC 8414 2, what is used of it. Lists that are absent have the RFC's defaults."""

    issuer: str
    jwks_uri: str | None = None
    token_endpoint: str | None = None
    mtls_token_endpoint: str | None = None
    """Of `mtls_endpoint_aliases` (RFC 8705 5): for clients that show a certificate."""
    introspection_endpoint: str | None = None
    revocation_endpoint: str | None = None
    mtls_revocation_endpoint: str | None = None
    auth_methods: tuple[str, ...] = _METHODS
    """`token_endpoint_auth_methods_supported`."""
    grants: tuple[str, ...] = _GRANTS
    """`grant_types_supported`. Servers leave out what they can do: a hint, nothing to refuse by."""
    dpop_algorithms: tuple[str, ...] = ()
    details_types: tuple[str, ...] = ()
    """`authorization_details_types_supported`, RFC 9396 10."""


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """RFC 9728 2, what is used of it."""

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    bearer_methods: tuple[str, ...] = ()
    dpop_algorithms: tuple[str, ...] = ()
    dpop_required: bool = False
    """`dpop_bound_access_tokens_required`."""
    details_types: tuple[str, ...] = ()


def server_metadata(issuer: str, *, seconds: float = SECONDS, get: Get = get_json) -> ServerMetadata:
    """The metadata of `issuer`, within `seconds`. Raises `HttpFailed`, `MetadataRefused`.

    The well-known part is inserted before the path (RFC 8414 3). Only where nothing that is JSON lies there, OpenID Connect's address is
    tried, which has it at the end. A document of somebody else is refused, not passed over.
    """
    if not is_issuer(issuer):
        raise MetadataRefused("the issuer is not an https URL without query and fragment (http on loopback only)")
    until = monotonic() + seconds
    try:
        found = get(_inserted(issuer, "oauth-authorization-server"), seconds=seconds)
    except HttpFailed as failed:
        if failed.why not in ("status", "redirect", "size", "type", "form"):
            raise
        found = None
    if found is None:  # outside the handler: the second failure is the one to tell
        found = get(issuer.removesuffix("/") + "/.well-known/openid-configuration", seconds=max(0.1, until - monotonic()))
    return _server(found, issuer)


def protected_resource(resource: str, *, seconds: float = SECONDS, get: Get = get_json) -> ResourceMetadata:
    """The metadata of a protected resource, by its identifier (an https URL). Raises `HttpFailed`, `MetadataRefused`."""
    if not is_endpoint(resource, loopback=True):
        raise MetadataRefused("the resource is not an https URL without fragment (http on loopback only)")
    found = get(_inserted(resource, "oauth-protected-resource"), seconds=seconds)
    if found.get("resource") != resource:
        raise MetadataRefused("`resource` is not the one that was asked for")
    servers = _words(found, "authorization_servers")
    if not all(is_endpoint(each, loopback=plain(resource)) and is_issuer(each) for each in servers):
        raise MetadataRefused("`authorization_servers` are not all issuers (https, no query)")
    required = found.get("dpop_bound_access_tokens_required", False)
    if type(required) is not bool:
        raise MetadataRefused("`dpop_bound_access_tokens_required` is not true or false")
    return ResourceMetadata(
        resource, servers, _words(found, "scopes_supported"), _words(found, "bearer_methods_supported"),
        _words(found, "dpop_signing_alg_values_supported"), required, _words(found, "authorization_details_types_supported"),
    )  # fmt: skip


def _inserted(identifier: str, name: str) -> str:
    """`https://host/path` -> `https://host/.well-known/NAME/path`. A slash that ends a bare host is none of a path (RFC 8414 3.1)."""
    parts = urlsplit(identifier)
    path = "" if parts.path == "/" else parts.path
    return f"{parts.scheme}://{parts.netloc}/.well-known/{name}{path}{f'?{parts.query}' if parts.query else ''}"


def _server(found: Mapping[str, object], issuer: str) -> ServerMetadata:
    if found.get("issuer") != issuer:  # RFC 8414 3.3, no normalisation. Attack: one tenant's document speaks for another
        raise MetadataRefused("`issuer` is not, byte for byte, the one that was asked for")
    endpoints: dict[str, str | None] = {}
    for name in _ENDPOINTS:
        url = found.get(name)
        if url is not None and not (isinstance(url, str) and is_endpoint(url, loopback=plain(issuer))):
            raise MetadataRefused(f"`{name}` is not an https URL")
        endpoints[name] = url
    aliases = found.get("mtls_endpoint_aliases", {})
    for name in ("token_endpoint", "revocation_endpoint"):
        alias = aliases.get(name) if isinstance(aliases, Mapping) else 0
        if alias is not None and not (isinstance(alias, str) and is_endpoint(alias, loopback=plain(issuer))):
            raise MetadataRefused("`mtls_endpoint_aliases` are not https URLs")
        endpoints[f"mtls_{name}"] = alias
    return ServerMetadata(
        issuer,
        **endpoints,
        auth_methods=_words(found, "token_endpoint_auth_methods_supported", _METHODS),
        grants=_words(found, "grant_types_supported", _GRANTS),
        dpop_algorithms=_words(found, "dpop_signing_alg_values_supported"),
        details_types=_words(found, "authorization_details_types_supported"),
    )


def _words(found: Mapping[str, object], name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    words = found.get(name)
    if words is None:
        return default
    if not isinstance(words, list) or len(words) > 256 or not all(isinstance(word, str) and 0 < len(word) <= 1024 for word in words):
        raise MetadataRefused(f"`{name}` is not a list of words")
    return tuple(words)
