"""Who is asking: runs and steps, held by one context variable and seen by every call beneath them.

They hold where Python carries context: asyncio tasks, threads started with a copied context, the body of a `with`
across awaits. A suspended generator does not hide its `with` from whoever iterates it (which is what makes context
managers work); a generator function that is decorated with `@guard.step(...)` or `@guard.run(...)` does. Leaving in
another context than the one entered (a generator closed by the collector) never raises and never leaks.
"""

import asyncio
import functools
import inspect
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextvars import ContextVar
from decimal import Decimal
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, Unpack, cast, get_args

import msgspec

from bursar.doors.library import budget as budgets
from bursar.doors.library.budget import Budget, Remaining
from bursar.doors.library.steps import Own, Said
from bursar.doors.library.tallies import Tallies, Tally
from bursar.money import format_usd
from bursar.rules.budget import FINAL_STEP
from bursar.rules.grant import Counter
from bursar.types import CacheWish, Kin, Tags

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_LABEL = 200
_MOST_TAGS = 32


class Scope:
    """One run or step that somebody entered: what it says, and what stood before."""

    __slots__ = ("_owner", "cache", "closed", "outer", "own", "run", "tags", "tally")

    def __init__(
        self,
        run: "Run | None",
        tags: Tags,
        outer: "Scope | None",
        tally: Tally,
        cache: CacheWish | None = None,
        own: Own | None = None,
    ) -> None:
        self.run, self.tags, self.outer, self.tally, self.cache, self.own = run, tags, outer, tally, cache, own
        self.closed = False
        self._owner = weakref.ref(_whoever())

    def over(self) -> bool:
        """True where it was left elsewhere than in the task or thread that entered it, which asks now.

        A task or thread that inherited it by a copied context keeps it: that is whom its work is for.
        """
        return self.closed and self._owner() is _whoever()


_here: ContextVar[Scope | None] = ContextVar("bursar_scope", default=None)


def current() -> Scope | None:
    """The innermost run or step in which this code runs."""
    scope = _here.get()
    while scope is not None and scope.over():
        scope = scope.outer
    return scope


def _whoever() -> Any:
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:
        return threading.current_thread()


class Home(NamedTuple):
    """What a run needs of its guard."""

    tallies: Tallies
    fresh_id: Callable[[], str]
    own: Callable[..., Own | None]
    """What code says of a step, checked."""
    counters: Callable[[Tags], list[Counter]]
    """Where every budget stands that calls with these tags fall under."""
    suspended: Callable[[Tags], bool]
    """A breaker would refuse calls with these tags."""
    resumed: Callable[[str], tuple[Kin, ...]]
    """A run that other code has begun, and those around it, as the ledger knows them."""


