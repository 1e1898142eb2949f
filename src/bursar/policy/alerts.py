"""What an alert watches. Shares are millionths, amounts nano-dollars, times milliseconds.

A rule says when something is too much; how an incident then lives (hysteresis, cooldown, quiet hours) is in Terms.
"""

from typing import Literal, TypeAlias

import msgspec

from bursar.policy.budgets import Match
from bursar.types import PPM

Severity: TypeAlias = Literal["info", "warning", "critical"]
Baseline: TypeAlias = Literal["rolling_7d_mean", "usual"]
"""rolling_7d_mean: the plain mean of the seven days before, weekends and all. usual: what this weekday (or this hour of
the week) came to in the last four weeks, at the level of the last one; before there are four, the dearest of the last
seven days."""

_USD = 1_000_000_000
_MINUTE = 60_000
_HOUR = 60 * _MINUTE


class Spike(msgspec.Struct, frozen=True, kw_only=True, tag="spike"):
    """The spend of the running day or hour above `over` times what is expected of a whole one."""

    name: str
    window: Literal["hour", "day"] = "day"
    over: int = 1_200_000
    of: Baseline = "usual"
    noise: int = 0
    """How many usual deviations of the earlier windows it has to be above what is expected too; for `usual` alone."""
    least_nanos: int = 1 * _USD
    """Below so much it is nobody's incident, whatever the multiple."""
    cold_nanos: int | None = None
    """What a window may cost while there is too little history to expect anything; None: nothing is said then."""


class Cap(msgspec.Struct, frozen=True, kw_only=True, tag="cap"):
    """The spend of one user (session, agent ...) in the running hour or day above a fixed amount."""

    name: str
    limit_nanos: int
    window: Literal["hour", "day"] = "hour"


class Threshold(msgspec.Struct, frozen=True, kw_only=True, tag="threshold"):
    """A budget's counter at or above shares of its limit: one incident a budget, that tells of each share when it is
    reached. Runs and sessions have counters of their own, which may well be used up: they are left out."""

    name: str
    at: tuple[int, ...] = (800_000, 1_000_000)


class Drift(msgspec.Struct, frozen=True, kw_only=True, tag="drift"):
    """The mean cost of the late runs above `over` times that of the runs before."""

    name: str
    over: int = 1_300_000
    least_runs: int = 20
    """On either side."""
    least_nanos: int = 0
    """Mean cost of a late run, below which nothing is said."""


class Falling(msgspec.Struct, frozen=True, kw_only=True, tag="falling"):
    """A rate (cache hits of calls) that has fallen by more than this share of what it was, beyond chance."""

    name: str
    by: int = 300_000
    least_rows: int = 100
    """On either side."""


class Share(msgspec.Struct, frozen=True, kw_only=True, tag="share"):
    """Too large a share of the rows: of unknown price, estimated, failed, escalated."""

    name: str
    of: Literal["unpriced", "estimated", "failed", "escalated"]
    over: int
    least_rows: int = 50


class Stranger(msgspec.Struct, frozen=True, kw_only=True, tag="stranger"):
    """A model that no price is known for has been called."""

    name: str
    least_rows: int = 1


class Forecast(msgspec.Struct, frozen=True, kw_only=True, tag="forecast"):
    """The calendar month, if it goes on as usual, will cost more than this."""

    name: str
    limit_nanos: int


class Wrong(msgspec.Struct, frozen=True, kw_only=True, tag="wrong"):
    """A semantic cache's audits found more wrong answers than it promised: its target stands halved, until it eases."""

    name: str


Rule: TypeAlias = Spike | Cap | Threshold | Drift | Falling | Share | Stranger | Forecast | Wrong


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """Local hours in which only critical messages go out. From a minute of the day to another, over midnight too."""

    start: int = 22 * 60
    end: int = 7 * 60
    days: frozenset[int] = frozenset(range(7))
    """The days on which it begins; Monday is 0."""
    zone: str = "UTC"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How the incidents of a rule live."""

    severity: Severity = "warning"
    explained_by: tuple[str, ...] = ()
    """Alerts that see the same sooner: while one of them is open, and a day after, this one does not open."""
    band: int = 100_000
    """Share of the limit that a value has to come back below it before an incident can end."""
    hold_ms: int = 0
    """So long it has to be over before an incident opens."""
    calm_ms: int = 15 * _MINUTE
    """So long it has to be back below the band before the incident ends."""
    cooldown_ms: int = 6 * _HOUR
    """No second incident of one cause opens within so long of the end of the last."""
    worse: int = 2 * PPM
    """An update is due when the value is this multiple of the last one told, or a higher level is reached."""
    update_ms: int = 60 * _MINUTE
    """The least time between two messages of one incident, its end excepted."""
    remind_ms: int | None = None
    """Tell again of an incident that stays open after so long; None: never."""
    unknown_ms: int = 24 * _HOUR
    """An incident that nothing has been known of for so long ends, and says so."""
    quiet: Quiet | None = None


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """A rule, how its incidents live, what it looks at, and who is told."""

    rule: Rule
    terms: Terms = Terms()
    match: Match = Match()
    by: Literal["user", "session", "agent", "step", "model", "tier", "provider"] | None = None
    """One incident each of these may have; None: one for all together."""
    zone: str = "UTC"
    """Whose hours and days they are."""
    webhooks: tuple[str, ...] = ()
    """URLs of signed webhooks."""
    services: tuple[str, ...] = ()
    """apprise's URLs, with their credentials."""


DEFAULTS: tuple[tuple[Rule, Terms], ...] = (
    (
        Spike(name="spend of the hour", window="hour", over=2_000_000, noise=4, least_nanos=_USD // 4),
        Terms(severity="critical", calm_ms=2 * _HOUR),
    ),
    (
        Spike(name="spend of the day", window="day", noise=4),
        Terms(cooldown_ms=24 * _HOUR, explained_by=("spend of the hour",)),
    ),
    (Threshold(name="budgets"), Terms()),
    (
        Drift(name="cost per run"),
        Terms(cooldown_ms=24 * _HOUR, explained_by=("spend of the hour", "spend of the day")),
    ),
    (Falling(name="cache hit rate"), Terms(cooldown_ms=24 * _HOUR)),
    (Share(name="unpriced calls", of="unpriced", over=10_000), Terms(cooldown_ms=24 * _HOUR)),
    (Share(name="estimated calls", of="estimated", over=200_000), Terms(severity="info", cooldown_ms=24 * _HOUR)),
    (Share(name="failing calls", of="failed", over=100_000), Terms(severity="critical")),
    (Share(name="escalations", of="escalated", over=500_000), Terms(cooldown_ms=24 * _HOUR)),
    (Stranger(name="unknown models"), Terms(cooldown_ms=24 * _HOUR)),
    (Wrong(name="wrong cached answers"), Terms(cooldown_ms=24 * _HOUR)),
)
"""What is watched where nothing is configured: what needs no amount that only its owner can name."""
