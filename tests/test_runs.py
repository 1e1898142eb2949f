"""Runs and steps: what a call is booked to, wherever Python carries it; what a run knows of itself; how all ends."""

import asyncio
import contextvars
import gc
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

import bursar
from bursar import testing
from bursar.policy import Policy
from bursar.rules.cards import compile_book
from bursar.stores.memory import MemoryStore

ASK: Any = [{"role": "user", "content": "?"}]


@pytest.fixture
def guard() -> Iterator[bursar.Guard]:
    with bursar.Guard(Policy(prices=compile_book({}, {})), MemoryStore()) as guard:
        yield guard


@pytest.fixture
def script() -> Iterator[testing.Script]:
    with testing.Script() as script:
        yield script


@pytest.fixture
def call(guard: bursar.Guard, script: testing.Script) -> Any:
    """Makes one call of 1,000 input and 100 output tokens ($0.0035 on gpt-4o); gives its row."""
    client = guard.wrap(OpenAI(api_key="k", http_client=script.client(), max_retries=0))

    def call(model: str = "gpt-4o", **more: Any) -> dict[str, Any]:
        script.answer("yes", input_tokens=1000, output_tokens=100)
        client.chat.completions.create(model=model, messages=ASK, **more)
        return guard.ledger.calls(limit=1).items[0]

    return call


def where(row: dict[str, Any]) -> tuple[str | None, str | None]:
    return row["agent_id"], row["step"]


def test_a_call_is_booked_to_its_run_and_step(guard: bursar.Guard, call: Any) -> None:
    """Agent, user, session, tier, tags and run of the context stand in the row; outside of a run it names no run."""
    with guard.run(agent="a", user=42, session="s", user_tier="free", tags={"team": "x"}) as run, run.step("plan"):
        row = call()
    assert (row["run_id"], row["agent_id"], row["user_id"]) == (run.id, "a", "42")
    assert (row["session_id"], row["user_tier"], row["tags"], row["step"]) == ("s", "free", {"team": "x"}, "plan")
    outside = call()
    assert (outside["run_id"], outside["agent_id"]) == (None, None)


def test_a_nested_run_inherits_and_counts_for_both(guard: bursar.Guard, call: Any) -> None:
    """What the inner run does not say it has from the outer; its cost is part of the outer's; its step is its own."""
    with guard.run(agent="outer", user="u", tags={"a": 1, "b": 1}) as outer, outer.step("plan"):
        call()
        with guard.run(agent="inner", tags={"b": 2}) as inner:
            row = call()
            assert (row["parent_run_id"], row["user_id"], row["agent_id"]) == (outer.id, "u", "inner")
            assert row["tags"] == {"a": "1", "b": "2"}
            assert row["step"] != "plan"
        assert where(call()) == ("outer", "plan")
    assert (inner.cost, inner.tokens, inner.calls, inner.unknown) == (Decimal("0.0035"), 1100, 1, 0)
    assert (outer.cost, outer.tokens, outer.calls, outer.unknown) == (Decimal("0.0105"), 3300, 3, 0)
    assert inner.parent_id == outer.id
    assert [row["run_id"] for row in guard.ledger.run(outer.id)] == [outer.id, inner.id, outer.id]


def test_an_unknown_cost_is_counted_and_not_zero(guard: bursar.Guard, call: Any) -> None:
    """A call without a price leaves the run's cost a lower bound, and says so."""
    with guard.run() as run:
        call()
        call("nobody-knows-this-model")
    assert (run.cost, run.unknown, run.calls) == (Decimal("0.0035"), 1, 2)


def test_a_run_that_goes_on_elsewhere_has_one_id(guard: bursar.Guard, call: Any) -> None:
    """run_id= continues a run; two holders of one id see the same sums, and no run is its own parent."""
    with guard.run(run_id="r-1") as first:
        call()
        with guard.run(run_id="r-1") as again:
            row = call()
    assert (row["run_id"], row["parent_run_id"]) == ("r-1", None)
    assert first.calls == again.calls == 2


def test_decorators_of_every_kind_of_function(guard: bursar.Guard, call: Any) -> None:
    """Function, coroutine, generator and async generator: what runs inside is booked to the step, nothing else is."""

    @guard.step("plain")
    def plain(text: str) -> Any:
        """Its own words."""
        return call()["step"], text

    @guard.step("coroutine")
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return call()["step"]

    @guard.step("generator")
    def generator() -> Iterator[Any]:
        got = yield call()["step"]
        with guard.step("inner"):
            yield call()["step"], got
            yield call()["step"]
        yield call()["step"]

    @guard.step("async generator")
    async def agenerator() -> AsyncIterator[Any]:
        yield call()["step"]
        with guard.step("inner"):
            yield call()["step"]
        yield call()["step"]

    async def main() -> list[Any]:
        found = [await coroutine()]
        with guard.step("consumer"):
            async for step in agenerator():
                found += [step, call()["step"]]
        return found

    assert plain("x") == ("plain", "x")
    assert plain.__doc__ == "Its own words."
    with guard.step("consumer"):
        running: Any = generator()
        found = [next(running), call()["step"], running.send("sent"), call()["step"], next(running), call()["step"]]
        assert found == ["generator", "consumer", ("inner", "sent"), "consumer", "inner", "consumer"]
        assert next(running) == "generator"
        assert next(running, None) is None
        assert call()["step"] == "consumer"
    c = "consumer"
    assert asyncio.run(main()) == ["coroutine", "async generator", c, "inner", c, "async generator", c]


