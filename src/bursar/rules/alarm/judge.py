"""One rule, the facts of one subject, a moment -> a reading. Pure and total: too little to say is `unknown`, with why.

A sum with unknown costs in it is a lower bound: above the limit it is over all the same, below it is not known to be
under. Facts of another window than the one that `now` lies in say nothing.
"""

from collections.abc import Sequence

import msgspec

from bursar.policy.alerts import Cap, Drift, Falling, Forecast, Rule, Share, Spike, Stranger, Threshold, Wrong
from bursar.rules import window
from bursar.rules.alarm import baseline
from bursar.rules.alarm.facts import Budgeted, Costs, Facts, Pair, Series, Spent, Strangers, Tightened
from bursar.rules.alarm.reading import Reading, Unit, ratio, show, usd
from bursar.rules.chain.decide import wilson_upper
from bursar.types import PPM, Instant

_CHANCE = 2.33
"""Standard deviations: a rate has fallen only if chance would do that once in a hundred times."""


def judge(rule: Rule, facts: Facts, now: Instant) -> Reading:
    """What the rule says of these facts. TypeError where they are of another rule's kind."""
    match rule, facts:
        case Spike(), Series():
            return _spike(rule, facts, now)
        case Cap(), Spent():
            return _money(rule, facts.subject, facts.nanos, rule.limit_nanos, facts.unpriced, "spent")
        case Threshold(), Budgeted():
            return _threshold(rule, facts)
        case Drift(), Costs():
            return _drift(rule, facts)
        case Falling(), Pair():
            return _falling(rule, facts)
        case Share(), Pair():
            return _share(rule, facts)
        case Stranger(), Strangers():
            return _stranger(rule, facts)
        case Forecast(), Series():
            return _forecast(rule, facts, now)
        case Wrong(), Tightened():
            return _wrong(rule, facts)
    raise TypeError(f"{type(rule).__name__} does not read {type(facts).__name__}")


def together(readings: Sequence[Reading]) -> Reading:
    """One rule's readings of many subjects as one, so that a hundred of them are one incident. ValueError for none.

    The worst stands for all; the level rises as often as the number that is over doubles. Under: only where all are.
    """
    if len({one.rule for one in readings}) != 1:
        raise ValueError("expected readings of one rule, at least one of them")
    over = [one for one in readings if one.state == "over"]
    some = over or [one for one in readings if one.state == "unknown"] or readings
    worst = max(some, key=lambda one: (ratio(one), one.subject))
    level = max(one.level for one in some) + len(over).bit_length() - 1 if over else 0
    why = f"{worst.subject}: {worst.why}" if worst.subject else worst.why
    more = f", the worst of {len(over)}" if len(over) > 1 else ""
    return msgspec.structs.replace(worst, subject="", level=level, why=why + more)


