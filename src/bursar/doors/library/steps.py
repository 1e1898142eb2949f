"""What the code says of a step, beside the [[steps]] of the configuration: tiers, validators, limits.

What the code sets takes the place of that field in the first rule that matches the call; the rest of that rule stays.
What cannot be meant raises where it is said, never in the middle of a call: ValueError for names and orders that are
wrong, TypeError for what validates nothing.
"""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import msgspec

from bursar.doors.validators import validators
from bursar.policy import AUTO, Match, Policy, StepRule
from bursar.rules.budget import rule_of
from bursar.types import Call

_MOST = 1024


class Said(TypedDict, total=False):
    """What code may say of a step; what is left out, or None, is as the configuration has it."""

    tier: str | None
    """A tier's name, or "auto" (learned). Absent there too: the caller's model is kept."""
    cascade: Sequence[str] | None
    """Tiers to climb while an answer fails its check, cheapest first."""
    validate: object
    """A pydantic model, a JSON Schema, labels, a compiled pattern, a function, or several of them in a list."""
    min_tier: str | None
    max_tier: str | None
    max_output_tokens: int | None


@dataclass(frozen=True, eq=False, slots=True)
class Own:
    """The fields of a StepRule that the code has set. Each is one of a kind: it is known by identity."""

    policy: Policy
    """Whose tiers they name: under another guard's policy they say nothing."""
    fields: dict[str, Any]


class Steps:
    """Joins what the code says of its steps with one policy. Thread-safe."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.tiers = tuple(policy.tiers)
        self._made = functools.lru_cache(_MOST)(functools.partial(_own, policy))
        self._joined: dict[tuple[Own, int], Policy] = {}
        bare = (msgspec.structs.replace(rule, tier=None, cascade=(), validators=()) for rule in policy.steps)
        self.unjudged = msgspec.structs.replace(policy, steps=tuple(bare))
        """For what a validator itself asks: by the model that it names, and not judged in its turn."""

    def own(
        self,
        *,
        tier: str | None = None,
        cascade: Sequence[str] | None = None,
        validate: object = None,
        min_tier: str | None = None,
        max_tier: str | None = None,
        max_output_tokens: int | None = None,
    ) -> Own | None:
        """What was said, checked; None where it is nothing. Said again it is the same, if it can be told to be."""
        if isinstance(cascade, str):
            raise ValueError(f"cascade = {cascade!r:.80}: expected a list of tiers, cheapest first")
        if isinstance(validate, list):
            validate = tuple(validate)
        said = {
            "tier": tier,
            "cascade": None if cascade is None else tuple(cascade),
            "validate": validate,
            "min_tier": min_tier,
            "max_tier": max_tier,
            "max_output_tokens": max_output_tokens,
        }
        told: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if not told:
            return None
        try:
            hash(validate)
        except TypeError:
            written = _written(validate)
            if written is None:
                return _own(self._policy, **told)
            told["validate"] = written
        return self._made(**told)

    def policy(self, call: Call, own: Own | None) -> Policy:
        """The policy of a call in such a step: its rule before all others."""
        if own is None or own.policy is not self._policy:
            return self._policy
        base = rule_of(call, self._policy)
        place = (own, id(base))  # the policy keeps its rules
        found = self._joined.get(place)
        if found is None:
            rule = msgspec.structs.replace(base or StepRule(), match=Match(), **own.fields)
            found = msgspec.structs.replace(self._policy, steps=(rule, *self._policy.steps))
            if len(self._joined) >= _MOST:
                self._joined.clear()
            self._joined[place] = found
        return found


class _Written(NamedTuple):
    """A schema, or labels, as JSON: equal ones are checked and compiled once, whatever becomes of the caller's own."""

    text: str


def _written(validate: object) -> _Written | None:
    """None: there is more in it than JSON."""
    try:
        return _Written(json.dumps(validate, sort_keys=True))
    except (TypeError, ValueError, RecursionError):
        return None


def _own(policy: Policy, *, validate: object = None, **fields: Any) -> Own:
    _check(list(policy.tiers), fields)
    if isinstance(validate, _Written):
        validate = json.loads(validate.text)
    if validate is not None:
        fields["validators"] = validators(validate)
        _judges(policy, fields["validators"])
    return Own(policy, fields)


def _check(order: Sequence[str], fields: dict[str, Any]) -> None:
    """ValueError for a tier that there is not, a cascade out of order, bounds that leave nothing, no limit at all."""
    cascade: tuple[str, ...] = fields.get("cascade", ())
    named = {key: fields[key] for key in ("tier", "min_tier", "max_tier") if key in fields}
    if named.get("tier") == AUTO:
        if not order:
            raise ValueError(f'tier = "{AUTO}" chooses among the tiers, and there are none: add [tiers]')
        del named["tier"]
    for key, tier in (*named.items(), *(("cascade", tier) for tier in cascade)):
        if tier not in order:
            raise ValueError(f"{key}: {tier!r:.80} is no tier: [tiers] has {', '.join(order) or 'none'}")
    if "cascade" in fields and len(cascade) < 2:
        raise ValueError(f"cascade = {list(cascade)!r:.80}: expected two tiers or more; for one say tier=")
    places = [order.index(tier) for tier in cascade]
    if any(high <= low for low, high in itertools.pairwise(places)):
        sort = ", ".join(sorted(set(cascade), key=order.index))
        raise ValueError(
            f"cascade: {', '.join(cascade)} does not climb: expected each tier once, in the order of [tiers]: {sort}"
        )
    if cascade and (tier := named.get("tier")) is not None and tier not in cascade:
        raise ValueError(f'tier = {tier!r} is not in the cascade: expected one of {", ".join(cascade)}, or "{AUTO}"')
    low, high = named.get("min_tier"), named.get("max_tier")
    if low is not None and high is not None and order.index(low) > order.index(high):
        raise ValueError(f"min_tier = {low!r} is above max_tier = {high!r}: no tier is left")
    limit = fields.get("max_output_tokens", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(f"max_output_tokens = {limit!r:.80}: expected a whole number of 1 or more")


def _judges(policy: Policy, found: Sequence[object]) -> None:
    """A judge is a model of a tier."""
    for one in found:
        tier = getattr(one, "tier", None)
        if tier is not None and tier not in policy.tiers:
            raise ValueError(f"validate: {tier!r:.80} is no tier: [tiers] has {', '.join(policy.tiers) or 'none'}")
        if hasattr(one, "tier") and not policy.tiers:
            raise ValueError("validate: a judge is a model of a tier, and there are none: add [tiers]")
