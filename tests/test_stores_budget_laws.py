"""The laws of counters in any order of events, on every store, against a model that keeps each row in a dictionary."""

import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import books
from books import HOUR, Opener, ask, claim, done, row
from bursar.rules.book import charged
from bursar.rules.grant import UNMEASURED_OUTPUT
from bursar.rules.window import bounds
from bursar.stores.receipt import Receipt
from bursar.types import Ask, Balance, Claim, Entry, Hold, Refused

template = books.template

Key = tuple[str, str, str, str, int]
FOREVER = 10**9
ROOTS = [
    claim("everything", "global", "(all)", limit_nanos=70_000, limit_tokens=90_000),
    claim("hourly", "user", "u", window="hour", zone="Europe/Berlin", limit_nanos=None, limit_tokens=30_000),
    claim("learned", "user", "u", limit_nanos=60_000, learned_input=True),
    claim("task", "run", "A", limit_nanos=30_000, finish_reserve=200_000),
    claim("task", "run", "B", limit_nanos=20_000, limit_tokens=15_000),
]
asks = st.builds(
    lambda claims, output, floor, patience, final, parent: (
        [msgspec.structs.replace(one, patience_ms=patience) for one in claims], (output, floor), final, parent
    ),
    st.lists(st.sampled_from(ROOTS), max_size=3, unique_by=lambda one: (one.budget, one.key)),
    st.integers(0, 15_000), st.sampled_from([1, 2_000, 15_000]),
    st.sampled_from([0, 0, 500, FOREVER]), st.booleans(), st.sampled_from([None, None, "A", "B"]),
)  # fmt: skip
outcomes = st.one_of(
    st.fixed_dictionaries({"spent": st.floats(0, 1), "status": st.sampled_from(["completed", "abandoned"])}),
    st.sampled_from([{"unknown": True}, {"failed": True}, {"overrun": 4_000}]),
)


class Booked:
    """A row of the model, and whose it is."""

    def __init__(self, entry: Entry, which: int) -> None:
        self.entry, self.which = entry, which


def key_of(charge: Any) -> Key:
    return charge.tenant, charge.scope, charge.key, charge.budget, charge.start


