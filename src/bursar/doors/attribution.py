"""Who a call is booked to: headers and body claims, first match wins (wire.md section 5), bounded by the key.

Only our own headers are checked strictly: a malformed `x-bursar-*` value raises BadHeader with the header's name and
what was expected. A peer's header or a body claim that is no plain id is passed over, for it was not meant for us.
"""

import functools
import re
from collections.abc import Iterable, Mapping, Set
from urllib.parse import unquote

import msgspec

from bursar.money import parse_usd
from bursar.types import CacheWish, Cap, Headers, Kin, Tags

ID = re.compile(r"[A-Za-z0-9._:@/-]{1,200}")
_TAG = re.compile(r"[A-Za-z0-9._:@/ -]{1,200}")
_MOST_TAGS = 32
_USD = re.compile(r"\d{1,9}(?:\.\d{1,9})?", re.ASCII)
_TOKENS = re.compile(r"\d{1,15}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

_OURS = {
    "x-bursar-user-id": "user",
    "x-bursar-session-id": "session",
    "x-bursar-run-id": "run",
    "x-bursar-parent-run-id": "parent",
    "x-bursar-agent-id": "agent",
    "x-bursar-step": "step",
    "x-bursar-user-tier": "user_tier",
}
_CAPS = ("x-bursar-budget-usd", "x-bursar-budget-tokens")
_MOST_A_CALL = "x-bursar-max-cost-usd"
_CACHE_CONTROL = "cache-control"
_KNOWN = (*_OURS, "x-bursar-tags", "x-bursar-cache", "x-bursar-tier", *_CAPS, _MOST_A_CALL)
"""Any other of ours is refused, not passed over: a limit that is ignored, or an id misspelt, would be a lie."""
_PEERS: dict[str, tuple[str, ...]] = {
    "user": ("helicone-user-id", "x-litellm-customer-id", "x-litellm-end-user-id", "portkey:_user", "baggage:user.id"),
    "session": (
        "helicone-session-id", "x-litellm-session-id", "x-portkey-trace-id", "*-session-id", "x-session-id",
        "session-id", "thread-id", "baggage:session.id",
    ),
    "run": ("x-litellm-trace-id", "traceparent"),
    "parent": (),
    "agent": ("helicone-property-agent",),
    "step": ("helicone-property-step", "helicone-session-path"),
    "user_tier": (),
}  # fmt: skip
_CLAIMS: dict[str, tuple[str, ...]] = {
    "user": (
        "safety_identifier", "user", "metadata.user_id.user_id", "metadata.user_id.account_uuid",
        "metadata.user_id.device_id", "metadata.user_id",
    ),
    "session": ("metadata.session_id", "metadata.user_id.session_id", "conversation"),
    "run": (),
    "parent": (),
    "agent": ("metadata.agent_id",),
    "step": ("metadata.step",),
    "user_tier": ("metadata.user_tier",),
}  # fmt: skip
_LAST: dict[str, tuple[str, ...]] = {"agent": ("baggage:gen_ai.agent.name",)}
_NAMED_CLAIMS = frozenset(name for names in _CLAIMS.values() for name in names)
_PREFIXES = ("x-bursar-", "helicone-", "x-litellm-", "x-portkey-")
_NAMES = frozenset(("baggage", "traceparent", "tracestate", "x-session-id", "session-id", "thread-id", _CACHE_CONTROL))


class BadHeader(ValueError):
    """One of our own headers is malformed, or said twice with different values."""


class Asked(msgspec.Struct, frozen=True):
    """What the attribution and control headers of one request came to."""

    tags: Tags
    cache: CacheWish | None
    """What is wanted of Bursar's caches. It narrows what the step's rule allows and never widens it."""
    tier: str | None
    forwarded: Headers
    """The headers that may go on to a provider: none of attribution's or control's is among them."""
    max_cost_nanos: int | None = None
    """What all attempts of the call may cost together at most, in nano-dollars."""
    no_store: bool = False
    """The answer must not be kept, nor waited for by others."""


class KeyFacts(msgspec.Struct, frozen=True):
    """What an authenticated key decides: it bounds every claim."""

    key_id: str
    tenant: str
    trusted: frozenset[str]


def read(headers: Headers, claims: Iterable[tuple[str, str]], key: KeyFacts | None) -> Asked:
    """Tags of a request that came with these headers (names in lower case) and body claims."""
    ours: dict[str, str] = {}
    peers: dict[str, str] = {}
    forwarded: list[tuple[str, str]] = []
    directives: set[str] = set()
    for name, value in headers:
        if name.startswith("x-bursar-"):
            if name not in _KNOWN:
                raise BadHeader(f"{name:.80} is not a header that this version acts on: it knows {', '.join(_KNOWN)}")
            if ours.setdefault(name, value) != value:
                raise BadHeader(f"{name} is given twice, with different values: send it once")
        elif name == _CACHE_CONTROL:
            directives.update(part.strip().lower() for part in value.split(","))
        elif is_attribution(name):
            peers.setdefault(name, value)
        else:
            forwarded.append((name, value))
    said = dict(claims)
    if not (ours or peers or said or directives):
        return Asked(_anonymous(key), None, None, tuple(forwarded))
    wish = _cache_wish(ours, peers, directives)
    _unpack(peers)
    tags = _capped(_tags(ours, peers, said, key), ours)
    most = _usd(ours, _MOST_A_CALL)
    return Asked(tags, wish, ours.get("x-bursar-tier"), tuple(forwarded), most, "no-store" in directives)


def _anonymous(key: KeyFacts | None) -> Tags:
    return Tags(tenant=key.tenant, key_id=key.key_id, trusted=key.trusted) if key else Tags()


@functools.lru_cache(128)
def is_attribution(name: str) -> bool:
    """True for every header, ours and our peers', that says who or how and must not reach a provider."""
    return name.startswith(_PREFIXES) or name in _NAMES or (name.startswith("x-") and name.endswith("-session-id"))


def _tags(ours: Mapping[str, str], peers: Mapping[str, str], said: Mapping[str, str], key: KeyFacts | None) -> Tags:
    found: dict[str, str | None] = dict.fromkeys(_PEERS)
    for header, field in _OURS.items():
        value = ours.get(header)
        if value is not None:
            if not ID.fullmatch(value):
                raise BadHeader(f"{header}: expected 1 to 200 characters of A-Z a-z 0-9 . _ : @ / -, got {value!r:.80}")
            found[field] = value
    if peers or said:
        for field, value in found.items():
            if value is None:
                found[field] = _first(field, peers, said)
    return Tags(
        tenant=key.tenant if key else "default",
        run_id=found["run"],
        parent_run_id=found["parent"],
        session_id=found["session"],
        user_id=found["user"],
        user_tier=found["user_tier"],
        agent_id=found["agent"],
        step=found["step"],
        tags=_labels(ours, peers, said),
        key_id=key.key_id if key else None,
        trusted=key.trusted if key else None,
    )


def _capped(tags: Tags, ours: Mapping[str, str]) -> Tags:
    """The limits that the headers set to the run: as further caps they can only lower what it may spend."""
    usd, tokens = _CAPS
    named = next((name for name in _CAPS if name in ours), None)
    if named is None:
        return tags
    if tags.run_id is None:
        raise BadHeader(f"{named} limits a run, and the request names none: send x-bursar-run-id with every call of it")
    told = ours.get(tokens)
    if told is not None and not _TOKENS.fullmatch(told):
        raise BadHeader(f"{tokens}: expected a whole number of tokens, such as 10000, got {told!r:.80}")
    cap = Cap(limit_nanos=_usd(ours, usd), limit_tokens=None if told is None else int(told), least=True)
    kin = Kin(tags.run_id, tags.agent_id, tags.user_tier, tags.tags, cap)
    return msgspec.structs.replace(tags, line=(kin,))


def _usd(ours: Mapping[str, str], header: str) -> int | None:
    """Nano-dollars, exactly."""
    told = ours.get(header)
    if told is None:
        return None
    if not _USD.fullmatch(told):
        raise BadHeader(f"{header}: expected dollars in nine decimals at most, such as 0.50, got {told!r:.80}")
    return parse_usd(told)


def _first(field: str, peers: Mapping[str, str], said: Mapping[str, str]) -> str | None:
    places = ((peers, _PEERS[field]), (said, _CLAIMS[field]), (peers, _LAST.get(field, ())))
    for source, names in places:
        for name in names:
            value = source.get(name)
            if value is not None and ID.fullmatch(value):
                return value
    return None


def _unpack(peers: dict[str, str]) -> None:
    """Bring compound headers of peers to plain names: portkey:K, baggage:K, *-session-id, the path's last segment."""
    metadata = peers.get("x-portkey-metadata")
    if metadata is not None:
        for key, value in _json_object(metadata):
            peers[f"portkey:{key}"] = value
    for member in peers.get("baggage", "").split(","):
        key, equals, value = member.partition("=")
        if equals:
            peers[f"baggage:{key.strip()}"] = unquote(value.partition(";")[0].strip())
    vendors = (v for k, v in peers.items() if k.startswith("x-") and k.endswith("-session-id") and k != "x-session-id")
    peers["*-session-id"] = next(filter(ID.fullmatch, vendors), "")
    path = peers.get("helicone-session-path")
    if path is not None:
        peers["helicone-session-path"] = path.rstrip("/").rpartition("/")[2]
    trace = _TRACEPARENT.fullmatch(peers.get("traceparent", ""))
    peers["traceparent"] = trace.group(1) if trace and trace.group(1).strip("0") else ""


def _json_object(text: str) -> list[tuple[str, str]]:
    try:
        decoded = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, ValueError, RecursionError):
        return []
    return [(key, value) for key, value in decoded.items() if isinstance(value, str)]


