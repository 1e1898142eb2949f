"""What the outside hears of every closed row: spans and metrics by OTLP, Prometheus counters, lines in a log.

Listeners hear a row once it has been handed to the ledger, whatever came of it. None of them is told what a caller
wrote, what a model answered or what an error quotes of them, and none can harm a call: a listener that fails is logged,
once a minute.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from bursar.types import Entry

Listener: TypeAlias = Callable[[Entry], None]

_LOG_EVERY_SECONDS = 60.0
_log = logging.getLogger("bursar.telemetry")


class Listeners:
    """Several listeners as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)
        self._logged = -_LOG_EVERY_SECONDS

    def __call__(self, entry: Entry) -> None:
        for listener in self._listeners:
            try:
                listener(entry)
            except Exception as fault:
                self._failed(fault)

    def _failed(self, fault: Exception) -> None:
        now = time.monotonic()
        if now - self._logged >= _LOG_EVERY_SECONDS:
            self._logged = now
            _log.warning("telemetry of a closed row failed and is lost: %s", type(fault).__name__)
