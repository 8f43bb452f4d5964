"""What is known of an identity that is no person, and the two texts it is read from.

| text                                 | what is unknown in it        | what is wrong in it |
|--------------------------------------|------------------------------|---------------------|
| our own file, YAML or JSON           | refused, with its place      | refused, with its place |
| SCIM 2.0 ListResponse (RFC 7644 3.4.2) | ignored: others' extensions | refused: half a list is no list |

In a SCIM list an `Agent`, or a `User` whose `userType` is one of our kinds, is an identity; every other resource is a person or a group and
is left out. What SCIM has no word for stands in the extension `SCHEMA`, whose members are those of our own file.

| member       | `User`                                                 | `Agent`            |
|--------------|--------------------------------------------------------|--------------------|
| id           | `userName`                                             | `name`             |
| kind         | `userType`                                             | agent              |
| owner        | the enterprise extension's `manager.value`             | `owners[0].value`  |
| status       | `active`: false is suspended                           | the same           |
| keys         | the SHA-256 of each of `x509Certificates` (RFC 8705)   | the same           |
"""

from __future__ import annotations

import re
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from guard.errors import GuardError, Problem
from guard.policy.problems import Mark, Report, suggest
from guard.policy.times import seconds
from guard.policy.yamltext import Map, Node, Seq, parse, place, plain
from guard.reasons import ReasonCode
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.text import is_name

__all__ = ["MOST", "SCHEMA", "Identity", "RegistryUnreadable", "page_of", "read_registry", "whole"]

MOST = 16 * 1024 * 1024
SCHEMA = "urn:guardtrail:params:scim:schemas:extension:1.0:Identity"
_ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
_LIST = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_AGENT = "urn:ietf:params:scim:schemas:core:2.0:Agent"
_MEMBERS = 1_000_000
_KINDS = ("agent", "workload", "service_account", "key")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_SPIFFE = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)*", re.ASCII)