def _labels(ours: Mapping[str, str], peers: Mapping[str, str], said: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Tags, the most trusted source first; the first value of a name stands."""
    labels: dict[str, str] = {}
    for member in filter(None, (m.strip() for m in ours.get("x-bursar-tags", "").split(","))):
        key, equals, value = member.partition("=")
        if not (equals and ID.fullmatch(key) and _TAG.fullmatch(value)):
            raise BadHeader(f"x-bursar-tags: expected k=v,k2=v2 in plain characters, got {member!r:.80}")
        labels.setdefault(key, value)
    for member in filter(None, (m.strip() for m in peers.get("x-litellm-tags", "").split(","))):
        labels.setdefault(member, "true")
    for name, value in peers.items():
        if name.startswith("helicone-property-"):
            labels.setdefault(name.removeprefix("helicone-property-"), value)
        elif name.startswith("portkey:") and name != "portkey:_user":
            labels.setdefault(name.removeprefix("portkey:"), value)
    for name, value in said.items():
        if name.startswith("metadata.") and name not in _NAMED_CLAIMS:
            labels.setdefault(name.removeprefix("metadata."), value)
    plain = ((k, v) for k, v in labels.items() if ID.fullmatch(k) and _TAG.fullmatch(v))
    return tuple(pair for pair, _ in zip(plain, range(_MOST_TAGS), strict=False))


def _cache_wish(ours: Mapping[str, str], peers: Mapping[str, str], directives: Set[str]) -> CacheWish | None:
    """The narrowest of what is said; `only` first, for it promises that nothing is spent."""
    wish = ours.get("x-bursar-cache")
    if wish not in (None, "on", "off", "refresh", "only"):
        raise BadHeader(f"x-bursar-cache: expected on, off, refresh or only, got {wish!r:.80}")
    if wish == "only" or "only-if-cached" in directives:
        return "only"
    if wish == "off" or _says(peers, "helicone-cache-enabled", "false"):
        return "off"
    if wish == "refresh" or "no-cache" in directives or _says(peers, "x-portkey-cache-force-refresh", "true"):
        return "refresh"
    return "on" if wish else None


def _says(peers: Mapping[str, str], name: str, word: str) -> bool:
    return peers.get(name, "").strip().lower() == word
