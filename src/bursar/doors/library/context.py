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
from typing import Any, Self, TypeVar, cast

import msgspec

from bursar.money import format_usd
from bursar.types import Entry, Tags

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST_LABEL = 200
_MOST_TAGS = 32


class Scope:
    """One run or step that somebody entered: what it says, and what stood before."""

    __slots__ = ("_owner", "closed", "outer", "run", "tags")

    def __init__(self, run: "Run | None", tags: Tags, outer: "Scope | None") -> None:
        self.run, self.tags, self.outer = run, tags, outer
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


class Tally:
    """What one run and all runs below it have come to, as heard from the driver; shared by all who name the run."""

    def __init__(self, parent: "Tally | None") -> None:
        self.parent = parent
        self.nanos = self.unknown = self.tokens = self.calls = 0
        self.lock = threading.Lock()

    def add(self, entry: Entry) -> None:
        """Count a closed row here and in every run above."""
        above: Tally | None = self
        while above is not None:
            with above.lock:
                above.nanos += entry.cost_nanos or 0
                above.unknown += entry.cost_nanos is None
                above.tokens += (entry.input_tokens or 0) + (entry.output_tokens or 0)
                above.calls += entry.attempt == 1 and entry.purpose == "call"
            above = above.parent


class Tallies:
    """The tallies of a guard's runs that somebody still holds."""

    def __init__(self) -> None:
        self._tallies: weakref.WeakValueDictionary[str, Tally] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, run_id: str, parent: Tally | None) -> Tally:
        with self._lock:
            tally = self._tallies.get(run_id)
            if tally is None:
                tally = self._tallies[run_id] = Tally(parent)
            return tally

    def reborn(self) -> None:
        """In a forked child: another thread may have held a lock."""
        self._lock = threading.Lock()
        for tally in list(self._tallies.values()):
            tally.lock = threading.Lock()

    def settled(self, entry: Entry) -> None:
        """Hear of a closed row."""
        tally = self._tallies.get(entry.run_id) if entry.run_id is not None else None
        if tally is not None:
            tally.add(entry)


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
    """A named part of a run: what is called within is booked to it."""

    def __init__(self, name: str, run: "Run | None" = None) -> None:
        self.name = cast(str, label("step", name))
        self._run = run

    def __repr__(self) -> str:
        return f"step({self.name!r})"

    def _open(self, outer: Scope | None) -> Scope:
        if self._run is not None:
            base, run = self._run.labels, self._run
        else:
            base, run = (outer.tags, cast(Run, outer.run)) if outer is not None else (Tags(), cast(Run, None))
        return Scope(run, msgspec.structs.replace(base, step=self.name), outer)

    def _again(self) -> "Step":
        return Step(self.name, self._run)


class Run(_Enterable):
    """One run of an agent. What it does not say it has from the run around it; a step it never inherits."""

    def __init__(self, tallies: Tallies, fresh_id: Callable[[], str], said: Mapping[str, Any]) -> None:
        around = current()
        above: Run | None = around.run if around is not None else None
        self._tallies, self._fresh_id, self._said = tallies, fresh_id, said
        self.labels: Tags = _labels(above.labels if above is not None else Tags(), said, fresh_id)
        self._above = above
        parent = above._tally if above is not None and above._tallies is tallies else None
        self._tally: Tally = tallies.of(self.id, parent)

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

    def step(self, name: str) -> Step:
        """A step of this run, wherever it is entered: in a worker thread too, which inherits no context."""
        return Step(name, self)

    def _open(self, outer: Scope | None) -> Scope:
        return Scope(self, self.labels, outer)

    def _again(self) -> "Run":
        return Run(self._tallies, self._fresh_id, self._said)


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
