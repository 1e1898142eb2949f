"""The semantic cache in the life of a call: real SDKs, a sandbox, a tiny embedder. Walls, learning, restart, amends."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import APIStatusError, AsyncOpenAI, OpenAI

pytest.importorskip("numpy", reason="the index needs the extra `semantic`")
pytest.importorskip("usearch", reason="the index needs the extra `semantic`")

import bursar
from bursar.config import ConfigError, load
from bursar.doors.cli import main
from bursar.doors.open import make_policy
from bursar.drivers.world import wall_clock
from bursar.policy import Endpoint, Match, SemanticCache, StepRule
from bursar.sandbox import SandboxServer
from bursar.sandbox.answers import Task
from bursar.sandbox.settings import Settings
from bursar.stores.cache import Purge
from bursar.stores.memory import MemoryStore
from bursar.stores.sqlite import SqliteStore
from gateways import create_key, running
from library_kit import anthropic, chat, openai, rows, said
from meanings import Broken, Words, guarded, meaning, rule

ASKED = "How do I reverse a list?"
AGAIN = "Please tell me: how do I reverse the list?"
OTHER = "How do I reverse 2 lists?"


@pytest.fixture
def sandbox() -> Iterator[SandboxServer]:
    with SandboxServer(Settings(clock=lambda: 1_700_000_000.0)) as server:
        yield server


def ask(guard: bursar.Guard, client: Any, text: str, user: str | None = "u1", **more: Any) -> Any:
    """One question, answered and learned from."""
    with guard.run(user=user), guard.step("ask"):
        answer = chat(client, text, **more)
    meaning(guard)
    return answer


def sent(sandbox: SandboxServer) -> int:
    return len(sandbox.requests)


def test_a_question_in_other_words_is_answered_from_the_cache(sandbox: SandboxServer) -> None:
    """The row is a hit that cost nothing and saved the first call's price; another number is another question."""
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        first, second = ask(guard, client, ASKED), ask(guard, client, AGAIN)
        assert second.choices[0].message.content == first.choices[0].message.content
        assert sent(sandbox) == 1
        ask(guard, client, OTHER)
        assert sent(sandbox) == 2
        paid, hit, _ = rows(guard)
        assert (paid.cache, hit.cache, hit.status) == ("miss", "semantic_hit", "hit")
        assert (hit.cost_nanos, hit.saved_nanos) == (0, paid.cost_nanos)
        (pool,) = meaning(guard).pools()
        assert (pool.asked, pool.served, pool.judged) == (3, 1, 0)


def test_a_hit_is_streamed_to_who_asks_for_a_stream(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        with guard.run(user="u1"), guard.step("ask"):
            told = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, ASKED, stream=True))
        meaning(guard)
        whole = ask(guard, client, AGAIN).choices[0].message.content
        with guard.run(user="u1"), guard.step("ask"):
            again = "".join(chunk.choices[0].delta.content or "" for chunk in chat(client, AGAIN, stream=True))
        assert told == whole == again
        assert sent(sandbox) == 1


