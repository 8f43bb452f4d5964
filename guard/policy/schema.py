"""The JSON Schema of a policy file, for editors: generated from the table the reader checks by.

`python -m guard.policy.schema > docs/policy-schema.json`. An editor's schema helps while typing; `guardtrail lint` decides.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

from guard.policy.supported import BUILT, PARTS
from guard.policy.table import CONSTRAINTS, CONSTRAINTS_WITH, NAMES, PART_OF_WORD, SECTIONS, WORDS, Key
from guard.policy.times import PATTERN

__all__ = ["json_schema"]

_TEXT: Final[Mapping[str, Any]] = {"type": "string", "minLength": 1}


def json_schema(parts: frozenset[str] = BUILT) -> dict[str, Any]:
    """The schema, draft 2020-12, of what may be written today: of the parts of the language that are judged."""
    root = _section("policy", parts)
    defs: dict[str, Any] = {"constraint": _constraint(parts)}
    for name in _reached(root):
        if name not in defs:
            defs[name] = _section(name, parts)
    pending = list(defs)
    while pending:
        for name in _reached(defs[pending.pop()]):
            if name not in defs:
                defs[name] = _section(name, parts)
                pending.append(name)
    order = [name for name in (*SECTIONS, "constraint") if name in defs]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "guardtrail policy",
        "description": "Generated from guard/policy/table.py. What a task's agents may do; see POLICY.",
        **root,
        "$defs": {name: defs[name] for name in order},
    }


def _reached(schema: object) -> list[str]:
    """The definitions a schema refers to."""
    if isinstance(schema, list):
        return [name for one in schema for name in _reached(one)]
    if not isinstance(schema, dict):
        return []
    own = [str(value).removeprefix("#/$defs/") for key, value in schema.items() if key == "$ref"]
    return own + [name for value in schema.values() for name in _reached(value)]


def _section(name: str, parts: frozenset[str]) -> dict[str, Any]:
    table = {key: row for key, row in SECTIONS[name].items() if not row.part or row.part in parts}
    made: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: _key(row, parts) for key, row in table.items()},
    }
    if needed := [key for key, row in table.items() if row.needed]:
        made["required"] = needed
    if beside := {key: [row.beside] for key, row in table.items() if row.beside}:
        made["dependentRequired"] = beside
    return made


def _key(row: Key, parts: frozenset[str]) -> dict[str, Any]:
    return {"description": row.about, **_unbuilt(_KINDS[row.kind](row), row, parts)}


def _unbuilt(schema: dict[str, Any], row: Key, parts: frozenset[str]) -> dict[str, Any]:
    """Without the words that belong to a part that is not judged."""
    if row.kind == "one or word" and row.word in PARTS and row.word not in parts:
        return _ref(row)
    if row.kind == "word":
        return {"enum": [word for word in schema["enum"] if PART_OF_WORD.get((row.of, word)) in (None, *parts)]}
    return schema


def _name(row: Key) -> dict[str, Any]:
    return {"type": "string", "pattern": NAMES[row.of]}


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}


def _word(row: Key) -> dict[str, Any]:
    return {"enum": list(WORDS[row.of])}


def _mapping(pattern: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"pattern": pattern}, "additionalProperties": value}


def _constraint(parts: frozenset[str]) -> dict[str, Any]:
    kinds = [*CONSTRAINTS, *(kind for kind, part in CONSTRAINTS_WITH.items() if part in parts)]
    return {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": {kind: {} for kind in kinds}}


def _enum(of: str) -> str:
    return f"^({'|'.join(WORDS[of])})$"


def _paths(row: Key) -> dict[str, Any]:
    left, right = row.of.split()
    return _mapping(NAMES[left], {"type": "string", "pattern": NAMES[right]}) | {"minProperties": 1}


def _answers(row: Key) -> dict[str, Any]:
    left, right = row.of.split()
    return _mapping(_enum(left), {"enum": list(WORDS[right])}) | {"minProperties": 1}


def _texts(row: Key) -> dict[str, Any]:
    return _mapping(_enum(row.of), {"anyOf": [dict(_TEXT), _listed(dict(_TEXT))]})


def _some(row: Key) -> dict[str, Any]:
    return {key: value for key, value in _listed(_name(row)).items() if key != "minItems"}


def _shape(row: Key) -> dict[str, Any]:
    return _mapping(NAMES["result"], {"anyOf": [{"enum": list(WORDS["leaf"])}, _ref(row)]}) | {"minProperties": 1}


def _bounds(row: Key) -> dict[str, Any]:
    return _mapping(NAMES["argument"], _mapping(_enum("bound"), dict(_TEXT)) | {"minProperties": 1})


def _asks(row: Key) -> dict[str, Any]:
    """Names of rules and codes; beside them `most`, a number."""
    return {"type": "object", "properties": {"most": {"type": "integer", "minimum": 1}}, "additionalProperties": _ref(row)}


def _named(row: Key) -> dict[str, Any]:
    return _asks(row) if row.of == "ask" else _mapping(_NAMED[row.of], _ref(row)) | {"minProperties": 1}


def _ref(row: Key) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{row.of}"}


_EXPECTED: Final[Mapping[str, Any]] = {"type": "string", "pattern": r"^((allow|deny|ask)( [A-Za-z0-9_.\-]+)?|[A-Za-z0-9_\-]+)$"}
_NAMED: Final = {
    "tool": NAMES["tool"], "intent": NAMES["id"], "permission": NAMES["tool"], "remember": NAMES["id"],
    "other_task": NAMES["policy"], "flow_row": f"^({'|'.join(WORDS['effect'])})$",
}  # fmt: skip

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
    "one or word": lambda row: {"anyOf": [{"const": row.word}, _ref(row)]},
    "map": _named,
    "map of paths": _paths,
    "map of words": _answers,
    "map of texts": _texts,
    "some names": _some,
    "shape": _shape,
    "bounds": _bounds,
    "map of names": lambda row: _mapping(NAMES["scope"], _listed({"type": "string", "pattern": NAMES[row.of]})),
    "list": lambda row: {"type": "array", "items": _ref(row)},
    "data": lambda row: {"type": "object"},
    "expect": lambda row: {"anyOf": [dict(_EXPECTED), {"type": "array", "items": dict(_EXPECTED)}]},
}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
