"""Labels of metrics, bounded: the first so many values of a label keep their names, all others are "(other)".

Callers choose agents, steps and models, and a metric has a series for each value for as long as its process lives.
Users, sessions and runs are never labels.
"""

import threading

NONE, OTHER = "(none)", "(other)"
LONGEST = 120
"""Characters of a value."""


class Bounded:
    """Rows of labels, each label with at most `values` values and all together at most `rows` rows. Thread-safe."""

    def __init__(self, values: int = 100, rows: int = 2_000) -> None:
        self._values, self._rows = values, rows
        self._seen: dict[int, set[str]] = {}
        self._known: dict[tuple[str | None, ...], tuple[str, ...]] = {}
        self._kept: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def __call__(self, labels: tuple[str | None, ...]) -> tuple[str, ...]:
        """The labels to count under; None is "(none)"."""
        found = self._known.get(labels)
        if found is not None:
            return found
        with self._lock:
            told = tuple(self._one(place, label) for place, label in enumerate(labels))
            if told not in self._kept:
                if len(self._kept) >= self._rows:
                    return (OTHER,) * len(labels)
                self._kept.add(told)
            if len(self._known) < self._rows:
                self._known[labels] = told
            return told

    def _one(self, place: int, label: str | None) -> str:
        if label is None:
            return NONE
        seen, value = self._seen.setdefault(place, set()), label[:LONGEST]
        if value not in seen:
            if len(seen) >= self._values:
                return OTHER
            seen.add(value)
        return value