def test_the_responses_and_messages_dialects_too(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        one: OpenAI = guard.wrap(openai(sandbox.url))
        two: Anthropic = guard.wrap(anthropic(sandbox.url))
        for text in (ASKED, AGAIN):
            with guard.run(user="u1"), guard.step("ask"):
                one.responses.create(model="gpt-4o", input=text, instructions="Be brief.")
                two.messages.create(model="claude-haiku-4-5", max_tokens=2_000, messages=said(text))
            meaning(guard)
        assert sorted(got.path for got in sandbox.requests) == ["/v1/messages", "/v1/responses"]


@pytest.mark.anyio
async def test_on_an_event_loop(sandbox: SandboxServer) -> None:
    """Embedding leaves the loop alone; a cancelled call leaves no open row."""
    with guarded(MemoryStore()) as guard:
        client: AsyncOpenAI = guard.wrap(openai(sandbox.url, AsyncOpenAI))
        for text in (ASKED, AGAIN):
            async with guard.run(user="u1"), guard.step("ask"):
                await chat(client, text)
            await asyncio.to_thread(meaning, guard)
        assert sent(sandbox) == 1
        async with guard.run(user="u1"), guard.step("ask"):
            task = asyncio.ensure_future(chat(client, OTHER))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await client.close()
        assert all(row.status != "open" for row in await asyncio.to_thread(rows, guard))


TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
BEFORE: Any = [{"role": "user", "content": "We talk of lists."}, {"role": "assistant", "content": "Yes."}]
WALLS: dict[str, Callable[[Any, str], Any]] = {
    "system": lambda client, text: client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "system", "content": "You are a pirate."}, *said(text)]
    ),
    "tools": lambda client, text: chat(client, text, tools=[TOOL]),
    "temperature": lambda client, text: chat(client, text, temperature=0.3),
    "model": lambda client, text: client.chat.completions.create(model="gpt-4o-mini", messages=said(text)),
    "context": lambda client, text: client.chat.completions.create(model="gpt-4o", messages=[*BEFORE, *said(text)]),
    "format": lambda client, text: chat(client, text, response_format={"type": "json_object"}),
    "api": lambda client, text: client.responses.create(model="gpt-4o", input=text),
}


@pytest.mark.parametrize("wall", WALLS)
@pytest.mark.parametrize("text", [ASKED, AGAIN])
def test_no_answer_passes_a_wall(sandbox: SandboxServer, wall: str, text: str) -> None:
    """Two prompts, tool sets, parameters, models, contexts: never each other's answer, equal words or like ones."""
    with guarded(MemoryStore(), scope="global") as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        with guard.run(user="u1"), guard.step("ask"):
            WALLS[wall](client, text)
        assert sent(sandbox) == 2
        ask(guard, client, text)
        assert sent(sandbox) == 2


