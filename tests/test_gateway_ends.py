"""How calls through the gateway end early: hang-ups, provider faults, shutdown, a kill. No row is lost or left open.

The bill is the sandbox's own (wire.md section 1.8): OpenAI and Gemini bill what they would have generated, Anthropic
what it had generated when its client left.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import msgspec
import openai
import pytest
from google.genai import errors

from bursar.doors.gateway.proxy import Settings
from bursar.policy import Drain
from bursar.sandbox import SandboxServer
from bursar.sandbox import Settings as SandboxSettings
from bursar.stores.sqlite import SqliteStore
from bursar.types import Entry
from gateways import DEADLINE, TLS, UNFINISHED, Running, canned, received, running, settled, until

TEXT = "Write a long report about the history of bookkeeping."
ASK: Any = [{"role": "user", "content": TEXT}]
FLASH = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
STREAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o", "messages": ASK, "stream": True}),
    "responses": ("/v1/responses", {"model": "gpt-4.1", "input": TEXT, "stream": True}),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 900, "messages": ASK, "stream": True}),
    "gemini": (FLASH, {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]}),
}
HEADERS = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
PACED = SandboxSettings(chunk_ms=2)


@pytest.fixture(scope="module")
def module_gateway() -> Iterator[Running]:
    with running(PACED) as gateway:
        yield gateway


@pytest.fixture
def gw(module_gateway: Running) -> Iterator[Running]:
    module_gateway.fresh()
    yield module_gateway
    settled(module_gateway)
    assert module_gateway.errors == []


def opened(gw: Running, api: str, head: dict[str, str] | None = None, **more: Any) -> socket.socket:
    """A socket on which that API's stream has been asked for."""
    path, body = STREAMS[api]
    data = msgspec.json.encode({**body, **more})
    lines = [f"{name}: {value}" for name, value in {**HEADERS, **(head or {})}.items()]
    request = "\r\n".join(
        [f"POST {path} HTTP/1.1", "host: localhost", "connection: close", f"content-length: {len(data)}", *lines]
    )
    one = socket.create_connection(("127.0.0.1", gw.port), DEADLINE)
    one.sendall(request.encode() + b"\r\n\r\n" + data)
    return one


def take(one: socket.socket, size: int) -> bytes:
    """That many bytes, or all there are."""
    got = b""
    while len(got) < size and (piece := one.recv(min(4096, size - len(got)))):
        got += piece
    return got


def leave(gw: Running, api: str, size: int) -> None:
    """Hang up after so many bytes."""
    with opened(gw, api) as one:
        take(one, size)


def length(gw: Running, api: str) -> int:
    """Bytes of the whole answer."""
    with opened(gw, api) as one:
        return len(received(one))


