"""Breakers as callers, admins and developers meet them: SDKs on both doors, the admin API, the command line."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

import bursar
import library_kit
import test_cli
from books import MINUTE, Watch, done, row
from bursar.doors.gateway.proxy import Settings
from bursar.drivers.breakers import Breakers
from bursar.policy import Match, Policy
from bursar.policy.breakers import Breaker, Ceiling, Errors, FanOut, Loop
from bursar.rules.breaker.gate import identity
from bursar.sandbox.server import SandboxServer
from bursar.stores.base import StoreFailure
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from gateways import Running, create_key, running
from library_kit import chat_streamed, chat_text, said
from test_cli import Cli

cli = test_cli.cli

LOOP = Breaker(name="loop", scope="session", trigger=Loop(repeats=3), suspend_ms=60_000)
STOPPED = "I have to stop here: this session is suspended by the breaker loop (the same turn 3 times), until "
MINI, HAIKU, FLASH = "gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash"
HELLO: Any = said("Tell me about bookkeeping.")


@contextmanager
def suspending(*rules: Breaker, **more: Any) -> Iterator[tuple[Running, Watch]]:
    """A gateway with breakers whose time stands still."""
    watch = Watch()
    with running(clock=watch, breakers=rules or (LOOP,), **more) as gw:
        gw.app.world.breakers.clock = watch
        yield gw, watch


def ask(gw: Running, text: str = "again", session: str = "s", **headers: str) -> tuple[str, str | None]:
    """The answer's text, and the budget's state as its header tells."""
    extra = {"x-bursar-session-id": session, "x-bursar-run-id": f"run-{session}", **headers}
    told = gw.openai().chat.completions.with_raw_response.create(
        model=MINI, messages=said(text), max_tokens=20, extra_headers=extra
    )
    gw.store.flush()
    return told.parse().choices[0].message.content or "", told.headers.get("x-bursar-budget-state")


def loop(gw: Running, session: str = "s") -> None:
    """The same request, until it is suspended."""
    states = [ask(gw, session=session)[1] for _ in range(4)]
    assert states == [None, None, None, "suspended"]


# --- half-open recovers


def test_half_open_recovers_behind_the_gateway() -> None:
    with suspending() as (gw, watch):
        assert ask(gw, session="neighbour")[1] is None
        loop(gw)
        text, state = ask(gw, "something else")
        assert (text.startswith(STOPPED), state) == (True, "suspended")
        watch.forward(MINUTE)
        assert ask(gw)[1] is None  # a probe, that goes on with the loop
        assert ask(gw, "something else")[1] == "suspended"
        watch.forward(MINUTE)
        assert ask(gw, "something else")[1] == "suspended"  # twice as long
        watch.forward(MINUTE)
        assert [ask(gw, f"something else {n}")[1] for n in range(5)] == [None] * 5
        assert ask(gw, session="neighbour")[1] is None
        (seen,) = gw.get("/bursar/v1/breakers").json()["items"]
        assert (seen["status"], seen["last_change"]["why"], seen["until"]) == ("closed", "the probe went well", None)
        assert {row.status for row in gw.rows() if row.session_id == "neighbour"} == {"completed"}


def test_half_open_recovers_in_the_library() -> None:
    """And `should_finish` says so before anything is asked."""
    watch = Watch()
    with SandboxServer(library_kit.settings()) as sandbox:
        policy = Policy(prices=library_kit.PRICES, breakers=(LOOP,))
        with bursar.Guard(policy, MemoryStore(clock=watch)) as guard:
            guard._desk.world.breakers.clock = watch
            client = guard.wrap(library_kit.openai(sandbox.url))

            def chat(text: str = "again") -> str:
                return str(library_kit.chat(client, text).choices[0].message.content)

            def ends(run: bursar.Run) -> bool:
                return run.should_finish

            with guard.run(session="s") as run:
                assert not ends(run)
                answers = [chat() for _ in range(4)]
                assert [text.startswith(STOPPED) for text in answers] == [False, False, False, True]
                assert ends(run)
            with guard.run(session="s") as later, guard.run() as inner:
                assert ends(later) and ends(inner)
            with guard.run(session="neighbour") as other:
                assert not ends(other) and not chat().startswith("I have")
            with later:
                watch.forward(MINUTE)
                assert not ends(later)  # the next call is let through to see
                assert not chat("something else").startswith("I have")
                assert not ends(later) and not ends(run)
                assert not chat("and more").startswith("I have")


def test_a_loop_is_told_to_finish_right_after_the_turn_that_was_one_too_many(tmp_path: Path) -> None:
    """Though what that turn came to is worked in behind it: `should_finish` waits until it is."""
    policy = Policy(prices=library_kit.PRICES, breakers=(LOOP,))
    with (
        SandboxServer(library_kit.settings()) as sandbox,
        bursar.Guard(policy, SqliteStore(tmp_path / "ledger.db")) as guard,
        guard.run(session="s") as run,
    ):
        client, turns = guard.wrap(library_kit.openai(sandbox.url)), 0
        while not run.should_finish:
            library_kit.chat(client, max_tokens=20)
            turns += 1
    assert turns == 3


def test_a_runs_fan_out_is_counted_at_any_depth_in_the_library() -> None:
    """Sub-agents of a sub-agent are the lead's too, and are suspended with it."""
    lead = Breaker(name="fan", scope="run", trigger=FanOut(over_runs=4), match=Match(agent="lead"))
    with SandboxServer(library_kit.settings()) as sandbox, library_kit.guarded(breakers=(lead,)) as guard:
        client = guard.wrap(library_kit.openai(sandbox.url))

        def answer() -> str:
            text = str(library_kit.chat(client, max_tokens=20).choices[0].message.content)
            guard.flush()
            return text

        with guard.run(agent="lead"), guard.run(agent="helper"):
            answer()
            texts = []
            for _ in range(5):
                with guard.run(agent="leaf"):
                    texts.append(answer())
        assert [text.startswith("I have to stop here: this run is") for text in texts] == [False] * 4 + [True]
        assert "(5 sub-agent runs within 10 minutes), until it is reset" in texts[-1]
        with guard.run(agent="lead"):
            assert not answer().startswith("I have to stop")


