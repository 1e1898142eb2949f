"""What is known of each step's prompts, for the provider's prompt cache: learned in memory, from the ledger at first.

Any thread. A row that is settled is noted at once and worked in later, at the latest before the next question, so that
no answer waits for it. Steps that have not been asked for longest are forgotten, and read again if they come back. A
ledger that cannot be read is a step without history, never a call that fails.
"""

import logging
import threading
from collections import OrderedDict, deque
from typing import TypeAlias

from bursar.rules.prompt import marking
from bursar.rules.prompt.habits import Habits, observe
from bursar.rules.prompt.marking import Ground
from bursar.stores.base import Store, StoreFailure
from bursar.types import Call, Entry, Plan
from bursar.wire import marks

Site: TypeAlias = tuple[str, tuple[str | None, str | None] | None]
"""A tenant, and agent and step; None: all of its steps together."""

_SITES = 256
_ROWS = 500
"""So many recent rows are read of a site."""

_log = logging.getLogger(__name__)


class Prompts:
    """The habits of the steps in use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock, self._reading = threading.Lock(), threading.Lock()
        self._sites: OrderedDict[Site, Habits] = OrderedDict()
        self._heard: deque[tuple[Entry, Plan]] = deque()

    def known(self, call: Call, entry: Entry) -> Ground | None:
        """The ground of a decision, without waiting; None: the ledger has to be read first."""
        own, wide = _sites(entry)
        with self._lock:
            self._catch_up()
            if own not in self._sites or wide not in self._sites:
                return None
            self._sites.move_to_end(own)
            self._sites.move_to_end(wide)
            step, tenant = self._sites[own], self._sites[wide]
        return Ground(step, tenant, marks.spots(call.api, call.body))

    def look(self, call: Call, entry: Entry) -> Ground:
        """The same; reads the ledger where it has to, once for all who ask."""
        while (ground := self.known(call, entry)) is None:
            with self._reading:
                for site in _sites(entry):
                    if site not in self._sites:
                        self._put(site, self._read(site))
        return ground

    def note(self, entry: Entry, plan: Plan) -> None:
        """A row that is settled."""
        if marking.teaches(entry):
            self._heard.append((entry, plan))

    def catch_up(self) -> None:
        """Work in what was noted."""
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        while self._heard:
            entry, plan = self._heard.popleft()
            row = marking.row(entry, plan)
            for site in _sites(entry):
                if site in self._sites:
                    self._sites[site] = observe(self._sites[site], row)

    def _put(self, site: Site, habits: Habits) -> None:
        with self._lock:
            self._sites[site] = habits
            while len(self._sites) > _SITES:
                self._sites.popitem(last=False)

    def _read(self, site: Site) -> Habits:
        habits = Habits()
        try:
            rows = self._store.recent(*site, _ROWS)
        except StoreFailure as fault:
            _log.warning("the habits of %s begin anew: %s", site, fault)
            return habits
        for entry in reversed(rows):
            if marking.teaches(entry):
                habits = observe(habits, marking.row(entry))
        return habits


def _sites(entry: Entry) -> tuple[Site, Site]:
    return (entry.tenant, (entry.agent_id, entry.step)), (entry.tenant, None)
