"""The four metrics of a period and one table beside them: cost per run, cost per user, hit rate, models by tier; and
what routes gave, where there are any.

Pure but for its questions to the store, which rollups answer: it costs the same on ten calls and on ten million. What
is not known is None, and how often it was not known is counted beside every sum. A question that no rollup can answer
raises ValueError with what can be asked instead.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

import msgspec

from bursar.insights import hits, routes, rows
from bursar.policy import StepRule
from bursar.stores.base import By, Counters, Filters, Line, Metrics, RunCosts, Store
from bursar.stores.counters import BUCKET_US
from bursar.stores.semantic import Pool
from bursar.types import Instant

LOW_HIT_RATE = 0.2
"""Below this share of calls answered from a cache the report says so."""
TOP_HEAVY = 0.8
"""From this share of calls or dollars at the top tier on the report says so."""
WELL_ROUTED = (0.6, 0.8)
"""The share of calls at the cheapest tier that work of mixed difficulty comes to where it is routed well."""
_NAMED = 3


class Remark(msgspec.Struct, frozen=True):
    """Something that the numbers say: a stable id for machines, a sentence for people."""

    id: str
    text: str
    good: bool = False
    """It is as it should be."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and what the ledger answers. Sums hold what is known; unknowns are counted in each Counters."""

    by: By
    since: Instant | None
    """Inclusive, and `until` exclusive: the whole quarters of an hour that the sums are made of."""
    until: Instant | None
    zone: str
    tenant: str | None
    agent: str | None
    """The agent that the table is of; the metrics are of all."""
    total: Counters
    metrics: Metrics
    tiers: tuple[Line, ...]
    """Cheapest first, as configured; then what no configured tier is, dearest first."""
    agents: dict[str | None, Counters]
    """Every agent's own rows: what its nested runs spent is their agents'."""
    lines: tuple[Line, ...]
    hits: hits.Hits
    routes: routes.Routes | None
    """None: nothing is routed or judged."""
    remarks: tuple[Remark, ...]


def build(
    store: Store,
    *,
    by: By = "agent",
    since: Instant | None = None,
    until: Instant | None = None,
    tenant: str | None = None,
    agent: str | None = None,
    zone: str = "UTC",
    tiers: Sequence[str] = (),
    steps: Sequence[StepRule] | None = None,
    pools: Sequence[Pool] = (),
) -> Report:
    """Ask the ledger. `tiers`: the configured ones, cheapest first; the last of them is the top. `steps`: the
    configured rules, where they are known. `pools`: what the semantic cache has learned."""
    lines = store.spend(by, since, until, Filters(tenant=tenant, agent_id=agent), zone)
    metrics = store.metrics(since, until, tenant)
    agents = store.spend("agent", since, until, Filters(tenant=tenant))
    few = metrics.hit_rate is not None and metrics.hit_rate < LOW_HIT_RATE
    found = hits.build(store, since, until, tenant, pools, hits=metrics.total.hits > 0, few=few)
    rank = {name: place for place, name in enumerate(tiers)}
    by_tier = sorted(metrics.tiers, key=lambda line: rank.get(line.key or "", len(rank)))
    routed = routes.build(store, since, until, tenant, by_tier, steps)
    return Report(
        by=by,
        since=None if since is None else Instant(since - since % BUCKET_US),
        until=None if until is None else Instant(until + -until % BUCKET_US),
        zone=zone,
        tenant=tenant,
        agent=agent,
        total=metrics.total,
        metrics=metrics,
        tiers=tuple(by_tier),
        agents={line.key: line.counts for line in agents},
        lines=tuple(lines),
        hits=found,
        routes=routed,
        remarks=tuple(_remarks(metrics, tiers, hits.reason(found, metrics.total, steps), routed)),
    )


def share(part: int, whole: int) -> float | None:
    """A part of a whole; None where there is no whole."""
    return part / whole if whole else None


# --- what the numbers say


def _remarks(
    metrics: Metrics, tiers: Sequence[str], why: str | None, routed: routes.Routes | None
) -> list[Remark]:  # fmt: skip
    total, top = metrics.total, tiers[-1] if tiers else None
    told = [] if routed is None else [Remark("dear_chain", f"{text}.") for text in routed.dear]
    told += [] if routed is None else [Remark("lax_check", f"{text}.") for text in routed.lax]
    found = [_hits(metrics, why), _top_heavy(metrics, top), _well_routed(metrics, tiers), *told, *_unknowns(metrics)]
    return [remark for remark in found if remark is not None] if total.attempts or total.calls else []


def _hits(metrics: Metrics, why: str | None) -> Remark | None:
    rate = metrics.hit_rate
    if rate is None or rate >= LOW_HIT_RATE:
        return None
    low = f"Cache hit rate is {rate:.0%}, under {LOW_HIT_RATE:.0%}: what is asked again is paid for again."
    return Remark("low_hit_rate", low if why is None else f"{low} {why}")


def _top_heavy(metrics: Metrics, top: str | None) -> Remark | None:
    """Four fifths at the top tier; where no tier is known, at one model."""
    total, tiers = metrics.total, {line.key: line.counts for line in metrics.tiers}
    if top is not None and (told := tiers.get(top)) is not None:
        return _heavy(told, total, "top_heavy", f"the top tier, {top}", "a cheaper tier may do for some of the steps")
    if set(tiers) == {None} and len(metrics.models) > 1:
        model = metrics.models[0]
        cure = "no tier is configured ([tiers]), so it cannot be told whether a cheaper one would do"
        return _heavy(model.counts, total, "one_model", f"one model, {model.key or '(none)'}", cure)
    return None