# --- what the suspended caller gets


def test_every_dialect_gets_a_valid_answer_plain_and_streamed() -> None:
    """No exception, no retry by SDKs set to retry, nothing sent and nothing paid."""
    shut = Breaker(name="loop", scope="tenant", trigger=Loop(repeats=3), text="Paused by {breaker}: {why}, {until}.")
    with suspending(shut) as (gw, _):
        for _ in range(3):
            ask(gw)
        gw.fresh()
        chat = gw.openai().with_options(max_retries=2).chat.completions
        text, why = chat_text(chat.create(model=MINI, messages=HELLO))
        assert (text, why) == ("Paused by loop: the same turn 3 times, until it is reset.", "length")
        assert chat_streamed(chat.create(model=MINI, messages=HELLO, stream=True)) == (text, why)
        assert gw.openai().responses.create(model=MINI, input="hello").output_text == text
        claude = gw.anthropic().with_options(max_retries=2).messages
        message: Any = claude.create(model=HAIKU, max_tokens=50, messages=HELLO)
        assert (message.content[0].text, message.stop_reason) == (text, "max_tokens")
        with claude.stream(model=HAIKU, max_tokens=50, messages=HELLO) as stream:
            assert stream.get_final_text() == text
        gemini = gw.gemini()  # closes itself where nobody holds it
        models = gemini.models
        assert models.generate_content(model=FLASH, contents="hello").text == text
        streamed = models.generate_content_stream(model=FLASH, contents="hello")
        assert "".join(chunk.text or "" for chunk in streamed) == text
        rows = gw.rows(7)
        assert {(r.status, r.http_status, r.cost_nanos) for r in rows} == {("refused", 200, 0)}
        assert gw.sandbox.requests == []


def test_where_no_text_would_be_valid_it_is_an_error_that_nobody_retries() -> None:
    loops = Breaker(name="loop", scope="tenant", trigger=Loop(repeats=3))
    with suspending(loops) as (gw, _):
        for _ in range(3):
            ask(gw)
        gw.fresh()
        client = gw.openai().with_options(max_retries=2)
        with pytest.raises(openai.APIStatusError, match="suspends tenant: the same turn 3 times") as found:
            client.embeddings.create(model="text-embedding-3-small", input="hello")
        assert (found.value.status_code, found.value.code) == (402, "suspended")
        assert found.value.response.headers["x-bursar-budget-state"] == "suspended"
        gw.rows(1)


def test_refuse_is_an_error_for_all() -> None:
    loops = Breaker(name="loop", scope="session", trigger=Loop(repeats=3), answer="refuse")
    with suspending(loops) as (gw, _):
        for _ in range(3):
            ask(gw)
        with pytest.raises(openai.APIStatusError) as found:
            ask(gw)
        assert (found.value.status_code, found.value.response.headers["x-should-retry"]) == (402, "false")
        claude = gw.anthropic().with_options(max_retries=2).messages
        with pytest.raises(anthropic.APIStatusError, match="breaker 'loop' suspends session s"):
            claude.create(model=HAIKU, max_tokens=5, messages=HELLO, extra_headers={"x-bursar-session-id": "s"})


