"""[[breakers]]: what suspends a session, a user, an agent or a run, and for how long. Defaults are the policy's own."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from bursar.config.base import MatchSection, Section
from bursar.config.values import Lasting, Multiple, RuleName, Suspension, Text, Usd, Whole, Zone
from bursar.policy import Breaker
from bursar.policy.breakers import Ceiling, Errors, FanOut, Growth, Loop, Trigger, Velocity
from bursar.types import Scope, Window

_CEILING, _VELOCITY, _LOOP = Ceiling(over_nanos=0), Velocity(over_nanos=0), Loop()
_GROWTH, _FAN_OUT, _ERRORS = Growth(), FanOut(), Errors()


def _alike(value: object) -> int | None:
    if value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 2 <= value <= 1_000:
        raise ValueError(f"expected a number of turns from 2 to 1000, or false, got {value!s:.40}")
    return value


Alike = Annotated[int | None, BeforeValidator(_alike, json_schema_input_type=int | Literal[False])]


class CeilingSection(Section):
    """So much in a window: hard, claimed by every call as a budget is."""

    metric: Literal["spend"]
    over_usd: Usd
    window: Window = _CEILING.window
    timezone: Zone = _CEILING.zone

    def policy(self) -> Trigger:
        """As the policy has it."""
        return Ceiling(over_nanos=self.over_usd, window=self.window, zone=self.timezone)


class VelocitySection(Section):
    """More dollars a minute than this over some minutes, and than a multiple of the mean of the hour before."""

    metric: Literal["velocity"]
    over_usd: Usd
    minutes: Annotated[Whole, Field(ge=1, le=60)] = _VELOCITY.minutes
    times: Multiple | None = _VELOCITY.times

    def policy(self) -> Trigger:
        """As the policy has it."""
        return Velocity(over_nanos=self.over_usd, minutes=self.minutes, times=self.times)


class LoopSection(Section):
    """The same turn again and again. alike: of turns that differ in little; false: that is not looked at."""

    metric: Literal["loop"]
    repeats: Annotated[Whole, Field(ge=2, le=1_000)] = _LOOP.repeats
    alike: Alike = _LOOP.alike
    within: Lasting = _LOOP.within_ms

    def policy(self) -> Trigger:
        """As the policy has it."""
        return Loop(repeats=self.repeats, alike=self.alike, within_ms=self.within)


class GrowthSection(Section):
    """A context that every turn makes longer: so many turns in a row, times the first's tokens, tokens."""

    metric: Literal["growth"]
    turns: Annotated[Whole, Field(ge=2, le=10_000)] = _GROWTH.turns
    times: Annotated[Whole, Field(ge=1, le=1_000)] = _GROWTH.times
    tokens: Annotated[Whole, Field(ge=0, le=10**9)] = _GROWTH.tokens
    within: Lasting = _GROWTH.within_ms

    def policy(self) -> Trigger:
        """As the policy has it."""
        return Growth(turns=self.turns, times=self.times, tokens=self.tokens, within_ms=self.within)


class FanOutSection(Section):
    """More sub-agent runs than this at work within so long."""

    metric: Literal["fan_out"]
    over_runs: Annotated[Whole, Field(ge=1, le=10_000)] = _FAN_OUT.over_runs
    within: Lasting = _FAN_OUT.within_ms

    def policy(self) -> Trigger:
        """As the policy has it."""
        return FanOut(over_runs=self.over_runs, within_ms=self.within)


class ErrorsSection(Section):
    """So many failures of so many late attempts."""

    metric: Literal["errors"]
    failures: Annotated[Whole, Field(ge=1, le=1_000)] = _ERRORS.failures
    of: Annotated[Whole, Field(ge=1, le=1_000)] = _ERRORS.of
    within: Lasting = _ERRORS.within_ms

    @model_validator(mode="after")
    def _can_trip(self) -> "ErrorsSection":
        if self.failures > self.of:
            raise ValueError(f"never trips: {self.failures} failures of {self.of} attempts; expected failures <= of")
        return self

    def policy(self) -> Trigger:
        """As the policy has it."""
        return Errors(failures=self.failures, of=self.of, within_ms=self.within)


BreakerRule: TypeAlias = Annotated[
    CeilingSection | VelocitySection | LoopSection | GrowthSection | FanOutSection | ErrorsSection,
    Field(discriminator="metric"),
]


class BreakerSection(Section):
    """Who is suspended, at what, and until when: "reset" (until somebody resets it), or a duration, then one probe."""

    name: RuleName
    scope: Scope
    match: MatchSection = MatchSection()
    rule: BreakerRule
    suspend: Suspension = None
    probe: Lasting = Breaker(name="", scope="run", trigger=_LOOP).probe_ms
    text: Text | None = None
    answer: Literal["finish", "refuse"] = "finish"

    @field_validator("rule")
    @classmethod
    def _a_run_has_one_life(cls, rule: BreakerRule, info: ValidationInfo) -> BreakerRule:
        if isinstance(rule, CeilingSection) and rule.window != "lifetime" and info.data.get("scope") == "run":
            raise ValueError('expected window = "lifetime": a run is not counted anew by the clock')
        return rule

    @field_validator("suspend")
    @classmethod
    def _what_never_ends_stays_shut(cls, suspend: int | None, info: ValidationInfo) -> int | None:
        rule = info.data.get("rule")
        if suspend is not None and isinstance(rule, CeilingSection) and rule.window == "lifetime":
            raise ValueError('expected "reset": what was spent in a lifetime does not become less by waiting')
        return suspend

    def policy(self) -> Breaker:
        """As the policy has it."""
        return Breaker(
            name=self.name, scope=self.scope, trigger=self.rule.policy(), match=self.match.policy(),
            suspend_ms=self.suspend, probe_ms=self.probe, text=self.text, answer=self.answer,
        )  # fmt: skip
