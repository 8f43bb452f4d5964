"""Entries of the shared index as text, and what they mean for a delegation. No effects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from typing import NamedTuple

from guard.identity.revocation import KINDS, lineage, revocable
from guard.model import Delegation
from guard.tokens.effects import ALWAYS, Revoke
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.text import MAX_TEXT, is_name

__all__ = ["Index", "entry_text", "parse_entry"]

_MEMBERS = frozenset({"kind", "value", "issuer", "at", "by", "channel", "since"})


def entry_text(entry: Revoke) -> str:
    """One line of JSON, ASCII. `at` is left out where it is "always"."""
    line: dict[str, object] = {"kind": entry.kind, "value": entry.value}
    if entry.issuer is not None:
        line["issuer"] = entry.issuer
    if entry.at != ALWAYS:
        line["at"] = entry.at
    if entry.by:
        line["by"] = entry.by
    if entry.channel:
        line |= {"channel": entry.channel, "since": entry.since}
    return json.dumps(line, separators=(",", ":"))


def parse_entry(text: object) -> Revoke:
    """The entry in a text. Raises `NotStrict`: what cannot be understood is not passed over."""
    members = strict_json(text.encode("utf-8", "surrogatepass"), depth=1) if isinstance(text, str) else {}
    kind, value, issuer = members.get("kind"), members.get("value"), members.get("issuer")
    at, since = members.get("at", ALWAYS), members.get("since", 0)
    by, channel = members.get("by", ""), members.get("channel", "")
    if not members.keys() <= _MEMBERS or kind not in KINDS or not is_name(value) or not (issuer is None or is_name(issuer)):
        raise NotStrict
    if type(at) not in (int, float) or type(since) not in (int, float) or not isinstance(by, str) or not isinstance(channel, str):
        raise NotStrict
    if len(by) > 2 * MAX_TEXT or len(channel) > 2 * MAX_TEXT or ("at" in members and not isfinite(float(str(at)))):
        raise NotStrict
    return Revoke(str(kind), str(value), None if issuer is None else str(issuer), float(str(at)), by, channel, float(str(since)))


class _Row(NamedTuple):
    at: float
    by: str
    since: float


class Index:
    """(kind, value) -> whose tokens, issued before when, are dead, and by what. Entries may come in any order and more than once.

    One assignment an entry: whoever looks at the same time sees it or does not, and a dictionary he holds never changes.
    """

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Mapping[tuple[str | None, str], _Row]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, entry: Revoke) -> None:
        """Without a channel the latest `at` counts. In a channel the entry of the latest `since` does; at the same second the stricter."""
        rows = self._rows.get((entry.kind, entry.value), {})
        held, new = rows.get((entry.issuer, entry.channel)), _Row(entry.at, entry.by, entry.since)
        if held is not None and (held.since, held.at) >= (new.since, new.at):
            return
        self._rows[entry.kind, entry.value] = {**rows, (entry.issuer, entry.channel): new}

    def find(self, delegation: Delegation) -> str | None:
        """What of it, or of one above it, is dead; after a tab, by what."""
        if not self._rows:
            return None
        for one in lineage(delegation):
            for kind, value in revocable(one):
                rows = self._rows.get((kind, value))
                if rows is None:
                    continue
                for (issuer, _), row in rows.items():
                    if (issuer is None or issuer == one.issuer) and row.at > one.issued_at:
                        what = f"actor {value}" if kind == "actor" else kind
                        return f"{what}\t{row.by}" if row.by else what
        return None

    def entries(self) -> Iterator[Revoke]:
        """What stands, for showing."""
        for (kind, value), rows in self._rows.items():
            for (issuer, channel), row in rows.items():
                yield Revoke(kind, value, issuer, row.at, row.by, channel, row.since)
