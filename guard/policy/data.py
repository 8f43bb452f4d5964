"""A policy as data: what the text means once it is read and linted. Frozen; nothing here decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Literal

from guard.constraints import Constraint
from guard.errors import Problem
from guard.frozen import frozen
from guard.model import Verdict

__all__ = [
    "EFFECTS", "IRREVERSIBLE", "LEAVES", "SOURCES", "After", "Age", "AskRule", "Asked", "Before", "Case", "Downstream", "Event", "Exclusive", "FactTest",
    "FlowRow", "From", "Intent", "Item", "Leaf", "Limit", "Once", "Permission", "PolicyData", "Remember", "Returns", "Rule", "RunAs",
    "Tool", "Unless", "Variant", "When", "Who",
]  # fmt: skip

EFFECTS = ("read", "fetch", "write", "send", "share", "pay", "buy", "delete", "execute", "admin", "approve")
IRREVERSIBLE = frozenset({"send", "share", "pay", "buy", "delete", "execute", "admin"})
SOURCES = ("prompt", "params", "endorsed", "directory", "structured", "made_here", "author", "text", "unknown")
"""Where a value may come from, best first."""
LEAVES = ("directory", "structured", "author", "text", "id", "name")
"""What a shape may say a leaf is. `id` and `name` are structured at any length."""


# --- results of tools


@frozen
class Leaf:
    """What a leaf of a result is: `source`, one of LEAVES. With `when` (path of the same result -> constraint, `[]` means the same
    record) it is that only where all of them hold, else `otherwise`. `$me` in `when` is the parameter `me`.
    """

    source: str
    when: Mapping[str, Constraint] = field(default_factory=dict)
    otherwise: str = "text"


@frozen
class Variant:
    """What holds instead where every constraint of `when` (argument path of the call -> constraint) holds.

    The first variant that holds counts; both members are complete (what the file leaves out is the result's own). Where `when` cannot be
    evaluated, since an argument is absent, its labels latch as well.
    """

    when: Mapping[str, Constraint]
    labels: tuple[str, ...]
    shape: Mapping[str, Leaf]


@frozen
class Returns:
    """What a result is. `none`: nothing comes back. `shape`: path in the result (`iban`, `[].iban`, `items[].id`) -> leaf.

    A tool without one returns text, labelled `untrusted`.
    """

    none: bool = False
    format: Literal["json", "yaml", "keyvalue", "text"] = "json"
    labels: tuple[str, ...] = ()
    shape: Mapping[str, Leaf] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()


@frozen
class Once:
    """The tool runs once per values of `key` (argument paths), within `within` seconds, None: ever."""

    key: tuple[str, ...]
    within: int | None = None


@frozen
class Remember:
    """What is kept of a result under the name `fact`. `key`: argument path. `fields`: field -> path in the result."""

    fact: str
    key: str
    fields: Mapping[str, str]


@frozen
class Downstream:
    """The credential a tool needs for its own work: obtained for each call, handed to its body, taken back after it.

    `resource`: the RFC 8707 indicator, a URL. `scopes`: what is asked for there, and the most that is taken. `seconds`: the longest it may live.
    """

    resource: str
    scopes: tuple[str, ...]
    seconds: int


@frozen
class Tool:
    """What a tool is. `types`: argument path -> type word, for control and data arguments alike; `control`: paths of control arguments.

    An argument path is a name, `name[]` for the items of a list, `name[].field` and `name.field` for what lies inside.
    """

    name: str
    effects: tuple[str, ...]
    types: Mapping[str, str]
    control: frozenset[str]
    reversible: bool
    errors_have_no_effect: bool = False
    where: str = ""
    returns: Returns | None = None
    carries: frozenset[str] = frozenset()
    once: Once | None = None
    remember: tuple[Remember, ...] = ()
    credential: Downstream | None = None


@frozen
class Limit:
    """`calls` or `sum` (an argument path) up to `max`. `window` seconds, None: for ever. `per`: key parts besides the task.

    `denied`: enforced denials of the task are counted, not calls; the rule fires when `max` of them were made.

    `per` entries: `origin`, `actor`, `tool`, `args.<path>`. Without `per` the limit counts in its task; with it, in the tenant.
    """

    max: Decimal
    sum: str | None = None
    window: int | None = None
    per: tuple[str, ...] = ()
    denied: bool = False


@frozen
class From:
    """The value must be one that `tool` returned at `path`, in a record whose siblings are as `where` says: leaf -> literal or `$param`.

    A sibling stands in the same record, so `where: {name: ...}` of `[].iban` speaks of `[].name`; the keys here are whole paths.
    """

    tool: str
    path: str
    where: Mapping[str, object] = field(default_factory=dict)


@frozen
class Permission:
    """One tool of an intent. `args`: argument path -> constraint (may use `$parameters`). `at`: argument path, or `judge.CHECK`
    for `check` -> `policy.yaml:12:31`.

    `origins`: argument path -> where its value must come from. `check`: a CEL expression over the arguments.
    """

    tool: str
    args: Mapping[str, Constraint]
    limit: Limit | None
    where: str
    at: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, From] = field(default_factory=dict)
    check: str | None = None


@frozen
class Intent:
    """A kind of task. `params`: name -> type word. `ttl` seconds from the opening of the task. `order`: see POLICY."""

    name: str
    description: str
    params: Mapping[str, str]
    ttl: int | None
    allow: Mapping[str, Permission]
    order: tuple[str, ...]
    where: str


@frozen
class When:
    """Which calls a rule is about: all members must hold; an empty member holds always. `end`: the rule is about `task.end`."""

    tools: frozenset[str] = frozenset()
    effects: frozenset[str] = frozenset()
    intents: frozenset[str] = frozenset()
    args: Mapping[str, Constraint] = field(default_factory=dict)
    end: bool = False


# --- rules


@frozen
class Item:
    """Earlier events: calls of one of these tools, of one of these effects, with these arguments (`args`); or a label of the task.

    Members hold together; an empty one holds always; a label stands alone. `match`: argument of the event -> argument of this call, equal
    by type (both written without the prefix `args.`).
    """

    tool: frozenset[str] = frozenset()
    effect: frozenset[str] = frozenset()
    label: str | None = None
    args: Mapping[str, Constraint] = field(default_factory=dict)
    match: Mapping[str, str] = field(default_factory=dict)


@frozen
class After:
    """`forbid_after`: fires once all items happened, `in_order` in this order."""

    items: tuple[Item, ...]
    in_order: bool = False


@frozen
class Before:
    """`require_before`: fires unless the item happened and ended well, within `within` seconds. `consume`: each event serves once."""

    item: Item
    outcome: Literal["ok"] = "ok"
    distinct: Literal["person", "actor"] | None = None
    within: int | None = None
    consume: bool = False


@frozen
class Exclusive:
    """`exclusive`: one `by` does only one of the items, for the same values of `per` (argument paths, without `args.`)."""

    items: tuple[Item, ...]
    by: Literal["person", "actor", "origin"]
    per: tuple[str, ...] = ()


@frozen
class Unless:
    """What excuses a call the rule would fire on; all members that are set must hold. `flow`: sources every control value must have one of.
    `several`: the trusted prompt speaks of more than one.
    """

    flow: frozenset[str] | None = None
    args: Mapping[str, Constraint] = field(default_factory=dict)
    intents: frozenset[str] = frozenset()
    several: bool = False


@frozen
class Age:
    """How long ago a remembered date is, in seconds."""

    min: int | None = None
    max: int | None = None


@frozen
class FactTest:
    """One alternative of `require_any`: fact `fact`, remembered under the value of this call's argument `key` (None at `task.end`
    with a literal in `const`), whose fields meet `where`.

    `bounds`: argument path of this call -> range word (`min`, `max`, `above`, `below`) -> field of the fact that bounds it.
    """

    fact: str
    key: str | None
    where: Mapping[str, Constraint | Age] = field(default_factory=dict)
    bounds: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    const: object = None


@frozen
class Rule:
    """One workflow rule. It has one verb: `limit`, `after`, `before`, `exclusive`, `any_facts`, `check`, or `require` with `signals`;
    or none (the rule fires on every call it matches).

    `require`: argument path -> constraint; `signals`: signal name -> constraint, not older than `within` seconds (None: the usual time).
    `until`: monitor ends on this day; from then on it enforces.
    """

    id: str
    when: When
    then: Literal["deny", "ask", "alert", "suspend"]
    limit: Limit | None = None
    require: Mapping[str, Constraint] | None = None
    monitor: bool = False
    until: date | None = None
    owner: str = ""
    description: str = ""
    severity: str = "medium"
    controls: tuple[str, ...] = ()
    where: str = ""
    unless: Unless | None = None
    after: After | None = None
    before: Before | None = None
    exclusive: Exclusive | None = None
    signals: Mapping[str, Constraint] = field(default_factory=dict)
    any_facts: tuple[FactTest, ...] = ()
    check: str | None = None
    within: int | None = None


# --- sources, the prompt's words, approvals


@frozen
class FlowRow:
    """One effect class: source -> verdict, for control values and for what data text carries; not there: deny. `any` of the file is
    written out: every source without a cell of its own has one here.

    `match: host`: a URL without query has its host's sources too. `handed`: the cells where the prompt leaves a value or its orders to
    something else (`delegated` of the file: those sources ask there and are denied elsewhere); empty: the same as ever. `also`: source ->
    the least that a value with an allowed source gets which was seen in that source too; the user's own words and approvals are above it.
    """

    cells: Mapping[str, Verdict]
    carries: Mapping[str, Verdict] = field(default_factory=dict)
    match: Literal["exact", "host"] = "exact"
    handed: Mapping[str, Verdict] = field(default_factory=dict)
    also: Mapping[str, Verdict] = field(default_factory=dict)


@frozen
class Asked:
    """The trusted prompt's words as a second vote. `not_asked`: effect class -> verdict. `words`: class -> more words for it."""

    not_asked: Mapping[str, Verdict]
    delegated: Verdict | None = None
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@frozen
class Who:
    """Who may answer: somebody of `group`, or one of `persons`; none of `excluded` (`origin`, `actors`)."""

    group: str | None = None
    persons: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()