class _Enterable(ABC):
    """Entered by `with`, `async with` or as a decorator of any kind of function."""

    _scope: Scope | None = None

    @abstractmethod
    def _open(self, outer: Scope | None) -> Scope:
        """The scope inside, given the one around it."""

    @abstractmethod
    def _again(self) -> "_Enterable":
        """The same, for one more call of a decorated function."""

    def __enter__(self) -> Self:
        if self._scope is not None and not self._scope.closed:
            raise RuntimeError(f"{self!r} is entered already: make a new one for every `with`")
        outer = current()
        self._scope = self._open(outer)
        _here.set(self._scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        scope = self._scope
        if scope is not None:
            scope.closed = True
            if _here.get() is scope:
                _here.set(scope.outer)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Decorate: every call of the function, every iteration of a generator, runs in here."""
        again = self._again
        wrapped: Any
        if inspect.isasyncgenfunction(function):
            wrapped = _async_generator(again, function)
        elif inspect.isgeneratorfunction(function):
            wrapped = _generator(again, function)
        elif inspect.iscoroutinefunction(function):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return await function(*args, **kwargs)
        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with again():
                    return function(*args, **kwargs)

        return cast(F, functools.wraps(function)(wrapped))


def _generator(again: Callable[[], _Enterable], function: Callable[..., Any]) -> Callable[..., Any]:
    """The generator's own scopes stand only while it runs: put in at every resumption, taken out at every yield."""

    def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        body, inside = function(*args, **kwargs), again()._open(current())
        resume, value = body.send, None
        while True:
            outside = _here.get()
            _here.set(inside)
            try:
                item = resume(value)
            except StopIteration as end:
                return end.value
            finally:
                inside = cast(Scope, _here.get())
                _here.set(outside)
            try:
                value, resume = (yield item), body.send
            except BaseException as thrown:
                value, resume = thrown, body.throw

    return wrapped


def _async_generator(again: Callable[[], _Enterable], function: Callable[..., Any]) -> Callable[..., Any]:
    async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        body, inside = function(*args, **kwargs), again()._open(current())
        resume, value = body.asend, None
        while True:
            outside = _here.get()
            _here.set(inside)
            try:
                item = await resume(value)
            except StopAsyncIteration:
                return
            finally:
                inside = cast(Scope, _here.get())
                _here.set(outside)
            try:
                value, resume = (yield item), body.asend
            except BaseException as thrown:
                value, resume = thrown, body.athrow

    return wrapped


class Step(_Enterable):
    """A named part of a run: what is called within is booked to it. final: the run's final answer.

    cache: what its calls want of Bursar's caches; None: as the step around it in the same run. own: what the code says
    of its tiers and validators, for this step alone.
    """

    def __init__(
        self,
        name: str,
        run: "Run | None" = None,
        *,
        final: bool = False,
        cache: CacheWish | None = None,
        own: Own | None = None,
    ) -> None:
        self.name = cast(str, label("step", name))
        if cache not in (None, *get_args(CacheWish)):
            raise ValueError(f"cache = {cache!r:.80}: expected one of {', '.join(map(repr, get_args(CacheWish)))}")
        self._run, self._final, self._cache, self._own = run, final, cache, own

    def __repr__(self) -> str:
        return f"step({self.name!r})"

    @property
    def flagged(self) -> int:
        """Answers so far, since it was last entered, that are the best obtained and have passed no check."""
        return self._scope.tally.flagged if self._scope is not None else 0

    def _open(self, outer: Scope | None) -> Scope:
        run, base = (self._run, self._run.labels) if self._run is not None else (None, Tags())
        if self._run is None and outer is not None:
            run, base = outer.run, outer.tags
        tags = msgspec.structs.replace(base, step=self.name, final=base.final or self._final)
        around = outer.cache if outer is not None and outer.run is run else None
        tally = Tally(run._tally if run is not None else None)
        return Scope(run, tags, outer, tally, self._cache or around, self._own)

    def _again(self) -> "Step":
        return Step(self.name, self._run, final=self._final, cache=self._cache, own=self._own)


class Run(_Enterable):
    """One run of an agent. What it does not say it has from the run around it; a step it never inherits."""

    def __init__(self, home: Home, said: Mapping[str, Any]) -> None:
        around = current()
        above: Run | None = around.run if around is not None else None
        self._home, self._said, self._above = home, said, above
        labels = _labels(above.labels if above is not None else Tags(), said, home.fresh_id)
        parent = above._tally if above is not None and above._home.tallies is home.tallies else None
        self._tally: Tally = home.tallies.of(cast(str, labels.run_id), parent)
        self.labels: Tags = self._in_line(labels)

    def _in_line(self, labels: Tags) -> Tags:
        """The labels with the runs whose budgets cap this one: itself and those around it.

        A run that goes on under its id keeps the budget and the place that it had, unless it is told others now.
        """
        tally, own, told = self._tally, cast(str, labels.run_id), self._said["budget"]
        before = tally.line
        if not before and self._said["run_id"] is not None:
            before = self._home.resumed(own)
        outer = before[1:]
        if self._above is not None:
            outer = tuple(kin for kin in self._above.labels.line if kin.run_id != own)
        cap = before[0].cap if before else None
        if told is not None:
            cap, tally.finish = told.cap(), told.finish
        tally.line = (Kin(own, labels.agent_id, labels.user_tier, labels.tags, cap), *outer)
        parent = labels.parent_run_id or (outer[0].run_id if outer else None)
        return msgspec.structs.replace(labels, line=tally.line, parent_run_id=parent)

    def __repr__(self) -> str:
        return f"run({self.id!r})"

    @property
    def id(self) -> str:
        """The run's id, as rows of the ledger carry it."""
        return cast(str, self.labels.run_id)

    @property
    def parent_id(self) -> str | None:
        """The id of the run around it; None where there is none."""
        return self.labels.parent_run_id

    @property
    def cost(self) -> Decimal:
        """USD so far, nested runs included: the sum of what is known. How many rows are missing from it: `unknown`."""
        return Decimal(format_usd(self._tally.nanos))

    @property
    def unknown(self) -> int:
        """Attempts whose cost is not known: while it is not 0, `cost` is a lower bound."""
        return self._tally.unknown

    @property
    def tokens(self) -> int:
        """Input plus output tokens so far, cached and reasoning included, nested runs too."""
        return self._tally.tokens

    @property
    def calls(self) -> int:
        """Requests so far that have ended, nested runs included. An SDK's own retry is a request of its own."""
        return self._tally.calls

    @property
    def flagged(self) -> int:
        """Answers so far that are the best obtained and have passed no check, nested runs included."""
        return self._tally.flagged

    @property
    def remaining(self) -> Remaining:
        """What is left of all budgets that this run falls under, in dollars and in tokens. Asks the ledger."""
        return budgets.remaining(self._home.counters(self._tags()))

    @property
    def should_finish(self) -> bool:
        """True from when a budget is nearly used up, or has cut or refused the run's last call, and while a breaker
        suspends it. Asks the ledger."""
        tags = self._tags()
        pressed = self._tally.pressed or budgets.state(self._home.counters(tags)) != "ok"
        return pressed or self._home.suspended(tags)

    def step(self, name: str, *, cache: CacheWish | None = None, **said: Unpack[Said]) -> Step:
        """A step of this run, wherever it is entered: in a worker thread too, which inherits no context.

        What may be said of it: see `Guard.step`.
        """
        return Step(name, self, cache=cache, own=self._home.own(**said))

    def finish(self) -> Step:
        """The step of the run's final answer, which alone may use the finish reserve: sent with its tools off, once."""
        return Step(FINAL_STEP, self, final=True)

    def _tags(self) -> Tags:
        """What a call made here would be booked to."""
        scope = current()
        return scope.tags if scope is not None and scope.run is self else self.labels

    def _open(self, outer: Scope | None) -> Scope:
        return Scope(self, self.labels, outer, self._tally)

    def _again(self) -> "Run":
        return Run(self._home, self._said)


def label(name: str, value: object) -> str | None:
    """A label as text; None stays "not said". ValueError where it could not stand in a report."""
    if value is None:
        return None
    text = value if isinstance(value, str) else str(value)
    if not text or len(text) > _LONGEST_LABEL or not text.isprintable():
        raise ValueError(
            f"{name} = {text!r:.80}: expected 1 to {_LONGEST_LABEL} printable characters, got {len(text)}; "
            "leave it out where it is not known"
        )
    return text


def _labels(inherited: Tags, said: Mapping[str, Any], fresh_id: Callable[[], str]) -> Tags:
    fields = {
        "agent_id": label("agent", said["agent"]),
        "user_id": label("user", said["user"]),
        "session_id": label("session", said["session"]),
        "user_tier": label("user_tier", said["user_tier"]),
    }
    own = {label("tags", key): label(f"tags[{key!r}]", value) for key, value in (said["tags"] or {}).items()}
    tags = dict(inherited.tags) | cast(dict[str, str], own)
    if len(tags) > _MOST_TAGS:
        raise ValueError(f"a run carries at most {_MOST_TAGS} tags, got {len(tags)}")
    if not isinstance(said["budget"], Budget | None):
        raise TypeError(f"budget = {said['budget']!r:.80}: expected a bursar.Budget")
    run_id = label("run_id", said["run_id"]) or fresh_id()
    return msgspec.structs.replace(
        inherited,
        run_id=run_id,
        parent_run_id=inherited.run_id if inherited.run_id != run_id else inherited.parent_run_id,
        step=None,
        tags=tuple(tags.items()),
        **{field: value for field, value in fields.items() if value is not None},
    )


def merged(said: Tags, claimed: Tags) -> Tags:
    """What the context says, and what only the request's body says (wire.md section 5)."""
    fields = ("session_id", "user_id", "user_tier", "agent_id", "step")
    missing = {f: getattr(claimed, f) for f in fields if getattr(said, f) is None}
    return msgspec.structs.replace(said, tags=tuple({**dict(claimed.tags), **dict(said.tags)}.items()), **missing)