class Counters(RuleBasedStateMachine):
    """Two processes on one ledger, dying and coming back, some calls waiting, while the hours pass."""

    kind = "memory"
    template: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        if self.kind == "sqlite":
            shutil.copy(self.template, self.folder / "ledger.db")
        self.opener = Opener(self.kind, self.folder / "ledger.db")
        self.stores = [self.opener(), self.opener()]
        self.rows: dict[str, Booked] = {}
        self.waiting: dict[str, tuple[Entry, Ask, int, Receipt[Hold | Refused]]] = {}
        self.overruns: defaultdict[Key, list[int]] = defaultdict(lambda: [0, 0])
        self.count = 0

    @rule(which=st.integers(0, 1), asked=asks, run=st.sampled_from([None, "A", "B", "C"]))
    def reserve(
        self, which: int, asked: tuple[list[Claim], tuple[int, int], bool, str | None], run: str | None
    ) -> None:
        claims, (output, floor), final, parent = asked
        self.count += 1
        opening = row(f"r{self.count}", run_id=run, parent_run_id=parent, user_id="u")
        wants = ask(*claims, output=output, floor=floor, final=final, climb=() if parent is None else (parent,))
        receipt = self.stores[which].reserve(opening, wants)
        self.waiting[opening.request_id] = (opening, wants, which, receipt)

    @rule(pick=st.integers(0, 99), which=st.integers(0, 1), said=outcomes)
    def settle(self, pick: int, which: int, said: dict[str, Any]) -> None:
        """Any row, by any store: open, closed, expired or still waiting."""
        names = [*self.rows, *self.waiting]
        if not names:
            return
        name = names[pick % len(names)]
        opening, _, owner, _ = self.waiting.get(name) or (None, None, None, None)
        booked = self.rows.get(name)
        entry = booked.entry if booked is not None else opening
        assert entry is not None
        closed = outcome(entry, said)
        self.stores[which].settle(Hold(name, 1), closed)
        self.stores[which].flush()
        if booked is None:
            if owner == which:
                self.waiting[name][3].result(10)
                del self.waiting[name]
        elif booked.entry.status == "expired" or (booked.entry.status == "open" and booked.which == which):
            self.close(booked, closed)

    @rule(pick=st.integers(0, 99), more=st.integers(1, 3_000))
    def extend(self, pick: int, more: int) -> None:
        """Input is found larger than its learned size."""
        opened = [booked for booked in self.rows.values() if booked.entry.status == "open" and booked.entry.charges]
        if not opened:
            return
        booked = opened[pick % len(opened)]
        entry = booked.entry
        self.stores[booked.which].extend(Hold(entry.request_id, 1), more, more).result(10)
        charges = []
        for charge in entry.charges:
            if charge.budget == "learned":
                charge = msgspec.structs.replace(charge, nanos=charge.nanos + more, tokens=charge.tokens + more)
                for side in (0, 1):
                    self.overruns[key_of(charge)][side] += more
            charges.append(charge)
        booked.entry = msgspec.structs.replace(entry, charges=tuple(charges))

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        """A process ends; the other one, or its successor, finds what it has left."""
        self.stores[which].close()
        for name, (_, _, owner, receipt) in list(self.waiting.items()):
            if owner == which:
                assert receipt.exception() is not None or receipt.done()
                if receipt.exception() is None:
                    self.heard(name)
                else:
                    del self.waiting[name]
        self.stores[which] = self.opener()
        for booked in self.rows.values():
            if booked.entry.status == "open" and booked.which == which:
                cost = booked.entry.hold_nanos
                dead = {"status": "expired", "cost_nanos": cost, "cost_status": "estimated"}
                self.close(booked, msgspec.structs.replace(booked.entry, **dead))

    @rule(micros=st.sampled_from([1_000, 600_000, HOUR, 24 * HOUR]))
    def pass_time(self, micros: int) -> None:
        self.opener.watch.forward(micros)

    def close(self, booked: Booked, closed: Entry) -> None:
        """Overruns: what a counter is charged beyond what it was granted and extended by."""
        before, after = booked.entry, msgspec.structs.replace(closed, charges=booked.entry.charges)
        for charge in after.charges:
            key, allowed = key_of(charge), (charge.nanos, charge.tokens)
            for side, spent in enumerate(charged(after, charge)):
                over = max(0, spent - allowed[side])
                if before.status == "expired":
                    over -= max(0, charged(before, charge)[side] - allowed[side])
                self.overruns[key][side] += over
        booked.entry = after

    def heard(self, name: str) -> None:
        """A reserve has been answered: the model takes its word only as far as the rules allow."""
        opening, wants, which, receipt = self.waiting.pop(name)
        answer = receipt.result()
        if isinstance(answer, Refused):
            above = [] if not wants.climb else [one for one in ROOTS if one.budget == "task"]
            assert any(self.short(one, wants, held=answer.kind == "held") for one in (*wants.claims, *above)), answer
            return
        claimed = {(one.budget, one.key): one for one in wants.claims}
        charges = {(charge.budget, charge.key): charge for charge in answer.charges}
        assert claimed.keys() <= charges.keys()
        for (budget, key), charge in charges.items():
            terms = claimed.get((budget, key))
            assert terms is not None or (charge.scope == "run" and wants.climb)
            limit = wants.wanted if answer.output_limit is None else answer.output_limit
            size = (wants.likely_tokens if budget == "learned" else wants.input_tokens) + (limit or 0)
            assert (charge.nanos, charge.tokens) == (size, size)
            if terms is not None:
                start, end = bounds(terms.window, terms.zone, self.opener.watch.now)
                assert charge.start <= start and (end is None or charge.start < end)
        hold = {"hold_nanos": answer.nanos, "output_limit": answer.output_limit, "charges": answer.charges}
        self.rows[name] = Booked(msgspec.structs.replace(opening, **hold), which)

    def short(self, terms: Claim, wants: Ask, *, held: bool) -> bool:
        """The budget has no room for it: by what is spent, or by what is held too."""
        start, _ = bounds(terms.window, terms.zone, self.opener.watch.now)
        stands = self.sums().get((terms.tenant, terms.scope, terms.key, terms.budget, start), Balance())
        least = min(wants.wanted or 0, max(wants.floor, UNMEASURED_OUTPUT if held else 0))
        size = (wants.likely_tokens if terms.learned_input else wants.input_tokens) + least
        sides = (
            (terms.limit_nanos, stands.settled_nanos, stands.held_nanos),
            (terms.limit_tokens, stands.settled_tokens, stands.held_tokens),
        )
        return any(
            limit is not None and spent + (taken if held else 0) + size > limit - limit * terms.finish_reserve // 10**6
            for limit, spent, taken in sides
        )

    @invariant()
    def rows_are_counters(self) -> None:
        """Settled and held are the sums over the rows, in every window; no limit is passed but by reported overruns."""
        if not hasattr(self, "stores"):
            return
        for store in self.stores:
            store.flush()
        told = [name for name, (_, _, _, receipt) in self.waiting.items() if receipt.done()]
        for name in sorted(told, key=lambda name: isinstance(self.waiting[name][3].result(), Refused)):
            self.heard(name)
        due = self.sums()
        found = {}
        for line in self.lines():
            counter, terms = line.counter, line.counter.claim
            key = (terms.tenant, terms.scope, terms.key, terms.budget, counter.start)
            found[key] = counter.balance
            over = self.overruns[key]
            if terms.limit_nanos is not None:
                assert counter.balance.settled_nanos + counter.balance.held_nanos <= terms.limit_nanos + over[0]
            if terms.limit_tokens is not None:
                assert counter.balance.settled_tokens + counter.balance.held_tokens <= terms.limit_tokens + over[1]
        now = self.opener.watch.now
        running = {key: due[key] for key in due if key[3] != "hourly" or key[4] == bounds(
            "hour", "Europe/Berlin", now)[0]}  # fmt: skip
        assert found == running
        assert self.stores[0].verify() == []

    def sums(self) -> dict[Key, Balance]:
        sums: defaultdict[Key, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for booked in self.rows.values():
            for charge in booked.entry.charges:
                mine = sums[key_of(charge)]
                if booked.entry.status == "open":
                    mine[2] += charge.nanos
                    mine[3] += charge.tokens
                else:
                    nanos, tokens = charged(booked.entry, charge)
                    mine[0] += nanos
                    mine[1] += tokens
        return {key: Balance(*numbers) for key, numbers in sums.items()}

    def lines(self) -> Iterator[Any]:
        cursor = None
        while True:
            page = self.stores[1].budgets(limit=3, cursor=cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def teardown(self) -> None:
        """With everything settled nobody holds, and nobody waits for ever."""
        if not hasattr(self, "stores"):
            return
        while self.waiting or any(booked.entry.status == "open" for booked in self.rows.values()):
            opened = {name: booked for name, booked in self.rows.items() if booked.entry.status == "open"}
            for name, booked in opened.items():
                closed = outcome(booked.entry, {"spent": 1.0})
                self.stores[booked.which].settle(Hold(name, 1), closed)
                self.close(booked, closed)
            if not opened:
                heard = threading.Event()
                for *_, receipt in self.waiting.values():
                    receipt.add_done_callback(lambda _: heard.set())  # noqa: B023
                assert heard.wait(20), "somebody waits though nobody holds"
            self.rows_are_counters()
        assert all(balance.held_nanos == balance.held_tokens == 0 for balance in self.sums().values())
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)


def outcome(entry: Entry, said: dict[str, Any]) -> Entry:
    """The row, closed: within what it holds, unknown, failed for nothing, or beyond its hold."""
    if said.get("unknown"):
        return done(entry, cost_nanos=None, cost_status="unpriced", output_tokens=None)
    if said.get("failed"):
        return done(entry, status="failed", cost_nanos=0, input_tokens=0, output_tokens=0)
    most = min((charge.nanos for charge in entry.charges), default=entry.hold_nanos or 0)
    spent = most + said["overrun"] if "overrun" in said else round(most * said["spent"])
    status = said.get("status", "completed")
    return done(entry, status=status, cost_nanos=spent, input_tokens=spent // 2, output_tokens=spent - spent // 2)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_any_interleaving_keeps_the_counters(kind: str, template: Path) -> None:
    """Reserve, extend, settle, crash, come back, be late, wait, and the hours pass: rows are counters, no limit is
    passed, all or none is held, nothing is settled twice, no hold outlives its owner, nobody waits for ever."""
    machine: Any = type(f"{kind}_counters", (Counters,), {"kind": kind, "template": template})
    machine.TestCase.settings = settings(
        max_examples=80 if kind == "memory" else 12, stateful_step_count=25, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    machine.TestCase().runTest()