def test_a_ceiling_that_refuses() -> None:
    ceiling = Breaker(name="dollars", scope="session", trigger=Ceiling(over_nanos=1), answer="refuse")
    with suspending(ceiling) as (gw, _), pytest.raises(openai.APIStatusError) as found:
        ask(gw)
    assert found.value.status_code == 402 and "the ceiling of $0.000000001 is reached" in found.value.message


def test_errors_of_the_provider_pile_up() -> None:
    errors = Breaker(name="errors", scope="agent", trigger=Errors(failures=3, of=5), match=Match(agent="a*"))
    with suspending(errors, settings=Settings(attempts=1)) as (gw, _):
        labels = {"x-bursar-agent-id": "a1", "x-sandbox-fault": "500"}
        for _ in range(3):
            with pytest.raises(openai.InternalServerError):
                ask(gw, **labels)
        gw.store.flush()
        assert ask(gw, **labels)[1] == "suspended"
        assert ask(gw, **{"x-bursar-agent-id": "b1"})[1] is None


def test_a_key_that_may_not_name_sessions_cannot_flee_into_another() -> None:
    errors = Breaker(name="errors", scope="session", trigger=Errors(failures=3, of=3))
    with suspending(errors, keyed=True, settings=Settings(attempts=1)) as (gw, _):

        def told(key: str, session: str) -> int:
            labels = {"x-bursar-session-id": session, "x-sandbox-fault": "500", "authorization": f"Bearer {key}"}
            status = gw.post("/v1/chat/completions", {"model": MINI, "messages": HELLO}, labels).status_code
            gw.store.flush()
            return status

        secret = create_key(gw.store)
        trusted = create_key(gw.store, trusted=frozenset(("session",)))
        assert [told(secret, f"s{n}") for n in range(4)] == [500, 500, 500, 200]
        assert [told(trusted, f"t{n}") for n in range(4)] == [500] * 4
        assert [told(trusted, "t") for n in range(4)] == [500, 500, 500, 200]
        keys = [one["key"] for one in gw.get("/bursar/v1/breakers", {"x-api-key": gw.admin}).json()["items"]]
        assert keys[0] == "t" and keys[1].startswith("key:key_")


def test_a_run_is_suspended_with_the_runs_inside_it() -> None:
    runs = Breaker(name="loop", scope="run", trigger=Loop(repeats=3))
    with suspending(runs) as (gw, _):
        loop(gw)
        child = {"x-bursar-run-id": "child", "x-bursar-parent-run-id": "run-s"}
        assert ask(gw, "else", **child)[1] == "suspended"
        assert ask(gw, "else", **{"x-bursar-run-id": "other"})[1] is None


def test_a_store_that_cannot_be_read_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with suspending() as (gw, _):
        ask(gw)
        gw.fresh()

        def broken(self: Breakers, over: Any) -> Any:
            raise StoreFailure("unplugged")

        with monkeypatch.context() as patched:
            patched.setattr(Breakers, "_read", broken)
            with pytest.raises(openai.InternalServerError, match="unplugged"):
                ask(gw)
        assert gw.sandbox.requests == []
        assert ask(gw)[1] is None


# --- the admin API


