"""The pages as one ASGI application: a URL is a question, an answer is a page, and every fault is one too.

A parameter that cannot be meant is 400, what is not in the ledger 404, a ledger that cannot be read 503, each with its
cure. Pages only read, but for the reset of a breaker, which only a form of theirs can ask for. Every answer carries the
same strict headers, and no asset is another host's.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qs, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from bursar.doors.dashboard import asked as asking
from bursar.doors.dashboard.asked import PATHS, Asked
from bursar.doors.dashboard.pages import agents, alerts, breakers, budgets, caches, calls, models, overview, runs, users
from bursar.doors.dashboard.pages.runs import Missing
from bursar.doors.dashboard.render import ASSETS, HEADERS, Renderer
from bursar.doors.dashboard.session import COOKIE, SECONDS, Gate
from bursar.doors.dashboard.view import View
from bursar.doors.gateway.access import Denied, Doorkeeper
from bursar.drivers.breakers import reset
from bursar.insights.breakers import find
from bursar.policy import Policy
from bursar.stores.base import Clock, Store, StoreFailure, system_clock
from bursar.types import Headers

Build: TypeAlias = Callable[[Store, Policy, Asked], View]

BUILDS: Mapping[str, Build] = {
    "overview": overview.build, "agents": agents.build, "runs": runs.build, "run": runs.one, "users": users.build,
    "models": models.build, "caches": caches.build, "budgets": budgets.build, "budget": budgets.one,
    "alerts": alerts.build, "breaker": breakers.one, "calls": calls.build, "call": calls.one,
}  # fmt: skip
MENU = (
    ("overview", "Overview"), ("agents", "Agents and steps"), ("runs", "Runs"), ("users", "Users"),
    ("models", "Models"), ("caches", "Caches"), ("budgets", "Budgets"), ("alerts", "Alerts"), ("calls", "Calls"),
)  # fmt: skip
_WITHIN = {"run": "runs", "budget": "budgets", "call": "calls", "breaker": "alerts"}
"""A page that is not in the menu -> the one it belongs to."""
_LONGEST = 4096
"""Bytes of a form."""


def serves(path: str) -> bool:
    """Whether a path is one of the pages' (the rest of /bursar/ but the admin API)."""
    return path == "/" or (path.startswith("/bursar/") and path != "/bursar/v1" and not path.startswith("/bursar/v1/"))


def create(
    store: Store, policy: Policy, doorkeeper: Doorkeeper, hash_key: bytes, clock: Clock = system_clock
) -> Starlette:
    """The application. hash_key: what Bursar keys are hashed under; sessions are sealed by a key derived from it."""
    desk = _Desk(store, policy, Gate(store, doorkeeper, hash_key, clock), clock)
    routes = [Route(path, desk.shown(name)) for name, path in PATHS.items()]
    routes += [
        Route("/bursar/login", desk.sent(desk.login), methods=["POST"]),
        Route("/bursar/logout", desk.logout, methods=["POST"]),
        Route(breakers.RESET, desk.sent(desk.reset), methods=["POST"]),
        Route("/bursar/static/{name}", desk.asset),
    ]
    return Starlette(routes=routes, exception_handlers={404: desk.missing, 405: desk.missing})


