"""The breakers' states, shared by all processes: read before every call, kept before a probe goes, fed by every row.

A call is asked for with one read; only a probe waits for a write, so that of all who ask at once, anywhere, one alone
is it. Rows are worked in behind the caller. Where the store cannot be read, or a probe not be kept, nothing is sent
(StoreFailure); a row that could not be worked in is lost as evidence, never as money. Any thread.
"""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from bursar.policy.breakers import Breaker, Ceiling, Errors, FanOut, Growth, Loop, Velocity
from bursar.rules.breaker import gate as gates
from bursar.rules.breaker import life, telling
from bursar.rules.breaker import watch as watching
from bursar.rules.breaker.evidence import HOUR_MINUTES
from bursar.rules.breaker.gate import Gate
from bursar.rules.breaker.life import CLOSED, Change, Pardon, State
from bursar.stores.base import Store, StoreFailure
from bursar.stores.pages import cursor_of
from bursar.stores.receipt import Receipt, hand_over
from bursar.stores.states import Changed
from bursar.types import Admitted, Call, Claim, Entry, Instant, Kin, Refused, Scope, Tags

KIND = "breaker"
_LINES = 16_384
"""Runs whose place among others is remembered: only from a run's own calls is it known."""
_PRUNE_EVERY = Instant(3_600_000_000)
_PAGE = 500

_log = logging.getLogger(__name__)


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker as it is kept: whose it is, and its state."""

    breaker: str
    scope: Scope
    subject: str
    claim: Claim | None = None
    """What its ceiling claimed last."""
    state: State


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the audit: what became of which breaker."""

    breaker: str
    scope: Scope
    subject: str
    change: Change


_Revised: TypeAlias = Callable[[State, Instant, Breaker], State]


class _Look(NamedTuple):
    """What a call has found: the breakers over it, their states, and those that it would be the probe of."""

    over: tuple[Gate, ...]
    states: dict[str, State]
    probes: tuple[Gate, ...]


class Breakers:
    """The breakers of one world."""

    def __init__(
        self,
        store: Store,
        rules: Sequence[Breaker],
        clock: Callable[[], Instant],
        errand: Callable[[Callable[[], None]], None] = lambda _: None,
    ) -> None:
        """errand: has something done by another thread, some time."""
        self._states, self._rules, self.clock, self._errand = store.states, tuple(rules), clock, errand
        self._lock = threading.Lock()
        self._trust: dict[str, frozenset[str] | None] = {}
        self._lines: dict[tuple[str, str], tuple[Kin, ...]] = {}
        self._nests = any(rule.scope == "run" for rule in rules)
        self._probing: set[str] = set()
        self._pruned = clock()

    def admit(self, call: Call) -> Admitted | Refused:
        """May this call go, and what do its ceilings claim of it? Blocks where it is to be a probe. StoreFailure."""
        look = self._look(call)
        if isinstance(look, Refused):
            return look
        return self._told(look, [receipt.result() for receipt in self._takes(look, call)])

    async def admit_async(self, call: Call) -> Admitted | Refused:
        """The same for the running event loop, which is never blocked."""
        look = self._look(call)
        if isinstance(look, Refused):
            return look
        return self._told(look, await asyncio.gather(*map(_awaited, self._takes(look, call))))

    def suspends(self, tags: Tags) -> bool:
        """A call with these tags would be refused, as far as is committed."""
        over = gates.gates(tags, tags.step, self._rules)
        return bool(over) and isinstance(gates.asked(over, self._read(over), self.clock(), ""), Refused)

    def watch(self, row: Entry, *, sent: bool = True) -> None:
        """A row is settled. sent: False where its call was given up before it could be."""
        if not self._rules:
            return
        with self._lock:
            probes = row.request_id in self._probing
            self._probing.discard(row.request_id)
        if not sent:
            row = msgspec.structs.replace(row, status="refused")
        for gate in self._over(row) if probes or row.status != "hit" else ():
            if self._has_reached(gate, row):
                self._update(gate, life.refused)
            elif probes or (watching.counts(row) and not isinstance(gate.rule.trigger, Ceiling)):
                self._update(gate, lambda state, now, rule: life.watch(state, row, now, rule))

    def prune(self) -> None:
        """Forget the closed breakers that have never tripped and have seen nothing that could still count."""
        before = self.clock() - _memory_us(self._rules)
        cursor: str | None = cursor_of(before, 0)
        try:
            while cursor is not None:
                page = self._states.list(KIND, None, "", _PAGE, cursor)
                for one in page.items:
                    state = _state(one.body)
                    if state.status == "closed" and state.changed is None and state.pardon is None:
                        self._states.update(KIND, one.tenant, one.key, functools.partial(_forgotten, one.body))
                cursor = page.next_cursor
        except StoreFailure as fault:
            _log.debug("breakers that are long silent stay for now: %s", fault)

    # --- before a call

    def _look(self, call: Call) -> _Look | Refused:
        now = self.clock()
        self._remember(call.tags)
        if now - self._pruned >= _PRUNE_EVERY:
            self._pruned = now
            self._errand(self.prune)
        over = gates.gates(call.tags, call.tags.step, self._rules, call.purpose)
        states = self._read(over)
        asked = gates.asked(over, states, now, call.request_id)
        return asked if isinstance(asked, Refused) else _Look(over, states, asked)

    def _read(self, over: Sequence[Gate]) -> dict[str, State]:
        """One query; two where a breaker is over all tenants together."""
        found: dict[str, bytes] = {}
        for tenant in dict.fromkeys(gate.tenant for gate in over):
            found |= self._states.get(KIND, tenant, [gate.id for gate in over if gate.tenant == tenant])
        return {name: _state(body) for name, body in found.items()}

    def _takes(self, look: _Look, call: Call) -> list[Receipt[State | Refused]]:
        """Be the probe of each, or hear that another is. What was taken in vain is free with the refusal's row."""
        if look.probes:
            with self._lock:
                self._probing.add(call.request_id)
        return [
            self._states.update(KIND, gate.tenant, gate.id, functools.partial(_taken, gate, call.request_id))
            for gate in look.probes
        ]

    def _told(self, look: _Look, taken: Sequence[State | Refused]) -> Admitted | Refused:
        shut = next((one for one in taken if isinstance(one, Refused)), None)
        if shut is not None:
            return shut
        now = {gate.id: one for gate, one in zip(look.probes, taken, strict=True) if isinstance(one, State)}
        return gates.admitted(look.over, look.states | now, self.clock())

    def _remember(self, tags: Tags) -> None:
        """What the rows of this call will not tell."""
        if tags.key_id is not None:
            self._trust[tags.key_id] = tags.trusted
        if self._nests and len(tags.line) > 1 and tags.run_id is not None:
            with self._lock:
                place = (tags.tenant, tags.run_id)
                self._lines.pop(place, None)
                self._lines[place] = tags.line
                while len(self._lines) > _LINES:
                    del self._lines[next(iter(self._lines))]

    # --- behind it

    def _over(self, row: Entry) -> tuple[Gate, ...]:
        trusted = None if row.key_id is None else self._trust.get(row.key_id, frozenset())
        line = self._lines.get((row.tenant, row.run_id or ""), ())
        tags = gates.tags_of(row, trusted, line)
        return gates.gates(tags, row.step, self._rules, row.purpose)

    def _has_reached(self, gate: Gate, row: Entry) -> bool:
        claim = gate.claim(CLOSED, row.started_at)
        return row.status == "refused" and claim is not None and telling.says_reached(row.error, gate.rule, claim)

    def _update(self, gate: Gate, revised: _Revised) -> None:
        self._states.update(KIND, gate.tenant, gate.id, functools.partial(_revised, gate, revised))