def test_a_decorated_generator_is_a_generator(guard: bursar.Guard) -> None:
    """throw, close and the returned value reach and leave it as if it were bare."""
    events: list[Any] = []

    @guard.step("s")
    def body() -> Any:
        try:
            yield 1
        except KeyError:
            yield 2
        finally:
            events.append("over")
        return 3

    def outer() -> Any:
        events.append((yield from body()))

    assert list(outer()) == [1]
    assert events == ["over", 3]
    running = body()
    next(running)
    assert running.throw(KeyError()) == 2
    running.close()
    assert events == ["over", 3, "over"]


def test_every_call_of_a_decorated_run_is_a_run(guard: bursar.Guard, call: Any) -> None:
    """@guard.run(...) opens a fresh run each time, and a streaming agent's run does not leak to its reader."""

    @guard.run(agent="a")
    def agent() -> Iterator[Any]:
        yield call()["run_id"]
        yield call()["run_id"]

    first, second = list(agent()), list(agent())
    assert first[0] == first[1] != second[0]
    for run_id in agent():
        assert call()["run_id"] is None
        assert run_id is not None


def test_a_context_manager_made_of_a_generator_holds_for_its_body(guard: bursar.Guard, call: Any) -> None:
    """A bare `with` in a generator does reach whoever resumed it: that is what makes context managers work."""

    @contextmanager
    def request() -> Iterator[None]:
        with guard.run(agent="web"):
            yield

    with request():
        assert call()["agent_id"] == "web"
    assert call()["agent_id"] is None


def test_tasks_and_threads(guard: bursar.Guard, call: Any) -> None:
    """Tasks inherit; so do threads started with a copied context; run.step() works in a thread without."""
    lock = threading.Lock()

    def locked() -> Any:
        with lock:
            return where(call())

    async def main() -> Any:
        async with guard.run(agent="a") as run:

            async def work(name: str) -> Any:
                async with run.step(name):
                    await asyncio.sleep(0)
                    return locked()

            found = await asyncio.gather(*map(work, "xyz"))
            return [*found, await asyncio.to_thread(locked)]

    *steps, threaded = asyncio.run(main())
    assert steps == [("a", "x"), ("a", "y"), ("a", "z")]
    assert threaded[0] == "a"
    with guard.run(agent="b") as run, ThreadPoolExecutor(2) as pool:

        def named() -> Any:
            with run.step("w"):
                return locked()

        assert pool.submit(locked).result()[0] is None
        assert pool.submit(contextvars.copy_context().run, locked).result()[0] == "b"
        assert pool.submit(named).result() == ("b", "w")


def test_work_that_outlives_its_run_is_still_booked_to_it(guard: bursar.Guard, call: Any) -> None:
    """A task left running when the `with` ends goes on under the run it was made for; the maker does not."""

    async def main() -> Any:
        with guard.run(agent="a"):
            task = asyncio.create_task(asyncio.to_thread(lambda: where(call())))
        outside = where(call())
        return (await task)[0], outside[0]

    assert asyncio.run(main()) == ("a", None)


def test_an_abandoned_async_generator_leaks_nothing(guard: bursar.Guard, call: Any) -> None:
    """Closed by the event loop in another task's context, its `with` neither raises nor stays with its reader."""

    async def pieces() -> AsyncIterator[int]:
        with guard.step("leaky"):
            yield 1
            yield 2

    async def main() -> Any:
        async for _ in pieces():
            break
        gc.collect()
        for _ in range(5):
            await asyncio.sleep(0)
        return call()["step"]

    assert asyncio.run(main()) != "leaky"


def test_entering_twice_is_said(guard: bursar.Guard) -> None:
    """One `with` at a time for one object: RuntimeError tells to make a new one."""
    step = guard.step("s")
    with step, pytest.raises(RuntimeError, match="entered already"):
        step.__enter__()
    with step:
        pass


@pytest.mark.parametrize("bad", ["", "x" * 201, "a\nb"])
def test_a_label_that_could_not_stand_in_a_report_is_refused(guard: bursar.Guard, bad: str) -> None:
    """ValueError at the run, not a lost call later."""
    with pytest.raises(ValueError, match="printable characters"):
        guard.run(user=bad)
    with pytest.raises(ValueError, match="printable characters"):
        guard.step(bad)


