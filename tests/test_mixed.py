"""A thousand mixed calls: both doors, five formats, plain and streamed, hang-ups, faults and retries, many at a time.

One row for each request that the provider got. What completed or was drained costs what the provider's own bill says,
to the nano-dollar; what was cut is within 2 % of the bill in the sum. (A whole answer whose body breaks off is a guess
of another kind: tests/test_wire.py holds it.)
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types as gt

from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings as ProxySettings
from bursar.doors.library.guard import Guard
from bursar.sandbox import SandboxServer, Settings
from bursar.stores.base import Store
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry
from gateways import HASH_KEY, TLS, policy, serving

SEED = 7
FAULTS = ("", "", "", "", "", "[[fault:429 once]]", "[[fault:500 once]]", "[[fault:503]]", "[[fault:no-usage]]",
          "[[fault:gzip]]", "[[fault:cut]]")  # fmt: skip
TOPICS = ("closures", "the borrow checker", "hash tables", "tail calls", "iterators", "locks", "parsers", "money")
Clients = tuple[openai.OpenAI, anthropic.Anthropic, genai.Client]


@contextmanager
def closing(c: Clients) -> Iterator[Clients]:
    try:
        yield c
    finally:
        for client in c:
            client.close()


def clients(url: str, retries: int) -> Clients:
    http = {"http_client": httpx2.Client(verify=TLS)}
    chat = openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=retries, **http)  # type: ignore[arg-type]
    claude = anthropic.Anthropic(api_key="k", base_url=url, max_retries=retries, http_client=httpx2.Client(verify=TLS))
    options = gt.HttpOptions(base_url=url, client_args={"verify": TLS})
    return chat, claude, genai.Client(api_key="k", http_options=options)


def drive(events: Iterator[Any], stop: int | None, close: Callable[[], None]) -> int:
    """Read events, all of them or up to `stop`, then hang up; how many were read."""
    count = 0
    for _ in events:
        count += 1
        if stop is not None and count >= stop:
            break
    close()
    return count


def chat(c: Clients, prompt: str, stream: bool, stop: int | None) -> int:
    messages: Any = [{"role": "user", "content": prompt}]
    if not stream:
        c[0].chat.completions.create(model="gpt-4o-mini", messages=messages)
        return 0
    answer = c[0].chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    return drive(iter(answer), stop, answer.close)


def responses(c: Clients, prompt: str, stream: bool, stop: int | None) -> int:
    if not stream:
        c[0].responses.create(model="gpt-4o", input=prompt)
        return 0
    answer = c[0].responses.create(model="gpt-4o-mini", input=prompt, stream=True)
    return drive(iter(answer), stop, answer.close)


def embeddings(c: Clients, prompt: str, stream: bool, stop: int | None) -> int:
    c[0].embeddings.create(model="text-embedding-3-small", input=[prompt, "and another"])
    return 0


def claude(c: Clients, prompt: str, stream: bool, stop: int | None) -> int:
    messages: Any = [{"role": "user", "content": prompt}]
    if not stream:
        c[1].messages.create(model="claude-haiku-4-5", max_tokens=700, messages=messages)
        return 0
    answer = c[1].messages.create(model="claude-sonnet-4-5", max_tokens=700, messages=messages, stream=True)
    return drive(iter(answer), stop, answer.close)


def gemini(c: Clients, prompt: str, stream: bool, stop: int | None) -> int:
    if not stream:
        c[2].models.generate_content(model="gemini-2.5-flash", contents=prompt)
        return 0
    answer = c[2].models.generate_content_stream(model="gemini-2.5-flash", contents=prompt)
    return drive(iter(answer), stop, getattr(answer, "close", lambda: None))


KINDS = (chat, responses, embeddings, claude, gemini)
Job = tuple[Callable[[Clients, str, bool, int | None], int], str, bool, float | None]


def jobs(count: int) -> list[Job]:
    """What is asked: seeded, so that a failure can be had again."""
    drawn = random.Random(SEED)
    made: list[Job] = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        stream = kind is not embeddings and drawn.random() < 0.6
        share = drawn.choice((0.1, 0.5, 0.9)) if stream and drawn.random() < 0.3 else None
        fault = "" if share is not None or kind is embeddings else drawn.choice(FAULTS if stream else FAULTS[:-1])
        topic = drawn.choice(TOPICS)
        made.append((kind, f"Question {number}: explain {topic} to a beginner, at length. {fault}", stream, share))
    return made


def play(job: Job, c: Clients, lengths: dict[str, int]) -> str:
    kind, prompt, stream, share = job
    stop = None if share is None else max(1, int(share * lengths[prompt]))
    try:
        kind(c, prompt, stream, stop)
    except (openai.APIError, anthropic.APIError, genai.errors.APIError, httpx2.TransportError) as fault:
        return type(fault).__name__
    return "fine"


@contextmanager
def door(which: str, url: str, store: Store) -> Iterator[Clients]:
    """The SDKs behind one of the two doors. The gateway retries by itself, in the library the SDKs do."""
    if which == "gateway":
        app = Gateway(policy(url), store, HASH_KEY, {}, ProxySettings())
        with serving(app) as (_, port), closing(clients(f"http://127.0.0.1:{port}", 0)) as c:
            yield c
    else:
        with Guard(policy(url), store) as guard, closing(clients(url, 2)) as c:
            for client in c:
                guard.wrap(client)
            yield c


def all_rows(store: Store) -> list[Entry]:
    rows: list[Entry] = []
    cursor: str | None = None
    while True:
        page = store.calls(limit=1000, cursor=cursor)
        rows += page.items
        cursor = page.next_cursor
        if cursor is None:
            return rows


def mixed(which: str, count: int, path: Path, tolerance: float) -> None:
    asked = jobs(count)
    lengths: dict[str, int] = {}
    with SandboxServer(Settings()) as rehearsal, closing(clients(rehearsal.url, 0)) as alone:
        for kind, prompt, stream, share in asked:
            if share is not None:
                lengths[prompt] = kind(alone, prompt, stream, None)
    with SandboxServer(Settings(chunk_ms=3, keep_requests=10 * count)) as sandbox:
        store = SqliteStore(path)
        with door(which, sandbox.url, store) as c, ThreadPoolExecutor(8) as pool:
            ends = Counter(pool.map(lambda job: play(job, c, lengths), asked))
        store = SqliteStore(path)
        try:
            got = len(sandbox.requests)
            reconcile(all_rows(store), sandbox, got, tolerance)
            assert store.verify() == []
        finally:
            store.close()
    assert ends["fine"] > count * 0.6, ends


def reconcile(rows: list[Entry], sandbox: SandboxServer, got: int, tolerance: float) -> None:
    """Row by row against the bill, matched by the provider's own response id (an embedding has none: by the sum)."""
    assert len(rows) == got, "one row for each request that the provider got"
    assert len({(row.request_id, row.attempt) for row in rows}) == len(rows)
    assert Counter(row.status for row in rows)["expired"] == 0
    bill = {line.id: line for line in sandbox.bill.lines if line.dialect != "embeddings"}
    final = [row for row in rows if row.cost_status == "final"]
    for row in final:
        if row.response_id in bill:
            assert row.cost_nanos == bill.pop(row.response_id).nanos, row
        elif row.api != "embeddings":
            assert (row.cost_nanos, row.status) == (0, "failed"), row
    vectors = [line.nanos for line in sandbox.bill.lines if line.dialect == "embeddings"]
    assert sum(vectors) == sum(row.cost_nanos or 0 for row in final if row.api == "embeddings") > 0  # type: ignore[arg-type]
    guessed = [row for row in rows if row.cost_status == "estimated"]
    owed = sum(line.nanos or 0 for line in bill.values())
    booked = sum(row.cost_nanos or 0 for row in guessed)
    assert abs(booked - owed) <= owed * tolerance, f"{len(guessed)} cut: booked {booked}, billed {owed}"


@pytest.mark.parametrize("which", ["gateway", pytest.param("library", marks=pytest.mark.slow)])
def test_a_hundred_mixed_calls(which: str, tmp_path: Path) -> None:
    """Enough of everything to fail early; too few for the estimator to have learned each model's tokenizer."""
    mixed(which, 100, tmp_path / "ledger.db", 0.10)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["library", "gateway"])
def test_a_thousand_mixed_calls(which: str, tmp_path: Path) -> None:
    """The whole of it, through either door."""
    mixed(which, 1000, tmp_path / "ledger.db", 0.02)