class RegistryUnreadable(GuardError):
    """The registry cannot be relied on. The text holds places, never what stands there; `problems` are for who mends it."""

    code = ReasonCode.IDENTITY_UNAVAILABLE

    def __init__(self, text: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(text)
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Identity:
    """An agent, a workload, a service account, or a key of one of them (`of`: whose).

    `id`: its name in tokens. `issuer`: whose tokens name it so; None: of any. `origin`: whom it works for. `keys`: thumbprints (RFC 7638, or of
    a certificate) of the keys it may be bound to; none: not said. `spiffe`, `workloads`: which programs it is, by SPIFFE id and by (`iss`, `sub`) of
    a platform's token. `rotated`: epoch seconds; `rotate_every`: seconds.
    """

    id: str
    kind: Literal["agent", "workload", "service_account", "key"]
    owner: str | None = None
    origin: Literal["human", "workload"] | None = None
    issuer: str | None = None
    environment: str | None = None
    third_party: bool = False
    keys: tuple[str, ...] = ()
    spiffe: tuple[str, ...] = ()
    workloads: tuple[tuple[str, str], ...] = ()
    rotated: int | None = None
    rotate_every: int | None = None
    status: Literal["active", "suspended", "retired"] = "active"
    of: str | None = None

    @property
    def due(self) -> int | None:
        """When its secret should have been changed, in epoch seconds; None: nobody says. Where it never was, long since."""
        if self.rotate_every is None:
            return None
        return 0 if self.rotated is None else self.rotated + self.rotate_every

    def overdue(self, now: float) -> bool:
        """Also where it says that it was rotated later than tomorrow: such a day would never come due."""
        return self.due is not None and (self.due <= now or (self.rotated or 0) > now + 86400)


def _named(value: str) -> str:
    if not is_name(value):
        raise ValueError("a visible name of at most 256 characters")
    return value


def _thumb(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{43}", value, re.ASCII):
        raise ValueError("a thumbprint: 43 characters of base64url")
    return value


def _spiffe(value: str) -> str:
    if not _SPIFFE.fullmatch(value) or len(value) > 2048:
        raise ValueError("a SPIFFE id: `spiffe://trust.domain/path`")
    return value


def _day(value: str) -> str:
    try:
        if not _DAY.fullmatch(value):
            raise ValueError
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("a day: `2026-11-01`") from None
    return value


def _span(value: str) -> str:
    if seconds(value) is None:
        raise ValueError("a time: `90d`")
    return value


_Name = Annotated[str, AfterValidator(_named)]


class _Program(BaseModel):
    """A program as its platform's tokens name it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    issuer: _Name
    subject: _Name


class _Row(BaseModel):
    """One identity as our own file has it."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: _Name
    kind: Literal["agent", "workload", "service_account", "key"]
    owner: _Name | None = None
    origin: Literal["human", "workload"] | None = None
    issuer: _Name | None = None
    environment: _Name | None = None
    third_party: bool = False
    keys: Annotated[list[Annotated[str, AfterValidator(_thumb)]], Field(max_length=64)] = []
    spiffe: Annotated[list[Annotated[str, AfterValidator(_spiffe)]], Field(max_length=64)] = []
    workloads: Annotated[list[_Program], Field(max_length=64)] = []
    rotated: Annotated[str, AfterValidator(_day)] | None = None
    rotate_every: Annotated[str, AfterValidator(_span)] | None = None
    status: Literal["active", "suspended", "retired"] = "active"
    of: _Name | None = None

    def frozen(self) -> Identity:
        day = None if self.rotated is None else int(datetime.fromisoformat(self.rotated).replace(tzinfo=UTC).timestamp())
        every = None if self.rotate_every is None else seconds(self.rotate_every)
        return Identity(
            self.id, self.kind, self.owner, self.origin, self.issuer, self.environment, self.third_party, tuple(self.keys), tuple(self.spiffe),
            tuple((one.issuer, one.subject) for one in self.workloads), day, every, self.status, self.of,
        )  # fmt: skip


def read_registry(raw: bytes, name: str) -> tuple[Identity, ...]:
    """Our own file, or a SCIM list. `name`: of the file, for places. Raises `RegistryUnreadable`."""
    if raw.lstrip()[:1] == b"{" and b"Resources" in raw:
        found, total = page_of(raw, name)
        if total != found[1]:
            raise RegistryUnreadable(f"{name} is a page of a list, not the whole of it")
        return _sound(found[0], name, None)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RegistryUnreadable(f"{name} is not UTF-8 text") from None
    report = Report(text, name)
    tree = parse(text, report)
    if tree is None and not report.failed:  # a file that lost its content is no registry of nobody
        report.error("registry", Mark(1, 1), "a registry is a mapping with `registry: 1` and `identities`")
    rows = _rows(tree, report) if tree is not None else ()
    found_rows: list[tuple[Identity, Mark]] = []
    for row in rows:
        if report.errors >= 100:
            break
        try:
            found_rows.append((_Row.model_validate(plain(row)).frozen(), row.at))
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False, include_input=False):
                _tell(report, row, each)
    identities = () if report.failed else _sound([each for each, _ in found_rows], name, report, [at for _, at in found_rows])
    if report.failed:
        first = report.problems[0]
        raise RegistryUnreadable(f"{report.where(Mark(first.line, first.column))} is wrong", report.problems)
    return identities


def _rows(tree: Node, report: Report) -> Sequence[Node]:
    """The entries under `identities`."""
    if not isinstance(tree, Map):
        report.error("registry", tree.at, "a registry is a mapping with `registry: 1` and `identities`")
        return ()
    for key, entry in tree.entries.items():
        if key not in ("registry", "identities"):
            report.error("unknown-key", entry.key, f"`{key[:64]}` is not a member of a registry", suggest(key, ("registry", "identities")))
    version, listed = tree.entries.get("registry"), tree.entries.get("identities")
    if version is None or plain(version.node) != 1 or type(plain(version.node)) is not int:
        report.error("registry", tree.at, "`registry: 1` says which form this is")
    if listed is None or not isinstance(listed.node, Seq):
        report.error("registry", tree.at, "`identities` is a list")
        return ()
    return listed.node.items


def _tell(report: Report, row: Node, error: Any) -> None:
    """One finding of pydantic, at the place in the file it is about."""
    at = place(row, error["loc"])
    last = str(error["loc"][-1])[:64] if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        report.error("unknown-key", at, f"`{last}` is not a member of an identity", suggest(last, _Row.model_fields))
    elif error["type"] == "missing":
        report.error("missing-key", at, f"an identity needs `{last}`")
    else:
        member = next((f"`{step}`: " for step in error["loc"] if isinstance(step, str)), "")
        report.error("value", at, member + str(error["msg"]).removeprefix("Value error, ").lower())


def _sound(identities: Sequence[Identity], name: str, report: Report | None, places: Sequence[Mark] = ()) -> tuple[Identity, ...]:
    """What must hold between identities: one meaning for every name, SPIFFE id, workload and key.

    Attack: a second entry for a name or a key, with another owner or status; which one counts would depend on the order. Or one that is called as
    another's SPIFFE id: asked by that name, it would answer for the other, which is suspended.
    """

    def wrong(i: int, text: str) -> None:
        if report is None:
            raise RegistryUnreadable(f"{name}: entry {i + 1}: {text}")
        if report.errors < 100:
            report.error("registry", places[i], text)

    seen: set[tuple[str, object]] = set()
    holders = {(one.issuer, one.id) for one in identities if one.kind != "key"}
    programs = {each: one for one in identities for each in one.spiffe}
    for i, one in enumerate(identities):
        marks: list[tuple[str, object]] = [("name", (one.issuer, one.id))]
        marks += [("SPIFFE id", each) for each in one.spiffe] + [("key", each) for each in one.keys]
        marks += [("workload", each) for each in one.workloads]
        for mark in marks:
            if mark in seen:
                wrong(i, f"its {mark[0]} is registered already")
            seen.add(mark)
        other = programs.get(one.id, one)
        if other is not one and (other.issuer == one.issuer or None in (other.issuer, one.issuer)):
            wrong(i, "its name is another's SPIFFE id")
        if one.kind == "key" and (not one.keys or one.of is None):
            wrong(i, "a key needs `keys`, its thumbprints, and `of`, the identity it belongs to")
        elif one.kind == "key" and (one.issuer, one.of) not in holders:
            wrong(i, "`of` names no identity of the same issuer")
        elif one.kind != "key" and one.of is not None:
            wrong(i, "only a key is `of` another identity")
        if one.kind == "key" and (one.spiffe or one.workloads):
            wrong(i, "a key is no program: `spiffe` and `workloads` stand at the identity it is `of`")
    return tuple(identities)


# -- SCIM --------------------------------------------------------------------------------------------------------------------------


def page_of(raw: bytes, name: str) -> tuple[tuple[list[Identity], int], int]:
    """One ListResponse: its identities, how many resources it holds, and how many there are in all. Raises `RegistryUnreadable`."""
    try:
        page = strict_json(raw, members=_MEMBERS)
    except NotStrict:
        raise RegistryUnreadable(f"{name} is not strict JSON") from None
    schemas, total, resources = page.get("schemas"), page.get("totalResults"), page.get("Resources", [])
    if not isinstance(schemas, list) or _LIST not in schemas or type(total) is not int or not isinstance(resources, list):
        raise RegistryUnreadable(f"{name} is no SCIM ListResponse")
    found: list[Identity] = []
    for i, one in enumerate(resources, 1):
        try:
            identity = _resource(one)
        except (ValueError, TypeError):  # pydantic's ValidationError is a ValueError
            raise RegistryUnreadable(f"{name}: resource {i} cannot be understood") from None
        if identity is not None:
            found.append(identity)
    return (found, len(resources)), total


def _resource(one: object) -> Identity | None:
    """One resource; None where it is no identity of ours. Raises ValueError."""
    if not isinstance(one, Mapping):
        raise ValueError("resource")
    agent = _AGENT in _list(one, "schemas")
    extension = one.get(SCHEMA, {})
    if not isinstance(extension, Mapping):
        raise ValueError(SCHEMA)
    kind = "agent" if agent else str(one.get("userType", "")).lower().replace(" ", "_")
    kind = str(extension.get("kind", kind))
    if kind not in _KINDS:
        return None
    active = one.get("active", True)
    if type(active) is not bool:
        raise ValueError("active")
    row: dict[str, object] = {name: value for name, value in extension.items() if name in _Row.model_fields}
    row |= {"id": one.get("name" if agent else "userName"), "kind": kind}
    owner = _owner(one, agent)
    if owner is not None:
        row.setdefault("owner", owner)
    keys = [*_list(extension, "keys"), *(_certificate(each) for each in _list(one, "x509Certificates"))]
    row["keys"] = list(dict.fromkeys(keys))
    if not active and row.get("status", "active") == "active":
        row["status"] = "suspended"
    return _Row.model_validate(row).frozen()


def _owner(one: Mapping[str, object], agent: bool) -> object:
    if agent:
        owners = _list(one, "owners")
        found = owners[0] if owners else None
    else:
        enterprise = one.get(_ENTERPRISE)
        found = enterprise.get("manager") if isinstance(enterprise, Mapping) else None
    return found.get("value") if isinstance(found, Mapping) else None


def _certificate(one: object) -> str:
    """`x5t#S256` of a certificate as SCIM has it: base64 of its DER (RFC 7643 section 4.1.2)."""
    if not isinstance(one, Mapping) or not isinstance(one.get("value"), str):
        raise ValueError("x509Certificates")
    return urlsafe_b64encode(sha256(b64decode(one["value"], validate=True)).digest()).rstrip(b"=").decode("ascii")


def _list(of: Mapping[str, object], name: str) -> list[Any]:
    found = of.get(name, [])
    if not isinstance(found, list):
        raise ValueError(name)
    return found


def whole(pages: Iterable[Sequence[Identity]], name: str) -> tuple[Identity, ...]:
    """The pages of one list together. Raises `RegistryUnreadable`."""
    return _sound([one for page in pages for one in page], name, None)
