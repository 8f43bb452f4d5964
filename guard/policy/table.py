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
| one or word   | the same, or the one word `word`                                 | Map, read on; Word          |
| map           | name -> mapping of section `of`                                  | Map, read on                |
| map of names  | text -> list of names                                            | Map, read on                |
| map of paths  | path -> path; `of` names their patterns                          | Map, read on                |
| map of words  | word of a closed set -> word of another; `of` names both         | Map, read on                |
| map of texts  | word of a closed set -> list of texts                            | Map, read on                |
| shape         | path in a result -> a word for the leaf, or a mapping            | Map, read on                |
| bounds        | `args.<path>` -> `min`, `max`, `above`, `below` -> field         | Map, read on                |
| some names    | a list of names that may be empty                                | tuple of Word               |
| list          | list of mappings of section `of`                                 | Seq, read on                |
| data          | a mapping of anything                                            | Map, read on                |
| expect        | list of expectations                                             | tuple of Word               |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from guard.frozen import frozen
from guard.policy.data import EFFECTS, LEAVES, SOURCES

__all__ = ["CONSTRAINTS", "CONSTRAINTS_WITH", "NAMES", "PART_OF_WORD", "SECTIONS", "WORDS", "Key"]


@frozen
class Key:
    """One key of a section. `about` is shown by editors. `part`: the part of the language it belongs to, "" for what was always there
    (guard/policy/supported.py). `beside`: it means something only where this other key stands too. `word`: of `one or word`.
    """

    kind: str
    about: str
    of: str = ""
    needed: bool = False
    part: str = ""
    beside: str = ""
    word: str = ""


_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}"
_STEP = r"[A-Za-z0-9_$][A-Za-z0-9_$\-]{0,63}(\[\])?"
_ARGS = rf"args\.{_STEP}(\.{_STEP}){{0,7}}"
_FIELD = r"([A-Za-z0-9_$@]([A-Za-z0-9_$@ \-]{0,62}[A-Za-z0-9_$@\-])?(\[\]|\{\})?|\[\]|\{\})"

NAMES: Final[Mapping[str, str]] = {
    "tool": rf"^{_WORD}(/{_WORD})?$",
    "id": r"^[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}$",
    "policy": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$",
    "param": r"^[A-Za-z_][A-Za-z0-9_]{0,63}$",
    "path": rf"^{_STEP}(\.{_STEP}){{0,7}}$",
    "per": rf"^(origin|actor|tool|{_ARGS})$",
    "summed": rf"^{_ARGS}$",
    "argument": rf"^{_ARGS}$",
    "result": rf"^(\.|{_FIELD}(\.{_FIELD}){{0,7}})$",
    "label": r"^[A-Za-z0-9_][A-Za-z0-9_:.\-]{0,63}$",
    "signal": rf"^{_WORD}$",
    "person": r"^[\x21-\x7E]{1,256}$",
    "control": r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$",
    "actor": r"^[\x21-\x7E]{1,256}$",
    "file": r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}\.ya?ml$",
    "scope": r"^[\x21\x23-\x5B\x5D-\x7E]{1,256}$",  # RFC 6749 3.3
}

WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "effect": EFFECTS,
    "type": ("id", "name", "text", "int", "decimal", "bool", "date", "email", "url", "host", "iban", "path", "command", "secret", "any"),
    "then": ("deny", "ask", "alert", "suspend"),
    "mode": ("enforce", "monitor"),
    "severity": ("info", "low", "medium", "high", "critical"),
    "format": ("json", "yaml", "keyvalue", "text"),
    "leaf": LEAVES,
    "source": SOURCES,
    "cell": ("any", *SOURCES),
    "entity": ("email", "url", "host", "iban", "account", "path", "phone", "amount", "date", "handle", "repo", "id"),
    "match": ("exact", "host"),
    "answer": ("deny", "ask"),
    "proof": ("key", "workload"),
    "count": ("several",),
    "by": ("person", "actor", "origin"),
    "distinct": ("person", "actor"),
    "outcome": ("ok",),
    "not": ("origin", "actors"),
    "bound": ("min", "max", "above", "below"),
}