def test_equal_context_is_no_wall(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        for text in (ASKED, AGAIN):
            with guard.run(user="u1"), guard.step("ask"):
                WALLS["context"](client, text)
            meaning(guard)
        assert sent(sandbox) == 1


@pytest.mark.parametrize(
    ("scope", "crosses"), [("user", {"session"}), ("session", {"user"}), ("tenant", {"user", "session"})]
)
def test_who_may_be_given_an_answer(sandbox: SandboxServer, scope: Any, crosses: set[str]) -> None:
    """user: the same user's sessions; session: nobody else's session; without the id there is no semantic cache."""
    with guarded(MemoryStore(), scope=scope) as guard:
        client = guard.wrap(openai(sandbox.url))

        def asks(user: str | None, session: str | None) -> int:
            before = sent(sandbox)
            with guard.run(user=user, session=session), guard.step("ask"):
                chat(client, AGAIN)
            meaning(guard)
            return sent(sandbox) - before

        assert asks("u1", "s1") == 1
        assert asks("u1", "s1") == 0
        assert asks("u2", "s1") == (0 if "user" in crosses else 1)
        assert asks("u1", "s2") == (0 if "session" in crosses else 1)
        assert [asks(None, None), asks(None, None)] == ([0, 0] if scope == "tenant" else [1, 1])


@pytest.mark.parametrize(
    "text",
    ["What is the weather like today?", "What is my account balance?", "Go on", "?!", "My name is Ann, who is he?"],
)
def test_what_leans_on_time_person_or_context_is_asked_anew(sandbox: SandboxServer, text: str) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        for _ in range(2):
            ask(guard, client, text)
        assert sent(sandbox) == 2
        assert meaning(guard).notes.size() == (0, 0)


def test_tool_turns_are_asked_anew(sandbox: SandboxServer) -> None:
    """After a tool's result the answer is about the world."""
    call: Any = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    turns: Any = [
        *said("Look it up"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
        *said(ASKED),
    ]
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        for _ in range(2):
            with guard.run(user="u1"), guard.step("ask"):
                client.chat.completions.create(model="gpt-4o", messages=turns, tools=[TOOL])
            meaning(guard)
        assert sent(sandbox) == 2


def test_another_step_has_no_semantic_cache(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        with guard.run(user="u1"), guard.step("other"):
            chat(client, ASKED)
        assert sent(sandbox) == 2


def test_a_broken_embedder_is_a_miss(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore(), embedder=Broken()) as guard:
        client = guard.wrap(openai(sandbox.url))
        answers = [ask(guard, client, ASKED) for _ in range(2)]
        assert all(answer.choices[0].message.content for answer in answers)
        semantics = guard._desk.world.semantics
        assert semantics is not None and semantics.failures == 2
        assert [row.cache for row in rows(guard)] == ["bypass", "bypass"]


def test_shadow_serves_nothing_and_counts(sandbox: SandboxServer) -> None:
    """What would have been served is compared with the fresh answer."""
    with guarded(MemoryStore(), mode="shadow", judge=lambda question, old, new: old == new) as guard:
        client = guard.wrap(openai(sandbox.url))
        for text in (ASKED, ASKED, AGAIN):
            ask(guard, client, text)
        assert sent(sandbox) == 3
        (pool,) = meaning(guard).pools()
        assert (pool.asked, pool.served, pool.shadow, pool.judged, pool.wrong) == (3, 0, 2, 2, 1)


# --- learned


KINDS = ("invoice", "letter", "contract", "receipt", "memo")


def classified() -> SandboxServer:
    """A provider that classifies texts: the label is the one word that the text names."""
    tasks = tuple(Task(kind="classify", match=re.compile(kind), right=kind, odds={"mid": 1.0}) for kind in KINDS)
    return SandboxServer(Settings(tasks=tasks, clock=lambda: 1_700_000_000.0))


def texts(count: int) -> list[str]:
    return [f"Which kind is this {KINDS[n % 5]}{' please' * (n % 3)}?" for n in range(count)]


def test_nothing_is_served_before_the_certificate_and_a_restart_keeps_it(tmp_path: Path) -> None:
    """Labels come from misses, by equal one-word answers; entries, labels and threshold outlive the process."""
    with classified() as provider:
        with guarded(SqliteStore(tmp_path / "bursar.db"), max_error=0.1, scope="tenant") as guard:
            client = guard.wrap(openai(provider.url))
            for text in texts(60):
                ask(guard, client, text)
            assert sent(provider) == 60
            (pool,) = meaning(guard).pools()
            assert pool.state is not None and pool.state.threshold is None and len(pool.state.labels) >= 50
            for text in texts(15):
                ask(guard, client, text)
            (pool,) = meaning(guard).pools()
            assert pool.state is not None and pool.state.threshold is not None
            before, questions = sent(provider), meaning(guard).notes.size()
            assert questions == (15, 5)  # every wording, five answers: paraphrases are aliases
        with guarded(SqliteStore(tmp_path / "bursar.db"), max_error=0.1, scope="tenant") as guard:
            client = guard.wrap(openai(provider.url))
            for text in texts(30):
                ask(guard, client, text)
            (again,) = meaning(guard).pools()
            assert again.state is not None and again.state.labels[: len(pool.state.labels)] == pool.state.labels
            audits = again.judged - pool.judged
            assert sent(provider) - before == audits < 15
            assert again.served - pool.served == 30 - audits
            assert again.wrong == 0


def test_prose_without_a_judge_gives_no_label(sandbox: SandboxServer) -> None:
    """Equal texts would be counted and different ones left out: so neither is."""
    with guarded(MemoryStore(), max_error=0.1) as guard:
        client = guard.wrap(openai(sandbox.url))
        for _ in range(3):
            ask(guard, client, ASKED)
        (pool,) = meaning(guard).pools()
        assert pool.state is None and sent(sandbox) == 3
        assert meaning(guard).notes.size() == (1, 1)


# --- amends


def hit_of(guard: bursar.Guard) -> str:
    return next(row.request_id for row in reversed(rows(guard)) if row.cache == "semantic_hit")


def test_a_bad_hit_is_explained_reported_and_gone(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        first = ask(guard, client, ASKED).choices[0].message.content
        ask(guard, client, AGAIN)
        told, known = meaning(guard), hit_of(guard)
        why = told.explain(known)
        assert why is not None and why.stored and why.answer == first
        assert (why.hit.text, why.hit.stored_text) == (AGAIN, ASKED)
        assert why.hit.cosine == pytest.approx(1.0, abs=0.01)
        assert told.explain("req_unknown") is None
        assert told.report(known) and not told.report(known)
        assert not told.explain(known).stored  # type: ignore[union-attr]
        ask(guard, client, AGAIN)
        assert sent(sandbox) == 2
        assert told.pools()[0].reported == 1


def test_a_banned_question_is_never_answered_from_the_cache(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        ask(guard, client, AGAIN)
        assert meaning(guard).ban(hit_of(guard))
        for _ in range(2):
            ask(guard, client, AGAIN)
        assert sent(sandbox) == 3
        assert not meaning(guard).ban("req_unknown")


def test_purged_and_evicted_answers_are_misses(sandbox: SandboxServer) -> None:
    """Whether the questions go or only the answers: the next call is sent, and stored anew."""
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        for calls in (2, 3):
            assert guard._desk.store.cache.purge(Purge(step="ask")) == 1
            if calls == 3:
                assert meaning(guard).sweep(wall_clock()) == 1
                assert meaning(guard).notes.size() == (0, 0)
            ask(guard, client, AGAIN)
            assert sent(sandbox) == calls
            assert meaning(guard).notes.size() == (1, 1)
            ask(guard, client, ASKED)
            assert sent(sandbox) == calls


def test_the_caller_may_narrow(sandbox: SandboxServer) -> None:
    """off: neither read nor kept; refresh: asked anew, and the new answer takes the old one's place."""
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        for wish, calls in (("off", 2), ("refresh", 3)):
            with guard.run(user="u1"), guard.step("ask", cache=wish):  # type: ignore[arg-type]
                chat(client, ASKED)
            meaning(guard)
            assert sent(sandbox) == calls
        assert meaning(guard).notes.size() == (1, 1)
        ask(guard, client, AGAIN)
        assert sent(sandbox) == 3


def test_the_embedder_is_asked_once_a_call(sandbox: SandboxServer) -> None:
    words = Words()
    with guarded(MemoryStore(), embedder=words) as guard:
        client = guard.wrap(openai(sandbox.url))
        for text in (ASKED, AGAIN, OTHER):
            ask(guard, client, text)
        assert words.asked == [ASKED, AGAIN, OTHER]


def test_the_command_line_explains_and_bans(
    sandbox: SandboxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`bursar cache explain | report | ban | learned` speak of the same hits; a purge takes the questions too."""
    monkeypatch.setenv("BURSAR_STORE__URL", f"sqlite:///{tmp_path / 'bursar.db'}")

    def bursar_cache(*words: str) -> tuple[int, Any]:
        with pytest.raises(SystemExit) as ended:
            main(["cache", *words, "--json"])
        out = capsys.readouterr().out
        return int(ended.value.code or 0), json.loads(out) if out else None

    with guarded(SqliteStore(tmp_path / "bursar.db")) as guard:
        assert bursar_cache("explain", "req_1")[0] == 2
        client = guard.wrap(openai(sandbox.url))
        for text in (ASKED, AGAIN):
            ask(guard, client, text)
        known = hit_of(guard)
        code, told = bursar_cache("explain", known)
        assert code == 0 and (told["asked"], told["stored_question"], told["stored"]) == (AGAIN, ASKED, True)
        assert bursar_cache("report", known) == (0, {"reported": True})
        assert bursar_cache("report", known) == (0, {"reported": False})
        assert bursar_cache("ban", known) == (0, {"banned": True})
        assert bursar_cache("ban", "req_unknown")[0] == 2
        for _ in range(2):
            ask(guard, client, AGAIN)
        assert sent(sandbox) == 3
        ask(guard, client, ASKED)
        assert bursar_cache("learned")[1]["items"][0] | {"pool": ""} == {
            "pool": "", "tenant": "default", "step": "ask", "asked": 5, "served": 1, "shadow": 0, "judged": 0,
            "wrong": 0, "reported": 1, "labels": 0, "threshold": None, "max_error": None, "alarms": 0,
            "wrong_of_hits": None, "low": None, "high": None,
        }  # fmt: skip
        assert meaning(guard).notes.size() == (1, 1)
        assert bursar_cache("purge", "--step", "ask")[0] == 0
        assert meaning(guard).notes.size() == (0, 0)


# --- a provider's embeddings


ENDPOINT = Endpoint("openai", "text-embedding-3-small", dimensions=64)


def test_a_providers_embeddings_are_rows_of_their_own(sandbox: SandboxServer) -> None:
    """Each look-up is paid for, booked with purpose "embed" and claimed on the run's budget; the hit itself is free."""
    with guarded(MemoryStore(), embedder=ENDPOINT) as guard:
        client = guard.wrap(openai(sandbox.url))
        with guard.run(user="u1", budget=bursar.Budget(tokens=1_000_000)) as run, guard.step("ask"):
            for stream in (True, False, True):
                told = chat(client, ASKED, stream=stream)
                assert list(told) if stream else told.choices[0].message.content
                meaning(guard)
        found = rows(guard)
        assert sorted((row.purpose, row.status, row.cache) for row in found) == [
            ("call", "completed", "miss"), ("call", "hit", "semantic_hit"), ("call", "hit", "semantic_hit"),
            *[("embed", "completed", "bypass")] * 3,
        ]  # fmt: skip
        assert [got.path for got in sandbox.requests].count("/v1/embeddings") == 3
        embeds = [row for row in found if row.purpose == "embed"]
        assert all(row.input_tokens and row.cost_status == "final" and row.user_id == "u1" for row in embeds)
        assert sum(row.cost_nanos or 0 for row in found) == sandbox.bill.total_nanos()
        assert run.tokens == sum((row.input_tokens or 0) + (row.output_tokens or 0) for row in found)
        assert run.calls == 3


def test_an_endpoint_out_of_reach_is_a_miss(sandbox: SandboxServer) -> None:
    """Through an Anthropic client nothing else is reached; the call goes its way, and the fault is counted."""
    with guarded(MemoryStore(), embedder=ENDPOINT) as guard:
        client: Anthropic = guard.wrap(anthropic(sandbox.url))
        for _ in range(2):
            with guard.run(user="u1"), guard.step("ask"):
                client.messages.create(model="claude-haiku-4-5", max_tokens=2_000, messages=said(ASKED))
        assert [row.purpose for row in rows(guard)] == ["call", "call"]
        semantics = guard._desk.world.semantics
        assert semantics is not None and semantics.failures == 2


@pytest.mark.parametrize("embedder", [None, ENDPOINT], ids=["local", "endpoint"])
def test_through_the_gateway(embedder: Endpoint | None) -> None:
    """Hits say so in their headers; two tenants never meet; an endpoint serves the other families' questions too."""
    cache = rule(scope="tenant", **({} if embedder is None else {"embedder": embedder}))
    with running(keyed=True, credentials={"anthropic": "a", "openai": "o"}, cache_key=b"k" * 32,
                 steps=(StepRule(match=Match(step="ask"), semantic_cache=cache),)) as gateway:  # fmt: skip
        keys = [create_key(gateway.store, tenant=tenant, trusted=frozenset(("step",))) for tenant in ("one", "two")]
        told = []
        for key in (keys[0], keys[0], keys[1]):
            headers = {"authorization": f"Bearer {key}", "x-bursar-step": "ask", "anthropic-version": "2023-06-01"}
            answer = gateway.post(
                "/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 2_000, "messages": said(ASKED)}, headers
            )
            assert answer.status_code == 200, answer.text
            semantics = gateway.app.world.semantics
            assert semantics is not None
            semantics.flush()
            told.append((answer.headers["x-bursar-cache"], answer.json()["content"][0]["text"]))
        assert [state for state, _ in told] == ["miss", "semantic_hit", "miss"]
        assert told[0][1] == told[1][1]
        found = gateway.rows(3 if embedder is None else 6)
        assert [row.purpose for row in found].count("embed") == (0 if embedder is None else 3)
        paths = [got.path for got in gateway.sandbox.requests]
        assert paths.count("/v1/messages") == 2 and len(paths) == (2 if embedder is None else 5)
        for got in gateway.sandbox.requests:
            assert (b"x-api-key" in dict(got.headers)) == (got.path == "/v1/messages")


def test_only_spends_nothing_on_a_vector(sandbox: SandboxServer) -> None:
    with guarded(MemoryStore(), embedder=ENDPOINT) as guard:
        client = guard.wrap(openai(sandbox.url, max_retries=0))
        with guard.run(user="u1"), guard.step("ask", cache="only"), pytest.raises(APIStatusError, match="no cached"):
            chat(client, ASKED)
        assert sent(sandbox) == 0


def test_the_configuration_names_judge_and_endpoint(tmp_path: Path) -> None:
    """And what it names has to be there: a wrong name is a fault of the configuration, not a miss in the night."""

    def policy_of(semantic: str) -> SemanticCache | None:
        file = tmp_path / "bursar.toml"
        file.write_text(f"[[steps]]\ncache = {{ semantic = {{ {semantic} }} }}\n")
        return make_policy(load(file)).steps[0].semantic_cache

    endpoint = 'embedder = { kind = "endpoint", model = "openai/text-embedding-3-small", dimensions = 64 }'
    told = policy_of(f'max_error = 0.05, judge = "bursar.doors.demo.tutor:same_program", {endpoint}')
    assert told is not None and told.embedder == ENDPOINT and told.max_error == 0.05
    assert told.judge is not None and told.judge("?", "none", "none") is None
    for wrong in ('judge = "no.such:thing"', 'judge = "json:nothing"', 'judge = "json:__doc__"', 'judge = "json"',
                  'embedder = { kind = "endpoint" }', 'embedder = { model = "openai/x" }'):  # fmt: skip
        with pytest.raises(ConfigError, match=r"judge|model"):
            policy_of(wrong)


def test_without_weights_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    minilm = pytest.importorskip("bursar.embedders.minilm")
    monkeypatch.setattr(minilm, "find", lambda: None)
    with pytest.raises(ConfigError, match=r"--no-deps"):
        guarded(MemoryStore(), embedder=None)


def test_many_threads_ask_at_once(sandbox: SandboxServer, tmp_path: Path) -> None:
    """Nothing fails, everybody gets an answer to his own question, and each question is stored once or more."""
    with guarded(SqliteStore(tmp_path / "bursar.db")) as guard:
        client = guard.wrap(openai(sandbox.url))
        for number in range(5):
            ask(guard, client, f"What is thing {number}?")
        own = {row.content for row in (ask(guard, client, "What is thing 3?").choices[0].message,)}

        def one(number: int) -> str:
            with guard.run(user="u1"), guard.step("ask"):
                return str(chat(client, f"What is the thing {number % 5}?").choices[0].message.content)

        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(one, range(40)))
        assert sent(sandbox) == 5
        assert {told[number] for number in range(3, 40, 5)} == own and len(set(told)) == 5
        semantics = guard._desk.world.semantics
        assert semantics is not None and semantics.failures == 0
        assert sum(row.cache == "semantic_hit" for row in rows(guard)) == 41


def test_a_hit_may_be_confirmed_once(sandbox: SandboxServer) -> None:
    """A person's word that it was right counts for its answer; a judged hit is not judged again."""
    with guarded(MemoryStore()) as guard:
        client = guard.wrap(openai(sandbox.url))
        ask(guard, client, ASKED)
        ask(guard, client, AGAIN)
        told, known = meaning(guard), hit_of(guard)
        assert told.confirm(known) and not told.confirm(known) and not told.confirm("req_unknown")
        why = told.explain(known)
        assert why is not None and why.hit.verdict == "right" and why.stored
        near = told.notes.neighbours([(why.hit.entry, 1.0)], wall_clock())
        assert [neighbour.confirmed for neighbour in near] == [1]
        assert told.report(known) and told.notes.neighbours([(why.hit.entry, 1.0)], wall_clock()) == ()
