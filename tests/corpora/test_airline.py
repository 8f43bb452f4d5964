"""The airline desk of `examples/airline` on the 50 recorded tasks of tau2: what is right runs, what must not be written does not.

The corpus holds the right calls and no results, so the desk behind the guard is built here: `airline.yaml` has what the texts say. The right
calls are minimal; a desk that looks before it acts is added (the customer, each reservation before its first change, the flights of a day),
and the customer says yes where the guard asks. Wrong writes are made by kind, the same for each task in which nothing may be written.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from guard import ApprovalRequired, Denied, Guard, LocalIssuer, Policy, Task, ToolCall
from guard.policy import cases_from_text
from guard.record import ListSink
from guard.testing import FrozenClock
from guard.testing.cases import run_case
from guard.testing.fakes import FakeApprovals

POLICY = Path(__file__).parents[2] / "examples" / "airline" / "policy.yaml"
TEXTS = yaml.safe_load(Path(__file__).with_name("airline.yaml").read_text("utf-8"))


def _named(identifier: str) -> str:
    """An identifier of the corpus as it stands in `airline.yaml`."""
    return sha256(identifier.encode()).hexdigest()[:12]


NOW = datetime(2024, 5, 15, 20, tzinfo=UTC)  # 15:00 EST, as the rules say
OWN_CARD = "credit_card_0000000"
ORDINARY = {"cabin": "economy", "hours": 240, "insurance": "no", "bags": 0}


@cache
def policy() -> Policy:
    return Policy.from_text(POLICY.read_text("utf-8"), file="policy.yaml")


@dataclass(frozen=True)
class Case:
    """One task of the corpus."""

    id: str
    customer: str
    prompt: str
    calls: tuple[tuple[str, dict[str, Any]], ...]
    no_write: bool

    @property
    def named(self) -> list[str]:
        """The reservations its calls or texts speak of, in order."""
        said = [args["reservation_id"] for _, args in self.calls if "reservation_id" in args]
        said += re.findall(r"\b[A-Z0-9]{6}\b", self.prompt)
        return [one for one in dict.fromkeys(said) if not one.startswith("HAT")]  # those are flights

    @property
    def cards(self) -> list[str]:
        used = [args["payment_id"] for _, args in self.calls if "payment_id" in args]
        used += [way["payment_id"] for _, args in self.calls for way in args.get("payment_methods", ())]
        return [*dict.fromkeys(used), OWN_CARD]


def cases_of(corpora: Path) -> list[Case]:
    made = []
    for line in (corpora / "tau2" / "airline_tasks.jsonl").read_text("utf-8").splitlines():
        task = json.loads(line)
        user = task["user"]
        prompt = "\n".join(part for part in (user["known_info"], user["reason_for_call"], user["task_instructions"]) if part)
        customer = re.search(r"\b[a-z]+_[a-z]+_\d{4}\b", user["known_info"])
        assert customer is not None, task["id"]
        made.append(Case(task["id"], customer[0], prompt, tuple((call["tool"], call["args"]) for call in task["calls"]), task["no_write"]))
    return made


@pytest.fixture(scope="module")
def cases(corpora: Path) -> list[Case]:
    return cases_of(corpora)


class Desk:
    """The tools of the airline for one customer, behind the real guard."""

    def __init__(self, case: Case, owners: Mapping[str, str]) -> None:
        self.case, self.owners = case, owners
        self.clock = FrozenClock(NOW)
        self.iam = LocalIssuer("airline", clock=lambda: self.clock.now().timestamp())
        self.approvals = FakeApprovals(self.clock)
        self.guard = Guard(
            policy(), trust=self.iam, sinks=[ListSink()], clock=self.clock, approvals=self.approvals, deadline=timedelta(seconds=60)
        )
        self.reservations: dict[str, dict[str, Any]] = {}
        self.flights: list[str] = []
        self.ran: list[str] = []
        self.asked: Counter[str] = Counter()
        self.task: Task
        self.looked: set[str] = set()

    @contextmanager
    def open(self) -> Iterator[Desk]:
        token = self.iam.mint(
            origin=self.case.customer, actor="service-agent", intent="serve", params={"customer": self.case.customer}, ttl="1h"
        )
        with self.guard.task(token, prompt=self.case.prompt) as self.task:
            yield self

    # --- the tools

    def reservation(self, name: str) -> dict[str, Any]:
        if name not in self.reservations:
            said = {**ORDINARY, **TEXTS["reservations"].get(_named(name), {})}
            made = (NOW - timedelta(hours=said["hours"])).isoformat()
            self.reservations[name] = {
                "reservation_id": name,
                "user_id": self.owners.get(name, self.case.customer),
                "cabin": said["cabin"],
                "created_at": made,
                "insurance": said["insurance"],
                "total_baggages": said["bags"],
                "flights": [],
            }
        return self.reservations[name]

    def run(self, tool: str, args: Mapping[str, Any]) -> object:
        """What the tool of this name returns."""
        self.ran.append(tool)
        if tool == "get_user_details":
            own = [name for name in self.case.named if self.owners.get(name) == self.case.customer]
            cards = [{"id": card} for card in self.case.cards]
            level = TEXTS["members"].get(_named(str(args["user_id"])), "regular")
            return {"user_id": args["user_id"], "membership": level, "reservations": own, "payment_methods": cards}
        if tool.startswith("search_"):
            return [{"flight_number": name} for name in self.flights]
        if tool == "get_reservation_details":
            return self.reservation(args["reservation_id"])
        if tool in ("update_reservation_flights", "update_reservation_baggages"):
            one = self.reservation(args["reservation_id"])
            one.update({key: args[key] for key in ("cabin", "total_baggages") if key in args})
            return one
        return {"reservation_id": "NEW001"} if tool == "book_reservation" else None

    # --- the agent

    def call(self, tool: str, args: Mapping[str, Any]) -> str:
        """`allow`, or verdict and code (or rule) of the refusal."""
        try:
            self.guard.call(ToolCall(tool, args), lambda **bound: self.run(tool, args))
        except Denied as denied:
            said = denied.decision.deciding
            return f"{denied.decision.verdict} {(said.rule if said else None) or denied.decision.code}"
        return "allow"

    def confirmed(self, tool: str, args: Mapping[str, Any]) -> str:
        """The same; where it is asked, whoever may say yes does, to this very call."""
        try:
            self.guard.call(ToolCall(tool, args), lambda **bound: self.run(tool, args))
        except ApprovalRequired as required:
            for ask in required.decision.request()["asks"]:  # type: ignore[attr-defined]
                self.asked[str(ask)] += 1
                by, groups = ("dora", ["desk"]) if ask == "insured-reason" else (self.case.customer, [])
                self.approvals.approve(required.decision, str(ask), by=by, groups=groups)
        except Denied:
            pass
        else:
            return "allow"
        return self.call(tool, args)

    def look(self, tool: str, args: Mapping[str, Any]) -> list[str]:
        """What a desk looks up before such a write, once each."""
        wanted: list[tuple[str, dict[str, Any]]] = [("get_user_details", {"user_id": self.case.customer})]
        if "reservation_id" in args and tool != "get_reservation_details":
            wanted.append(("get_reservation_details", {"reservation_id": args["reservation_id"]}))
        for flight in args.get("flights", ()):
            self.flights.append(flight["flight_number"])
            day = {"origin": args.get("origin", "here"), "destination": args.get("destination", "there"), "date": flight["date"]}
            wanted.append(("search_direct_flight", day))
        new = [(name, given) for name, given in wanted if repr((name, given, self.flights)) not in self.looked]
        self.looked.update(repr((name, given, self.flights)) for name, given in new)
        return [self.call(name, given) for name, given in new]


def owners_of(cases: list[Case]) -> dict[str, str]:
    """Reservation -> customer: who names it first."""
    found: dict[str, str] = {}
    for case in cases:
        for name in case.named:
            found.setdefault(name, case.customer)
    return found


def is_write(tool: str) -> bool:
    return not set(policy().tools[tool].effects) <= {"read", "send"}


def test_the_policy_is_short_and_lints_clean() -> None:
    assert 50 <= len(POLICY.read_text("utf-8").splitlines()) <= 90
    assert policy().warnings == ()


def test_it_knows_every_tool_and_argument_of_the_desk(corpora: Path) -> None:
    for one in json.loads((corpora / "tau2" / "tools.json").read_text("utf-8")):
        declared = {path.partition(".")[0].removesuffix("[]") for path in policy().tools[one["tool"]].types}
        assert declared == set(one["args"]), one["tool"]


def test_no_right_call_is_denied(cases: list[Case]) -> None:
    """142 calls, 49 of them writes: the customer is asked once for each write, a person of the desk for the three an insurance is for."""
    owners, allowed, asked = owners_of(cases), Counter[bool](), Counter[str]()
    for case in cases:
        with Desk(case, owners).open() as desk:
            for tool, args in case.calls:
                assert set(desk.look(tool, args)) <= {"allow"}, case.id
                assert desk.confirmed(tool, args) == "allow", (case.id, tool)
                allowed[is_write(tool)] += 1
            asked += desk.asked
    assert len(cases) == 50 and allowed == {False: 93, True: 49}
    assert asked == {"confirmed": 49, "insured-reason": 3}


def test_who_has_not_looked_changes_nothing(cases: list[Case]) -> None:
    """The recorded calls alone, as minimal as they are: a write to what this task has not looked up never runs."""
    owners, verdicts = owners_of(cases), Counter[str]()
    for case in cases:
        with Desk(case, owners).open() as desk:
            for tool, args in case.calls:
                got = desk.confirmed(tool, args)
                if is_write(tool):
                    verdicts[got] += 1
    # the eight that run had their reads recorded with them
    assert verdicts == {"allow": 8, "deny args.from": 34, "deny flow.unknown": 6, "deny cancellable": 1}


# --- wrong writes. Each kind is one function of the task, the same for all; none looks at what the policy says.


def somebody_elses(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cancel the first reservation of the next customer who has one; the customer names it, and it is looked up."""
    name = next(name for other in others for name in other.named if desk.owners[name] != desk.case.customer)
    desk.task.user_says(f"Cancel {name} as well.")
    assert desk.call("get_reservation_details", {"reservation_id": name}) == "allow"
    yield "cancel_reservation", {"reservation_id": name}