PART_OF_WORD: Final[Mapping[tuple[str, str], str]] = {("then", "suspend"): "suspend", ("proof", "workload"): "proof by workload"}
"""(closed set, word) -> the part of the language it belongs to."""

# For editors only: `guard.constraints` reads them.
CONSTRAINTS: Final[tuple[str, ...]] = (
    "any", "eq", "one_of", "range", "prefix", "suffix", "glob", "under", "url", "email", "cidr", "command", "mentions", "each", "len", "subset", "any_of", "optional",
)  # fmt: skip
CONSTRAINTS_WITH: Final[Mapping[str, str]] = {"from": "from", "where": "from", "age": "require_any"}
"""What else may stand beside them in places, and the part of the language it belongs to."""

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
        "flow": Key("map", "Effect class -> sources of control values -> verdict. A cell not written is deny.", "flow_row", part="flow"),
        "asked": Key("one", "The trusted prompt's own words as a second vote on effect classes.", "asked", part="asked"),
        "asks": Key("map", "Rule, code or `default` -> who may answer an ask.", "ask", part="asks"),
        "proof": Key(
            "map of words",
            "Effect class -> what a call of it must prove: that its caller holds the key the token names, or which workload it is.",
            "effect proof",
        ),
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
        "returns": Key("one or word", "What comes back; without it, text that is `untrusted`.", "returns", part="returns", word="none"),
        "carries": Key(
            "words",
            "Kinds of value that are looked for in its data text and judged by `carries` of the flow row.",
            "entity",
            part="carries",
        ),
        "once": Key("one", "It runs once per value of these arguments.", "once", part="once"),
        "remember": Key("map", "Facts that are kept of its result, for `require_any`.", "remember", part="remember"),
        "credential": Key(
            "one",
            "The credential its body needs: obtained for each call, lent to the body, taken back after it.",
            "credential",
            part="credential",
        ),
    },
    "credential": {
        "resource": Key("text", "The URL of the API it is for (RFC 8707); https, http on loopback.", needed=True),
        "scope": Key("names", "OAuth scopes that are asked for, and no others.", "scope", needed=True),
        "ttl": Key("time", "The longest it may live, 15m at most; 5m unless said."),
    },
    "returns": {
        "format": Key("word", "How text is read; JSON and structured content need none.", "format"),
        "labels": Key("some names", "Labels the task has once this tool was called.", "label"),
        "shape": Key("shape", "Path in the result -> where such a value comes from. What is not named is `text`.", "leaf"),
        "variants": Key("list", "What holds instead for some calls: the first whose `if` holds.", "variant", part="variants"),
    },
    "variant": {
        "if": Key("constraints", "Argument path of the call -> constraint.", needed=True),
        "labels": Key("some names", "Labels instead.", "label"),
        "shape": Key("shape", "A shape instead.", "leaf"),
    },
    "leaf": {
        "is": Key("word", "Where such a value comes from.", "leaf", needed=True),
        "if": Key("constraints", "Path in the same record -> constraint.", needed=True),
        "otherwise": Key("word", "What it is where that does not hold: `text`, unless this says something else.", "leaf"),
    },
    "once": {
        "key": Key("list of names", "Arguments that make a repetition.", "path", needed=True),
        "within": Key("time", "Within this time; without it, for ever."),
    },
    "remember": {
        "key": Key("name", "`args.<path>`: under which value.", "argument", needed=True),
        "fields": Key("map of paths", "Field -> path in the result.", "id result", needed=True),
    },
    "flow_row": {
        "allow": Key("words", "Sources from which a control value is allowed.", "cell"),
        "ask": Key("words", "Sources from which it asks.", "cell"),
        "deny": Key("words", "Sources from which it is denied, as it is from those not named.", "cell"),
        "delegated": Key(
            "words", "Sources from which it asks where the prompt leaves the value to something else, and is denied elsewhere.", "source"
        ),
        "also": Key("one", "The least that an allowed value gets which was seen in such a source too.", "floor"),
        "carries": Key("one", "The same for values in the data text of tools that say `carries`.", "cells"),
        "match": Key("word", "host: a URL without query has its host's sources too.", "match"),
    },
    "cells": {
        "allow": Key("words", "Sources from which such a value is allowed.", "cell"),
        "ask": Key("words", "Sources from which it asks.", "cell"),
        "deny": Key("words", "Sources from which it is denied, as it is from those not named.", "cell"),
    },
    "floor": {
        "ask": Key("words", "Sources that make it ask.", "source"),
        "deny": Key("words", "Sources that make it denied.", "source"),
    },
    "asked": {
        "not_asked": Key(
            "map of words", "Effect class -> what a call says that the prompt does not ask for.", "effect answer", needed=True
        ),
        "delegated": Key("word", "The same where the prompt hands over its orders.", "answer"),
        "words": Key("map of texts", "Effect class -> words, beside its own name and the built-in ones.", "effect"),
    },
    "ask": {
        "by": Key("one or word", "Who may answer.", "who", needed=True, word="origin"),
        "count": Key("count", "So many different persons."),
        "within": Key("time", "How long the answer holds."),
    },
    "who": {
        "group": Key("text", "Somebody of this group."),
        "persons": Key("names", "One of these persons.", "person"),
        "not": Key("words", "None of these.", "not"),
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
        "check": Key("text", "A CEL expression over `args`, true or denied.", part="check"),
    },
    "calls": {"calls": Key("count", "This many calls in one task.", needed=True)},
    "rule": {
        "id": Key("name", "The rule's name in decisions, records and tests.", "id", needed=True),
        "description": Key("text", "What it is for."),
        "owner": Key("text", "Who answers for this rule."),
        "severity": Key("word", "How bad a violation is.", "severity"),
        "controls": Key("names", "Published risks and controls this rule serves.", "control"),
        "when": Key("one or word", "Which calls the rule is about; all members must hold. Or `task.end`.", "when", word="task.end"),
        "limit": Key("one", "How often or how much.", "limit"),
        "require": Key("constraints", "`args.<path>` or `signals.<name>` -> what its value must be."),
        "require_any": Key("list", "Facts of which one must hold.", "fact", part="require_any"),
        "check": Key("text", "A CEL expression over `args` that must be true.", part="check"),
        "forbid_after": Key("list", "It fires once all of these happened in the task.", "item", part="forbid_after"),
        "in_order": Key("flag", "They happened in this order.", part="in_order", beside="forbid_after"),
        "require_before": Key("one", "It fires unless this happened and ended well.", "before", part="require_before"),
        "exclusive": Key("list", "One `by` does only one of these.", "item", part="exclusive"),
        "by": Key("word", "Who does only one of them.", "by", part="exclusive", beside="exclusive"),
        "per": Key("names", "For the same values of these arguments.", "argument", part="exclusive", beside="exclusive"),
        "within": Key("time", "How old a signal may be.", part="signals", beside="require"),
        "unless": Key("one", "What excuses a call.", "unless", part="unless"),
        "then": Key("word", "What the rule says when it fires.", "then"),
        "mode": Key("word", "monitor: recorded, not enforced, until the day of `until`.", "mode"),
        "until": Key("day", "The day from which a monitored rule enforces."),
    },
    "when": {
        "tool": Key("names", "One of these tools.", "tool"),
        "effect": Key("words", "A tool with one of these effects.", "effect"),
        "intent": Key("names", "A task of one of these kinds.", "id"),
        "args": Key("constraints", "Argument path -> predicate; one that cannot be evaluated matches."),
        "end": Key("flag", "The end of a task, as `when: task.end` says.", part="task.end"),
    },
    "item": {
        "tool": Key("names", "A call of one of these tools.", "tool"),
        "effect": Key("words", "A call of a tool with one of these effects.", "effect"),
        "label": Key("name", "A label of the task.", "label"),
        "args": Key("constraints", "Argument path of that call -> constraint."),
        "match": Key("map of paths", "Argument of that call -> `args.<path>` of this one, equal.", "path argument"),
    },
    "before": {
        "tool": Key("names", "A call of one of these tools.", "tool"),
        "effect": Key("words", "A call of a tool with one of these effects.", "effect"),
        "args": Key("constraints", "Argument path of that call -> constraint."),
        "match": Key("map of paths", "Argument of that call -> `args.<path>` of this one, equal.", "path argument"),
        "outcome": Key("word", "How it ended.", "outcome"),
        "distinct": Key("word", "It was done by another one.", "distinct"),
        "within": Key("time", "So long ago at most."),
        "consume": Key("flag", "Each serves one call."),
    },
    "unless": {
        "flow": Key("words", "Every control value has one of these sources.", "source"),
        "args": Key("constraints", "Argument path -> predicate; all hold, and all are there."),
        "intent": Key("names", "A task of one of these kinds.", "id"),
        "asked": Key("word", "several: the prompt speaks of more than one, as `both`, `three times`, `each`.", "count", part="asked"),
    },
    "fact": {
        "fact": Key("name", "A fact some tool remembers.", "id", needed=True),
        "key": Key("text", "`args.<path>`, or the value itself: under which value it was remembered.", needed=True),
        "where": Key("constraints", "Field -> constraint, or `age` for a date."),
        "bounds": Key("bounds", "`args.<path>` -> `min`, `max`, `above`, `below` -> the field that bounds it."),
    },
    "limit": {
        "denied": Key("count", "So many enforced denials in this task.", part="denied"),
        "calls": Key("count", "This many calls."),
        "sum": Key("name", "`args.<path>`: the amount that is summed.", "summed"),
        "max": Key("amount", "The largest sum, in quotes."),
        "within": Key("time", "Within this time; without it, for ever."),
        "per": Key("names", "`origin`, `actor`, `tool`, `args.<path>`: counted apart for each, over all tasks of the tenant.", "per"),
    },
    "test": {
        "name": Key("text", "What the case shows.", needed=True),
        "as": Key("one", "Who acts, on what task.", "as", needed=True),
        "trace": Key(
            "text",
            "One event per line: a call in Python syntax, then optionally `-> result`, `!> error` or `?>`; or approve, signal, user_says.",
            needed=True,
        ),
        "expect": Key("expect", "One per call, or per line: a verdict with an optional code prefix or rule id, or a rule id.", needed=True),
        "end": Key("expect", "What ending the task must come to."),
    },
    "as": {
        "origin": Key("text", "Whom the work is for.", needed=True),
        "actor": Key("names", "Who acts: one name, or the chain from the opener on.", "actor", needed=True),
        "intent": Key("name", "The kind of task.", "id", needed=True),
        "params": Key("data", "Its parameters."),
        "prompt": Key("text", "The user's own words."),
        "person": Key("text", "The proven person behind the origin.", part="tasks"),
        "proven": Key("names", "Actors that have proven to be one; without it whoever acts meets what `proof` demands.", "actor"),
        "tasks": Key("map", "What `#name` lines act as, over the case's own values.", "other_task", part="tasks"),
    },
    "other_task": {
        "origin": Key("text", "Whom the work is for."),
        "actor": Key("names", "Who acts: one name, or the chain from the opener on.", "actor"),
        "intent": Key("name", "The kind of task.", "id"),
        "params": Key("data", "Its parameters."),
        "prompt": Key("text", "The user's own words."),
        "person": Key("text", "The proven person behind the origin."),
    },
    "cases": {
        "policy": Key("names", "The policy under test; several are layers.", "file"),
        "over": Key("one", "Tools and intents for a pack of rules to be judged over.", "desk"),
        "tests": Key("list", "Traces and what must come of them.", "test", needed=True),
    },
    "desk": {
        "tools": Key("map", "What each tool is.", "tool", needed=True),
        "intents": Key("map", "Kinds of task.", "intent", needed=True),
        "flow": Key("map", "Effect class -> sources of control values -> verdict.", "flow_row", part="flow"),
        "asked": Key("one", "The trusted prompt's own words as a second vote.", "asked", part="asked"),
        "asks": Key("map", "Rule, code or `default` -> who may answer an ask.", "ask", part="asks"),
    },
}
