"""Text -> policy, and several policies as layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from guard.errors import ConfigError, PolicyError, Problem
from guard.frozen import frozen
from guard.policy.asks import read_asks
from guard.policy.cases import Known, read_cases
from guard.policy.data import Case, Intent, PolicyData
from guard.policy.draft import START, Draft
from guard.policy.fields import take
from guard.policy.flowtext import read_asked, read_flow
from guard.policy.lint import lint
from guard.policy.problems import Enough, Report
from guard.policy.read import read_intents, read_proof, read_scopes, read_tools
from guard.policy.rules import read_rules
from guard.policy.supported import BUILT
from guard.policy.yamltext import Map, Node, parse

__all__ = ["CasesFile", "Policy", "cases_from_text", "check_layers", "read_cases_file", "read_policy"]


@dataclass(frozen=True, slots=True)
class Policy(PolicyData):
    """A policy that loaded and linted clean. `text`: what it was read from. `parts`: of the language, that it may use."""

    text: str = field(default="", repr=False, compare=False)
    parts: frozenset[str] = field(default=BUILT, repr=False, compare=False)

    @classmethod
    def from_text(cls, text: str, *, file: str = "policy.yaml") -> Policy:
        """Read and lint `text`; raise PolicyError with every problem found. `file`: what the problems call it."""
        return read_policy(text, file=file)

    @property
    def pack(self) -> bool:
        """It has neither tools nor intents: its rules are judged over the layer that has them."""
        return not self.tools and not self.intents


def check_layers(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """Several policies as layers, each judged whole: those with tools first, then packs of rules, read again over those tools.

    Raise PolicyError where a pack does not fit those tools, ConfigError where no layer has tools, two differ, or two share a name.
    """
    named: dict[str, Policy] = {}
    for policy in policies:
        if policy.name in named:
            raise ConfigError(
                f"two layers are called `{policy.name}` ({named[policy.name].file} and {policy.file}); records could not tell them apart"
            )
        named[policy.name] = policy
    full = [policy for policy in policies if not policy.pack]
    if not full:
        files = ", ".join(policy.file for policy in policies) or "no policy"
        raise ConfigError(f"{files}: no layer has tools and intents; rules alone allow nothing")
    for other in full[1:]:
        if _meaning(other) != _meaning(full[0]):
            raise ConfigError(
                f"{full[0].file} and {other.file} differ in their tools, intents, scopes or `asked`; one layer has them, or all the same"
            )
    problems: list[Problem] = []
    layers: list[Policy] = []
    for policy in policies:
        try:
            layers.append(read_policy(policy.text, file=policy.file, base=full[0], parts=policy.parts) if policy.pack else policy)
        except PolicyError as error:
            problems.extend(error.problems)
    if problems:
        raise PolicyError(problems)
    return tuple(sorted(layers, key=lambda policy: policy.pack))


def _meaning(policy: PolicyData) -> object:
    """Tools, intents and scopes without the places they stand in."""
    tools = {name: replace(tool, where="") for name, tool in policy.tools.items()}
    intents = {}
    for name, intent in policy.intents.items():
        allow = {
            tool: ({path: one.raw for path, one in given.args.items()}, given.limit, given.origins, given.check)
            for tool, given in intent.allow.items()
        }
        intents[name] = (intent.params, intent.ttl, allow, intent.order)
    return tools, intents, policy.scopes, policy.asked


def read_policy(text: str, *, file: str = "policy.yaml", base: PolicyData | None = None, parts: frozenset[str] = BUILT) -> Policy:
    """`Policy.from_text`, for a pack over `base`, and for judges being built: with `parts=ALL` the whole language is read.

    A guard must never be given a policy whose parts it does not judge.
    """
    report = Report(text, file, parts)
    try:
        policy = _read(report, text, base)
    except Enough:
        policy = None
    report.check()
    assert policy is not None, "no policy and no error"
    return policy


def _tree(report: Report, text: str, hint: str) -> Node:
    tree = parse(text, report)
    if tree is None and not report.failed:
        report.error("empty", START, "the file is empty", hint)
    report.check()
    assert tree is not None, "no tree and no error"
    return tree


def _read(report: Report, text: str, base: PolicyData | None) -> Policy | None:
    tree = _tree(report, text, "begin with `guardtrail: 1`")
    got = take(report, tree, "policy", "the policy")
    draft = _draft(report, tree, got, base)
    known = Known(None if draft.blind else _params(draft.intents), set(draft.rule_ids))
    tests = read_cases(report, got["tests"], known) if "tests" in got else ()
    lint(draft)
    if report.failed:
        return None
    tools, intents = ({}, {}) if draft.pack else (draft.tools, draft.intents)
    name, digest = got["name"].text, sha256(text.encode("utf-8")).hexdigest()
    return Policy(
        name, draft.owner, digest, report.file, tools, intents, tuple(draft.rules), draft.scopes, tests, report.warnings,
        draft.flow, draft.asked, draft.asks, draft.most_asks, draft.proof, text, report.parts,
    )  # fmt: skip


def _draft(report: Report, tree: Node, got: Mapping[str, Any], base: PolicyData | None) -> Draft:
    draft = Draft(report, owner=got["owner"].text if "owner" in got else "")
    has = set(tree.entries) if isinstance(tree, Map) else set()
    draft.pack = not {"tools", "intents"} & has
    if draft.pack and base is not None:
        draft.base, draft.tools, draft.intents = base, dict(base.tools), dict(base.intents)
    for part in ("tools", "intents"):
        if part in got and not got[part].entries:
            report.error(
                "empty", got[part].at, f"`{part}` is empty", "a pack of rules leaves `tools` and `intents` out" if part == "tools" else None
            )
    if isinstance(tree, Map) and "intents" in has and "tools" not in has:
        report.error("missing", tree.entries["intents"].key, "the policy has intents and no `tools`")
    if "tools" in got:
        read_tools(draft, got["tools"])
    if "intents" in got:
        read_intents(draft, got["intents"])
    if "rules" in got:
        read_rules(draft, got["rules"])
    if "scopes" in got:
        read_scopes(draft, got["scopes"])
    if "flow" in got:
        read_flow(draft, got["flow"])
    if "asked" in got:
        read_asked(draft, got["asked"])
    if "asks" in got:
        read_asks(draft, got["asks"])
    if "proof" in got:
        read_proof(draft, got["proof"])
    if draft.pack and "asked" in got and isinstance(tree, Map):
        report.error(
            "unenforceable", tree.entries["asked"].key, "`asked` stands where the tools are; a task has one prompt", "move it there"
        )
    if draft.pack and has and not {"rules", "flow", "proof"} & has:
        report.error("empty", START, "the policy has no tools, no intents and no rules: it says nothing")
    return draft


def _params(intents: Mapping[str, Intent]) -> dict[str, Mapping[str, str]]:
    return {name: intent.params for name, intent in intents.items()}


@frozen
class CasesFile:
    """A `*.cases.yaml` file: truth tables beside a policy. Iterating gives its cases.

    `policies`: the files under test, beside this one. `over`: tools and intents for packs of rules; a layer of its own.
    """

    policies: tuple[str, ...]
    over: Policy | None
    tests: tuple[Case, ...]

    def __iter__(self) -> Iterator[Case]:
        return iter(self.tests)


def cases_from_text(text: str, file: str = "cases.yaml") -> CasesFile:
    """Read a case file; raise PolicyError with every problem. Rule ids are not checked here: the policy is another file."""
    return read_cases_file(text, file)


def read_cases_file(text: str, file: str = "cases.yaml", parts: frozenset[str] = BUILT) -> CasesFile:
    """`cases_from_text`, for judges being built (see `read_policy`)."""
    report = Report(text, file, parts)
    try:
        cases = _read_cases(report, text)
    except Enough:
        cases = None
    report.check()
    assert cases is not None, "no cases and no error"
    return cases


def _read_cases(report: Report, text: str) -> CasesFile:
    got = take(report, _tree(report, text, "begin with `policy:` and `tests:`"), "cases", "the file")
    draft = Draft(report)
    desk = take(report, got["over"], "desk", "`over`") if "over" in got else {}
    if "tools" in desk:
        read_tools(draft, desk["tools"])
    if "intents" in desk:
        read_intents(draft, desk["intents"])
    if "flow" in desk:
        read_flow(draft, desk["flow"])
    if "asked" in desk:
        read_asked(draft, desk["asked"])
    if "asks" in desk:
        read_asks(draft, desk["asks"])
    known = Known(_params(draft.intents) if "over" in got else None, None)
    tests = read_cases(report, got["tests"], known) if "tests" in got else ()
    digest = sha256(text.encode("utf-8")).hexdigest() if not report.failed else ""
    over = Policy(
        "cases", "", digest, report.file, draft.tools, draft.intents, (), {}, (), (),
        draft.flow, draft.asked, draft.asks, draft.most_asks, draft.proof, text, report.parts,
    ) if "over" in got else None  # fmt: skip
    return CasesFile(tuple(word.text for word in got.get("policy", ())), over, tests)
