"""Sections of the configuration -> parts of the policy, where more than the file is needed: code, files, secrets.

What a step or an alert names outside the file is looked for here: a Python object is imported, a schema's file read, a
variable's value taken. Each that cannot be had is a fault at its own line; `done` raises all of them together.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from bursar.config import ConfigError, EmbedderSection, Fault, SemanticSection, Settings, StepSection, ValidateSection
from bursar.config.lines import Path as Place
from bursar.doors.semantic import judge, local
from bursar.doors.validators import imported, validators
from bursar.drivers.facts import check
from bursar.policy import Alert, Embeds, Endpoint, SemanticCache, StepRule, Validator
from bursar.policy.alerts import DEFAULTS
from bursar.types import PPM

Made = TypeVar("Made")


class Composer:
    """Makes the parts and gathers what is wrong with them; a part with a fault in it is for nobody to use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._faults: list[Fault] = []

    def done(self) -> None:
        """Raises ConfigError where anything was wrong."""
        if self._faults:
            raise ConfigError(sorted(self._faults, key=lambda fault: fault.line or 0))

    def _made(self, place: Place, make: Callable[[], Made]) -> Made | None:
        """What is made; None after a fault."""
        try:
            return make()
        except ConfigError as fault:
            message = "; ".join(one.message for one in fault.faults)
        except (ValueError, TypeError) as fault:
            message = str(fault)
        self._faults.append(self._settings.fault(place, message))
        return None

    # --- steps

    def steps(self) -> tuple[StepRule, ...]:
        """The rules for steps, with their validators and caches."""
        return tuple(self._step(("steps", at), section) for at, section in enumerate(self._settings.steps))

    def _step(self, place: Place, section: StepSection) -> StepRule:
        cache = section.cache
        semantic = None if cache is None else cache.semantic
        return StepRule(
            match=section.match.policy(),
            tier=section.tier,
            cascade=section.cascade or (),
            validators=() if section.checks is None else self._validators((*place, "validate"), section.checks),
            min_tier=section.min_tier,
            max_tier=section.max_tier,
            providers=section.providers or (),
            max_output_tokens=section.max_output_tokens,
            response_cache=None if cache is None else cache.response_cache(),
            prompt_cache=section.prompt_cache,
            semantic_cache=None if semantic is None else self._semantic((*place, "cache", "semantic"), semantic),
        )

    def _validators(self, place: Place, section: ValidateSection) -> tuple[Validator, ...]:
        schema, regex, python = section.json_schema, section.regex, section.python
        ways: dict[str, Callable[[], tuple[Validator, ...]]] = {
            "json_schema": lambda: validators(self._schema(schema) if isinstance(schema, str) else schema),
            "labels": lambda: validators(section.labels),
            "regex": lambda: validators(None if regex is None else re.compile(regex)),
            "python": lambda: () if python is None else validators(imported(python.function), python.min),
        }
        found = [one for key, make in ways.items() for one in self._made((*place, key), make) or ()]
        found += section.paid()
        return validators(found) if found else ()

    def _schema(self, file: str) -> dict[str, Any]:
        """The JSON Schema in a file beside the configuration; ValueError where there is none."""
        path = self._settings.folder / file
        try:
            found = json.loads(path.read_text("utf-8"))
        except OSError as fault:
            raise ValueError(f"{path} cannot be read: {fault.strerror}") from None
        except ValueError as fault:
            raise ValueError(f"{path} is not JSON: {fault}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{path} holds no JSON Schema: expected an object")
        return found

    def _semantic(self, place: Place, section: SemanticSection) -> SemanticCache:
        """An embedder's folder is opened here, and a judge imported, where the configuration names one."""
        named = section.judge
        return SemanticCache(
            ttl_ms=section.ttl,
            threshold=None if section.threshold is None else section.threshold / PPM,
            max_error=None if section.max_error is None else section.max_error / PPM,
            scope=section.scope,
            strict=section.strict,
            mode=section.mode,
            embedder=self._made((*place, "embedder"), lambda: _embedder(section.embedder)),
            judge=None if named is None else self._made((*place, "judge"), lambda: judge(named)),
        )

    # --- alerts

    def alerts(self, environ: Mapping[str, str] | None) -> tuple[Alert, ...]:
        """The alerts that are configured, and the default ones. environ None: nobody is told by a variable's URL."""
        told, own = self._settings.alerting, self._settings.alerts
        usual = told.defaults if told.defaults is not None else not own
        everybody = self._services(("alerting", "notify_env"), told.notify_env, environ)
        found = []
        for at, section in enumerate(own):
            services = self._services(("alerts", at, "notify_env"), section.notify_env, environ)
            named = bool(section.notify or section.notify_env)
            alert = section.policy(*((section.notify, services) if named else (told.notify, everybody)))
            self._made(("alerts", at), partial(check, alert))
            found.append(alert)
        names = {section.name for section in own}
        return (*found, *(
            Alert(rule=rule, terms=terms, webhooks=told.notify, services=everybody)
            for rule, terms in DEFAULTS if usual and rule.name not in names
        ))  # fmt: skip

    def _services(self, place: Place, names: tuple[str, ...], environ: Mapping[str, str] | None) -> tuple[str, ...]:
        """apprise's URLs, as many as each variable holds."""
        if environ is None:
            return ()
        return tuple(
            url
            for at, name in enumerate(names)
            for url in self._made((*place, at), partial(_service_urls, name, environ)) or ()
        )


def _service_urls(name: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """ValueError where there are none that apprise knows; no URL is ever shown."""
    urls = tuple(environ.get(name, "").split())
    if not urls:
        raise ValueError(f"the variable {name} is not set: expected apprise's URL of a service, such as slack://...")
    if find_spec("apprise") is None:
        raise ValueError("services need apprise: pip install 'bursar[alerts]', or name a plain webhook by notify")
    from bursar.drivers.services import Service

    for url in urls:
        try:
            Service(url)
        except ValueError as fault:
            raise ValueError(f"the variable {name}: {fault}") from None
    return urls


def _embedder(section: EmbedderSection) -> Embeds | Endpoint | None:
    if section.kind == "endpoint" and section.model is not None:
        provider, _, model = section.model.partition("/")
        return Endpoint(provider, model, section.dimensions)
    return None if section.path is None else local(Path(section.path))
