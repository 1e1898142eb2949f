"""The watch: every minute facts are gathered, rules judge, incidents move, and what they give is sent.

Of all processes on one ledger one does a round, and each step of an incident is atomic in the store, so a cause is told
by one of them, once; a message whose sender died is sent by the next. Nothing is ever raised into whoever runs it: a
store that cannot be asked is logged when that begins and when it is over, and an alert that asks the impossible each
time it is asked. Time is the injected clock.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Literal, TypeAlias

import msgspec

from bursar.drivers.facts import Past, gather
from bursar.drivers.notify import Delivery, Notifier, Target, place_of
from bursar.drivers.outbox import StateOutbox
from bursar.policy import Alert, PriceBook
from bursar.policy.alerts import Cap, Spike, Stranger, Terms, Threshold, Wrong
from bursar.rules.alarm import Incident, Reading, explains, judge, together
from bursar.rules.alarm import case as cases
from bursar.rules.alarm.case import KIND, Case
from bursar.rules.alarm.incident import Message
from bursar.stores.base import Store, StoreFailure
from bursar.stores.semantic import Pool
from bursar.stores.states import Changed
from bursar.types import Instant

log = logging.getLogger("bursar.alerts")

_WATCH = "watch"
PERIOD_SECONDS = 60.0
_TURN_US = 55_000_000
"""A round less than so long after the last one is not due: no two workers' clocks tick together."""
_SLOW_US = 900_000_000
"""What looks back over hours is asked as often as the rollups turn a page."""
_QUICK = (Spike, Cap, Threshold)

Turn: TypeAlias = Literal["none", "quick", "all"]
Found: TypeAlias = dict[str, Case]
"""By key: see case.key_of."""
Targets: TypeAlias = Mapping[str, tuple[Target, ...]]


class _Turns(msgspec.Struct, frozen=True):
    """When the last round was, and the last one that asked everything."""

    at: int = 0
    all_at: int = 0


