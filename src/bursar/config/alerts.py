"""[[alerts]] and [alerting]: what is too much, how its incidents live, who is told. Defaults are the policy's own."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bursar.config.base import MatchSection, Section
from bursar.config.values import (
    Clock,
    EnvName,
    Lasting,
    Milliseconds,
    Multiple,
    Number,
    Part,
    Portion,
    RuleName,
    Usd,
    Webhook,
    Whole,
    Zone,
)
from bursar.policy import Alert
from bursar.policy.alerts import (
    Baseline,
    Cap,
    Drift,
    Falling,
    Forecast,
    Quiet,
    Rule,
    Severity,
    Share,
    Spike,
    Stranger,
    Terms,
    Threshold,
    Wrong,
)

_SPIKE, _DRIFT, _FALLING = Spike(name=""), Drift(name=""), Falling(name="")
_SHARE, _TERMS, _QUIET = Share(name="", of="unpriced", over=0), Terms(), Quiet()
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_SPIKES_OWN = ("of", "noise", "least_usd", "cold_usd")


class SpendRule(Section):
    """The running window's spend: `over` times what is expected of a whole one, or `over_usd`, a fixed amount.

    Of all together, or of each subject that the alert's `by` tells apart.
    """

    metric: Literal["spend"]
    window: Literal["hour", "day"] = _SPIKE.window
    over: Multiple | None = None
    of: Baseline = _SPIKE.of
    noise: Annotated[Whole, Field(ge=0, le=1_000)] = _SPIKE.noise
    least_usd: Usd = _SPIKE.least_nanos
    cold_usd: Usd | None = _SPIKE.cold_nanos
    over_usd: Usd | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "SpendRule":
        if (self.over is None) == (self.over_usd is None):
            raise ValueError("expected either over, times what is expected, or over_usd, a fixed amount")
        strangers = [name for name in _SPIKES_OWN if name in self.model_fields_set]
        if self.over is None and strangers:
            raise ValueError(f"{strangers[0]} is about what is expected: expected over with it, not over_usd")
        if self.noise and self.of != "usual":
            raise ValueError('noise is how much the usual varies: expected of = "usual" with it')
        return self

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        if self.over is None:
            return Cap(name=name, limit_nanos=self.over_usd or 0, window=self.window)
        return Spike(
            name=name, window=self.window, over=self.over, of=self.of, noise=self.noise, least_nanos=self.least_usd,
            cold_nanos=self.cold_usd,
        )  # fmt: skip


class BudgetRule(Section):
    """Every budget's counter, at shares of its limit."""

    metric: Literal["budget"]
    at: Annotated[tuple[Multiple, ...], Field(min_length=1)] = Threshold(name="").at

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Threshold(name=name, at=tuple(sorted(set(self.at))))


class DriftRule(Section):
    """The mean cost of the late runs above `over` times that of the runs before."""

    metric: Literal["cost_per_run"]
    over: Multiple = _DRIFT.over
    least_runs: Number = _DRIFT.least_runs
    least_usd: Usd = _DRIFT.least_nanos

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Drift(name=name, over=self.over, least_runs=self.least_runs, least_nanos=self.least_usd)


class FallingRule(Section):
    """The share of calls that a cache answered has fallen by more than this share of what it was."""

    metric: Literal["hit_rate"]
    falls_by: Portion = _FALLING.by
    least_rows: Number = _FALLING.least_rows

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Falling(name=name, by=self.falls_by, least_rows=self.least_rows)


class ShareRule(Section):
    """Too large a share of the rows: of unknown price, estimated, failed, escalated."""

    metric: Literal["unpriced", "estimated", "failed", "escalated"]
    over: Part
    least_rows: Number = _SHARE.least_rows

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Share(name=name, of=self.metric, over=self.over, least_rows=self.least_rows)


class StrangerRule(Section):
    """So many calls of a model that no price is known for."""

    metric: Literal["unknown_model"]
    least_rows: Number = Stranger(name="").least_rows

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Stranger(name=name, least_rows=self.least_rows)


