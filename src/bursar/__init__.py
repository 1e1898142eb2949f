"""Cost control of production AI agents: every LLM call seen, priced and booked.

    guard = bursar.open()
    client = guard.wrap(OpenAI())

The names below come when they are first asked for, so that `import bursar` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.config import ConfigError
    from bursar.doors.library.budget import Budget, Finishing, Remaining
    from bursar.doors.library.cascade import Cascaded
    from bursar.doors.library.context import Run, Step
    from bursar.doors.library.guard import Guard
    from bursar.doors.library.opening import open
    from bursar.policy import Router
    from bursar.stores.base import StoreFailure
    from bursar.types import Answer, Judgement

__all__ = [
    "Answer", "Budget", "Cascaded", "ConfigError", "Finishing", "Guard", "Judgement", "Remaining", "Router", "Run",
    "Step", "StoreFailure", "open",
]  # fmt: skip

_HOMES = {
    "Answer": "bursar.types",
    "Budget": "bursar.doors.library.budget",
    "Cascaded": "bursar.doors.library.cascade",
    "ConfigError": "bursar.config",
    "Finishing": "bursar.doors.library.budget",
    "Guard": "bursar.doors.library.guard",
    "Judgement": "bursar.types",
    "Remaining": "bursar.doors.library.budget",
    "Router": "bursar.policy",
    "Run": "bursar.doors.library.context",
    "Step": "bursar.doors.library.context",
    "StoreFailure": "bursar.stores.base",
    "open": "bursar.doors.library.opening",
    "testing": "bursar",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'bursar' has no attribute {name!r}")
    found = import_module(f"bursar.{name}") if home == "bursar" else getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