class Watchman:
    """One for a process. `look` and `deliver` may run at the same time; neither raises."""

    def __init__(
        self, alerts: Sequence[Alert], store: Store, prices: PriceBook, targets: Targets, clock: Callable[[], Instant],
        pools: Callable[[], Sequence[Pool]] = tuple,
    ) -> None:  # fmt: skip
        """targets: by the name of the alert's rule, each one once. pools: what the semantic cache has learned."""
        # What others are explained by is judged before them.
        self._alerts = sorted(alerts, key=lambda alert: bool(alert.terms.explained_by))
        self._store, self._prices, self._clock, self._pools = store, prices, clock, pools
        self._targets = {name: found for name, found in targets.items() if found}
        self._outbox = StateOutbox(store.states)
        self._past = Past()
        self._well = True

    async def live(self, stop: asyncio.Event) -> None:
        """A round at once and then every minute, off the loop's thread, until told to stop."""
        sending: asyncio.Task[object] | None = None
        while not stop.is_set():
            await asyncio.to_thread(self.look)
            if sending is None or sending.done():
                sending = asyncio.create_task(self.deliver())
            try:
                await asyncio.wait_for(stop.wait(), PERIOD_SECONDS)
            except TimeoutError:
                continue
        if sending is not None:
            await sending

    def once(self) -> None:
        """A round and its messages, for a thread without a loop."""
        self.look()
        try:
            if self._targets:
                asyncio.run(self.deliver())
        except Exception as fault:  # no loop could be made: the next round may
            self._unwell(fault)

    def look(self) -> None:
        """One round, where it is due and no other worker's. Blocks."""
        try:
            turn = self._turn()
            if turn != "none":
                self._round(turn)
        except Exception as fault:
            self._unwell(fault)
        else:
            self._recovered()

    async def deliver(self) -> tuple[Delivery, ...]:
        """Send whatever is pending, of whichever worker's round, to the targets that have not had it."""
        try:
            return await self._deliver()
        except Exception as fault:
            self._unwell(fault)
            return ()

    # --- judging

    def _turn(self) -> Turn:
        """Whose round it is: decided in one atomic step of the store, asked only where it may be due."""
        key = "turn"
        last = self._store.states.get(_WATCH, "", (key,)).get(key)
        if last is not None and 0 <= self._clock() - _turns(last).at < _TURN_US:
            return "none"

        def change(body: bytes | None, now: Instant) -> Changed[Turn]:
            turns = _turns(body)
            if 0 <= now - turns.at < _TURN_US:
                return Changed(body, "none")
            every = now // _SLOW_US != turns.all_at // _SLOW_US
            after = _Turns(now, now if every else turns.all_at)
            return Changed(msgspec.json.encode(after), "all" if every else "quick")

        return self._store.states.update(_WATCH, "", key, change).result()

    def _round(self, turn: Turn) -> None:
        found = self._cases()
        for alert in self._alerts:
            if turn == "quick" and not isinstance(alert.rule, _QUICK):
                continue
            try:
                self._judge(alert, found)
            except (ValueError, TypeError) as fault:
                log.error("the alert %r cannot be judged: %s", alert.rule.name, fault)
        if turn == "all":
            self._abandon(found)

    def _judge(self, alert: Alert, found: Found) -> None:
        now, rule = self._clock(), alert.rule
        own = {one.subject: one for case in found.values() if (one := case.incident) and _of(case, rule.name)}
        facts = gather(self._store, self._prices, alert, now, self._past, frozenset(own), self._pools)
        readings = {one.subject: one for one in _causes(alert, [judge(rule, fact, now) for fact in facts])}
        readings |= {subject: _unseen(one) for subject, one in own.items() if subject not in readings}
        self._move(list(readings.values()), alert.terms, found, sent=rule.name in self._targets)

    def _move(self, readings: Sequence[Reading], terms: Terms, found: Found, *, sent: bool) -> None:
        """Each incident in a step of its own; found is kept up to date."""
        explained = explains(_incidents(found), terms, self._clock())
        owed = []
        for reading in readings:
            key = cases.key_of(reading.rule, reading.subject)
            if key in found or reading.state == "over":
                change = functools.partial(_moved, reading=reading, terms=terms, explained=explained, sent=sent)
                owed.append((key, self._store.states.update(KIND, "", key, change)))
        for key, receipt in owed:
            found[key], messages = receipt.result()
            for one in messages:
                log.warning("alert %s: %s %s: %s", one.kind, one.rule, one.subject, one.why)

    def _abandon(self, found: Found) -> None:
        """Incidents of alerts that nobody watches any more end as what nothing is known of does."""
        names = {alert.rule.name for alert in self._alerts}
        left = [one for one in _incidents(found) if one.rule not in names]
        why = "no alert of this name is configured"
        readings = [Reading(rule=one.rule, subject=one.subject, state="unknown", why=why) for one in left]
        self._move(readings, Terms(), found, sent=False)

    def _cases(self) -> Found:
        return {key: case for key, case in self._listed() if case.incident is not None or case.pending}

    def _listed(self) -> Iterator[tuple[str, Case]]:
        cursor: str | None = None
        while True:
            page = self._store.states.list(KIND, "", limit=500, cursor=cursor)
            yield from ((state.key, cases.read(state.body)) for state in page.items)
            if (cursor := page.next_cursor) is None:
                return

    # --- sending

    async def _deliver(self) -> tuple[Delivery, ...]:
        if not self._targets:
            return ()
        pending = {key: case for key, case in (await asyncio.to_thread(self._cases)).items() if case.pending}
        if not pending:
            return ()
        done = await asyncio.gather(*(self._send(target, names, pending) for target, names in self._by_target()))
        await asyncio.to_thread(self._settle, pending)
        return tuple(delivery for told in done for delivery in told)

    def _by_target(self) -> list[tuple[Target, frozenset[str]]]:
        """Each target once, with the alerts that it is told of."""
        known = {target.identity: target for told in self._targets.values() for target in told}
        return [
            (target, frozenset(name for name, told in self._targets.items() if identity in {t.identity for t in told}))
            for identity, target in known.items()
        ]

    async def _send(self, target: Target, names: frozenset[str], pending: Found) -> tuple[Delivery, ...]:
        messages = [one for case in pending.values() for one in case.pending if one.rule in names]
        ordered = sorted(messages, key=lambda one: (one.at, one.incident, one.number))
        return await Notifier([target], self._outbox, self._clock).send(ordered)

    def _settle(self, pending: Found) -> None:
        """Forget what every target of its alert has, and what is too old."""
        places = {target.identity: place_of(target) for told in self._targets.values() for target in told}
        delivered = self._outbox.delivered(places.values())
        for key, case in pending.items():
            owed = [delivered[places[one.identity]] for one in self._targets.get(case.pending[0].rule, ())]
            done = frozenset(one.key for one in case.pending if owed and all(one.key in had for had in owed))
            late = [one for one in case.pending if one.key not in done and cases.late(one, self._clock())]
            if late:
                log.error("%d messages of the alert %r were never delivered", len(late), late[0].rule)
            if done or late:
                self._store.states.update(KIND, "", key, functools.partial(_settled, done=done)).result()

    # --- health

    def _unwell(self, fault: Exception) -> None:
        if self._well:
            trace = None if isinstance(fault, StoreFailure) else fault
            log.error("alerts are not watched for now (%s: %s)", type(fault).__name__, fault, exc_info=trace)
        self._well = False

    def _recovered(self) -> None:
        if not self._well:
            log.warning("alerts are watched again")
        self._well = True


