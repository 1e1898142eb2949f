"""Who may come in. Without keys: this machine alone, and no web page. With keys: each request shows one.

A browser page on the same machine could spend money or read the ledger; it cannot forge `Host`, `Origin` or
`Sec-Fetch-Site`, so a foreign one of these is refused (contract.md section 3). Keys are looked up by their hash and
remembered for a few seconds, so that a revoked key stops within them.
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Callable
from typing import Protocol

from bursar.stores.base import Key
from bursar.types import Headers

REMEMBERED_SECONDS = 5.0
_PORT = re.compile(r":\d*\Z")
CLAIMS = frozenset(("user", "session", "run", "agent", "step", "user_tier", "tags"))


class KeyStore(Protocol):
    def find_key(self, hash: bytes) -> Key | None: ...


class Denied(Exception):
    """Not let in: an HTTP status and what to do about it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def new_secret() -> str:
    """A fresh key's secret: 256 bits, shown once."""
    return f"bsr_{secrets.token_urlsafe(32)}"


def key_hash(secret: str, hash_key: bytes) -> bytes:
    """What is stored and looked up: HMAC-SHA256 under the deployment's own key."""
    return hmac.new(hash_key, secret.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()


class Doorkeeper:
    """Admits requests. Whether there are keys at all is decided once, at start: adding the first needs a restart."""

    def __init__(self, store: KeyStore, hash_key: bytes, clock: Callable[[], float], *, keyed: bool) -> None:
        self._store, self._hash_key, self._clock = store, hash_key, clock
        self.keyed = keyed
        self._seen: dict[bytes, tuple[float, Key | None]] = {}

    def admit(self, headers: Headers, role: str) -> Key | None:
        """The key that the request shows; None on the key-less loopback gateway. Raises Denied."""
        if not self.keyed:
            self._loopback_only(headers)
            return None
        secret = credential(headers)
        if secret is None:
            raise Denied(401, "no Bursar key: send one as the API key (Authorization: Bearer, x-api-key, ...)")
        key = self._find(secret)
        if key is None or key.revoked_at is not None:
            raise Denied(401, "this Bursar key is unknown or revoked: see `bursar keys list`")
        if key.role != role:
            raise Denied(403, f"this is a {key.role} key and the request needs a {role} key: `bursar keys create`")
        return key

    def _find(self, secret: str) -> Key | None:
        hashed, now = key_hash(secret, self._hash_key), self._clock()
        seen = self._seen.get(hashed)
        if seen is not None and now - seen[0] < REMEMBERED_SECONDS:
            return seen[1]
        if len(self._seen) > 10_000:
            self._seen.clear()
        key = self._store.find_key(hashed)
        self._seen[hashed] = (now, key)
        return key

    @staticmethod
    def _loopback_only(headers: Headers) -> None:
        told = dict(headers)
        host = told.get("host", "")
        if not is_loopback(host):
            raise Denied(403, f"without keys the gateway serves loopback only, and Host is {host!r:.80}: create a key")
        site = told.get("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            raise Denied(403, f"a web page of another site sent this (Sec-Fetch-Site: {site:.40}): refused")
        origin = told.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Denied(403, f"a web page of {origin:.80} sent this: refused")


def credential(headers: Headers) -> str | None:
    """The secret that a request shows, wherever its SDK puts one."""
    told = dict(headers)
    scheme, _, token = told.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return told.get("x-api-key") or told.get("x-goog-api-key") or told.get("api-key")


def is_loopback(host: str) -> bool:
    """True for a Host header, or an address to bind, that means this machine alone."""
    bare = host if host.count(":") > 1 and not host.startswith("[") else _PORT.sub("", host)
    name = bare.removeprefix("[").removesuffix("]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
