"""The JSON Schema of a policy file, for editors: generated from the table the reader checks by.

`python -m guard.policy.schema > docs/policy-schema.json`. An editor's schema helps while typing; `guardtrail lint` decides.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from guard.policy.table import CONSTRAINTS, NAMES, SECTIONS, WORDS, Key
from guard.policy.times import PATTERN

__all__ = ["json_schema"]

_TEXT: Final[Mapping[str, Any]] = {"type": "string", "minLength": 1}


def json_schema() -> dict[str, Any]:
    """The schema, draft 2020-12."""
    root = _section("policy")
    sections = [name for name in SECTIONS if name not in ("policy", "cases", "desk")]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "guardtrail policy",
        "description": "Generated from guard/policy/table.py. What a task's agents may do; see POLICY.",
        **root,
        "$defs": {**{name: _section(name) for name in sections}, "constraint": _constraint()},
    }


def _section(name: str) -> dict[str, Any]:
    table = SECTIONS[name]
    made: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {key: _key(row) for key, row in table.items()}}
    if needed := [key for key, row in table.items() if row.needed]:
        made["required"] = needed
    return made


def _key(row: Key) -> dict[str, Any]:
    return {"description": row.about, **_KINDS[row.kind](row)}


def _name(row: Key) -> dict[str, Any]:
    return {"type": "string", "pattern": NAMES[row.of]}


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}


def _word(row: Key) -> dict[str, Any]:
    return {"enum": list(WORDS[row.of])}


def _mapping(pattern: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"pattern": pattern}, "additionalProperties": value}


def _constraint() -> dict[str, Any]:
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": {kind: {} for kind in CONSTRAINTS}}


def _ref(row: Key) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{row.of}"}


_EXPECTED: Final[Mapping[str, Any]] = {"type": "string", "pattern": r"^((allow|deny|ask)( [A-Za-z0-9_.\-]+)?|[A-Za-z0-9_\-]+)$"}
_NAMED: Final = {"tool": NAMES["tool"], "intent": NAMES["id"], "permission": NAMES["tool"]}

_KINDS: Final[Mapping[str, Any]] = {
    "version": lambda row: {"const": 1},
    "text": lambda row: dict(_TEXT),
    "name": _name,
    "names": lambda row: {"anyOf": [_name(row), _listed(_name(row))]},
    "list of names": lambda row: _listed(_name(row)),
    "word": _word,
    "words": lambda row: {"anyOf": [_word(row), _listed(_word(row))]},
    "flag": lambda row: {"type": "boolean"},
    "day": lambda row: {"type": "string", "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
    "time": lambda row: {"type": "string", "pattern": PATTERN},
    "count": lambda row: {"type": "integer", "minimum": 1},
    "amount": lambda row: {"anyOf": [{"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}, {"type": "integer", "minimum": 1}]},
    "types": lambda row: _mapping(NAMES[row.of], {"enum": list(WORDS["type"])}),
    "constraints": lambda row: {"type": "object", "additionalProperties": {"$ref": "#/$defs/constraint"}},
    "one": _ref,
    "map": lambda row: _mapping(_NAMED[row.of], _ref(row)) | {"minProperties": 1},
    "map of names": lambda row: _mapping(NAMES["scope"], _listed({"type": "string", "pattern": NAMES[row.of]})),
    "list": lambda row: {"type": "array", "items": _ref(row)},
    "data": lambda row: {"type": "object"},
    "expect": lambda row: {"anyOf": [dict(_EXPECTED), {"type": "array", "items": dict(_EXPECTED)}]},
}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
