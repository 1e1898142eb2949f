"""The admin API under /bursar/v1 and Prometheus' /metrics: what the ledger knows, as JSON.

Reads only, but for the purge of kept answers and the reset of a breaker. A wrong parameter is 400 with its name; every
answer asks the admin key where keys exist, but `health` and `ready`.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar, cast, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bursar.doors import purging
from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.doors.gateway.meters import CONTENT_TYPE, Meters
from bursar.doors.period import instant
from bursar.doors.semantic import forget
from bursar.drivers.breakers import reset
from bursar.insights import breakers, callmap, incidents, rows
from bursar.policy import Policy
from bursar.rules.breaker.life import Status
from bursar.stores.base import Filters, Key, Store, StoreFailure
from bursar.types import Instant

PAGES = frozenset(("/metrics",))
_BY = (
    "agent", "step", "user", "session", "model", "tier", "provider", "api", "cache", "purpose", "day", "hour", "total",
)  # fmt: skip
_FILTERS = (
    "run_id", "session_id", "user_id", "user_tier", "agent_id", "step", "model", "tier", "provider", "status", "cache",
    "tenant",
)  # fmt: skip
_MOST = 1000
_LARGEST_BODY = 64 << 10


T = TypeVar("T")


class BadQuery(ValueError):
    """A query parameter that cannot be meant: its name and what was expected."""


def create(store: Store, policy: Policy, doorkeeper: Doorkeeper, meters: Meters) -> Starlette:
    """The admin application of one gateway."""
    desk = _Desk(store, policy, meters)
    routes = [
        Route("/bursar/v1/health", _open(lambda: {"status": "ok"})),
        Route("/bursar/v1/ready", _open(desk.ready)),
        Route("/bursar/v1/openapi.json", _guarded(doorkeeper, desk.openapi)),
        Route("/bursar/v1/spend", _guarded(doorkeeper, desk.spend)),
        Route("/bursar/v1/calls", _guarded(doorkeeper, desk.calls)),
        Route("/bursar/v1/calls/{request_id:path}", _guarded(doorkeeper, desk.call)),
        Route("/bursar/v1/runs", _guarded(doorkeeper, desk.runs)),
        Route("/bursar/v1/runs/{run_id:path}", _guarded(doorkeeper, desk.run)),
        Route("/bursar/v1/budgets", _guarded(doorkeeper, desk.budgets)),
        Route("/bursar/v1/cache", _guarded(doorkeeper, desk.cache)),
        Route("/bursar/v1/cache/purge", _guarded(doorkeeper, desk.purge), methods=["POST"]),
        Route("/bursar/v1/alerts", _guarded(doorkeeper, desk.alerts)),
        Route("/bursar/v1/breakers", _guarded(doorkeeper, desk.breakers)),
        Route("/bursar/v1/breakers/{breaker_id}", _guarded(doorkeeper, desk.breaker)),
        Route("/bursar/v1/breakers/{breaker_id}/reset", _guarded(doorkeeper, desk.reset), methods=["POST"]),
        Route("/bursar/v1/keys", _guarded(doorkeeper, desk.keys)),
        Route("/metrics", _guarded(doorkeeper, desk.metrics)),
    ]
    return Starlette(routes=routes, exception_handlers={404: _missing, 405: _missing})


def _problem(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "status": status}}, status)


async def _missing(request: Request, fault: Exception) -> Response:
    status = getattr(fault, "status_code", 404)
    return _problem(status, f"{request.method} {request.url.path:.200} is not part of the admin API: see openapi.json")


def _open(answer: Callable[[], dict[str, str]]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        del request
        told = await run_in_threadpool(answer)
        return JSONResponse(told, 200 if told["status"] == "ok" else 503)

    return endpoint


def _guarded(doorkeeper: Doorkeeper, answer: Callable[[Request], Any]) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        headers = tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in request.scope["headers"])
        try:
            request.state.key = doorkeeper.admit(headers, "admin")
            request.state.body = await _body(request) if request.method == "POST" else b""
            told = await run_in_threadpool(answer, request)
        except Denied as denied:
            return _problem(denied.status, str(denied))
        except BadQuery as bad:
            return _problem(400, str(bad))
        except StoreFailure as failure:
            return _problem(503, f"the ledger cannot be read: {failure}")
        return told if isinstance(told, Response) else JSONResponse(told)

    return endpoint


async def _body(request: Request) -> bytes:
    """The little that the admin API is ever told. Raises BadQuery."""
    pieces, size = [], 0
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_BODY:
            raise BadQuery(f"the body has over {_LARGEST_BODY} bytes")
    return b"".join(pieces)


class _Desk:
    """Answers from the store; every method runs in a thread."""

    def __init__(self, store: Store, policy: Policy, meters: Meters) -> None:
        self._store, self._policy, self._meters = store, policy, meters

    def ready(self) -> dict[str, str]:
        try:
            self._store.calls(limit=1)
        except StoreFailure as failure:
            return {"status": "unready", "why": str(failure)}
        return {"status": "ok"}

    def spend(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        by = query.get("by", "total")
        if by not in _BY and not by.startswith("tag:"):
            raise BadQuery(f"by: expected one of {', '.join(_BY)} or tag:K, got {by!r:.80}")
        filters = _filters(query)
        lines = _told(lambda: self._store.spend(by, filters.since, filters.until, filters, _zone(query)))
        return {"by": by, "items": [rows.line(by, item) for item in lines], "next_cursor": None}

    def calls(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        page = _told(lambda: self._store.calls(_filters(query), _limit(query), query.get("cursor")))
        return {"items": [rows.call(entry) for entry in page.items], "next_cursor": page.next_cursor}

    def call(self, request: Request) -> Any:
        request_id = request.path_params["request_id"]
        entries = self._store.call(request_id)
        if not entries:
            return _problem(404, f"no call {request_id!r:.220} is in the ledger")
        return {"request_id": request_id, "attempts": [rows.call(entry) for entry in entries]}

    def runs(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        page = _told(lambda: self._store.runs(_filters(query), _limit(query), query.get("cursor")))
        return {"items": [rows.run(item) for item in page.items], "next_cursor": page.next_cursor}

    def run(self, request: Request) -> Any:
        run_id = request.path_params["run_id"]
        tenant = request.query_params.get("tenant", "default")
        entries = self._store.run(run_id, tenant)
        if not entries:
            return _problem(404, f"no run {run_id!r:.220} of tenant {tenant!r:.80} is in the ledger")
        return callmap.as_json(run_id, self._store.run_total(run_id, tenant), entries)

    def budgets(self, request: Request) -> dict[str, Any]:
        """Counters of the windows that are running; touchers=1: with whose rows each was charged."""
        query = request.query_params
        asked = query.get("touchers", "0")
        if asked not in ("0", "1"):
            raise BadQuery(f"touchers: expected 0 or 1, got {asked!r:.80}")
        limit = _limit(query)
        page = _told(lambda: self._store.budgets(query.get("tenant"), query.get("budget"), limit, query.get("cursor")))
        items = [rows.budget(one, self._store.touchers(one) if asked == "1" else None) for one in page.items]
        return {"items": items, "next_cursor": page.next_cursor}

    def cache(self, request: Request) -> dict[str, Any]:
        """What is kept, by tenant, step and model."""
        del request
        kept = self._store.cache
        answers, size = kept.size()
        return {**purging.as_json(kept.shelves(Instant(time.time_ns() // 1000)), answers, size), "next_cursor": None}

    def purge(self, request: Request) -> dict[str, Any]:
        """Forget the answers that a JSON object names."""
        try:
            told = msgspec.json.decode(request.state.body, type=dict[str, Any])
            return {"purged": forget(self._store, purging.read(told))}
        except (msgspec.DecodeError, ValueError, RecursionError) as bad:
            raise BadQuery(str(bad)) from None

    def alerts(self, request: Request) -> dict[str, Any]:
        """Incidents: the open ones, or with status=past those that are over; status=deliveries: who was told."""
        query = request.query_params
        listed = {"past": incidents.past, "deliveries": incidents.deliveries}.get(query.get("status", "open"))
        if listed is not None:
            page = _told(lambda: listed(self._store, _limit(query), query.get("cursor")))
            return {"items": list(page.items), "next_cursor": page.next_cursor}
        if query.get("status", "open") != "open":
            raise BadQuery(f"status: expected open, past or deliveries, got {query['status']!r:.80}")
        return {"items": incidents.running(self._store), "next_cursor": None}

    def breakers(self, request: Request) -> dict[str, Any]:
        """Every breaker that has ever tripped, the last changed first."""
        query = request.query_params
        status = query.get("status")
        if status not in (None, *get_args(Status)):
            raise BadQuery(f"status: expected one of {', '.join(get_args(Status))}, got {status!r:.80}")
        page = _told(
            lambda: breakers.listed(
                self._store, query.get("tenant"), cast(Status | None, status), _limit(query), query.get("cursor")
            )
        )
        return {"items": [breakers.as_json(one) for one in page.items], "next_cursor": page.next_cursor}

    def breaker(self, request: Request) -> Any:
        """One, with its audit."""
        seen = breakers.find(self._store, request.path_params["breaker_id"])
        if seen is None:
            return _no_breaker(request)
        lines = breakers.changes(self._store, seen, _limit(request.query_params))
        return {**breakers.as_json(seen), "changes": [breakers.change_as_json(one) for one in lines]}

    def reset(self, request: Request) -> Any:
        """Close a breaker by hand; the audit names the admin key."""
        seen = breakers.find(self._store, request.path_params["breaker_id"])
        if seen is None:
            return _no_breaker(request)
        key: Key | None = request.state.key
        who = "this machine" if key is None else f"{key.name} ({key.key_id})"
        done = reset(self._store, seen.tenant, seen.id, who)
        now = breakers.find(self._store, seen.id) or seen
        return {"reset": done, "breaker": breakers.as_json(now)}

    def keys(self, request: Request) -> dict[str, Any]:
        del request
        return {"items": [rows.key(item) for item in self._store.list_keys()], "next_cursor": None}

    def metrics(self, request: Request) -> Response:
        """Prometheus' exposition."""
        del request
        return Response(self._meters.text(), media_type=CONTENT_TYPE)

    def openapi(self, request: Request) -> dict[str, Any]:
        del request
        return _openapi()


