"""The signature of a webhook: HMAC-SHA256 over id, time and body, as Standard Webhooks 1.0 has it. Pure.

Headers: webhook-id, webhook-timestamp (seconds since the epoch), webhook-signature ("v1," and base64 of the HMAC over
"{id}.{timestamp}.{body}", several apart by a space while keys are changed), and x-bursar-key-id, which says of which
key the first signature is. A receiver calls `verify`; what does not pass raises BadSignature.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping

ID, TIMESTAMP, SIGNATURE, KEY_ID = "webhook-id", "webhook-timestamp", "webhook-signature", "x-bursar-key-id"
TOLERANCE_SECONDS = 300
"""How old, or how far ahead, a delivery may be: within it a receiver has to remember the ids that it has seen."""


class BadSignature(ValueError):
    """Why a delivery is not to be believed."""


def sign(key_id: str, key: bytes, delivery: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers of one delivery."""
    return {
        ID: delivery,
        TIMESTAMP: str(seconds),
        SIGNATURE: _signature(key, delivery, str(seconds), body),
        KEY_ID: key_id,
    }


def verify(
    headers: Mapping[str, str], body: bytes, keys: Mapping[str, bytes], now_seconds: int,
    tolerance_seconds: int = TOLERANCE_SECONDS,
) -> str:  # fmt: skip
    """The delivery's id, once it is known to be genuine and fresh. headers: by names in any case. keys: by key id.

    A copy sent again within the tolerance passes too: take each id once.
    """
    said = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE, KEY_ID) if not said.get(name)]
    if missing:
        raise BadSignature(f"no {missing[0]}")
    stamp = said[TIMESTAMP]
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature(f"{TIMESTAMP} is no number of seconds")
    key = keys.get(said[KEY_ID])
    if key is None:
        raise BadSignature(f"the key {said[KEY_ID]!r:.40} is not known")
    wanted = _signature(key, said[ID], stamp, body).encode()
    if not any(hmac.compare_digest(wanted, one.encode()) for one in said[SIGNATURE].split()):
        raise BadSignature("the signature does not fit")
    if abs(now_seconds - int(stamp)) > tolerance_seconds:
        raise BadSignature(f"it was signed at {stamp}, more than {tolerance_seconds} s from now")
    return said[ID]


def _signature(key: bytes, delivery: str, stamp: str, body: bytes) -> str:
    digest = hmac.digest(key, f"{delivery}.{stamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"
