"""The verbs, told by the whole history: no keys, no operations, nothing kept but what happened. It knows `guard.policy.data` only.

Every call is answered by looking at all calls before it. It is the definition the incremental judges are compared with.

| a call that is    | in flight | ok | error | error without effect | unknown | refused |
|-------------------|-----------|----|-------|----------------------|---------|---------|
| has happened      | yes       | yes| yes   | no (its labels: yes) | yes     | no      |
| has ended well    | no        | yes| no    | no                   | no      | no      |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from guard.policy.data import Before, Item, PolicyData, Rule, Tool


@dataclass
class Past:
    """One call. `status`: flight, ok, error, unknown, refused. `rules`: those that were loaded when it was decided."""

    tool: Tool
    args: Mapping[str, object]
    task: str
    origin: str
    person: str | None
    actor: str | None
    at: int
    rules: Sequence[Rule]
    status: str = "flight"
    done: int = 0
    found: set[str] = field(default_factory=set)

    @property
    def happened(self) -> bool:
        return self.status in ("flight", "ok", "error", "unknown") and not (self.status == "error" and self.tool.errors_have_no_effect)

    def who(self, by: str | None) -> str | None:
        return {"person": self.person, "actor": self.actor, "origin": self.origin}.get(by or "")


class Oracle:
    """`judge` answers what is not permitted, `ended` tells how a call ended."""

    def __init__(self) -> None:
        self.calls: list[Past] = []
        self.denied: list[tuple[str, int]] = []
        self.asked: Counter[str] = Counter()
        self.suspended: dict[str, str] = {}
        self.ended_tasks: set[str] = set()
        self.log: list[tuple[str, Past, object]] = []  # ends, consumptions and what took them back, in order

    def judge(self, call: Past, policy: PolicyData, order: Sequence[str]) -> tuple[str, set[str]]:
        """The verdict and the rules (or codes) that forbid or ask. The call is in the history from now on."""
        forbids: set[str] = set()
        asks: set[str] = set()
        stops: str | None = None
        taken: list[object] = []
        if call.task in self.ended_tasks:
            forbids.add("task.ended")
        elif call.task in self.suspended:
            forbids.add("task.suspended")
        if call.tool.name in order:
            later = order[order.index(call.tool.name) + 1 :]
            if any(e.happened and e.task == call.task and e.tool.name in later for e in self.calls):
                forbids.add("intent.order")
        once = call.tool.once
        if once is not None and any(
            e.happened and e.tool.name == call.tool.name and all(e.args.get(k) == call.args.get(k) for k in once.key)
            and (once.within is None or call.at - e.at < once.within)
            for e in self.calls
        ):  # fmt: skip
            forbids.add("call.already_run")
        for rule in policy.rules:
            if rule.monitor or rule.when.end or not self.about(rule, call) or not self.fires(rule, call, taken):
                continue
            if rule.unless is not None and all(path in call.args and must.test(call.args[path]) for path, must in rule.unless.args.items()):
                continue
            if rule.then in ("deny", "suspend"):
                forbids.add(rule.id)
                stops = rule.id if rule.then == "suspend" and stops is None else stops
            elif rule.then == "ask":
                asks.add(rule.id)
        if asks and not forbids:
            if self.asked[call.task] >= policy.most_asks:
                forbids.add("ask.too_many")
            else:
                self.asked[call.task] += 1
        call.found = forbids | asks
        if forbids or asks:
            call.status = "refused"
            if forbids:
                self.denied.append((call.task, call.at))
                if stops and not {"task.ended", "task.suspended"} & forbids:
                    self.suspended[call.task] = stops
        else:
            self.log += [("take", call, what) for what in taken]
        self.calls.append(call)
        return ("deny" if forbids else "ask" if asks else "allow"), call.found

    def ended(self, call: Past, status: str, at: int) -> None:
        call.status, call.done = status, at
        if status == "ok":
            self.log.append(("end", call, call.at))
        elif status == "error" and call.tool.errors_have_no_effect:
            self.log += [("back", call, what) for kind, one, what in list(self.log) if kind == "take" and one is call]

    def end_task(self, task: str, policy: PolicyData, at: int) -> set[str]:
        """The rules that object to the end of the task."""
        nobody = Past(Tool("", (), {}, frozenset(), True), {}, task, "", None, None, at, policy.rules)
        return {rule.id for rule in policy.rules if rule.when.end and rule.then != "alert" and self.fires(rule, nobody, [])}

    # -- one rule --------------------------------------------------------------------------------------------------------------

    @staticmethod
    def about(rule: Rule, call: Past) -> bool:
        when = rule.when
        if (when.tools and call.tool.name not in when.tools) or (when.effects and not when.effects & set(call.tool.effects)):
            return False
        return all(path not in call.args or must.test(call.args[path]) for path, must in when.args.items())

    @staticmethod
    def meets(item: Item, call: Past, *, strict: bool = True) -> bool:
        if item.label is not None:
            return item.label in (call.tool.returns.labels if call.tool.returns is not None else ("untrusted",))
        if (item.tool and call.tool.name not in item.tool) or (item.effect and not item.effect & set(call.tool.effects)):
            return False
        return all(must.test(call.args[path]) if path in call.args else strict for path, must in item.args.items())

    def fires(self, rule: Rule, call: Past, taken: list[object]) -> bool:
        if rule.after is not None:
            items = rule.after.items
            return self.sequence(items, call) if rule.after.in_order else all(self.happened(item, call) for item in items)
        if rule.before is not None:
            found = self.standing(rule.before, call)
            if found is not None and rule.before.consume:
                taken.append((rule.before.item, rule.before.distinct, found))
            return found is None
        if rule.limit is not None and rule.limit.denied:
            window = rule.limit.window
            return sum(t == call.task and (window is None or call.at - at <= window) for t, at in self.denied) >= rule.limit.max
        if rule.limit is not None:
            return self.used(rule, call)
        if rule.exclusive is not None:
            return self.shared(rule, call)
        if rule.require is not None:
            return not all(path in call.args and must.test(call.args[path]) for path, must in rule.require.items())
        return True

    def happened(self, item: Item, call: Past) -> bool:
        return any(
            (e.happened or (item.label is not None and e.status == "error"))
            and (bool(item.match) or e.task == call.task)
            and self.meets(item, e)
            and all(e.args.get(theirs) == call.args.get(ours) for theirs, ours in item.match.items())
            for e in self.calls
        )

    def sequence(self, items: Sequence[Item], call: Past) -> bool:
        reached = [False] * len(items)
        for e in self.calls:
            if e.task == call.task and e.status != "refused":
                for i in reversed(range(len(items))):
                    reached[i] = reached[i] or (self.meets(items[i], e) and (i == 0 or reached[i - 1]))
        return reached[-1]

    def standing(self, before: Before, call: Past) -> Past | None:
        """The latest end, per person the latest only, that is recent, by somebody else, and not consumed."""
        item, by = before.item, before.distinct
        if any(ours not in call.args for ours in item.match.values()):
            return None
        words: dict[tuple[str, str], Past] = {}
        for kind, e, what in self.log:
            if kind == "end" and self.meets(item, e, strict=False) and (bool(item.match) or e.task == call.task):
                if all(theirs in e.args and e.args[theirs] == call.args[ours] for theirs, ours in item.match.items()):
                    where = ("" if by or item.args or item.match else e.tool.name, e.who(by) or "-")
                    words.pop(where, None)
                    words[where] = e
            elif kind != "end" and isinstance(what, tuple) and what[:2] == (item, by):
                where = ("" if by or item.args or item.match else what[2].tool.name, what[2].who(by) or "-")
                if kind == "take" and words.get(where) is what[2]:
                    del words[where]
                elif kind == "back" and where not in words and all(what[2].args.get(a) == call.args[b] for a, b in item.match.items()):
                    words[where] = what[2]
        best: Past | None = None
        for (_, who), e in words.items():
            recent = before.within is None or call.at - e.done < before.within
            other = by is None or (who != "-" and call.who(by) is not None and who != call.who(by))
            if recent and other and (best is None or e.done >= best.done):
                best = e
        return best

    def used(self, rule: Rule, call: Past) -> bool:
        limit = rule.limit
        assert limit is not None

        def amount(e: Past) -> Decimal:
            return Decimal(1) if limit.sum is None else Decimal(str(e.args[limit.sum]))

        def same(e: Past) -> bool:
            if not limit.per:
                return e.task == call.task
            return all(
                e.origin == call.origin
                if per == "origin"
                else e.args.get(per.removeprefix("args.")) == call.args.get(per.removeprefix("args."))
                for per in limit.per
            )

        counted = [
            e
            for e in self.calls
            if e.happened and same(e) and self.about(rule, e) and (limit.window is None or call.at - e.at <= limit.window)
        ]
        return sum(map(amount, counted), amount(call)) > limit.max

    def shared(self, rule: Rule, call: Past) -> bool:
        apart = rule.exclusive
        assert apart is not None
        if not any(self.meets(item, call) for item in apart.items):
            return False
        others = [item for item in apart.items if not self.meets(item, call)]
        mine = call.who(apart.by)
        return any(
            e.happened and (bool(apart.per) or e.task == call.task) and all(e.args.get(p) == call.args.get(p) for p in apart.per)
            and any(self.meets(item, e) for item in others) and (mine is None or e.who(apart.by) in (None, mine))
            for e in self.calls
        )  # fmt: skip