def _no_breaker(request: Request) -> JSONResponse:
    told = request.path_params["breaker_id"]
    return _problem(404, f"no breaker {told!r:.120} has tripped: see GET /bursar/v1/breakers")


def _told(ask: Callable[[], T]) -> T:
    """The store's answer; what it cannot be asked (a foreign cursor, a label that its rows lack) is a bad query."""
    try:
        return ask()
    except (ValueError, OverflowError) as fault:
        raise BadQuery(str(fault)) from None


def _filters(query: Mapping[str, str]) -> Filters:
    now = datetime.now(UTC)
    period = {name: instant(query[name], now, BadQuery) for name in ("since", "until") if query.get(name)}
    return Filters(**{name: query[name] for name in _FILTERS if name in query}, **period)  # type: ignore[arg-type]


def _zone(query: Mapping[str, str]) -> str:
    zone = query.get("zone", "UTC")
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadQuery(f"zone: expected an IANA time zone such as Europe/Berlin, got {zone!r:.80}") from None
    return zone


def _limit(query: Mapping[str, str]) -> int:
    told = query.get("limit", "100")
    if not (told.isdecimal() and len(told) < 6 and 1 <= int(told) <= _MOST):
        raise BadQuery(f"limit: expected 1 to {_MOST}, got {told!r:.80}")
    return int(told)


