"""Who may see the pages: without keys this machine alone; with keys whoever shows the admin key, by header or cookie.

The cookie names the key and an end, under a seal of the deployment's own: nothing is kept on the server, every worker
takes it, and it is worth nothing once its key is revoked. What is wrong with it is the same as having none.
"""

import hashlib
import hmac
from collections.abc import Callable

from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.stores.base import Store
from bursar.types import Headers, Instant

COOKIE = "bursar_session"
SECONDS = 12 * 3600
"""How long one login holds."""


class Gate:
    """Admits to the pages."""

    def __init__(self, store: Store, doorkeeper: Doorkeeper, hash_key: bytes, clock: Callable[[], Instant]) -> None:
        self._store, self._doorkeeper, self._clock = store, doorkeeper, clock
        self._seal_key = hmac.new(hash_key, b"dashboard session", hashlib.sha256).digest()

    @property
    def keyed(self) -> bool:
        return self._doorkeeper.keyed

    def admit(self, headers: Headers, cookie: str | None) -> None:
        """Raises Denied: 401 where the admin key has to be shown, 403 where that would not help."""
        if not (self.keyed and cookie and self._holds(cookie)):
            self._doorkeeper.admit(headers, "admin")

    def near(self, headers: Headers) -> None:
        """Raises Denied for a form that a page of another site sent, and without keys for another machine."""
        if not self.keyed:
            self._doorkeeper.admit(headers, "admin")
        elif dict(headers).get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Denied(403, "a web page of another site sent this: refused")

    def open(self, secret: str) -> str:
        """An admin key's secret -> the cookie's value. Raises Denied."""
        key = self._doorkeeper.admit((("authorization", f"Bearer {secret}"),), "admin")
        return "" if key is None else self._sealed(key.key_id, self._clock() // 1_000_000 + SECONDS)

    def _holds(self, cookie: str) -> bool:
        key_id, _, rest = cookie.partition(".")
        end = rest.partition(".")[0]
        if not (end.isascii() and end.isdecimal() and len(end) < 12):
            return False
        if not hmac.compare_digest(self._sealed(key_id, int(end)).encode(), cookie.encode("utf-8", "replace")):
            return False
        if int(end) * 1_000_000 <= self._clock():
            return False
        return any(
            key.key_id == key_id and key.role == "admin" and key.revoked_at is None for key in self._store.list_keys()
        )

    def _sealed(self, key_id: str, end: int) -> str:
        text = f"{key_id}.{end}"
        seal = hmac.new(self._seal_key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        return f"{text}.{seal}"