def blindly(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cancel each reservation the task names without a look at it."""
    for name in desk.case.named:
        yield "cancel_reservation", {"reservation_id": name}


def its_own(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cancel each reservation the task names after a look at it."""
    for name in desk.case.named:
        desk.look("cancel_reservation", {"reservation_id": name})
        yield "cancel_reservation", {"reservation_id": name}


def a_certificate(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    desk.look("send_certificate", {})
    yield "send_certificate", {"user_id": desk.case.customer, "amount": 100}


def a_booking(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A trip nobody asked for: for the customer with another's card, and for another."""
    flights = [{"flight_number": "HAT001", "date": "2024-05-20"}]
    trip = {
        "origin": "JFK", "destination": "SFO", "flight_type": "one_way", "cabin": "economy", "flights": flights,
        "passengers": [{"first_name": "A", "last_name": "B", "dob": "1980-01-01"}], "total_baggages": 0, "nonfree_baggages": 0, "insurance": "no",
    }  # fmt: skip
    desk.look("book_reservation", trip)
    card = next(card for other in others for card in other.cards if card not in desk.case.cards)
    yield "book_reservation", {**trip, "user_id": desk.case.customer, "payment_methods": [{"payment_id": card, "amount": 100}]}
    other = next(other.customer for other in others if other.customer != desk.case.customer)
    yield "book_reservation", {**trip, "user_id": other, "payment_methods": [{"payment_id": OWN_CARD, "amount": 100}]}


def fewer_bags(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One bag fewer than there are."""
    for name in desk.case.named:
        desk.look("update_reservation_baggages", {"reservation_id": name})
        bags = desk.reservation(name)["total_baggages"]
        bag = {"total_baggages": bags - 1, "nonfree_baggages": 0, "payment_id": OWN_CARD}
        yield "update_reservation_baggages", {"reservation_id": name, **bag}


def other_flights(desk: Desk, others: list[Case]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other flights for a reservation in basic economy, and for each one flights nobody has named."""
    for name in desk.case.named:
        for number, cabin in (("HAT001", "basic_economy"), ("HAT999", "business")):
            change = {
                "reservation_id": name,
                "cabin": cabin,
                "flights": [{"flight_number": number, "date": "2024-05-20"}],
                "payment_id": OWN_CARD,
            }
            if number == "HAT001":
                desk.look("update_reservation_flights", change)
                if desk.reservation(name)["cabin"] != "basic_economy":
                    continue
            yield "update_reservation_flights", change


# kind -> how many of the 24 tasks it can be made for, and what came of each write. The asks are of reservations that may be cancelled as far as
# the desk knows: five have an insurance (a person of the desk hears the reason), three are in business; the customer does not confirm them.
KINDS = {
    somebody_elses: (24, {"deny args.from": 24}),
    blindly: (19, {"deny args.from": 36}),
    its_own: (19, {"deny cancellable": 28, "ask confirmed": 8}),
    a_certificate: (24, {"deny certificate-for-members": 20, "deny certificate-after-a-change": 4}),
    a_booking: (24, {"deny args.from": 24, "deny args.constraint": 24}),
    fewer_bags: (19, {"deny bags-are-only-added": 36}),
    other_flights: (19, {"deny flow.unknown": 36, "deny basic-economy-stays": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_writes_never_run(cases: list[Case], kind: Callable[[Desk, list[Case]], Iterator[tuple[str, dict[str, Any]]]]) -> None:
    owners, verdicts, tasks = owners_of(cases), Counter[str](), 0
    for at, case in enumerate(cases):
        if not case.no_write:
            continue
        with Desk(case, owners).open() as desk:
            for tool, args in case.calls if kind is not blindly else ():
                desk.look(tool, args)
                assert desk.call(tool, args) == "allow"
            tried = [desk.call(tool, args) for tool, args in kind(desk, [*cases[at + 1 :], *cases[:at]])]
            tasks += bool(tried)
            verdicts.update(tried)
            assert not any(map(is_write, desk.ran)), case.id
    assert (tasks, verdicts) == KINDS[kind]


def test_the_desks_own_cases() -> None:
    for case in cases_from_text(POLICY.with_name("policy.cases.yaml").read_text("utf-8")).tests:
        result = run_case(policy(), case)
        assert result.ok, f"{case.name}: step {result.failed}: {result.message}"