def _post(summary: str, *names: str) -> dict[str, Any]:
    """A POST of one JSON object with some of these members."""
    members = {name: {"type": "boolean" if name == "all" else "string"} for name in names}
    sent = {"application/json": {"schema": {"type": "object", "properties": members}}}
    answers = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {"post": {"summary": summary, "requestBody": {"required": True, "content": sent}, "responses": answers}}


def _reset(summary: str) -> dict[str, Any]:
    """A POST without a body."""
    place = {"name": "breaker_id", "in": "path", "required": True, "schema": {"type": "string"}}
    answers = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
    return {"post": {"summary": summary, "parameters": [place], "responses": answers}}


def _openapi() -> dict[str, Any]:
    """The admin API, described."""

    def parameter(name: str, where: str = "query") -> dict[str, Any]:
        return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}

    def get(summary: str, *names: str, path: str | None = None) -> dict[str, Any]:
        listed = [parameter(path, "path")] if path else []
        listed += [parameter(name) for name in names]
        answers = {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}}
        return {"get": {"summary": summary, "parameters": listed, "responses": answers}}

    paging = ("since", "until", "limit", "cursor")
    return {
        "openapi": "3.1.0",
        "info": {"title": "Bursar admin API", "version": "1"},
        "paths": {
            "/bursar/v1/health": get("The process answers"),
            "/bursar/v1/ready": get("The ledger answers"),
            "/bursar/v1/spend": get("Sums by one label, or by day or hour", "by", "since", "until", "zone", *_FILTERS),
            "/bursar/v1/calls": get("Ledger rows, newest first", *paging, *_FILTERS),
            "/bursar/v1/calls/{request_id}": get("Every attempt of one request", path="request_id"),
            "/bursar/v1/runs": get("Runs, newest first", *paging, "agent_id", "user_id", "session_id", "tenant"),
            "/bursar/v1/runs/{run_id}": get("One run's rows, in order", "tenant", path="run_id"),
            "/bursar/v1/budgets": get(
                "Where every budget stands in the window that is running",
                "tenant",
                "budget",
                "touchers",
                "limit",
                "cursor",
            ),
            "/bursar/v1/cache": get("The answers that are kept, by tenant, step and model"),
            "/bursar/v1/cache/purge": _post("Forget kept answers", "all", "step", "model", "tag", "prefix", "tenant"),
            "/bursar/v1/alerts": get("Incidents: open, past, or their deliveries", "status", "limit", "cursor"),
            "/bursar/v1/breakers": get("Breakers that have tripped", "status", "tenant", "limit", "cursor"),
            "/bursar/v1/breakers/{breaker_id}": get("One breaker and its audit", "limit", path="breaker_id"),
            "/bursar/v1/breakers/{breaker_id}/reset": _reset("Close a breaker by hand"),
            "/bursar/v1/keys": get("Bursar keys, without their secrets"),
            "/metrics": get("Prometheus"),
        },
    }