class ForecastRule(Section):
    """The calendar month, if it goes on as usual, will cost more than this."""

    metric: Literal["month_forecast"]
    over_usd: Usd

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Forecast(name=name, limit_nanos=self.over_usd)


class WrongRule(Section):
    """The audits of a semantic cache found more wrong answers than it promised."""

    metric: Literal["wrong_hits"]

    def policy(self, name: str) -> Rule:
        """As the policy has it."""
        return Wrong(name=name)


AlertRule: TypeAlias = Annotated[
    SpendRule | BudgetRule | DriftRule | FallingRule | ShareRule | StrangerRule | ForecastRule | WrongRule,
    Field(discriminator="metric"),
]
Day: TypeAlias = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


class QuietSection(Section):
    """Hours in which only critical messages go out: from start to end, over midnight too, where `days` begin."""

    start: Clock = _QUIET.start
    end: Clock = _QUIET.end
    days: Annotated[tuple[Day, ...], Field(min_length=1)] = _DAYS  # type: ignore[assignment]
    timezone: Zone | None = None

    def policy(self, zone: str) -> Quiet:
        """As the policy has it; by the alert's own time zone where it names none."""
        days = frozenset(map(_DAYS.index, self.days))
        return Quiet(start=self.start, end=self.end, days=days, zone=self.timezone or zone)


class AlertSection(Section):
    """A rule, how its incidents live, what it looks at, and who is told; nobody named: whom [alerting] names."""

    name: RuleName
    rule: AlertRule
    match: MatchSection = MatchSection()
    by: Literal["user", "session", "agent", "step", "model", "tier", "provider"] | None = None
    timezone: Zone = "UTC"
    severity: Severity = _TERMS.severity
    quiet: QuietSection | None = None
    hold: Milliseconds = _TERMS.hold_ms
    calm: Milliseconds = _TERMS.calm_ms
    cooldown: Milliseconds = _TERMS.cooldown_ms
    band: Part = _TERMS.band
    worse: Multiple = _TERMS.worse
    update: Milliseconds = _TERMS.update_ms
    remind: Lasting | None = _TERMS.remind_ms
    unknown: Lasting = _TERMS.unknown_ms
    explained_by: tuple[RuleName, ...] = ()
    notify: tuple[Webhook, ...] = ()
    notify_env: tuple[EnvName, ...] = ()

    @field_validator("match", "by")
    @classmethod
    def _tells_them_apart(cls, value: object, info: ValidationInfo) -> object:
        rule = info.data.get("rule")
        if isinstance(rule, BudgetRule) and value not in (None, MatchSection()):
            raise ValueError("is not for budgets: each budget has a match and a scope of its own")
        if isinstance(rule, StrangerRule) and info.field_name == "by" and value is not None:
            raise ValueError("is not for unknown_model: each model is told by itself")
        return value

    def policy(self, webhooks: tuple[str, ...], services: tuple[str, ...]) -> Alert:
        """As the policy has it, with whom it tells."""
        return Alert(
            rule=self.rule.policy(self.name), terms=self._terms(), match=self.match.policy(), by=self.by,
            zone=self.timezone, webhooks=webhooks, services=services,
        )  # fmt: skip

    def _terms(self) -> Terms:
        return Terms(
            severity=self.severity, explained_by=self.explained_by, band=self.band, hold_ms=self.hold,
            calm_ms=self.calm, cooldown_ms=self.cooldown, worse=self.worse, update_ms=self.update,
            remind_ms=self.remind, unknown_ms=self.unknown,
            quiet=None if self.quiet is None else self.quiet.policy(self.timezone),
        )  # fmt: skip


class AlertingSection(Section):
    """The alerts that are there by themselves, and who is told of those that name nobody.

    defaults absent: they hold where there is no [[alerts]]; an alert with the name of a default takes its place.
    """

    defaults: bool | None = None
    notify: tuple[Webhook, ...] = ()
    notify_env: tuple[EnvName, ...] = ()
