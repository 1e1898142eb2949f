"""What the suspended caller is told: why, since when and until when. Pure."""

from collections.abc import Sequence

import msgspec

from bursar.policy.breakers import Breaker, Ceiling
from bursar.rules.alarm.wording import iso
from bursar.rules.breaker import life
from bursar.rules.breaker import watch as watching
from bursar.rules.breaker.life import CLOSED, PREFIX, State
from bursar.rules.grant import whose
from bursar.types import Claim, Instant, Refused, Standing

SUSPEND_TEXT = (
    "I have to stop here: this {scope} is suspended by the breaker {breaker} ({why}), {until}. "
    "What was found so far stands above; it is not complete."
)
"""May name {breaker}, {scope}, {why}, {since}, {until}."""


def facts(state: State, rule: Breaker) -> tuple[tuple[str, str], ...]:
    """What a template may name, as text."""
    until = "until it is reset" if state.until is None else f"until {iso(state.until)}"
    since = "now" if state.since is None else iso(state.since)
    return ("breaker", rule.name), ("scope", rule.scope), ("why", state.why), ("since", since), ("until", until)


def suspended(state: State, rule: Breaker, subject: str, retry_after_ms: int | None) -> Refused:
    """The refusal of a breaker that is open, or waits for its probe."""
    told = dict(facts(state, rule))
    whom = rule.scope if rule.scope in ("global", "tenant") else f"{rule.scope} {subject}"
    return Refused(
        f"the breaker {rule.name!r} suspends {whom}: {state.why}; since {told['since']}, {told['until']}: see "
        "`bursar breakers`",
        kind="suspended",
        budget=PREFIX + rule.name,
        on_exhausted=rule.answer,
        retry_after_ms=retry_after_ms,
        standing=Standing(PREFIX + rule.name, rule.scope, "suspended"),
        facts=(*told.items(), ("budget", rule.name)),
    )


def reached(refused: Refused, breakers: Sequence[Breaker], at: Instant) -> Refused:
    """The refusal of a ceiling's claim, as its breaker says it, which opens for that; any other one as it is.

    A run's counters are claimed on their last terms too: of a name that is no ceiling any more this is no word.
    """
    rule = named(refused, breakers)
    if rule is None or refused.kind != "exhausted" or not isinstance(rule.trigger, Ceiling):
        return refused
    if rule.scope in ("tenant", "global") and _has_room(refused, rule.trigger):
        return refused  # one large call of one caller is no reason to suspend all of them
    opened = life.refused(CLOSED, at, rule)
    own = facts(opened, rule)
    rest = tuple(one for one in refused.facts if one[0] in ("limit", "spent", "resets"))
    standing = refused.standing or Standing(PREFIX + rule.name, rule.scope)
    return msgspec.structs.replace(
        refused,
        reason=_reached(rule, dict(refused.facts).get("scope", rule.scope)),
        kind="suspended",
        retry_after_ms=rule.suspend_ms,
        standing=msgspec.structs.replace(standing, state="suspended"),
        facts=(*own, ("budget", rule.name), *rest),
    )


def _has_room(refused: Refused, trigger: Ceiling) -> bool:
    """More than a tenth of the ceiling is left: it was this call that was too large for it."""
    standing = refused.standing
    left = None if standing is None or standing.budget != refused.budget else standing.remaining_nanos
    return left is not None and left * 10 > trigger.over_nanos


def says_reached(error: str | None, rule: Breaker, claim: Claim) -> bool:
    """A refused row says that this very ceiling has refused it: in the words of `reached`."""
    return error == _reached(rule, whose(claim))


def _reached(rule: Breaker, whom: str) -> str:
    trigger = rule.trigger
    why = watching.ceiling(trigger) if isinstance(trigger, Ceiling) else ""
    return f"the breaker {rule.name!r} suspends {whom}: {why}: see `bursar breakers`"


def named(refused: Refused, breakers: Sequence[Breaker]) -> Breaker | None:
    """The breaker that has refused, by itself or by its claim."""
    name = (refused.budget or "").removeprefix(PREFIX)
    if name == refused.budget:
        return None
    return next((rule for rule in breakers if rule.name == name), None)
