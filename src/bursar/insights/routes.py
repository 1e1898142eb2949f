"""What routes gave: pass rates by step and tier, what a solved request cost, what audits say of the checks. Pure.

Sums are of the period; what was learned (chains, audits) is as it stands now. Rollups and the shared documents answer:
no row is read. A rate of which nothing is known is None. Steps are told apart by name, agents are not.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import msgspec

from bursar.drivers.lore import AUDITS, CHAIN
from bursar.insights import rows
from bursar.money import divide_half_even
from bursar.policy import AUTO, StepRule
from bursar.rules.budget import NONE
from bursar.rules.chain.audit import Audits, agreement_lower, false_pass_rate, merge
from bursar.rules.chain.decide import Tier, forecast
from bursar.rules.chain.state import Step
from bursar.rules.route.auditing import Book
from bursar.rules.route.known import Site
from bursar.stores.base import Counters, Filters, Line, Store
from bursar.types import Instant

LAX = 0.15
"""From this share of wrong answers let through on, a check saves little and costs quality."""
_FEWEST = 10
"""Audits from which on a check is warned of."""
_SITES = 1_000
"""Steps whose documents are read: those that changed last."""
_PAGE = 200

T = TypeVar("T")


class Tried(msgspec.Struct, frozen=True):
    """One tier in one step: its rows in the period, and what audits have found of its answers."""

    tier: str | None
    counts: Counters
    audits: Audits | None = None

    @property
    def pass_rate(self) -> float | None:
        """Of the answers that a check has judged."""
        judged = self.counts.passed + self.counts.rejected
        return self.counts.passed / judged if judged else None

    @property
    def false_pass_rate(self) -> float | None:
        """Of the wrong answers: how many the check has let through. None: nothing was audited, or judged."""
        judged = self.counts.passed + self.counts.rejected
        return (
            false_pass_rate(self.counts.passed, self.counts.rejected, self.audits) if self.audits and judged else None
        )


class Route(msgspec.Struct, frozen=True):
    """One step: all its rows (repairs, judge calls and audits too), and its tiers, cheapest first."""

    step: str | None
    counts: Counters
    tiers: tuple[Tried, ...]

    @property
    def solved(self) -> int | None:
        """Requests that ended in an accepted answer: one that a check has passed, or a kept one given again.

        None where no check judges the step.
        """
        judged = self.counts.passed + self.counts.rejected
        return self.counts.passed + self.counts.hits if judged else None

    @property
    def solved_nanos(self) -> int | None:
        """What such a request cost, all that the step has tried included; a lower bound where rows are unpriced."""
        return divide_half_even(self.counts.cost_nanos, self.solved) if self.solved else None


class Routes(msgspec.Struct, frozen=True):
    """The steps that have a tier or a check, dearest first; what is to be warned of, in sentences."""

    steps: tuple[Route, ...]
    dear: tuple[str, ...] = ()
    """Chains that cost more than their last tier alone."""
    lax: tuple[str, ...] = ()
    """Checks that let too many wrong answers through."""


def build(
    store: Store, since: Instant | None, until: Instant | None, tenant: str | None, found: Sequence[Line],
    rules: Sequence[StepRule] | None = None,
) -> Routes | None:  # fmt: skip
    """Ask the ledger; None: nothing is routed or judged. found: the period's sums by tier, in the order to tell them.
    rules: the configured ones, in order."""
    if not any(line.key is not None or line.counts.passed or line.counts.rejected for line in found):
        return None
    by_step: defaultdict[str | None, list[Tried]] = defaultdict(list)
    audits = _audits(store, tenant)
    for line in found:
        for part in store.spend("step", since, until, Filters(tenant=tenant, tier=line.key or "")):
            by_step[part.key].append(Tried(line.key, part.counts, audits.get((part.key, line.key))))
    steps = tuple(
        Route(line.key, line.counts, tuple(by_step[line.key]))
        for line in store.spend("step", since, until, Filters(tenant=tenant))
        if any(one.tier is not None or one.pass_rate is not None for one in by_step[line.key])
    )
    order = [line.key for line in found if line.key is not None]
    return Routes(steps, tuple(_dear(store, tenant, order, rules or ())), tuple(_lax(steps)))


def _documents(store: Store, kind: str, tenant: str | None, of: type[T]) -> Iterator[tuple[Site, T]]:
    """The last changed ones, whose key is a site's; one that cannot be read is not known."""
    cursor, left = None, _SITES
    while left > 0:
        page = store.states.list(kind, tenant, limit=min(left, _PAGE), cursor=cursor)
        for state in page.items:
            length, colon, rest = state.key.partition(":")
            if colon and length.isdigit():
                agent, step = rest[: int(length)], rest[int(length) + 1 :]
                with contextlib.suppress(msgspec.MsgspecError):
                    yield Site(state.tenant, agent, step), msgspec.json.decode(state.body, type=of)
        cursor, left = page.next_cursor, left - len(page.items)
        if cursor is None:
            return


