"""`bursar doctor`: what the providers' own prompt caches save, and why they miss, per step, in dollars."""

from typing import Annotated

from cyclopts import Parameter

from bursar.doors.cli import tables
from bursar.doors.cli.shared import Config, Json, Since, Tenant, Until, ledger, moment, say, say_json, working
from bursar.doors.open import make_policy
from bursar.insights import prompts

_CAUSES = 3


def doctor(
    *,
    since: Since = None,
    until: Until = None,
    agent: Annotated[str | None, Parameter(help="This agent's steps alone.")] = None,
    tenant: Tenant = None,
    as_json: Json = False,
    config: Config = None,
) -> None:
    """Why provider prompt caching misses, per step, in dollars."""
    with ledger(config) as (settings, store), working("reading the ledger"):
        prices = make_policy(settings).prices
        found = prompts.build(
            store, prices, since=moment(since), until=moment(until), tenant=tenant, agent=agent
        )  # fmt: skip
    if as_json:
        say_json(prompts.as_json(found))
    elif not found.steps:
        say("No call in this period was answered by a provider.")
    else:
        _print(found)


def _print(found: prompts.Findings) -> None:
    out = tables.console()
    table = tables.grid("", "agent", "step", "calls", "input", "read", "saved, net", "premiums", "missed", left=2)
    for step in found.steps:
        labels = (tables.plain(step.agent), tables.plain(step.step))
        read = step.cached_tokens / step.input_tokens if step.input_tokens else None
        amounts = (step.saved_nanos, step.premium_nanos, step.missed_nanos)
        table.add_row(
            *labels, f"{step.calls:,}", f"{step.input_tokens:,}", tables.percent(read), *map(tables.dollars, amounts)
        )
    tables.fit(out, table, "premiums", "input")
    for step in found.steps:
        for cause in step.causes[:_CAUSES]:
            where = f"{tables.plain(step.agent)} / {tables.plain(step.step)}"
            what = f"{cause.tokens:,} tokens in {cause.calls:,} calls, about {tables.dollars(cause.nanos)}"
            out.print(f"{where}: {what}: {prompts.TEXTS[cause.why]}.")
    unknown = sum(step.unknown for step in found.steps)
    if unknown:
        out.print(f"{unknown:,} calls of unknown usage or price are in no sum.")
    if not found.whole:
        out.print(f"Only the newest {found.rows:,} rows were read: name a shorter period for the others.")