# --- changes, in the writer's step


def _taken(gate: Gate, request_id: str, body: bytes | None, now: Instant) -> Changed[State | Refused]:
    before = CLOSED if body is None else _state(body)
    found = life.admits(before, now, gate.rule, request_id)
    if found.kind == "refuse":
        return Changed(body, telling.suspended(before, gate.rule, gate.subject, found.retry_after_ms))
    return _kept(gate, before, found.state, now, found.state)


def _revised(gate: Gate, revised: _Revised, body: bytes | None, now: Instant) -> Changed[State | Refused]:
    before = CLOSED if body is None else _state(body)
    after = revised(before, now, gate.rule)
    return _kept(gate, before, after, now, after)


def _kept(gate: Gate, before: State, after: State, now: Instant, result: State | Refused) -> Changed[State | Refused]:
    """The new state as a document, and a line of audit where it has changed."""
    rule, change = gate.rule, after.changed
    if after == CLOSED:
        return Changed(None, result)
    document = Document(
        breaker=rule.name, scope=rule.scope, subject=gate.subject, claim=gate.claim(after, now), state=after
    )
    events = () if change is None or change == before.changed else (_line(document, change),)
    return Changed(msgspec.json.encode(document), result, events)


def _line(document: Document, change: Change) -> bytes:
    return msgspec.json.encode(
        Line(breaker=document.breaker, scope=document.scope, subject=document.subject, change=change)
    )


def _forgotten(seen: bytes, body: bytes | None, now: Instant) -> Changed[None]:
    del now
    return Changed(None if body == seen else body, None)


_document = msgspec.json.Decoder(Document)


def _state(body: bytes) -> State:
    document = read(body)
    return CLOSED if document is None else document.state


def read(body: bytes) -> Document | None:
    """None: it cannot be read (another version's), and counts as a closed one that has seen nothing."""
    try:
        return _document.decode(body)
    except msgspec.DecodeError as fault:
        _log.warning("the state of a breaker cannot be read and begins anew: %s", fault)
        return None


async def _awaited(receipt: Receipt[State | Refused]) -> State | Refused:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[State | Refused] = loop.create_future()
    receipt.add_done_callback(functools.partial(hand_over, future), loop.call_soon_threadsafe)
    return await future


def _memory_us(rules: Sequence[Breaker]) -> int:
    """How long at the most anything that was seen counts for a breaker that has not tripped; an hour at the least."""
    spans = [HOUR_MINUTES * 60_000]
    for rule in rules:
        match rule.trigger:
            case Velocity():
                spans.append((rule.trigger.minutes + HOUR_MINUTES) * 60_000)
            case Loop() | Growth() | FanOut() | Errors():
                spans.append(rule.trigger.within_ms)
    return max(spans) * 1000


def reset(store: Store, tenant: str, id: str, who: str) -> bool:
    """Close a breaker by hand, with a line of audit that says who; False where it is closed. Waits until it is so.

    What its ceiling has counted so far is forgiven: as much again may be spent. StoreFailure.
    """
    found = store.states.get(KIND, tenant, [id]).get(id)
    document = None if found is None else read(found)
    pardon = None
    if document is not None and document.claim is not None:
        (counter,) = store.balances((document.claim,))
        pardon = Pardon(counter.balance.settled_nanos, counter.start)

    def change(body: bytes | None, now: Instant) -> Changed[bool]:
        before = None if body is None else read(body)
        if before is None or before.state.status == "closed":
            return Changed(body, False)
        after = msgspec.structs.replace(before, state=life.reset(before.state, now, who, pardon))
        changed = after.state.changed
        return Changed(msgspec.json.encode(after), True, () if changed is None else (_line(after, changed),))

    return store.states.update(KIND, tenant, id, change).result()