def test_the_admin_api_lists_and_resets_and_says_who_did_it() -> None:
    with suspending(keyed=True) as (gw, _):
        admin = {"authorization": f"Bearer {gw.admin}"}
        key = create_key(gw.store, trusted=frozenset(("session", "run")))

        def asked(session: str) -> str | None:
            told = gw.openai(key).chat.completions.with_raw_response.create(
                model=MINI, messages=HELLO, extra_headers={"x-bursar-session-id": session}
            )
            gw.store.flush()
            return told.headers.get("x-bursar-budget-state")

        for session in ("s", "t"):
            assert [asked(session) for _ in range(4)][-1] == "suspended"
        listed = gw.get("/bursar/v1/breakers", admin).json()
        assert [one["key"] for one in listed["items"]] == ["t", "s"] and listed["next_cursor"] is None
        last = listed["items"][-1]
        assert last == {
            "id": identity(LOOP, "s", "acme"), "breaker": "loop", "scope": "session", "key": "s", "tenant": "acme",
            "status": "open", "why": "the same turn 3 times", "since": "2025-11-24T16:00:00Z",
            "opened_at": "2025-11-24T16:00:00Z", "until": "2025-11-24T16:01:00Z", "failed_probes": 0,
            "last_change": {"at": "2025-11-24T16:00:00Z", "before": "closed", "after": "open", "by": "rule",
                            "who": None, "why": "the same turn 3 times"},
        }  # fmt: skip
        place = f"/bursar/v1/breakers/{last['id']}"
        for headers, status in (({}, 401), ({"authorization": f"Bearer {key}"}, 403)):
            assert gw.post(f"{place}/reset", b"", headers).status_code == status
            assert gw.get("/bursar/v1/breakers", headers).status_code == status
        assert asked("s") == "suspended"
        told = gw.post(f"{place}/reset", b"", admin).json()
        assert (told["reset"], told["breaker"]["status"]) == (True, "closed")
        assert asked("s") is None and asked("t") == "suspended"
        assert gw.post(f"{place}/reset", b"", admin).json()["reset"] is False
        one = gw.get(place, admin).json()
        assert [(line["after"], line["by"]) for line in one["changes"]] == [("closed", "hand"), ("open", "rule")]
        assert one["changes"][0]["who"].startswith("test (key_") and gw.admin not in str(one)
        opened = gw.get("/bursar/v1/breakers?status=open&tenant=acme", admin).json()["items"]
        assert [item["key"] for item in opened] == ["t"]
        for wrong, status in (("?status=shut", 400), ("?limit=0", 400), ("?cursor=x", 400), ("/nobody", 404)):
            assert gw.get(f"/bursar/v1/breakers{wrong}", admin).status_code == status
        assert gw.post("/bursar/v1/breakers/nobody/reset", b"", admin).status_code == 404
        assert gw.get(f"{place}/reset", admin).status_code == 405
        paths = gw.get("/bursar/v1/openapi.json", admin).json()["paths"]
        assert "post" in paths["/bursar/v1/breakers/{breaker_id}/reset"] and "/bursar/v1/breakers" in paths


# --- the command line


@pytest.fixture
def tripped(cli: Cli) -> Callable[[], str]:
    """A ledger beside which a session is suspended; its breaker's id."""

    def trip() -> str:
        errors = Breaker(name="too many errors", scope="session", trigger=Errors(failures=2, of=4), suspend_ms=60_000)
        with closing(SqliteStore("bursar.db", clock=Watch())) as store:
            breakers = Breakers(store, (errors,), Watch())
            for number in range(2):
                breakers.watch(done(row(f"{number}", session_id="s7"), status="failed"))
        return identity(errors, "s7", "default")

    return trip


def test_the_command_line_lists_and_resets(cli: Cli, tripped: Callable[[], str]) -> None:
    name = tripped()
    told = cli("breakers", "--json")
    assert told.code == 0
    (one,) = told.json["items"]
    assert (one["id"], one["status"], one["why"]) == (name, "open", "2 of the last 2 attempts failed")
    shown = cli("breakers").out
    for part in ("too many errors", "session s7", "open", "2 of the last 2 attempts failed", name):
        assert part in shown
    done = cli("breakers", "reset", name)
    assert (done.code, done.out) == (0, "too many errors (session s7) is closed.\n")
    again = cli("breakers", "reset", name, "--json")
    assert (again.code, again.json["reset"], again.json["breaker"]["status"]) == (1, False, "closed")
    assert again.json["breaker"]["last_change"]["who"].endswith(" on the command line")
    assert cli("breakers", "--status", "open", "--json").json == {"items": [], "next_cursor": None}
    assert "closed" in cli("breakers").out


def test_wrong_questions_on_the_command_line(cli: Cli, tripped: Callable[[], str]) -> None:
    SqliteStore("bursar.db").close()
    assert "No breaker has tripped" in cli("breakers").out
    tripped()
    for argv, told in (
        (["breakers", "reset", "nobody"], "no breaker 'nobody' has tripped"),
        (["breakers", "--limit", "0"], "expected 1 to 1000"),
        (["breakers", "--cursor", "?"], "--cursor"),
    ):
        ended = cli(*argv)
        assert (ended.code, told in ended.err) == (2, True), ended.err
    for command in ("breakers", "breakers reset"):
        shown = cli(*command.split(), "--help")
        assert shown.code == 0 and f"Example: bursar {command}" in shown.out and "--json" in shown.out


def test_what_a_hostile_label_holds_moves_no_terminal(cli: Cli) -> None:
    errors = Breaker(name="e", scope="session", trigger=Errors(failures=1, of=1))
    with closing(SqliteStore("bursar.db")) as store:
        Breakers(store, (errors,), Watch()).watch(done(row("1", session_id="a\x1b[2Jb"), status="failed"))
    shown = cli("breakers").out
    assert "\x1b" not in shown and "session a" in shown
