"""`bursar init` writes a configuration to start from; `bursar check` finds everything that is wrong with one."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bursar.config import ConfigError, Settings, load, schema
from bursar.doors.cli.shared import Config, Json, Misuse, say, say_json
from bursar.doors.open import make_policy
from bursar.drivers.world import wall_clock
from bursar.policy import AUTO, Candidate, Card, Policy
from bursar.types import Instant, Terms

TEMPLATE = Path(__file__).with_name("template.toml")
_NAME = Path("bursar.toml")


def init(
    *,
    as_json: Json = False,
    config: Annotated[Path, Parameter(name="--config", help="The file to write; one that is there is kept.")] = _NAME,
) -> None:
    """Write a commented bursar.toml."""
    try:
        with config.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise Misuse(f"{config} is there already and is left as it is: name another file by --config") from None
    except OSError as fault:
        raise Misuse(f"{config} cannot be written: {fault.strerror}") from None
    if as_json:
        say_json({"file": str(config)})
    else:
        say(f"{config} is written: every key with its default. `bursar check` tells whether it holds.")


def check(
    *,
    show_schema: Annotated[bool, Parameter(name="--schema", help="Print the file's JSON Schema, for editors.")] = False,
    as_json: Json = False,
    config: Config = None,
) -> int:
    """Validate the configuration: every fault with file, line, key and what was expected; exit code 2."""
    if show_schema:
        say_json(schema())
        return 0
    try:
        settings = load(config)
        policy = make_policy(settings, environ=os.environ)
    except ConfigError as fault:
        if not as_json:
            raise
        say_json({"ok": False, "faults": [found._asdict() for found in fault.faults], "warnings": [], "notes": []})
        return 2
    warnings, notes = [*_dear(policy, wall_clock()), *_unjudged(policy)], _notes(settings)
    if as_json:
        say_json({"ok": True, "faults": [], "warnings": warnings, "notes": notes})
    else:
        place = config or Path(os.environ.get("BURSAR_CONFIG") or _NAME)
        name = str(place) if place.exists() else f"no {place} here: the defaults"
        say(f"{name}: in order ({', '.join(settings.providers)}; store {settings.store.url})")
        for warning in warnings:
            say(f"warning: {warning}")
        for note in notes:
            say(f"note: {note}")
    return 0


def _dear(policy: Policy, now: Instant) -> list[str]:
    """Tiers whose first model is the dearer one, for input and output, of the next tier's first: cheapest first."""
    tiers = list(policy.tiers.items())
    found = []
    for (low, cheaper), (high, dearer) in pairwise(tiers):
        one, other = _rates(policy, cheaper[0], now), _rates(policy, dearer[0], now)
        if one and other and one != other and all(a >= b for a, b in zip(one, other, strict=True)):
            found.append(
                f"tiers.{low}: {cheaper[0].provider}/{cheaper[0].model} costs more than "
                f"{dearer[0].provider}/{dearer[0].model} of the next tier, {high}: tiers stand cheapest first"
            )
    return found


def _rates(policy: Policy, candidate: Candidate, now: Instant) -> tuple[int, int] | None:
    """Nano-dollars per million tokens of input and output; None: not known."""
    card = policy.prices.card(candidate.provider, candidate.model, Terms(), now)
    if not isinstance(card, Card) or "input" not in card.rates or "output" not in card.rates:
        return None
    return card.rates["input"], card.rates["output"]


def _unjudged(policy: Policy) -> list[str]:
    """Steps that climb or learn, and have nobody to say when an answer will not do."""
    found = []
    for at, rule in enumerate(policy.steps):
        if rule.validators:
            continue
        if rule.tier == AUTO and not policy.routing.audit_share:
            found.append(f"steps[{at}]: without validate and with routing.audit_share = 0 nothing is ever learned")
        elif rule.cascade:
            found.append(
                f"steps[{at}]: without validate the cascade is climbed for refused, empty and cut-off answers alone"
            )
    return found


def _notes(settings: Settings) -> list[str]:
    """What is not wrong, and may surprise."""
    notes = [
        f"providers.{name}: {told.api_key_env} is not set here: callers bring their own key"
        for name, told in settings.providers.items()
        if told.api_key_env and not os.environ.get(told.api_key_env)
    ]
    if settings.store.url.startswith("memory:"):
        notes.append("store.url is memory://: the books are gone when the process ends")
    return notes
