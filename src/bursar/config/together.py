"""What no key has wrong for itself: names that nothing has, names that two have, rules that contradict each other.

Reads the configuration as it was written, so that these faults are told beside those of single keys; what has the
wrong shape is passed over here, for its section tells of it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bursar.config import lines
from bursar.config.faults import Fault
from bursar.config.origin import Origin
from bursar.policy import AUTO
from bursar.policy.alerts import DEFAULTS


def faults(origin: Origin, data: dict[str, Any], providers: Sequence[str]) -> list[Fault]:
    """All of them. providers: those that are known without being configured."""
    told = data.get("providers")
    known = sorted({*providers, *(told if isinstance(told, dict) else ())})
    tiers = {name: _strings(listed) for name, listed in _dict(data.get("tiers")).items()}
    steps = [_Step(origin, at, step, tiers, known) for at, step in _tables(data, "steps")]
    return [
        *_strangers(origin, tiers, known),
        *_namesakes(origin, data, "budgets", "budget"),
        *_namesakes(origin, data, "alerts", "alert"),
        *_namesakes(origin, data, "breakers", "breaker"),
        *_no_way_down(origin, data),
        *_unexplained(origin, data),
        *(fault for step in steps for fault in step.faults()),
    ]


def _strangers(origin: Origin, tiers: dict[str, list[str]], known: Sequence[str]) -> Iterator[Fault]:
    for tier, candidates in tiers.items():
        for candidate in candidates:
            if "/" in candidate and _provider(candidate) not in known:
                message = f"{candidate!r:.80} names no configured provider: expected one of {', '.join(known)}"
                yield origin.fault(("tiers", tier), message)


def _namesakes(origin: Origin, data: dict[str, Any], section: str, what: str) -> Iterator[Fault]:
    """Counters, incidents and suspensions go by these names."""
    seen: dict[str, int] = {}
    for at, told in _tables(data, section):
        name = told.get("name")
        if isinstance(name, str) and seen.setdefault(name, at) != at:
            message = f"another {what} has this name ({section}[{seen[name]}])"
            yield origin.fault((section, at, "name"), message)


def _no_way_down(origin: Origin, data: dict[str, Any]) -> Iterator[Fault]:
    for at, budget in _tables(data, "budgets"):
        if budget.get("on_exhausted") == "downgrade" and not data.get("tiers"):
            message = '"downgrade" goes down the tiers, and there are none: add [tiers]'
            yield origin.fault(("budgets", at, "on_exhausted"), message)


def _unexplained(origin: Origin, data: dict[str, Any]) -> Iterator[Fault]:
    """An alert is explained by others that are there."""
    alerts = _tables(data, "alerts")
    own = [told.get("name") for _, told in alerts]
    # Only the word itself turns the defaults on; what else stands there is a fault of its own.
    usual = [rule.name for rule, _ in DEFAULTS] if _dict(data.get("alerting")).get("defaults") in (True, "true") else []
    for at, told in alerts:
        for place, name in enumerate(_strings(told.get("explained_by"))):
            if name == told.get("name") or name not in (*own, *usual):
                message = f"{name!r:.80} is no other alert: expected the name of one under [[alerts]]"
                yield origin.fault(("alerts", at, "explained_by", place), message)


class _Step(NamedTuple):
    """One of [[steps]], beside the tiers (in order, with what they list) and the providers that there are."""

    origin: Origin
    at: int
    told: dict[str, Any]
    tiers: dict[str, list[str]]
    known: Sequence[str]

    def faults(self) -> Iterator[Fault]:
        yield from self._unknown()
        yield from self._order()
        yield from self._bounds()
        yield from self._policy()

    def _fault(self, *path: str | int, message: str) -> Fault:
        return self.origin.fault(("steps", self.at, *path), message)

    def _text(self, key: str) -> str | None:
        told = self.told.get(key)
        return told if isinstance(told, str) else None

    def _cascade(self) -> list[tuple[int, str]]:
        """With their places; what is no tier is told once and then passed over."""
        return [(at, tier) for at, tier in enumerate(_strings(self.told.get("cascade"))) if tier in self.tiers]

    def _judge(self) -> dict[str, Any] | None:
        judge = _dict(self.told.get("validate")).get("judge")
        return judge if isinstance(judge, dict) else None

    def _named(self) -> Iterator[tuple[lines.Path, str]]:
        """Every tier that is named, and where."""
        for key in ("tier", "min_tier", "max_tier"):
            if (tier := self._text(key)) is not None and (key, tier) != ("tier", AUTO):
                yield (key,), tier
        for at, tier in enumerate(_strings(self.told.get("cascade"))):
            yield ("cascade", at), tier
        tier = (self._judge() or {}).get("tier")
        if isinstance(tier, str):
            yield ("validate", "judge", "tier"), tier

    def _unknown(self) -> Iterator[Fault]:
        for path, tier in self._named():
            if tier not in self.tiers:
                known = ", ".join(self.tiers) or "none"
                yield self._fault(*path, message=f"{tier!r:.80} is no tier: [tiers] has {known}")
        if self._text("tier") == AUTO and not self.tiers:
            yield self._fault("tier", message=f'"{AUTO}" chooses among the tiers, and there are none: add [tiers]')
        if (judge := self._judge()) is not None and "tier" not in judge and not self.tiers:
            yield self._fault(
                "validate", "judge", message="a judge is a model of a tier, and there are none: add [tiers]"
            )

    def _order(self) -> Iterator[Fault]:
        """A cascade climbs: each tier once, in the order of [tiers], from the step's own tier on."""
        order, last = list(self.tiers), -1
        climbed: list[str] = []
        for at, tier in self._cascade():
            if tier in climbed:
                yield self._fault("cascade", at, message=f"{tier!r} is there already: a tier is climbed once")
            elif order.index(tier) < last:
                message = f"{tier!r} comes after a dearer tier: expected the order of [tiers], cheapest first"
                yield self._fault("cascade", at, message=message)
            last = order.index(tier)
            climbed.append(tier)
        own = self._text("tier")
        if climbed and own in self.tiers and own not in climbed:
            message = f'{own!r} is not in the cascade: expected one of {", ".join(climbed)}, or "{AUTO}"'
            yield self._fault("tier", message=message)

    def _bounds(self) -> Iterator[Fault]:
        order = list(self.tiers)
        least, most = self._text("min_tier"), self._text("max_tier")
        low = order.index(least) if least in order else 0
        high = order.index(most) if most in order else len(order) - 1
        if order and low > high:
            yield self._fault("min_tier", message=f"{least!r} is above max_tier {most!r}: no tier is left")
            return
        places: list[tuple[lines.Path, str]] = [(("cascade", at), tier) for at, tier in self._cascade()]
        if (tier := self._text("tier")) in self.tiers and tier is not None:
            places.append((("tier",), tier))
        for path, tier in places:
            if not low <= order.index(tier) <= high:
                message = (
                    f"{tier!r} is outside {order[low]} to {order[high]} (min_tier, max_tier): it would never serve"
                )
                yield self._fault(*path, message=message)

    def _policy(self) -> Iterator[Fault]:
        """Every tier that the step may be sent to has a model of a provider that may see it."""
        allowed = _strings(self.told.get("providers"))
        for at, name in enumerate(allowed):
            if name not in self.known:
                message = f"{name!r:.80} is no configured provider: expected one of {', '.join(self.known)}"
                yield self._fault("providers", at, message=message)
        if not allowed:
            return
        open_to = {tier for tier, listed in self.tiers.items() if any(_provider(one) in allowed for one in listed)}
        for path, tier in self._named():
            if path[0] in ("tier", "cascade", "validate") and tier in self.tiers and tier not in open_to:
                message = f"tier {tier!r} has no model of {', '.join(allowed)}, and the step's providers allow no other"
                yield self._fault(*path, message=message)
        if self._text("tier") == AUTO and self.tiers and not open_to:
            yield self._fault("tier", message=f"no tier has a model of {', '.join(allowed)} (the step's providers)")


def _provider(candidate: str) -> str:
    return candidate.partition("/")[0]


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _strings(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _tables(data: dict[str, Any], section: str) -> list[tuple[int, dict[str, Any]]]:
    """The tables of an array, with their places."""
    told = data.get(section)
    return [(at, one) for at, one in enumerate(told if isinstance(told, list) else ()) if isinstance(one, dict)]