def _audits(store: Store, tenant: str | None) -> dict[tuple[str | None, str | None], Audits]:
    """By step and tier, of all agents together."""
    found: dict[tuple[str | None, str | None], Audits] = {}
    for site, book in _documents(store, AUDITS, tenant, Book):
        for tier, audits in book.tiers.items():
            at = (None if site.step == NONE else site.step, tier)
            found[at] = merge(found[at], audits) if at in found else audits
    return found


def _dear(store: Store, tenant: str | None, order: Sequence[str], rules: Sequence[StepRule]) -> Iterator[str]:
    """A learned step goes to its last tier by itself once that is cheaper: it is not warned of."""
    for site, step in _documents(store, CHAIN, tenant, Step):
        rule = _rule(site, rules)
        if step.skipped or (rule is not None and rule.tier == AUTO):
            continue
        names = (
            rule.cascade if rule is not None and rule.cascade else tuple(name for name in order if name in step.spent)
        )
        if len(names) < 2 or names[-1] not in step.spent:
            continue
        told = forecast(step, tuple(Tier(name) for name in names)).warning
        if told is not None:
            yield f"Step {site.step} of {site.agent}: {told}"


def _rule(site: Site, rules: Sequence[StepRule]) -> StepRule | None:
    """The first configured rule that the step's name and agent match; what else it asks for is not known here."""
    for rule in rules:
        match = rule.match
        if all(wanted is None or fnmatchcase(label, wanted) for wanted, label in
               ((match.agent, site.agent), (match.step, site.step))):  # fmt: skip
            return rule
    return None


def _lax(steps: Sequence[Route]) -> Iterator[str]:
    for step in steps:
        for one in step.tiers:
            rate = one.false_pass_rate
            if one.audits is not None and rate is not None and rate > LAX and one.audits.total[1] >= _FEWEST:
                agreed, audited = one.audits.total
                yield (
                    f"Step {step.step or NONE}: of {audited} answers of {one.tier or NONE} that its check passed, "
                    f"audits found {audited - agreed} wrong; so it lets through {rate:.0%} of the wrong ones, and over "
                    f"{LAX:.0%} a check saves little and costs quality: give it a stricter validator"
                )


def as_json(told: Routes | None) -> dict[str, Any] | None:
    """{"steps": [{"step", "solved", "cost_per_solved_usd", ..., "tiers": [{"tier", "pass_rate", "audited", "agreed",
    "precision", "precision_low", "false_pass_rate", ...}]}]}, the rest being the columns of every report; None: nothing
    is routed. precision: of audited passes those that were right, low its one-sided 95 % bound."""
    if told is None:
        return None
    return {
        "steps": [
            {
                **rows.line("step", Line(step.step, step.counts)),
                "solved": step.solved,
                "cost_per_solved_usd": rows.usd(step.solved_nanos),
                "tiers": [{**rows.line("tier", Line(one.tier, one.counts)), **_worth(one)} for one in step.tiers],
            }
            for step in told.steps
        ]
    }


def _worth(one: Tried) -> dict[str, Any]:
    agreed, audited = (None, None) if one.audits is None else one.audits.total
    return {
        "pass_rate": one.pass_rate,
        "audited": audited,
        "agreed": agreed,
        "precision": agreed / audited if agreed is not None and audited else None,
        "precision_low": agreement_lower(agreed, audited) if agreed is not None and audited else None,
        "false_pass_rate": one.false_pass_rate,
    }