def _well_routed(metrics: Metrics, tiers: Sequence[str]) -> Remark | None:
    small = next((line.counts for line in metrics.tiers if tiers and line.key == tiers[0]), Counters())
    part, (low, high) = share(small.calls, metrics.total.calls), WELL_ROUTED
    if len(tiers) < 2 or part is None or not low <= part <= high:
        return None
    told = f"{part:.0%} of the calls begin at the cheapest tier, {tiers[0]}"
    return Remark("well_routed", f"{told}: between {low:.0%} and {high:.0%} is what good routes come to.", good=True)


def _heavy(told: Counters, total: Counters, name: str, what: str, then: str) -> Remark | None:
    calls, dollars = share(told.calls, total.calls) or 0, share(told.cost_nanos, total.cost_nanos) or 0
    if max(calls, dollars) < TOP_HEAVY:
        return None
    return Remark(name, f"{calls:.0%} of the calls and {dollars:.0%} of the dollars are at {what}: {then}.")


def _unknowns(metrics: Metrics) -> list[Remark]:
    total, found = metrics.total, []
    if total.unpriced:
        named = [line.key or "(none)" for line in metrics.models if line.counts.unpriced]
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        found.append(
            Remark(
                "unpriced",
                f"{_rows(total.unpriced)} of unknown cost ({', '.join(named[:_NAMED])}{more}): every sum of dollars is "
                'a lower bound. Give their prices under [prices."provider/model"].',
            )
        )
    if total.estimated:
        found.append(Remark("estimated", f"{_rows(total.estimated)} are Bursar's estimate: no usage was reported."))
    if total.unknown_usage:
        found.append(Remark("unknown_usage", f"{_rows(total.unknown_usage)} of unknown tokens: their sums fall short."))
    return found


def _rows(number: int) -> str:
    return f"{number:,} row{'s' if number != 1 else ''}"


# --- for machines


def as_json(report: Report) -> dict[str, Any]:
    """The report as one object, stable:

    {"period": {"since", "until", "zone"}, "tenant", "totals", "metrics": {"cost_per_run": {"runs", "unpriced_runs",
    "cost_usd", "mean_usd", "p50_usd", "p90_usd", "p99_usd", "by_agent"}, "cost_per_user": {"users", "mean_usd", "top"},
    "cache_hit_rate": {"rate", "hits", "calls", "saved_usd", "saved_share", "by_cache", "by_step", "semantic",
    "provider_rate", "cached_tokens", "input_tokens"},
    "model_distribution": {"tiers", "models"}}, "routes": null or {"steps"}, "by", "agent", "rows",
    "remarks": [{"id", "text"}]}

    Rows and totals have the ledger's column names (calls, attempts, input_tokens, cost_usd, unpriced, estimated, ...);
    tiers and models their call_share and cost_share beside them. Quantiles are exact to about 6 %. Shares are of known
    dollars. A run's cost is that of its whole tree, an agent's tokens are those of its own rows.
    """
    metrics, total = report.metrics, report.total
    return {
        "period": {"since": _iso(report.since), "until": _iso(report.until), "zone": report.zone},
        "tenant": report.tenant,
        "totals": {**rows.counters(total), "runs": metrics.runs.runs},
        "metrics": {
            "cost_per_run": _costs(metrics.runs)
            | {"by_agent": [_agent(costs, report) for costs in metrics.runs_by_agent]},
            "cost_per_user": {
                "users": metrics.users,
                "mean_usd": rows.usd(metrics.cost_per_user_nanos),
                "top": [rows.line("user", line) for line in metrics.top_users],
            },
            "cache_hit_rate": {
                "rate": metrics.hit_rate,
                "hits": total.hits,
                "calls": total.calls,
                "saved_usd": rows.usd(total.saved_nanos),
                **hits.as_json(report.hits, total),
                "provider_rate": metrics.cached_input_share,
                "cached_tokens": total.cached_tokens,
                "input_tokens": total.input_tokens,
            },
            "model_distribution": {
                "tiers": [_shared("tier", line, total) for line in report.tiers],
                "models": [_shared("model", line, total) for line in metrics.models],
            },
        },
        "routes": routes.as_json(report.routes),
        "by": report.by,
        "agent": report.agent,
        "rows": [rows.line(report.by, line) for line in report.lines],
        "remarks": [{"id": remark.id, "text": remark.text} for remark in report.remarks],
    }


def as_csv(report: Report) -> str:
    """The table alone, with a head; unknown is empty."""
    told = [rows.line(report.by, line) for line in report.lines]
    names = list(told[0]) if told else [report.by, *rows.counters(Counters())]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(told)
    return out.getvalue()


def _iso(at: Instant | None) -> str | None:
    return None if at is None else rows.iso(at)


def _costs(costs: RunCosts) -> dict[str, Any]:
    return {
        name.replace("_nanos", "_usd"): rows.usd(value) if name.endswith("_nanos") else value
        for name in costs.__struct_fields__
        if name != "agent_id"
        for value in (getattr(costs, name),)
    }


def _agent(costs: RunCosts, report: Report) -> dict[str, Any]:
    own = report.agents.get(costs.agent_id, Counters())
    tokens = {"input_tokens": own.input_tokens, "output_tokens": own.output_tokens}
    return {"agent": costs.agent_id, **_costs(costs), "calls": own.calls, **tokens, "unpriced": own.unpriced}


def _shared(by: By, line: Line, total: Counters) -> dict[str, Any]:
    return {
        **rows.line(by, line),
        "call_share": share(line.counts.calls, total.calls),
        "cost_share": share(line.counts.cost_nanos, total.cost_nanos),
    }
