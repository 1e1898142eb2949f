"""Messages by apprise: Slack, mail, PagerDuty and some 170 services more. Needs the extra `alerts`.

Each URL is a target of its own, so that one that fails is tried again without telling the others twice. A URL holds
credentials: only its service's name is ever told. ValueError where apprise does not know it.
"""

import logging
from collections.abc import Sequence

import apprise

from bursar.drivers.notify import Undelivered
from bursar.rules.alarm import wording
from bursar.rules.alarm.incident import Message
from bursar.types import Instant

_KINDS = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}


# It logs the URL of a service that it cannot load, token and all: what went wrong is said without it.
# (A filter: `disabled` is undone by whoever configures logging later.)
logging.getLogger("apprise").addFilter(lambda record: False)


class Service:
    """One service."""

    def __init__(self, url: str) -> None:
        self._apprise = apprise.Apprise()
        if not self._apprise.add(url):
            raise ValueError("apprise does not know this URL: see its list of services for how it is written")
        self.name = f"apprise {self._apprise[0].service_name or 'service'}"
        self.identity = url

    async def post(self, delivery: str, messages: Sequence[Message], at: Instant) -> None:
        """apprise says only that it failed: every failure may be tried again."""
        kind = _KINDS["info"] if all(one.kind == "resolve" for one in messages) else _KINDS[_worst(messages)]
        # It answers false for a service that refused, and raises only where nothing was configured.
        sent = await self._apprise.async_notify(
            body=wording.text(messages), title=wording.title(messages), notify_type=kind
        )
        if not sent:
            raise Undelivered(f"{self.name} did not take it", again=True)


def _worst(messages: Sequence[Message]) -> str:
    return max((one.severity for one in messages), key=list(_KINDS).index)
