"""The guard: what a developer holds. Wraps clients, names runs and steps, answers from the ledger, lets go in order.

Closing (by `with`, `close()` or the end of the process) waits a little for what drains, settles the rest by what was
seen of it and flushes the ledger. What a closed guard's clients then send is refused by its closed ledger.
"""

import asyncio
import functools
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack

from bursar.doors.library import context
from bursar.doors.library.budget import Budget, Finish
from bursar.doors.library.cascade import Cascaded, Last, Prompt, Tiers, asked
from bursar.doors.library.desk import Desk
from bursar.doors.library.ledger import Ledger, Row, When
from bursar.doors.library.peers import Connect
from bursar.doors.library.steps import Said
from bursar.doors.library.wrap import wrap, wrap_http
from bursar.policy import Policy, Router
from bursar.stores.base import Store
from bursar.types import CacheWish

if TYPE_CHECKING:
    from bursar.doors.library.rounds import Rounds
    from bursar.doors.telemetry.otel import Telemetry
    from bursar.drivers.watchman import Watchman

C = TypeVar("C")

_SECONDS = 5.0


class Guard:
    """Every call of the wrapped clients is seen, priced and booked. Thread-safe; a forked child may go on using it.

    attempts: how often Bursar itself tries a call, the first time included; 1 leaves retrying to the SDK, as it was.
    finish: makes the text of a partial answer where a budget is used up and no run around the call has its own way.
    telemetry: hears of every row; it is closed with the guard. watchman: does its rounds in a thread of its own until
    the guard is closed. credentials: the providers' own keys by provider name, for tiers that list others than a
    client's own; connect: makes the HTTP clients that these are asked by, `connect("httpx2", asynchronous=False)`.
    """

    def __init__(
        self,
        policy: Policy,
        store: Store,
        *,
        attempts: int = 1,
        finish: Finish | None = None,
        telemetry: "Telemetry | None" = None,
        watchman: "Watchman | None" = None,
        credentials: Mapping[str, str] | None = None,
        connect: Connect | None = None,
    ) -> None:
        self._desk = Desk(policy, store, attempts, finish, telemetry, credentials, connect)
        self._last = Last()
        self._rounds = None if watchman is None else _rounds(watchman)
        self.ledger = Ledger(store, tuple(policy.tiers), policy.steps, self._desk.pools)

    def wrap(self, client: C, *, provider: str | None = None) -> C:
        """Put the guard on a client, in place, and give the same client back; TypeError where it is of no known kind.

        Its copies (`with_options`) share the HTTP client and so the guard. Wrapping twice is wrapping once; another
        guard takes over. provider: whose prices hold, by its name in bursar.toml, where the base URL does not tell.
        """
        wrap(self._desk, client, provider)
        self._last.wrapped(client)
        return client

    def http_client(
        self,
        library: Literal["httpx2", "httpx"] | None = None,
        *,
        asynchronous: bool = False,
        provider: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """A guarded `Client` or `AsyncClient` of httpx2 (or httpx) for whatever takes an `http_client`.

        kwargs are the client's own. As the SDKs' own clients do, it follows redirects and allows 1,000 connections
        unless told otherwise.
        """
        module = _module(library)
        kwargs.setdefault("follow_redirects", True)
        kwargs.setdefault("limits", module.Limits(max_connections=1000, max_keepalive_connections=100))
        client = module.AsyncClient(**kwargs) if asynchronous else module.Client(**kwargs)
        wrap_http(self._desk, client, provider)
        return client

    def run(
        self,
        *,
        agent: str | None = None,
        user: object = None,
        session: object = None,
        user_tier: str | None = None,
        run_id: object = None,
        tags: Mapping[str, object] | None = None,
        budget: Budget | None = None,
    ) -> context.Run:
        """One run of an agent: enter it by `with` or `async with`, or decorate a function with it.

        What is left out is inherited from the run around it, of which it becomes a part. run_id: of a run that
        another process has begun, to go on with it and with its budget; else a new id that sorts by time. budget: caps
        the run and all runs inside it, beside the budgets of those around it. Labels are 1 to 200 printable
        characters; ValueError says which is not.
        """
        said = {
            "agent": agent,
            "user": user,
            "session": session,
            "user_tier": user_tier,
            "run_id": run_id,
            "tags": tags,
            "budget": budget,
        }
        return context.Run(self._desk.home, said)

    @property
    def router(self) -> Router | None:
        """What `bursar.open(router=...)` was given: it chooses the first tier of the steps whose tier is "auto"."""
        return self._desk.policy.router

    def step(self, name: str, *, cache: CacheWish | None = None, **said: Unpack[Said]) -> context.Step:
        """A named step of the current run: by `with`, `async with`, or as a decorator of any kind of function.

        cache: what its calls want of Bursar's caches, where the step's rule ([[steps]] cache) has one: "off" goes past
        them; "refresh" asks the provider and keeps the new answer; "only" spends nothing, and where no answer is kept
        the call ends in HTTP 504; "on" is what the rule says. None: as the step around it. ValueError for another word.

        tier, cascade, validate, min_tier, max_tier, max_output_tokens: each takes the place of what the step's rule has
        there; the rest of the rule stays. tier: a tier's name or "auto"; cascade: tiers to climb, cheapest first;
        validate: a pydantic model, a JSON Schema, labels, a compiled pattern, a function of the answer's text, or a
        list of these. ValueError where a tier is unknown or a cascade does not climb, TypeError for what validates
        nothing. They hold for this guard's clients and for this step alone, not for steps inside it.
        """
        return context.Step(name, cache=cache, own=self._desk.steps.own(**said))

    def cascade(
        self,
        prompt: Prompt,
        validate: object,
        *,
        client: Any = None,
        tiers: Tiers = None,
        step: str = "cascade",
        **options: Any,
    ) -> Cascaded:
        """Ask the cheapest tier, and the next one while the answer fails its check; the best answer and its judgement.

        prompt: a text, or messages in the client's own format. validate: see `step`. client: OpenAI or Anthropic, the
        last one of them that was wrapped unless it is told. tiers: which to climb, cheapest first; None: all; "auto":
        as learned. options: of the client's own create(). Errors are the client's own; ValueError where there is no
        client or no tier, TypeError for a client of another kind.
        """
        by = self._last.of(client, asynchronous=False)
        way = asked(self._desk.steps, by, prompt, validate, tiers, step, options)
        with way.step:
            return way.read(way.create())

    async def acascade(
        self,
        prompt: Prompt,
        validate: object,
        *,
        client: Any = None,
        tiers: Tiers = None,
        step: str = "cascade",
        **options: Any,
    ) -> Cascaded:
        """The same by an AsyncOpenAI or AsyncAnthropic client."""
        by = self._last.of(client, asynchronous=True)
        way = asked(self._desk.steps, by, prompt, validate, tiers, step, options)
        with way.step:
            return way.read(await way.create())

    def report(
        self, by: str = "agent", *, since: When = None, until: When = None, agent: str | None = None, zone: str = "UTC"
    ) -> Row:
        """Cost per run and per user, cache hit rate, models by tier, and a table by `by`: `bursar report --json`.

        by: agent, step, user, session, model, tier, provider, api, cache, tag:K, day or hour (of `zone`). since, until:
        aware datetimes or text such as "7d". ValueError says what cannot be asked.
        """
        return self.ledger.report(by, since=since, until=until, agent=agent, zone=zone)

    def flush(self, seconds: float = _SECONDS) -> None:
        """Wait at most that long for abandoned streams that drain, then until every row so far is in the ledger.

        Drains on this thread's own event loop cannot be waited for here: use aflush().
        """
        self._desk.flush(seconds)

    async def aflush(self, seconds: float = _SECONDS) -> None:
        """The same for a running event loop."""
        await self._desk.aflush(seconds)

    def close(self, seconds: float = _SECONDS) -> None:
        """Let go: wait at most that long for drains, settle, flush. Once; at the end of the process by itself."""
        if self._rounds is not None:
            self._rounds.close(seconds)
        self._desk.close(seconds)

    async def aclose(self, seconds: float = _SECONDS) -> None:
        """The same for a running event loop."""
        if self._rounds is not None:
            await asyncio.to_thread(self._rounds.close, seconds)
        await self._desk.aclose(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _rounds(watchman: "Watchman") -> "Rounds":
    from bursar.doors.library.rounds import Rounds

    return Rounds(watchman)


def _module(library: str | None) -> Any:
    if library not in (None, "httpx2", "httpx"):
        raise ValueError(f"library = {library!r}: expected 'httpx2' or 'httpx'")
    name = library or next((n for n in ("httpx2", "httpx") if n in sys.modules or _installed(n)), "httpx2")
    return import_module(name)


@functools.cache
def _installed(name: str) -> bool:
    return find_spec(name) is not None