@frozen
class AskRule:
    """How an ask is answered: by whom, by how many, and for how many seconds the answer holds."""

    by: Literal["origin"] | Who = "origin"
    count: int = 1
    within: int = 900


# --- tests


@frozen
class RunAs:
    """Whom a test case acts as. `person`: the proven person behind the origin. `tasks`: what `#name` lines act as, complete.

    `proven`: the actors that have proven to be one; None: the case does not say.
    """

    origin: str
    actor: tuple[str, ...]
    intent: str
    params: Mapping[str, object] = field(default_factory=dict)
    prompt: str | None = None
    person: str | None = None
    tasks: Mapping[str, RunAs] = field(default_factory=dict)
    proven: frozenset[str] | None = None


@frozen
class Event:
    """One line of a trace: a call with its outcome, at `after` seconds past the line before. Or, by `kind`, something else that happens:

    | kind      | tool      | args                                                          |
    |-----------|-----------|---------------------------------------------------------------|
    | approve   | approve   | `ask` (a rule id or code), `by` (a person), `groups` (a list) |
    | signal    | signal    | `name`, `value`                                               |
    | user_says | user_says | `text`, `quoted` ("" where nothing is)                        |
    """

    tool: str
    args: Mapping[str, object]
    status: Literal["ok", "error", "unknown"] = "ok"
    result: object = None
    error: str = ""
    actor: str | None = None
    task: str | None = None
    after: int = 0
    line: int = 0
    text: str = ""
    kind: Literal["call", "approve", "signal", "user_says"] = "call"


@frozen
class Case:
    """One entry of `tests:`. `expect`: one per event, a verdict with an optional code prefix, or a rule id; "" for an event that is no
    call and of which nothing was said.
    """

    name: str
    run_as: RunAs
    trace: tuple[Event, ...]
    expect: tuple[str, ...]
    end: str | None
    where: str


@dataclass(frozen=True, slots=True)
class PolicyData:
    """A policy that loaded. `digest`: SHA-256 hex of its text. `warnings`: what lint said besides errors."""

    name: str
    owner: str
    digest: str
    file: str
    tools: Mapping[str, Tool]
    intents: Mapping[str, Intent]
    rules: tuple[Rule, ...]
    scopes: Mapping[str, tuple[str, ...]]
    tests: tuple[Case, ...]
    warnings: tuple[Problem, ...] = ()
    flow: Mapping[str, FlowRow] | None = None
    asked: Asked | None = None
    asks: Mapping[str, AskRule] = field(default_factory=dict)
    most_asks: int = 10
    """So many asks a task may make; the next one denies."""
    proof: Mapping[str, str] = field(default_factory=dict)
    """Effect class -> what a call of it must prove: `key`."""