def _moved(
    body: bytes | None, now: Instant, *, reading: Reading, terms: Terms, explained: bool, sent: bool
) -> Changed[tuple[Case, tuple[Message, ...]]]:
    case, messages = cases.moved(cases.read(body), reading, now, terms, explained=explained, sent=sent)
    return Changed(cases.write(case), (case, messages), tuple(map(msgspec.json.encode, messages)))


def _settled(body: bytes | None, now: Instant, *, done: frozenset[str]) -> Changed[None]:
    return Changed(cases.write(cases.settled(cases.read(body), done, now)), None)


def _causes(alert: Alert, readings: Sequence[Reading]) -> list[Reading]:
    """One for each incident that there may be: of budgets one a budget, of models one a model, else as `by` says."""
    if isinstance(alert.rule, Threshold):
        ordered = sorted(readings, key=_budget)
        groups = [(budget, list(found)) for budget, found in groupby(ordered, key=_budget)]
        return [
            msgspec.structs.replace(together([_within(one) for one in found]), subject=budget)
            for budget, found in groups
        ]
    return list(readings) if alert.by is not None or isinstance(alert.rule, Stranger | Wrong) else list(readings[:1])


def _budget(reading: Reading) -> str:
    return reading.subject.partition("\x1f")[0]


def _within(reading: Reading) -> Reading:
    return msgspec.structs.replace(reading, subject=reading.subject.partition("\x1f")[2])


def _unseen(incident: Incident) -> Reading:
    """Of a cause that nothing has been heard of: in the unit, and by the limit, that it was told of."""
    return Reading(
        rule=incident.rule, subject=incident.subject, state="under", limit=incident.limit, unit=incident.unit,
        why="not seen lately",
    )  # fmt: skip


def _of(case: Case, rule: str) -> bool:
    return case.incident is not None and case.incident.rule == rule


def _incidents(found: Found) -> list[Incident]:
    return [case.incident for case in found.values() if case.incident is not None]


def _turns(body: bytes | None) -> _Turns:
    try:
        return _Turns() if body is None else msgspec.json.decode(body, type=_Turns)
    except msgspec.MsgspecError:
        return _Turns()