class _Desk:
    def __init__(self, store: Store, policy: Policy, gate: Gate, clock: Clock) -> None:
        self._store, self._policy, self._gate, self._clock = store, policy, gate, clock
        self._renderer = Renderer()

    def shown(self, name: str) -> Callable[[Request], object]:
        """The endpoint of a page; it asks the store in a thread."""

        async def endpoint(request: Request) -> Response:
            return await run_in_threadpool(self._page, name, request)

        return endpoint

    def _page(self, name: str, request: Request) -> Response:
        try:
            key = self._gate.admit(_headers(request), request.cookies.get(COOKIE))
        except Denied as denied:
            return self._refused(denied, _address(request))
        except StoreFailure as failure:
            return self._unread(failure)
        try:
            asked = asking.read(name, dict(request.query_params), self._clock())
            view = BUILDS[name](self._store, self._policy, asked)
        except Missing as missing:
            return self._message(404, "Not in the ledger", str(missing))
        except (ValueError, OverflowError) as bad:
            return self._message(400, "This cannot be asked", str(bad))
        except StoreFailure as failure:
            return self._unread(failure)
        return self._renderer.page(
            "page.html", view=view, asked=asked, menu=MENU, current=_WITHIN.get(name, name), keyed=self._keyed,
            periods=asking.PERIODS, usual=asking.USUAL, token=self._gate.token(key),
        )  # fmt: skip

    @property
    def _keyed(self) -> bool:
        return self._gate.keyed

    def _message(self, status: int, title: str, text: str) -> Response:
        return self._renderer.page("message.html", status, title=title, text=text)

    def _unread(self, failure: StoreFailure) -> Response:
        return self._message(503, "The ledger cannot be read", str(failure))

    def _refused(self, denied: Denied, back: str) -> Response:
        if not self._keyed or denied.status != 401:
            return self._message(denied.status, "Not let in", str(denied))
        return self._renderer.page("login.html", 401, back=back, fault="")

    def sent(self, answer: Callable[[Request, Mapping[str, list[str]]], Response]) -> Callable[[Request], object]:
        """The endpoint of a form; it is answered in a thread."""

        async def endpoint(request: Request) -> Response:
            body = b""
            async for piece in request.stream():
                body += piece
                if len(body) > _LONGEST:
                    return self._message(413, "Not let in", "this is longer than any form of these pages")
            return await run_in_threadpool(answer, request, parse_qs(body.decode("utf-8", "replace")))

        return endpoint

    def login(self, request: Request, told: Mapping[str, list[str]]) -> Response:
        """The admin key in a form -> the session's cookie and back to the page that was asked for."""
        back = _first(told, "back", "/")
        try:
            self._gate.near(_headers(request))
            value = self._gate.open(_first(told, "key").strip()) if self._keyed else ""
        except Denied as denied:
            if denied.status == 403 and not self._keyed:
                return self._message(403, "Not let in", str(denied))
            return self._renderer.page("login.html", denied.status, back=back, fault=str(denied))
        except StoreFailure as failure:
            return self._unread(failure)
        answer = RedirectResponse(back if _ours(back) else "/", 303, dict(HEADERS))
        if value:
            secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
            answer.set_cookie(COOKIE, value, SECONDS, httponly=True, samesite="strict", secure=secure)
        return answer

    def reset(self, request: Request, told: Mapping[str, list[str]]) -> Response:
        """Close a breaker by hand, and show what its audit says of it."""
        breaker_id = _first(told, "id")
        page = f"{PATHS['breaker']}?{urlencode({'id': breaker_id})}"
        try:
            key = self._gate.admit_form(_headers(request), request.cookies.get(COOKIE), _first(told, "token"))
            seen = find(self._store, breaker_id)
            if seen is None:
                return self._message(404, "Not in the ledger", f"no breaker {breaker_id!r:.120} has tripped")
            reset(self._store, seen.tenant, seen.id, "this machine" if key is None else f"{key.name} ({key.key_id})")
        except Denied as denied:
            return self._refused(denied, page)
        except StoreFailure as failure:
            return self._unread(failure)
        return RedirectResponse(page, 303, dict(HEADERS))

    async def logout(self, request: Request) -> Response:
        """Forget the cookie."""
        try:
            self._gate.near(_headers(request))
        except Denied as denied:
            return self._message(denied.status, "Not let in", str(denied))
        answer = RedirectResponse("/", 303, dict(HEADERS))
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return answer

    async def asset(self, request: Request) -> Response:
        """Style, script and icon: no data, so that the login page can have them too."""
        found = ASSETS.get(request.path_params["name"])
        try:
            self._gate.near(_headers(request))
        except Denied as denied:
            return self._message(denied.status, "Not let in", str(denied))
        if found is None:
            return self._message(404, "Not found", "there is no such file")
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(found[0], media_type=found[1], headers={**HEADERS, **kept})

    async def missing(self, request: Request, fault: Exception) -> Response:
        """No such page."""
        status = getattr(fault, "status_code", 404)
        return self._message(status, "No such page", f"{request.method} {request.url.path:.200} is no page of Bursar")


def _first(told: Mapping[str, list[str]], name: str, default: str = "") -> str:
    """A field of a form."""
    return told.get(name, [default])[0]


def _address(request: Request) -> str:
    return request.url.path + (f"?{request.url.query}" if request.url.query else "")


def _headers(request: Request) -> Headers:
    return tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in request.scope["headers"])


def _ours(back: str) -> bool:
    """Whether a place to go back to is one of the pages: never another host's."""
    path = back.partition("?")[0]
    return path in PATHS.values() and all(" " < char < "\x7f" for char in back)
