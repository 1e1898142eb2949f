"""Who may see the pages: without keys this machine alone; with keys whoever shows the admin key, by header or cookie.

The cookie names the key and an end, under a seal of the deployment's own: nothing is kept on the server, every worker
takes it, and it is worth nothing once its key is revoked. What is wrong with it is the same as having none. A form that
changes something carries a token under the same seal, made for whoever was shown the form: no page of another site, and
nobody else's cookie, can send it.
"""

import hashlib
import hmac
from collections.abc import Callable

from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.stores.base import Key, Store
from bursar.types import Headers, Instant

COOKIE = "bursar_session"
SECONDS = 12 * 3600
"""How long one login holds."""
_LOGIN, _FORM = "login", "form"
"""What a seal is for: none is good for the other's."""


class Gate:
    """Admits to the pages."""

    def __init__(self, store: Store, doorkeeper: Doorkeeper, hash_key: bytes, clock: Callable[[], Instant]) -> None:
        self._store, self._doorkeeper, self._clock = store, doorkeeper, clock
        self._seal_key = hmac.new(hash_key, b"dashboard session", hashlib.sha256).digest()

    @property
    def keyed(self) -> bool:
        return self._doorkeeper.keyed

    def admit(self, headers: Headers, cookie: str | None) -> Key | None:
        """Who it is; None on this machine without keys. Raises Denied: 401 where the admin key has to be shown, 403
        where that would not help."""
        held = self._holder(cookie) if self.keyed and cookie else None
        return held or self._doorkeeper.admit(headers, "admin")

    def token(self, key: Key | None) -> str:
        """What a form that this one is shown has to carry; good for as long as a login."""
        return self._sealed(_who(key), self._end(), _FORM)

    def admit_form(self, headers: Headers, cookie: str | None, token: str) -> Key | None:
        """Who sent a form that changes something. Raises Denied, 403 where it is not one that he was shown."""
        self.near(headers)
        key = self.admit(headers, cookie)
        if self._signed(token, _FORM) != _who(key):
            raise Denied(403, "this form was not made for you, or is too old: reload the page and send it again")
        return key

    def near(self, headers: Headers) -> None:
        """Raises Denied for a form that a page of another site sent, and without keys for another machine."""
        if not self.keyed:
            self._doorkeeper.admit(headers, "admin")
        elif dict(headers).get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise Denied(403, "a web page of another site sent this: refused")

    def open(self, secret: str) -> str:
        """An admin key's secret -> the cookie's value. Raises Denied."""
        key = self._doorkeeper.admit((("authorization", f"Bearer {secret}"),), "admin")
        return "" if key is None else self._sealed(key.key_id, self._end(), _LOGIN)

    def _end(self) -> int:
        return self._clock() // 1_000_000 + SECONDS

    def _holder(self, cookie: str) -> Key | None:
        key_id = self._signed(cookie, _LOGIN)
        keys = () if key_id is None else self._store.list_keys()
        return next((k for k in keys if k.key_id == key_id and k.role == "admin" and k.revoked_at is None), None)

    def _signed(self, value: str, use: str) -> str | None:
        """Whom our seal names; None: it is not ours, of another use, or has ended."""
        who, _, rest = value.partition(".")
        end = rest.partition(".")[0]
        if not (end.isascii() and end.isdecimal() and len(end) < 12):
            return None
        if not hmac.compare_digest(self._sealed(who, int(end), use).encode(), value.encode("utf-8", "replace")):
            return None
        return who if int(end) * 1_000_000 > self._clock() else None

    def _sealed(self, who: str, end: int, use: str) -> str:
        text = f"{who}.{end}"
        seal = hmac.new(self._seal_key, f"{use} {text}".encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        return f"{text}.{seal}"


def _who(key: Key | None) -> str:
    return "" if key is None else key.key_id
