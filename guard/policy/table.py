"""What may stand where in a policy file: one table. The reader checks by it, the editor's JSON Schema is generated from it.

| kind          | the value                                                        | read as                     |
|---------------|------------------------------------------------------------------|-----------------------------|
| version       | the number 1                                                     | 1                           |
| text          | any text that is not empty                                       | Word                        |
| name          | a name; `of` names its pattern                                   | Word                        |
| names         | a name or a list of names                                        | tuple of Word               |
| list of names | a list of names                                                  | tuple of Word               |
| word          | one word of a closed set; `of` names it                          | Word                        |
| words         | one or several words of a closed set                             | tuple of Word               |
| flag          | true or false                                                    | bool                        |
| day           | 2027-03-01                                                       | date                        |
| time          | 10m                                                              | seconds                     |
| count         | a whole number above 0                                           | int                         |
| amount        | "5000"                                                           | Decimal                     |
| types         | argument path or parameter -> type word; `of` names the pattern  | Map, read on                |
| constraints   | argument path -> constraint                                      | Map, read on                |
| one           | a mapping; `of` names its section                                | Map, read on                |
| map           | name -> mapping of section `of`                                  | Map, read on                |
| map of names  | text -> list of names                                            | Map, read on                |
| list          | list of mappings of section `of`                                 | Seq, read on                |
| data          | a mapping of anything                                            | Map, read on                |
| expect        | list of expectations                                             | tuple of Word               |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from guard.policy.data import EFFECTS

__all__ = ["CONSTRAINTS", "NAMES", "SECTIONS", "WORDS", "Key"]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a section. `about` is shown by editors."""

    kind: str
    about: str
    of: str = ""
    needed: bool = False


_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}"
_STEP = r"[A-Za-z0-9_$][A-Za-z0-9_$\-]{0,63}(\[\])?"

NAMES: Final[Mapping[str, str]] = {
    "tool": rf"^{_WORD}(/{_WORD})?$",
    "id": r"^[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}$",
    "policy": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$",
    "param": r"^[A-Za-z_][A-Za-z0-9_]{0,63}$",
    "path": rf"^{_STEP}(\.{_STEP}){{0,7}}$",
    "per": rf"^(origin|actor|tool|args\.{_STEP}(\.{_STEP}){{0,7}})$",
    "summed": rf"^args\.{_STEP}(\.{_STEP}){{0,7}}$",
    "control": r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$",
    "actor": r"^[\x21-\x7E]{1,256}$",
    "file": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\.ya?ml$",
    "scope": r"^[\x21\x23-\x5B\x5D-\x7E]{1,256}$",  # RFC 6749 3.3
}

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "effect": EFFECTS,
    "type": ("id", "name", "text", "int", "decimal", "bool", "date", "email", "url", "host", "iban", "path", "command", "secret", "any"),
    "then": ("deny", "ask", "alert"),
    "mode": ("enforce", "monitor"),
    "severity": ("info", "low", "medium", "high", "critical"),
}

# For editors only: `guard.constraints` reads them.
CONSTRAINTS: Final[tuple[str, ...]] = (
    "any", "eq", "one_of", "range", "prefix", "suffix", "glob", "under", "url", "email", "cidr", "command", "each", "len", "subset", "any_of", "optional",
)  # fmt: skip

