"""A policy while it is being read: what has been read so far, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field

from guard.policy.data import Asked, AskRule, FlowRow, Intent, PolicyData, Rule, Tool, When
from guard.policy.fields import Word
from guard.policy.problems import Mark, Report, suggest

__all__ = ["START", "Draft", "leaves_of"]

START = Mark(1, 1)


@dataclass(slots=True)
class Draft:
    """A policy being read. `pack`: it has neither tools nor intents, its rules are judged over another layer's (`base`).

    `doubtful`, `vague`, `shapeless`: tools whose arguments, whose effects, whose results could not be read; what depends on them is not
    reported a second time. `places`: where things stand. `written`: (intent, tool) -> argument paths it speaks of, readable or not.
    """

    report: Report
    pack: bool = False
    base: PolicyData | None = None
    owner: str = ""
    tools: dict[str, Tool] = field(default_factory=dict)
    doubtful: set[str] = field(default_factory=set)
    vague: set[str] = field(default_factory=set)
    shapeless: set[str] = field(default_factory=set)
    intents: dict[str, Intent] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)
    rule_ids: dict[str, Mark] = field(default_factory=dict)
    scopes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    flow: dict[str, FlowRow] | None = None
    asked: Asked | None = None
    asks: dict[str, AskRule] = field(default_factory=dict)
    most_asks: int = 10
    proof: dict[str, str] = field(default_factory=dict)
    places: dict[tuple[str, ...], Mark] = field(default_factory=dict)
    written: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    @property
    def blind(self) -> bool:
        """A pack read alone: its tools are not known yet."""
        return self.pack and self.base is None

    def at(self, *path: str) -> Mark:
        """Where the thing stands."""
        return self.places.get(path, START)

    def about(self, when: When) -> list[Tool]:
        """The tools a rule with this `when` is about."""
        named = [self.tools[name] for name in sorted(when.tools) if name in self.tools] if when.tools else self.tools.values()
        return [tool for tool in named if not when.effects or when.effects.intersection(tool.effects)]

    def unknown_tool(self, word: Word, what: str) -> bool:
        """Report `word` unless it is a declared tool."""
        if self.blind or word.text in self.tools:
            return False
        self.report.error(
            "unknown-tool", word.at, f"{what} names `{word.text}`, which is not a tool of this policy", suggest(word.text, self.tools)
        )
        return True

    def unknown_intent(self, word: Word, what: str) -> bool:
        """Report `word` unless it is a declared intent."""
        if self.blind or word.text in self.intents:
            return False
        self.report.error(
            "unknown-intent",
            word.at,
            f"{what} names intent `{word.text}`, which this policy does not have",
            suggest(word.text, self.intents),
        )
        return True


def leaves_of(tool: Tool) -> set[str]:
    """The paths in the tool's results that some shape of it names."""
    if tool.returns is None:
        return set()
    return {path for shape in (tool.returns.shape, *(variant.shape for variant in tool.returns.variants)) for path in shape}
