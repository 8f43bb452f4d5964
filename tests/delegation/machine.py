"""The one machine over everything delegated: a real guard in two "processes" on one state file and one audit log, driven at random.

Rules: mint, exchange (by an issuer that may lie), attenuate, call (in good faith, or as a thief), replay of a proof and of a call's id,
revoke, time passing, the clock set, restart, death in the middle of a call, calls in parallel.

What must hold, after every step and over the records at the end:
- no call after revocation and staleness (1 s where the index answers, 15 s where it does not), after expiry, or without its proof;
- used <= the smallest budget on the chain;
- every allow has exactly one record, and one outcome unless its process died;
- every allow has an unbroken chain to its origin, by the records alone;
- and where nothing speaks against a call, it runs: a guard that denies everything would hold all the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Context
from threading import Barrier, Thread
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from guard import Guard, ToolCall
from guard.errors import Denied
from guard.identity.holder import HolderKey
from guard.identity.revoked import StoreRevocations
from guard.tokens.effects import ALWAYS
from tests.delegation.model import TOOLS, Node, Work, claims_of
from tests.delegation.world import ACTORS, KEYS, LIES, ORIGINS, TTLS, Call, Held, Taken

LIMITS = st.sampled_from((None, 1, 2, 3))


class Delegating(Held):
    @invariant()
    def a_step(self) -> None:
        self.seen["steps"] += 1
        self.shown = None if self.clock.off == 0 else (self.shown or 0) + 1
        if self.shown is not None and self.shown > 3:  # somebody notices: with the clock wrong for long nothing else is shown
            self.clock.off, self.shown = 0.0, None

    # -- what happens ------------------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        """Both processes end; the state and the log are opened anew. The guards that come know what stands there, and nothing else."""
        self.begin()

    @rule(
        data=st.data(), again=st.booleans(), origin=st.sampled_from(ORIGINS), intent=st.booleans(), tools=st.sets(st.sampled_from(TOOLS), min_size=1),
        limit=LIMITS, key=st.sampled_from((None, *KEYS)), depth=st.integers(1, 4), ttl=st.sampled_from(TTLS), hops=st.integers(0, 3),
    )  # fmt: skip
    def mint(
        self, data: st.DataObject, again: bool, origin: str, intent: bool, tools: set[str], limit: int | None, key: HolderKey | None, depth: int,
        ttl: str, hops: int,
    ) -> None:  # fmt: skip
        """A login, or a second token of a task there is; and some hops at once, if its holder may."""
        n = len(self.works)
        work = self.works[-1] if again and self.works else Work(f"t-{n}", origin, f"s-{n}", "work" if intent else None)
        if work not in self.works:
            self.works.append(work)
        limits = {tool: limit if tool != "look" else None for tool in sorted(tools)}
        actor = data.draw(st.sampled_from(ACTORS))
        text = self.iam.mint(
            origin=work.origin, actor=actor, intent=work.intent, txn=work.txn, ttl=ttl, tools=sorted(tools),
            limits={tool: most for tool, most in limits.items() if most is not None},
            key=None if key is None else key.public, depth=depth if key is not None else 0,
        )  # fmt: skip
        self.nodes.append(Node(self.iam.given(text, sid=work.session), work, (actor,), limits, key, kid=self.iam.kid))
        for _ in range(min(hops, self.nodes[-1].depth)):
            self._hop(data, self.nodes[-1], None, None)

    @precondition(lambda self: any(one.depth > 0 for one in self.nodes[-6:]))
    @rule(data=st.data(), fewer=st.booleans(), ttl=st.sampled_from((None, None, "5s", "10m")), depth=st.sampled_from((None, None, 0, 1)))
    def attenuate(self, data: st.DataObject, fewer: bool, ttl: str | None, depth: int | None) -> None:
        """Offline: nobody is asked. (What a holder signs that is wider is `test_chain.py`'s.)"""
        parent = data.draw(st.sampled_from([one for one in self.nodes[-6:] if one.depth > 0]))
        self._hop(data, parent, ttl, depth, fewer=fewer)

    def _hop(self, data: st.DataObject, parent: Node, ttl: str | None, depth: int | None, *, fewer: bool = False) -> None:
        assert parent.key is not None
        actor = data.draw(st.sampled_from([name for name in ACTORS if name not in parent.actors]))
        key = data.draw(st.sampled_from([one for one in KEYS if all(one is not held.key for held in parent.line)]))
        limit, tools = data.draw(LIMITS), sorted(parent.limits)[:1] if fewer else sorted(parent.limits)
        limits = {
            tool: parent.limits[tool] if limit is None or tool == "look" else min(limit, parent.limits[tool] or limit) for tool in tools
        }
        given = {tool: most for tool, most in limits.items() if most is not None}
        parent.key.clock = self.clock.right
        text = parent.key.attenuate(parent.text, actor=actor, key=key, tools=tools, limits=given, ttl=ttl, depth=depth)
        self.nodes.append(Node(text, parent.work, (*parent.actors, actor), limits, key, parent.line, kid=parent.key.thumbprint))
        self.seen["hops"] += 1

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), actor=st.sampled_from(ACTORS), fewer=st.booleans(), ttl=st.sampled_from((None, "10m")), lie=st.sampled_from(LIES))  # fmt: skip
    def exchange(self, data: st.DataObject, by: int, actor: str, fewer: bool, ttl: str | None, lie: str) -> None:
        parent = self._some(data, lambda one: not one.above)
        tools = sorted(parent.limits)[:1] if fewer else None
        lies = self._lies(parent, tools, lie)
        self.iam.lie, self.iam.key = lie, next(one for one in KEYS if all(one is not held.key for held in parent.line))
        calm, stopped = self._calm(by, parent), self._stopped(by, parent)
        gone = {(one.kind, one.value) for one in self.taken} & {("actor", actor), ("key", self.iam.key.thumbprint)}
        self.high = max(self.high, self.clock.seconds())
        try:
            context = self._context(by, parent)
            text = context.run(lambda: self.guards[by].current().delegate(actor, tools=tools, ttl=ttl).token)
        except Denied as denied:
            self.seen[f"exchange {denied.code}"] += 1
            assert not calm or lies or gone or parent.above or actor in parent.actors, denied
            return
        self.seen["exchange"] += 1
        assert not parent.above, "its hops' budgets and revocations would be lost"
        assert not stopped, stopped
        assert not lies, lie
        limits = {tool: most for tool, most in parent.limits.items() if tools is None or tool in tools}
        key = self.iam.key if "cnf" in claims_of(text) else None
        child = Node(text, parent.work, (*parent.actors, actor), limits, key, parent=parent, kid=self.iam.kid)
        told = {
            one["tool"]: one.get("limit", {}).get("calls") for one in child.claims["authorization_details"] if one["type"] == "agent_tool"
        }
        assert told == limits
        assert child.ends <= parent.ends
        assert child.key is not None or parent.key is None
        self.nodes.append(child)

    @staticmethod
    def _lies(parent: Node, tools: list[str] | None, lie: str) -> bool:
        """Does it make the answer wider than what was asked?"""
        limits = [most for tool, most in parent.limits.items() if tools is None or tool in tools]
        return {"": False, "limit": any(limits), "unbound": parent.key is not None, "intent": parent.work.intent is not None}.get(lie, True)

    @precondition(lambda self: len(self.nodes) > 2 and self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 1))
    def revoke(self, data: st.DataObject, by: int) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        names = [name for name in dict.fromkeys(one[:2] for one in node.dies_by()) if name[1] != self.iam.kid]  # an order without chance
        kind, value = data.draw(st.sampled_from(names))
        before = self.clock.seconds() if kind == "origin" else ALWAYS
        writer: Any = self.indexes[by] if not self.door.off else StoreRevocations(self.store, clock=self.clock.seconds)  # type: ignore[arg-type]
        writer.revoke(kind, value, at=None if kind != "origin" else before)
        self.taken.append(Taken(kind, value, before, self.clock.steady))

    @precondition(lambda self: self.calls > 25 and self.clock.off == 0)
    @rule()
    def revoke_the_issuers_key(self) -> None:
        StoreRevocations(self.store, clock=self.clock.seconds).revoke("key", self.iam.kid)  # type: ignore[arg-type]
        self.taken.append(Taken("key", self.iam.kid, ALWAYS, self.clock.steady))

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 14.0, 16.0, 61.0, 700.0]))
    def passes(self, seconds: float) -> None:
        self.clock.steady += seconds

    @rule(seconds=st.sampled_from([-7200.0, -61.0, -30.0, 30.0, 61.0, 7200.0]))
    def jumps(self, seconds: float) -> None:
        """Somebody sets the clock. (What is written meanwhile would bear that time; nobody writes.)"""
        self.clock.off = seconds

    @rule()
    def is_set_right(self) -> None:
        self.clock.off = 0.0

    @rule(down=st.booleans())
    def index_is(self, down: bool) -> None:
        if self.door.off and not down:
            self.up_since = self.clock.steady
        self.door.off = down

    # -- calls -------------------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS), fails=st.sampled_from((False, False, True)))
    def call(self, data: st.DataObject, by: int, tool: str, fails: bool) -> None:
        """By who holds the token, in good faith."""
        node = self._some(data)
        self._checked(by, node, self._fresh(node, tool), good=True, fails=fails)

    @precondition(lambda self: self.nodes)
    @rule(
        data=st.data(),
        by=st.integers(0, 1),
        tool=st.sampled_from(TOOLS),
        how=st.sampled_from(("nothing", "key", "tool", "args", "token", "old")),
    )
    def steal(self, data: st.DataObject, by: int, tool: str, how: str) -> None:
        """By who has the token's text, and not its key; or a proof that was made for something else."""
        node = self._some(data)
        call = self._fresh(node, tool)
        if node.key is None:
            proof = KEYS[0].prove(node.text, tool, call.args)
        elif how == "nothing":
            proof = ""
        elif how == "key":
            proof = next(one for one in KEYS if one is not node.key).prove(node.text, tool, call.args)
        elif how == "tool":
            proof = self._proof(node, "note" if tool != "note" else "pay", call.args)
        elif how == "args":
            proof = self._proof(node, tool, {"order": "other"})
        elif how == "token":
            other = next((one for one in self.nodes if one.text != node.text), None)
            proof = "" if other is None else node.key.prove(other.text, tool, call.args)
        else:
            # Old by the guard's own clock: one that was set back by less than a minute still counts (docs/limits.md).
            proof = self._proof(node, tool, call.args, ago=67 - min(0.0, self.clock.off))
        said = self._checked(by, node, ToolCall(tool, call.args, call.id, proof), good=False)
        assert said != "ran", how

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 7), by=st.integers(0, 1), what=st.sampled_from(("call", "proof", "id")))
    def replay(self, which: int, by: int, what: str) -> None:
        """A call that was made before: whole, its proof under another id, or its id with a fresh proof."""
        # How many there are is a matter of who came first in parallel; what is drawn may not depend on it, or hypothesis cannot repeat a run.
        last = self.made[-8:]
        if not last:
            return
        node, call = last[which % len(last)]
        if what == "proof":
            self.calls += 1
            again = ToolCall(call.tool, call.args, f"c-{self.calls}", call.proof)
        elif what == "id":
            again = ToolCall(call.tool, call.args, call.id, self._proof(node, call.tool, call.args) if node.key is not None else "")
        else:
            again = call
        before = self.runs[call.id]
        proven = node.key is None or again.proof not in self.proofs
        said = self._checked(by, node, again, good=proven)
        if before and again.id == call.id:
            assert said != "ran", "the same call ran twice"

    @precondition(lambda self: self.nodes and self.clock.off == 0)
    @rule(data=st.data(), tool=st.sampled_from(TOOLS), same=st.sampled_from(("nothing", "nothing", "proof", "id")))
    def in_parallel(self, data: st.DataObject, tool: str, same: str) -> None:
        """Both processes at once, under one token: three calls, or one proof, or one call's id, three times."""
        node = self._some(data)
        first = self._fresh(node, tool)
        calls = [first, *(self._fresh(node, tool) for _ in range(2))]
        if same == "proof" and node.key is not None:
            calls = [ToolCall(tool, first.args, one.id, first.proof) for one in calls]
        elif same == "id":
            calls = [ToolCall(tool, first.args, first.id, one.proof if one is first or node.key is None else self._proof(node, tool, first.args)) for one in calls]  # fmt: skip
        contexts = [self._opened(n % 2, node) for n in range(3)]
        if any(context is None for context in contexts):
            return
        stopped, room = [self._stopped(by, node) for by in (0, 1)], self.used.room(node, tool) if tool in node.limits else 0
        self.high = max(self.high, self.clock.seconds())
        start, ran, foreign = Barrier(3), list[ToolCall](), list[BaseException]()

        def one(context: Context, guard: Guard, call: ToolCall) -> None:
            start.wait()
            try:
                context.copy().run(guard.call, call, lambda order: ran.append(call))
            except Denied:
                pass
            except BaseException as error:
                foreign.append(error)

        threads = [Thread(target=one, args=(contexts[n], self.guards[n % 2], call)) for n, call in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not foreign, foreign
        for call in ran:
            self._has_run(node, call)
        assert len(ran) <= room
        assert not ran or not all(stopped), stopped
        self.seen["parallel"] += len(ran)
        self.seen["parallel, none left"] += len(ran) == room
        if same == "id" or (same == "proof" and node.key is not None):
            assert len(ran) <= 1, f"one {same}, and {len(ran)} ran"
        self.made += [Call(node, call) for call in ran]

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), tool=st.sampled_from(("pay", "pay", "note")))
    def uses_it_up(self, data: st.DataObject, tool: str) -> None:
        """All that is left, and one more: now under this token, now under another of the same work, in one process and in the other."""
        node = self._some(data, lambda one: tool in one.limits and any(most < 9 for _, most in one.budgets(tool)))
        others = [one for one in self.nodes if one.work is node.work and tool in one.limits] or [node]
        for n in range(6):  # all six, so that no draw depends on who came first in parallel
            one = node if n % 2 else data.draw(st.sampled_from(others[-4:]))
            self._checked(n % 2, one, self._fresh(one, tool), good=True)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS))
    def dies_in_a_call(self, data: st.DataObject, by: int, tool: str) -> None:
        """The process ends between the decision and the outcome: the body may have run."""
        node = self._some(data)
        call = self._fresh(node, tool)
        context = self._opened(by, node)
        if context is None:
            return
        stopped, calm = self._speaks_against(by, node, call, good=True), self._calm(by, node)
        self.high = max(self.high, self.clock.seconds())
        decision = context.run(self.guards[by].before, call)
        if decision.blocks:
            assert not calm or stopped, decision.code
        else:
            assert not stopped, stopped
            self._has_run(node, call)
            self.lost.add(call.id)
            self.made.append(Call(node, call))
        self.begin()

    @precondition(lambda self: self.clock.off == 0)
    @rule(data=st.data(), by=st.integers(0, 1), tool=st.sampled_from(TOOLS), hops=st.integers(-1, 2), seconds=st.sampled_from((1.0, 14.0, 16.0)), restarts=st.booleans())  # fmt: skip
    def called_revoked_and_called_again(self, data: st.DataObject, by: int, tool: str, hops: int, seconds: float, restarts: bool) -> None:
        """What chance makes too seldom: a live chain is taken back where the guard, or a new one, has to find out by itself. `hops` -1: of a token
        that was exchanged for the first; what it was exchanged for is taken back more often than not."""
        if self.door.off:
            self.door.off, self.up_since = False, self.clock.steady
            self.clock.steady += 1
        n = len(self.works)
        work = Work(f"t-{n}", f"o-{n}", f"s-{n}", None)
        self.works.append(work)
        self._minted(work, f"a-{n}", KEYS[0], hops)
        node = self.nodes[-1]
        if hops < 0:
            node = self._exchanged(by, node, f"x-{n}") or node
        said = self._checked(by, node, self._fresh(node, tool), good=True)
        assert said == "ran" or not self._calm(by, node), said
        kept = {self.iam.kid, *(key.thumbprint for key in KEYS)}
        names = [name for name in dict.fromkeys(one[:2] for one in node.dies_by()) if name[1] not in kept]
        if node.parent is not None and data.draw(st.booleans()):
            names = [("credential", node.parent.path)]
        kind, value = data.draw(st.sampled_from(names))
        at = self.clock.seconds() + 1 if kind == "origin" else ALWAYS
        StoreRevocations(self.store, clock=self.clock.seconds).revoke(kind, value, at=at)  # type: ignore[arg-type]
        self.taken.append(Taken(kind, value, at, self.clock.steady))
        if restarts:
            self.clock.steady += 700
            self.begin()
        else:
            self.door.off = seconds > 1  # a second is enough where the index answers
        self.clock.steady += seconds
        self._checked(by, node, self._fresh(node, tool), good=True)

    def _exchanged(self, by: int, parent: Node, actor: str) -> Node | None:
        self.iam.lie, self.iam.key = "", KEYS[7]
        calm = self._calm(by, parent) and ("key", KEYS[7].thumbprint) not in {one[:2] for one in self.taken}
        try:
            context = self._context(by, parent)
            text = context.run(lambda: self.guards[by].current().delegate(actor).token)
        except Denied as denied:
            assert not calm, denied
            return None
        self.seen["exchange"] += 1
        self.nodes.append(Node(text, parent.work, (*parent.actors, actor), parent.limits, KEYS[7], parent=parent, kid=self.iam.kid))
        return self.nodes[-1]

    @precondition(lambda self: not self.door.off and self.clock.off == 0)
    @rule(tool=st.sampled_from(("pay", "note")), most=st.integers(1, 3), hops=st.integers(0, 1))
    def two_children_share_what_their_parent_has(self, tool: str, most: int, hops: int) -> None:
        """A095, where only a hop is counted: its root is not."""
        n = len(self.works)
        work = Work(f"t-{n}", f"o-{n}", f"s-{n}", None)
        self.works.append(work)
        self._minted(work, f"a-{n}", KEYS[0], hops)
        above = self.nodes[-1]
        limits = {one: most if one == tool else None for one in TOOLS}
        middle = self._child(above, f"m-{n}", KEYS[3], limits)
        two = [self._child(middle, f"c-{n}-{i}", KEYS[4 + i], limits) for i in range(2)]
        for turn in range(most + 1):
            one = (*two, middle)[turn % 3]
            self._checked(turn % 2, one, self._fresh(one, tool), good=True)

    def _child(self, parent: Node, actor: str, key: HolderKey, limits: Mapping[str, int | None]) -> Node:
        assert parent.key is not None
        parent.key.clock = self.clock.right
        given = {tool: most for tool, most in limits.items() if most is not None}
        text = parent.key.attenuate(parent.text, actor=actor, key=key, tools=sorted(limits), limits=given)
        self.nodes.append(Node(text, parent.work, (*parent.actors, actor), limits, key, parent.line, kid=parent.key.thumbprint))
        return self.nodes[-1]

    def _minted(self, work: Work, actor: str, key: HolderKey, hops: int) -> None:
        text = self.iam.mint(origin=work.origin, actor=actor, intent=None, txn=work.txn, ttl="24h", tools=TOOLS, key=key.public, depth=4)
        limits = dict.fromkeys(TOOLS)
        node = Node(self.iam.given(text, sid=work.session), work, (actor,), limits, key, kid=self.iam.kid)
        self.nodes.append(node)
        for n in range(hops):
            assert node.key is not None
            node.key.clock = self.clock.right
            text = node.key.attenuate(node.text, actor=f"{actor}-{n}", key=KEYS[n + 1])
            node = Node(text, work, (*node.actors, f"{actor}-{n}"), limits, KEYS[n + 1], node.line, kid=node.key.thumbprint)
            self.nodes.append(node)