def test_what_nobody_said_is_taken_from_the_body(guard: bursar.Guard, script: testing.Script, call: Any) -> None:
    """Precedence of wire.md section 5: the context, then safety_identifier, user, metadata; nothing overrides it."""
    row = call(
        safety_identifier="sid", user="u", metadata={"user_id": "m", "session_id": "s", "agent_id": "a", "k": "v"}
    )
    assert (row["user_id"], row["session_id"], row["agent_id"], row["tags"]) == ("sid", "s", "a", {"k": "v"})
    with guard.run(agent="mine", user="me", tags={"k": "mine"}):
        row = call(user="u", metadata={"agent_id": "a", "k": "v"})
    assert (row["user_id"], row["agent_id"], row["tags"]) == ("me", "mine", {"k": "mine"})
    script.answer("yes")
    claude = guard.wrap(Anthropic(api_key="k", http_client=script.client()))
    claude.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=ASK, metadata={"user_id": "u7"})
    assert guard.ledger.calls(limit=1).items[0]["user_id"] == "u7"


def test_the_ledger_answers(guard: bursar.Guard, call: Any) -> None:
    """calls, call, runs, run and spend by name; amounts are decimal strings; an unknown filter is named."""
    with guard.run(agent="a", user="u") as run:
        request = call()["request_id"]
    assert [row["cost_usd"] for row in guard.ledger.calls(agent_id="a", since="1h").items] == ["0.0035"]
    assert [row["attempt"] for row in guard.ledger.call(request)] == [1]
    assert [row["run_id"] for row in guard.ledger.runs(user_id="u").items] == [run.id]
    (line,) = guard.ledger.spend("agent")
    assert (line["agent"], line["cost_usd"], line["input_tokens"]) == ("a", "0.0035", 1000)
    report = guard.report(by="user", since="1d")
    assert report["totals"]["cost_usd"] == "0.0035"
    assert [row["user"] for row in report["rows"]] == ["u"]
    with pytest.raises(TypeError, match=r"no such filter: agent; there are .*agent_id"):
        guard.ledger.calls(agent="a")


def test_importing_bursar_is_cheap_and_brings_nothing() -> None:
    """No SDK, no HTTP library, no pydantic and no SQLAlchemy come with `import bursar`, nor with a wrapped call."""
    heavy = "('openai', 'anthropic', 'httpx', 'httpx2', 'pydantic', 'sqlalchemy', 'aiohttp', 'genai_prices', 'asyncio')"
    subprocess.run(
        [sys.executable, "-c", f"import bursar, sys; assert not set({heavy}) & set(sys.modules)"], check=True
    )


PROGRAM = """
import os, sys, bursar
from bursar import testing
from openai import OpenAI
script = testing.Script()
guard = bursar.open(store=sys.argv[1])
client = guard.wrap(OpenAI(api_key="k", http_client=script.client()))
def ask(agent):
    with guard.run(agent=agent):
        script.answer("yes")
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "?"}])
ask("parent")
if sys.argv[2] == "fork":
    child = os.fork()
    if not child:
        ask("child"); guard.close(); os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
elif sys.argv[2] == "multiprocessing":
    import multiprocessing
    child = multiprocessing.get_context("fork").Process(target=ask, args=("child",))
    child.start(); child.join(); assert child.exitcode == 0
elif sys.argv[2] == "stream":
    script.answer("a long answer")
    found = iter(client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "?"}], stream=True))
    next(found)
ask("parent")
"""


@pytest.mark.parametrize("kind", ["plain", "fork", "multiprocessing", "stream"])
def test_the_end_of_a_process_loses_nothing(tmp_path: Path, kind: str) -> None:
    """Nobody closes the guard: at exit every row is closed and on disk; forked children book their own, once each."""
    url = f"sqlite:///{tmp_path / 'books.db'}"
    environ = {**os.environ, "BURSAR_CONFIG": ""}
    subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, url, kind], check=True, cwd=tmp_path, env=environ)
    with bursar.open(store=url) as guard:
        rows = guard.ledger.calls().items
        agents = sorted(row["agent_id"] or "(none)" for row in rows)
        extra = {"plain": [], "stream": ["(none)"]}.get(kind, ["child"])
        assert agents == sorted(["parent", "parent", *extra])
        assert {row["status"] for row in rows} <= {"completed", "abandoned"}
        assert guard._desk.store.verify() == []


def test_a_wrong_configuration_refuses_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ConfigError names what is wrong; the defaults need no file and measure into ./bursar.db."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_CONFIG", raising=False)
    (tmp_path / "bad.toml").write_text("colour = 'red'\n")
    with pytest.raises(bursar.ConfigError, match="colour"):
        bursar.open("bad.toml")
    with pytest.raises(bursar.ConfigError, match="expected 'sqlite:///path' or 'memory://', got 'mysql://x'"):
        bursar.open(store="mysql://x")
    with bursar.open():
        assert (tmp_path / "bursar.db").exists()
