"""What others say of devices, persons and sessions, kept in the shared store: `signals.*` of a rule. Implements `guard.ports.Signals`.

A signal has a source, a time and an end. What it is kept under, and for which calls it counts:

| it names                        | kept under   | counts for a delegation                                                        |
|---------------------------------|--------------|--------------------------------------------------------------------------------|
| a session                       | the session  | of that issuer and `sid`                                                       |
| an origin (a person)            | the origin   | of that issuer and `sub`, or the claim `person`                                |
| a device alone                  | the device   | whose session, else whose origin, was ever said together with that device      |
| a device and a session, origin  | `device.*`: the device; others: the session, origin | as above                                 |

Of several, the latest counts. A session has one device, the last it was said with. Of a person who has several devices and no session that
names one, all must be said the same, else nothing is known. What is unknown, withdrawn, ended or stale does not satisfy a rule.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple

from guard.errors import ConfigError, GuardError
from guard.model import Delegation, Signal
from guard.ops import Absent, Applied, Know, Lookup, Mark, Op, Pin, Refused, parse_map
from guard.reasons import ReasonCode
from guard.tokens.effects import Say, Who
from guard.tokens.jose import NotStrict, strict_json
from guard.tokens.text import MAX_TEXT, is_name

if TYPE_CHECKING:
    from guard.ports import StateStore

__all__ = ["SignalFeed", "SignalRefused", "Source"]

KEEP: Final = 7 * 24 * 3600
"""Seconds a signal is kept that does not say when it ends. How old one may be to count, the rule says: 15 minutes without a word."""
AHEAD: Final = 60
_DEVICES: Final = 8
"""Devices of one person that are told apart. Who has as many has an unknown number: nothing is known of all of them."""
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}(?:\.[a-z][a-z0-9_]{0,63}){0,3}")
_MEMBERS: Final = frozenset({"source", "issuer", "session", "origin", "device", "signal", "value", "at", "expires"})
_TRIES: Final = 16


class SignalRefused(GuardError):
    """A signal that is not taken. The text names the member, never what stands in it."""

    code = "signal.refused"


class Source(NamedTuple):
    """Who may say something. `issuers`: of whose sessions and persons. `signals`: which names, `device.*` for all that begin so."""

    name: str
    issuers: frozenset[str]
    signals: frozenset[str] = frozenset({"device.*"})

    def may(self, issuer: str, signal: str) -> bool:
        return issuer in self.issuers and any(
            signal == one or (one.endswith(".*") and signal.startswith(one.removesuffix("*"))) for one in self.signals
        )


class _Held(NamedTuple):
    value: object
    at: int
    ends: int | None


class SignalFeed:
    """Signals over `store`. `sources`: whose telemetry counts; events of the inbox have been verified where they came in."""

    def __init__(self, store: StateStore, *, sources: Iterable[Source] = (), clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._sources = {source.name: source for source in sources}
        for source in self._sources.values():
            if not is_name(source.name) or not all(_NAME.fullmatch(one.removesuffix(".*")) for one in source.signals):
                raise ConfigError("SignalFeed: a source has a name, and signals are called `device.compliant` or `device.*`")

    @property
    def inline(self) -> bool:
        return getattr(self._store, "inline", False) is True

    # -- asking ----------------------------------------------------------------------------------------------------------------

    def get(self, delegation: Delegation, names: Sequence[str], *, now: int) -> Mapping[str, Signal]:
        """The latest of each name. One look at the store; a second where a device is asked for. Raises what the store raises."""
        whos = list(_whos(delegation))
        keys = [_key(who, name) for who in whos for name in names]
        device = [name for name in names if name.startswith("device.")]
        bound = [_key(who, "@") for who in whos] if device else []
        answers = self._look([*keys, *bound], now)
        found: dict[str, _Held] = {}
        for (_, name), text in zip([(who, name) for who in whos for name in names], answers, strict=False):
            _later(found, name, _parse(text), now)
        for name, held in self._of_devices([parse_map(text) for text in answers[len(keys) :]], device, now):
            _later(found, name, held, now)
        return {name: Signal(held.value, held.at) for name, held in found.items() if held.value is not None}

    def _of_devices(self, maps: Sequence[Mapping[str, str]], names: Sequence[str], now: int) -> Iterable[tuple[str, _Held]]:
        """The maps are in the order of `_whos`: the first that knows a device says which they are. Devices that differ, or of which nothing is
        known, are a word too: that nobody can tell."""
        bound = next((one for one in maps if one), {})
        if not bound:
            return
        since = max(int(at) if at.isdigit() else 0 for at in bound.values())
        devices = list(bound) if len(bound) < _DEVICES else []
        answers = self._look([f"sg|{device}|{name}" for name in names for device in devices], now)
        for i, name in enumerate(names):
            held = [_parse(text) for text in answers[i * len(devices) : (i + 1) * len(devices)]]
            told = [one for one in held if one is not None and one.value is not None and (one.ends is None or one.ends > now)]
            if devices and len(told) == len(devices) and all(_same(one.value, told[0].value) for one in told):
                yield name, _Held(told[0].value, min(one.at for one in told), None)
            else:
                yield name, _Held(None, max([since, *(one.at for one in held if one is not None)]), None)

    def _look(self, keys: Sequence[str], now: int) -> tuple[object, ...]:
        if not keys:
            return ()
        answer = self._store.apply([Lookup(key) for key in keys], now=datetime.fromtimestamp(now, UTC), commit=False)
        if type(answer) is not Applied or len(answer.values) != len(keys):
            raise GuardError("the store gave no signals", code=ReasonCode.STATE_UNAVAILABLE)
        return answer.values

    # -- saying ----------------------------------------------------------------------------------------------------------------

    def take(self, line: str | bytes, *, source: str | None = None) -> Say:
        """One line of telemetry: a JSON object, in the store when this returns. Raises SignalRefused, StateUnavailable.

        `{"source": "edr", "issuer": "https://iam.example", "device": "d-1", "session": "s-1", "signal": "device.compliant",
        "value": true, "at": 1800000000, "expires": 1800000900}`; one of `session`, `origin`, `device` at least; `expires` may be left out.
        `source`: who has proven to be it; a line that names another is refused.
        """
        say, ends = self._read(line, source)
        self.say((say,), ends=ends)
        return say

    def say(self, says: Sequence[Say], *, ends: int | None = None) -> None:
        """Keep `says`. An older word never replaces a later one."""
        for _ in range(_TRIES):
            ops = self.ops(says, ends=ends)
            answer = self._store.apply(ops, now=datetime.fromtimestamp(self._clock(), UTC)) if ops else None
            if type(answer) is not Refused:
                return
        raise GuardError("others write the same signals all the time", code=ReasonCode.STATE_UNAVAILABLE)

    def ops(self, says: Sequence[Say], *, ends: int | None = None) -> list[Op]:
        """What keeps `says`, for one transaction; refused where another process wrote meanwhile: then ask again."""
        now = int(self._clock())
        ops: list[Op] = []
        last: dict[str, Say] = {}
        for say in sorted(says, key=lambda one: one.at):
            who = Who("device", say.about.issuer, say.device) if say.device and say.name.startswith("device.") else say.about
            last[_key(who, say.name)] = say
            if say.device and say.about.kind != "device":
                most = 1 if say.about.kind == "session" else _DEVICES
                word = _hash(Who("device", say.about.issuer, say.device))
                ops.append(Know(_key(say.about, "@"), word, str(max(0, say.at)), keep="last", most=most, ttl=KEEP))
        stood = self._look(list(last), now)
        for (key, say), old in zip(last.items(), stood, strict=True):
            held = _parse(old)
            if held is not None and held.at > say.at:
                continue
            text = json.dumps({"value": say.value, "at": say.at, "by": say.by, **({} if ends is None else {"ends": ends})})
            ops.append(Absent(key) if old is None else Pin(key, str(old)))
            ops.append(Mark(key, ttl=KEEP if ends is None else max(0, ends - now), value=text))
        return ops

    def _read(self, line: str | bytes, proven: str | None) -> tuple[Say, int | None]:
        raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else bytes(line)
        try:
            told = strict_json(raw, depth=1, members=16) if len(raw) <= 8192 else {}
        except NotStrict:
            told = {}
        if not told or not told.keys() <= _MEMBERS:
            raise SignalRefused("not one JSON object with the members of a signal")
        name, issuer, signal, at, ends = (told.get(word) for word in ("source", "issuer", "signal", "at", "expires"))
        source = self._sources.get(name) if isinstance(name, str) else None
        if source is None or (proven is not None and source.name != proven):
            raise SignalRefused("`source` is none that is known here, or not the one that sends")
        if not isinstance(signal, str) or not _NAME.fullmatch(signal) or not isinstance(issuer, str) or not source.may(issuer, signal):
            raise SignalRefused("this source does not speak of this issuer, or not in this `signal`")
        now = int(self._clock())
        if type(at) is not int or not 0 <= at <= now + AHEAD:
            raise SignalRefused("`at` is no time in epoch seconds, or in the future")
        if "expires" in told and (type(ends) is not int or not at < ends <= at + KEEP):
            raise SignalRefused("`expires` is no time after `at`, a week after it at most")
        value = told.get("value")
        if not (value is None or type(value) in (bool, int) or (isinstance(value, str) and len(value) <= MAX_TEXT and is_name(value))):
            raise SignalRefused("`value` is true, false, a whole number, a name, or null to withdraw what was said")
        whos = [Who(kind, issuer, str(told[kind])) for kind in ("session", "origin", "device") if kind in told]
        if not whos or not all(is_name(told[who.kind]) for who in whos):
            raise SignalRefused("one of `session`, `origin`, `device` must say whom it is about, by a name")
        device = str(told["device"]) if "device" in told and whos[0].kind != "device" else ""
        return Say(whos[0], signal, value, at, f"source {source.name}", device), ends if type(ends) is int else None


def _whos(delegation: Delegation) -> Iterable[Who]:
    if delegation.session is not None:
        yield Who("session", delegation.issuer, delegation.session)
    yield Who("origin", delegation.issuer, delegation.origin)
    if delegation.person is not None and delegation.person != delegation.origin:
        yield Who("origin", delegation.issuer, delegation.person)


def _hash(who: Who) -> str:
    return sha256(f"{who.kind}\0{who.issuer}\0{who.value}".encode()).hexdigest()[:32]


def _key(who: Who, name: str) -> str:
    return f"sg|{_hash(who)}|{name}"


def _parse(text: object) -> _Held | None:
    """What stands in the store. What cannot be understood says nothing, and so satisfies nothing."""
    if not isinstance(text, str):
        return None
    try:
        held = strict_json(text.encode("utf-8", "surrogatepass"), depth=1)
    except NotStrict:
        return None
    at, ends = held.get("at"), held.get("ends")
    return _Held(held.get("value"), at, ends if type(ends) is int else None) if type(at) is int else None


def _later(found: dict[str, _Held], name: str, held: _Held | None, now: int) -> None:
    """The latest word, also where it withdraws what was said elsewhere. Of two at the same second the one that withdraws, else the first."""
    if held is None or (held.ends is not None and held.ends <= now):
        return
    old = found.get(name)
    if old is None or held.at > old.at or (held.at == old.at and held.value is None):
        found[name] = held


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other