SECTIONS: Final[Mapping[str, Mapping[str, Key]]] = {
    "policy": {
        "guardtrail": Key("version", "Version of the policy language.", needed=True),
        "name": Key("name", "The policy's name; records carry it with the digest of the text.", "policy", needed=True),
        "owner": Key("text", "Who answers for this policy."),
        "description": Key("text", "What it is for."),
        "tools": Key("map", "What each tool is. A tool not named here is denied.", "tool"),
        "intents": Key("map", "Kinds of task; a token names one and its parameters.", "intent"),
        "rules": Key("list", "What no chain of calls may do.", "rule"),
        "scopes": Key("map of names", "OAuth scope -> tools. An unmapped scope grants nothing.", "tool"),
        "tests": Key("list", "Traces and what must come of them.", "test"),
    },
    "tool": {
        "effect": Key("words", "What the tool does to the world.", "effect", needed=True),
        "control": Key("types", "Arguments that decide whom or what the call reaches, with their types.", "path"),
        "data": Key("types", "Arguments that are content, with their types.", "path"),
        "description": Key("text", "What the tool does."),
        "reversible": Key(
            "flag", "Whether its effect can be taken back. send, share, pay, buy, delete, execute and admin cannot, unless this says so."
        ),
        "errors_have_no_effect": Key("flag", "An error of this tool means that nothing happened: limits are given back."),
    },
    "intent": {
        "description": Key("text", "What this kind of task is."),
        "params": Key("types", "Parameters the token must give, with their types; `$name` in constraints.", "param"),
        "ttl": Key("time", "How long a task of this kind may run, from its opening."),
        "allow": Key("map", "The tools of this kind of task.", "permission", needed=True),
        "order": Key("list of names", "Once one of these ran, none to its left may run any more.", "tool"),
    },
    "permission": {
        "args": Key("constraints", "Argument path -> what its value must be."),
        "limit": Key("one", "How often, in one task.", "calls"),
    },
    "calls": {"calls": Key("count", "This many calls in one task.", needed=True)},
    "rule": {
        "id": Key("name", "The rule's name in decisions, records and tests.", "id", needed=True),
        "description": Key("text", "What it is for."),
        "owner": Key("text", "Who answers for this rule."),
        "severity": Key("word", "How bad a violation is.", "severity"),
        "controls": Key("names", "Published risks and controls this rule serves.", "control"),
        "when": Key("one", "Which calls the rule is about; all members must hold.", "when"),
        "limit": Key("one", "How often or how much.", "limit"),
        "require": Key("constraints", "`args.<path>` -> what its value must be."),
        "then": Key("word", "What the rule says when it fires.", "then"),
        "mode": Key("word", "monitor: recorded, not enforced, until the day of `until`.", "mode"),
        "until": Key("day", "The day from which a monitored rule enforces."),
    },
    "when": {
        "tool": Key("names", "One of these tools.", "tool"),
        "effect": Key("words", "A tool with one of these effects.", "effect"),
        "intent": Key("names", "A task of one of these kinds.", "id"),
        "args": Key("constraints", "Argument path -> predicate; one that cannot be evaluated matches."),
    },
    "limit": {
        "calls": Key("count", "This many calls."),
        "sum": Key("name", "`args.<path>`: the amount that is summed.", "summed"),
        "max": Key("amount", "The largest sum, in quotes."),
        "within": Key("time", "Within this time; without it, for ever."),
        "per": Key("names", "`origin`, `actor`, `tool`, `args.<path>`: counted apart for each, over all tasks of the tenant.", "per"),
    },
    "test": {
        "name": Key("text", "What the case shows.", needed=True),
        "as": Key("one", "Who acts, on what task.", "as", needed=True),
        "trace": Key("text", "One event per line: a call in Python syntax, then optionally `-> result`, `!> error` or `?>`.", needed=True),
        "expect": Key("expect", "One per event: a verdict with an optional code prefix or rule id, or a rule id.", needed=True),
        "end": Key("expect", "What ending the task must come to."),
    },
    "as": {
        "origin": Key("text", "Whom the work is for.", needed=True),
        "actor": Key("names", "Who acts: one name, or the chain from the opener on.", "actor", needed=True),
        "intent": Key("name", "The kind of task.", "id", needed=True),
        "params": Key("data", "Its parameters."),
        "prompt": Key("text", "The user's own words."),
    },
    "cases": {
        "policy": Key("names", "The policy under test; several are layers.", "file"),
        "over": Key("one", "Tools and intents for a pack of rules to be judged over.", "desk"),
        "tests": Key("list", "Traces and what must come of them.", "test", needed=True),
    },
    "desk": {
        "tools": Key("map", "What each tool is.", "tool", needed=True),
        "intents": Key("map", "Kinds of task.", "intent", needed=True),
    },
}