def _spike(rule: Spike, facts: Series, now: Instant) -> Reading:
    if facts.window != rule.window:
        raise TypeError(f"{rule.name} reads {rule.window}s, these are {facts.window}s")
    start, _ = window.bounds(facts.window, facts.zone, now)
    if facts.start != start:
        return _unknown(rule, facts.subject, f"the facts are of another {rule.window}")
    expected, deviation, by = _expected(rule, facts)
    if expected is None:
        if rule.cold_nanos is None:
            return _unknown(rule, facts.subject, by)
        return _money(rule, facts.subject, facts.current, rule.cold_nanos, facts.unpriced, f"{by}; spent")
    limit = max(expected * rule.over // PPM, expected + rule.noise * deviation, rule.least_nanos)
    told = f"{by} is ${usd(expected)}; this {rule.window} so far"
    return _money(rule, facts.subject, facts.current, limit, facts.unpriced, told)


def _expected(rule: Spike, facts: Series) -> tuple[int | None, int, str]:
    """(expected, deviation, by what)."""
    week = baseline.WEEK[rule.window]
    if rule.of == "rolling_7d_mean":
        mean = baseline.rolling(facts.before, week)
        return mean, 0, "the mean of the last 7 days" if mean is not None else "7 days are not known yet"
    found = baseline.usual(facts.before, week)
    if found is not None:
        place = "weekday" if rule.window == "day" else "hour of the week"
        return *found, f"usual for this {place}"
    most = baseline.dearest(facts.before, week)
    by = f"the dearest {rule.window} of the last 7 days" if most is not None else "7 days are not known yet"
    return most, 0, by


def _forecast(rule: Forecast, facts: Series, now: Instant) -> Reading:
    """The month so far, the rest of today by the clock, and each day to come as its weekday usually is."""
    today = window.bounds("day", facts.zone, now)
    end = window.bounds("month", facts.zone, now)[1]
    if facts.window != "day" or facts.start != today[0] or facts.month is None:
        return _unknown(rule, facts.subject, "today's spend and the month's are not known")
    ahead, coming, first = 0, 0, 0
    at = today[0]
    while end is not None and at < end:
        found = baseline.usual(facts.before, 7, ahead)
        day = found[0] if found is not None else baseline.rolling(facts.before, 7)
        if day is None:
            return _unknown(rule, facts.subject, "7 days are not known yet")
        first, coming = (day, coming) if ahead == 0 else (first, coming + day)
        at, ahead = window.bounds("day", facts.zone, at)[1] or end, ahead + 1
    whole = (today[1] or now) - today[0]
    total = facts.month + first * (today[0] + whole - now) // whole + coming
    why = f"${usd(facts.month)} this month so far; by its end"
    return _money(rule, facts.subject, total, rule.limit_nanos, facts.month_unpriced, why)


def _threshold(rule: Threshold, facts: Budgeted) -> Reading:
    if facts.settled is None:
        return _unknown(rule, facts.subject, "the counter is not known")
    used = facts.settled * PPM // facts.limit if facts.limit > 0 else PPM
    steps = sorted(rule.at)
    level = sum(used >= step for step in steps)
    unit: Unit = "rows" if facts.tokens else "nanos"
    held = f", {show(facts.held, unit)} held" if facts.held else ""
    why = f"{show(facts.settled, unit)} of {show(facts.limit, unit)}{' tokens' if facts.tokens else ''} used{held}"
    # "At 80 %" counts as reached, and a reading is over only above its limit.
    return _reading(rule, facts.subject, used, steps[0] - 1, "ppm", why, level)


def _drift(rule: Drift, facts: Costs) -> Reading:
    if facts.nanos is None or facts.nanos_before is None:
        return _unknown(rule, facts.subject, "what the runs cost is not known")
    if min(facts.runs, facts.runs_before) < max(1, rule.least_runs):
        return _unknown(rule, facts.subject, f"{facts.runs} late runs and {facts.runs_before} before are too few")
    mean, earlier = facts.nanos // facts.runs, facts.nanos_before // facts.runs_before
    limit = max(earlier * rule.over // PPM, rule.least_nanos)
    why = f"a run cost ${usd(earlier)} before; now"
    return _money(rule, facts.subject, mean, limit, facts.unpriced, why)


def _falling(rule: Falling, facts: Pair) -> Reading:
    if facts.part is None or facts.whole is None or facts.part_before is None or facts.whole_before is None:
        return _unknown(rule, facts.subject, "the rate is not known")
    if min(facts.whole, facts.whole_before) < max(1, rule.least_rows):
        return _unknown(rule, facts.subject, f"{facts.whole} calls and {facts.whole_before} before are too few")
    earlier = facts.part_before * PPM // facts.whole_before
    rate = facts.part * PPM // facts.whole
    fell = max(0, earlier - rate) * PPM // earlier if earlier else 0
    # A rate that chance alone may have brought down counts as where chance would have let it stand.
    likely = int(wilson_upper(facts.part, facts.whole, _CHANCE) * PPM)
    if fell > rule.by and likely >= earlier:
        fell = rule.by
    why = f"{show(rate, 'ppm')} of {facts.whole} calls after {show(earlier, 'ppm')} before"
    return _reading(rule, facts.subject, fell, rule.by, "ppm", why)


def _share(rule: Share, facts: Pair) -> Reading:
    if facts.part is None or facts.whole is None:
        return _unknown(rule, facts.subject, "the share is not known")
    if facts.whole < max(1, rule.least_rows):
        return _unknown(rule, facts.subject, f"{facts.whole} rows are too few")
    why = f"{facts.part} of {facts.whole} rows are {rule.of}"
    return _reading(rule, facts.subject, facts.part * PPM // facts.whole, rule.over, "ppm", why)


def _stranger(rule: Stranger, facts: Strangers) -> Reading:
    if facts.rows is None:
        return _unknown(rule, facts.subject, "the models are not known")
    why = f'{facts.rows} calls of {facts.subject}, which has no price: give one under [prices."{facts.subject}"]'
    return _reading(rule, facts.subject, facts.rows, rule.least_rows - 1, "rows", why)


def _wrong(rule: Wrong, facts: Tightened) -> Reading:
    why = (
        f"{facts.wrong} of {facts.judged} cached answers that were judged so far were wrong, lately more than promised:"
        " fewer are served now (`bursar cache learned`)"
    )
    return _reading(rule, facts.subject, facts.times, 0, "rows", why, facts.times)


# --- how a reading is put together


def _money(rule: Rule, subject: str, nanos: int | None, limit: int, unpriced: int, told: str) -> Reading:
    if nanos is None:
        return _unknown(rule, subject, "the spend is not known")
    why = f"{told} ${usd(nanos)}, limit ${usd(limit)}"
    if not unpriced:
        return _reading(rule, subject, nanos, limit, "nanos", why)
    why = f"{why}, and {unpriced} of unknown cost beside it"
    if nanos > limit:
        return _reading(rule, subject, nanos, limit, "nanos", why)
    return Reading(rule=rule.name, subject=subject, state="unknown", value=None, limit=limit, why=why)


def _reading(rule: Rule, subject: str, value: int, limit: int, unit: Unit, why: str, level: int = 0) -> Reading:
    return Reading(
        rule=rule.name, subject=subject, state="over" if value > limit else "under", value=value, limit=limit,
        unit=unit, why=why, level=level,
    )  # fmt: skip


def _unknown(rule: Rule, subject: str, why: str) -> Reading:
    return Reading(rule=rule.name, subject=subject, state="unknown", why=why)