@pytest.mark.parametrize("api", STREAMS)
def test_a_hang_up_is_booked_as_it_is_billed(gw: Running, api: str) -> None:
    """At 10, 50 and 90 % of a stream: drained to the nano-dollar, or cancelled (Anthropic) and within 2 % in sum."""
    whole = length(gw, api)
    gw.rows(1)
    gw.fresh()
    shares = [whole // 10, whole // 2, whole * 9 // 10]
    threads = [threading.Thread(target=leave, args=(gw, api, size)) for size in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = gw.rows(3)
    assert gw.sandbox.bill.wait(3)
    billed = gw.sandbox.bill.total_nanos()
    cut = [row for row in rows if row.status == "abandoned"]
    assert len(cut) >= 2, "of a slow machine's stream the end may have come before 90 % of it was read: completed"
    assert all(row.cost_status == "final" for row in rows if row not in cut)
    if api == "messages":
        assert {row.cost_status for row in cut} == {"estimated"}
        assert abs(gw.cost() - billed) <= billed * 0.02, (gw.cost(), billed)
        outputs = sorted(line.usage.get("output", 0) for line in gw.sandbox.bill.lines)
        assert outputs[0] < outputs[1] < outputs[2], "the provider was not stopped"
    else:
        assert {row.cost_status for row in cut} == {"final"}
        assert gw.cost() == billed


@pytest.mark.parametrize("api", STREAMS)
def test_on_disconnect_is_obeyed(api: str) -> None:
    """ "drain" reads even Anthropic to its end, to the nano-dollar; "cancel" books an estimate even of OpenAI."""
    with running(PACED, on_disconnect="drain") as own:
        leave(own, api, 1500)
        assert (own.row().status, own.row().cost_status) == ("abandoned", "final")
        assert own.cost() == own.sandbox.bill.total_nanos()
    with running(PACED, on_disconnect="cancel") as own:
        leave(own, api, 1500)
        assert (own.row().status, own.row().cost_status) == ("abandoned", "estimated")


def test_past_its_bounds_a_drain_cancels() -> None:
    """More hang-ups than may drain at once: the rest is estimated and marked."""
    with running(PACED, drain=Drain(streams=1)) as own:
        sockets = [opened(own, "chat") for _ in range(3)]
        for one in sockets:
            take(one, 1500)
        for one in sockets:
            one.close()
        assert sorted(row.cost_status for row in own.rows(3)) == ["estimated", "estimated", "final"]


@pytest.mark.parametrize("api", STREAMS)
def test_a_hang_up_before_the_first_byte(gw: Running, api: str) -> None:
    """Who leaves while the provider is still thinking is booked all the same, once."""
    with opened(gw, api, {"x-sandbox-latency-ms": "60"}):
        until(lambda: len(gw.sandbox.requests) == 1, "the provider was asked")
    row = gw.row()
    assert row.status == "abandoned" and gw.sandbox.bill.wait(1)
    if api == "messages":
        assert row.cost_status == "estimated"
    else:
        assert (row.cost_status, row.cost_nanos) == ("final", gw.sandbox.bill.total_nanos())


def test_a_hang_up_of_a_plain_call_is_billed_whole(gw: Running) -> None:
    """The provider makes the whole answer in any case, and it is read, for nobody: to the nano-dollar."""
    with opened(gw, "chat", {"x-sandbox-latency-ms": "60"}, stream=False):
        until(lambda: len(gw.sandbox.requests) == 1, "the provider was asked")
    assert (gw.row().status, gw.row().cost_status) == ("abandoned", "final")
    assert gw.cost() == gw.sandbox.bill.total_nanos() > 0


def test_a_hang_up_in_the_middle_of_the_body_is_no_call(gw: Running) -> None:
    """Half a request is never sent on."""
    with socket.create_connection(("127.0.0.1", gw.port)) as one:
        one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900\r\n\r\n{")
    assert gw.get("/bursar/v1/health").status_code == 200
    assert gw.rows() == [] and gw.sandbox.requests == []


def test_a_slow_reader_gets_every_byte() -> None:
    """Who reads a few bytes at a time through a small window has the whole stream, and it is settled."""
    with running(SandboxSettings(chunk_tokens=1)) as own:
        expected = httpx2.post(own.url + "/v1/responses", json=STREAMS["responses"][1], verify=TLS).content
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(("127.0.0.1", own.port))
            body = msgspec.json.encode(STREAMS["responses"][1])
            head = b"POST /v1/responses HTTP/1.0\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
            one.sendall(head + body)
            got = b""
            while piece := one.recv(97):
                got += piece
        assert got.count(b"event: ") == expected.count(b"event: ") > 100
        assert [row.status for row in own.rows(2)] == ["completed"] * 2
        assert own.cost() == own.sandbox.bill.total_nanos()


def test_a_stream_cut_by_the_provider_ends_in_the_dialects_error(gw: Running) -> None:
    """Each SDK raises its own error (of Responses it yields the event); what had come is estimated, once."""
    fault = {"x-sandbox-fault": "cut:5"}
    client, claude, google = gw.openai(), gw.anthropic(), gw.gemini()
    with pytest.raises(openai.APIError, match="stream broke"):
        list(client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True, extra_headers=fault))
    told = list(client.responses.create(model="gpt-4.1", input=TEXT, stream=True, extra_headers=fault))
    assert told[-1].type == "error" and "stream broke" in told[-1].message
    with pytest.raises(anthropic.APIError, match="stream broke"):
        list(claude.messages.create(
            model="claude-haiku-4-5", max_tokens=900, messages=ASK, stream=True, extra_headers=fault
        ))  # fmt: skip
    config: Any = {"http_options": {"headers": fault}}
    with pytest.raises(errors.APIError, match="stream broke"):
        list(google.models.generate_content_stream(model="gemini-2.5-flash", contents=TEXT, config=config))
    rows = gw.rows(4)
    assert {(row.status, row.http_status, row.cost_status) for row in rows} == {("failed", 200, "estimated")}
    billed = gw.sandbox.bill.total_nanos()
    assert len(gw.sandbox.requests) == 4 and abs(gw.cost() - billed) < billed / 2


@pytest.mark.parametrize("api", STREAMS)
def test_a_malformed_event_passes(gw: Running, api: str) -> None:
    """It is the caller's to judge: the bytes go on, the rest is metered."""
    with opened(gw, api, {"x-sandbox-fault": "malformed:3"}) as one:
        assert b" 200 " in received(one)[:20]
    row = gw.row()
    assert row.status == "completed" and row.cost_nanos == gw.sandbox.bill.total_nanos()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_missing_usage_is_estimated(gw: Running, api: str, stream: bool) -> None:
    """Never zero: our own counts, marked, near the bill."""
    with opened(gw, api, {"x-sandbox-fault": "no-usage"}, stream=stream) as one:
        received(one)
    row, billed = gw.row(), gw.sandbox.bill.total_nanos()
    assert (row.status, row.cost_status) == ("completed", "estimated")
    assert row.cost_nanos and abs(row.cost_nanos - billed) < billed / 2


@pytest.mark.parametrize("stream", [True, False])
def test_gzip_that_nobody_asked_for_is_decoded(gw: Running, stream: bool) -> None:
    """The caller gets plain bytes and no content-encoding; the usage is read from them."""
    with opened(gw, "chat", {"x-sandbox-fault": "gzip", "accept-encoding": "gzip"}, stream=stream) as one:
        answer = received(one)
    assert b"content-encoding" not in answer.lower() and b"chat.completion" in answer
    assert b"accept-encoding', b'identity'" in repr(gw.got().headers).encode()
    assert gw.row().cost_nanos == gw.sandbox.bill.total_nanos() > 0


def test_an_error_event_of_the_provider_passes(gw: Running) -> None:
    """The SDK raises it; the row is failed and says why."""
    with pytest.raises(anthropic.APIStatusError, match="verloaded"):
        list(gw.anthropic().messages.create(
            model="claude-haiku-4-5", max_tokens=900, messages=ASK, stream=True,
            extra_headers={"x-sandbox-fault": "error-event:3"},
        ))  # fmt: skip
    assert gw.row().status == "failed" and "verloaded" in (gw.row().error or "")


def test_a_silent_provider_is_a_timeout() -> None:
    """Each attempt a row whose cost is unknown and not zero; 504 in the dialect, and no further attempt by the SDK."""
    with running(settings=Settings(attempts=2, silence_seconds=0.1)) as own:
        with pytest.raises(openai.APIStatusError) as caught:
            own.openai().with_options(max_retries=3).chat.completions.create(
                model="gpt-4o", messages=ASK, extra_headers={"x-sandbox-fault": "timeout"}
            )
        assert caught.value.status_code == 504
        rows = own.rows(2)
        assert {(row.status, row.http_status, row.cost_nanos, row.cost_status) for row in rows} == {
            ("failed", None, None, "unpriced")
        }


def test_a_provider_that_breaks_off_is_tried_again(gw: Running) -> None:
    """A plain answer cut in its middle never reached the caller: it is tried again, and each attempt is booked."""
    marked: Any = [{"role": "user", "content": "[[fault:cut:0 once c]] hello"}]
    gw.openai().chat.completions.create(model="gpt-4o-mini", messages=marked)
    assert [row.status for row in gw.rows(2)] == ["failed", "completed"]


def test_a_passed_answer_that_breaks_off_stays_unfinished() -> None:
    """The caller's HTTP client sees that the end is missing; the provider's date is relayed once; no traceback."""
    half = b"HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 100\r\n\r\nhalf"
    with canned(half) as (url, _), running(upstream=url, noisy=True) as own:
        answer = own.raw(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert answer.count(b"date:") == 1 and b"half" in answer and not answer.endswith(b"0\r\n\r\n")
    assert own.errors == [UNFINISHED]


def test_a_shutdown_finishes_what_streams(tmp_path: Path) -> None:
    """A stream under way comes to its end, one that was left drains; all is settled and the ledger let go of."""
    with running(PACED, path=tmp_path / "ledger.db") as own:
        left = opened(own, "responses")
        take(left, 1500)
        with opened(own, "chat") as one:
            start = take(one, 1500)
            left.close()
            own.server.should_exit = True
            assert (start + received(one)).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    store = SqliteStore(tmp_path / "ledger.db")
    rows = store.calls().items
    assert {(row.api, row.status, row.cost_status) for row in rows} == {
        ("chat", "completed", "final"),
        ("responses", "abandoned", "final"),
    }
    assert sum(row.cost_nanos or 0 for row in rows) == own.sandbox.bill.total_nanos()
    assert store.verify() == []
    store.close()


_SERVE = """
import sys
from pathlib import Path
from bursar.config import load
from bursar.doors.gateway.app import Gateway
from bursar.doors.gateway.proxy import Settings
from bursar.doors.gateway.serve import run
from bursar.doors.open import open_books
books = open_books(load(Path(sys.argv[1])))
run(Gateway(books.policy, books.store, books.secret("keys"), books.credentials, Settings()), "127.0.0.1",
    int(sys.argv[2]))
"""


def test_a_kill_loses_no_row(tmp_path: Path) -> None:
    """kill -9 of a serving process under load: every request that a provider got has a row; at the next start what was
    open is expired at its hold, and the ledger audits clean."""
    with SandboxServer(SandboxSettings(chunk_ms=1)) as sandbox, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        config = tmp_path / "bursar.toml"
        config.write_text(
            f'[store]\nurl = "sqlite:///{tmp_path}/ledger.db"\n'
            f'[providers.openai]\napi = "openai"\nbase_url = "{sandbox.url}/v1"\n'
        )
        told = tmp_path / "stderr"
        with told.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-c", _SERVE, str(config), str(port)], stderr=stderr)
        threads = [threading.Thread(target=_load, args=(port, n % 2 == 0)) for n in range(6)]
        try:
            until(lambda: _answers(port), "the gateway serves")
            for thread in threads:
                thread.start()
            until(lambda: len(sandbox.requests) >= 40, "the load has come")
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            for thread in threads:
                thread.join()
        assert b"Traceback" not in told.read_bytes()
        seen = {got.body for got in sandbox.requests}
        store = SqliteStore(tmp_path / "ledger.db")
        rows: list[Entry] = list(store.calls(limit=1000).items)
        assert store.verify() == []
        store.close()
    assert len(rows) >= len(seen) >= 40
    assert {row.status for row in rows} == {"completed", "expired"}
    for row in rows:
        assert row.cost_nanos is not None
        assert row.status == "completed" or (row.cost_nanos, row.cost_status) == (row.hold_nanos, "estimated")
    billed = {line.id for line in sandbox.bill.lines}
    assert {row.response_id for row in rows if row.status == "completed"} <= billed


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


_numbers = iter(range(1_000_000))


def _load(port: int, stream: bool) -> None:
    """Calls, each of its own text, until the gateway is gone."""
    with (
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", verify=TLS) as client,
        contextlib.suppress(httpx2.HTTPError),
    ):
        while True:
            text = f"{next(_numbers)} {TEXT}"
            body = {"model": "gpt-4o-mini", "max_tokens": 60, "messages": [{"role": "user", "content": text}]}
            client.post("/v1/chat/completions", json={**body, "stream": stream}).read()


def test_a_stream_that_breaks_before_its_first_byte_is_tried_again() -> None:
    """A head is no answer: three attempts, three rows, and an error that no SDK tries again; nothing was relayed."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    with canned(head) as (url, heard), running(upstream=url, noisy=True) as own:
        answer = own.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": ASK, "stream": True})
        assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
        assert [(row.status, row.attempt) for row in own.rows(3)] == [("failed", 1), ("failed", 2), ("failed", 3)]
        assert len(heard) == 3
