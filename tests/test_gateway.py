"""The gateway door between real SDKs and the sandbox provider: rows, bytes, headers, attempts, keys, what passes by.

Every test ends with an audited ledger without open rows and an application that raised nothing (gateways.running).
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import openai
import pytest

from bursar.doors.gateway import access
from bursar.doors.gateway.proxy import Settings
from bursar.money import format_usd
from bursar.sandbox import SandboxServer
from bursar.sandbox import Settings as SandboxSettings
from gateways import Running, create_key, running, settled, streamed

TEXT = "Tell me about bookkeeping."
ASK: Any = [{"role": "user", "content": TEXT}]
CLAUDE = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
GPT = {"authorization": "Bearer k"}
GEMINI = {"x-goog-api-key": "k"}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": TEXT}]}]}
FLASH = "/v1beta/models/gemini-2.5-flash:"
PLAIN: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o", "messages": ASK}, GPT),
    "responses": ("/v1/responses", {"model": "gpt-4.1", "input": TEXT}, GPT),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": TEXT}, GPT),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5", "max_tokens": 300, "messages": ASK}, CLAUDE),
    "gemini": (FLASH + "generateContent", CONTENTS, GEMINI),
}
STREAMS = {
    "chat": (PLAIN["chat"][0], {**PLAIN["chat"][1], "stream": True}, GPT),
    "responses": (PLAIN["responses"][0], {**PLAIN["responses"][1], "stream": True}, GPT),
    "messages": (PLAIN["messages"][0], {**PLAIN["messages"][1], "stream": True}, CLAUDE),
    "gemini": (FLASH + "streamGenerateContent?alt=sse", CONTENTS, GEMINI),
    "gemini array": (FLASH + "streamGenerateContent", CONTENTS, GEMINI),
}
ATTRIBUTION = {
    "x-bursar-agent-id": "researcher", "x-bursar-step": "plan", "x-bursar-user-id": "u1", "x-bursar-session-id": "s1",
    "x-bursar-run-id": "r1", "x-bursar-parent-run-id": "r0", "x-bursar-tags": "team=red,shift=2",
    "x-bursar-user-tier": "free", "x-bursar-cache": "off", "helicone-user-id": "h", "helicone-auth": "Bearer secret",
    "helicone-property-team": "blue", "x-portkey-metadata": '{"_user": "p"}', "x-portkey-api-key": "pk",
    "x-litellm-tags": "a,b", "x-litellm-customer-id": "l", "baggage": "user.id=b", "tracestate": "v=1",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x-claude-code-session-id": "cc",
    "x-session-id": "xs", "session-id": "si", "thread-id": "ti", "cache-control": "no-cache",
}  # fmt: skip


@pytest.fixture(scope="module")
def module_gateway() -> Iterator[Running]:
    with running() as gateway:
        yield gateway


@pytest.fixture
def gw(module_gateway: Running) -> Iterator[Running]:
    """The module's own gateway, key-less, its bill and rows begun anew; audited after each test."""
    module_gateway.fresh()
    yield module_gateway
    settled(module_gateway)
    assert module_gateway.errors == []


def plain(gw: Running) -> None:
    client, claude, google = gw.openai(), gw.anthropic(), gw.gemini()
    client.chat.completions.create(model="gpt-4o-mini", messages=ASK)
    client.responses.create(model="gpt-4.1", input=TEXT)
    client.embeddings.create(model="text-embedding-3-small", input=TEXT)
    claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=ASK)
    google.models.generate_content(model="gemini-2.5-flash", contents=TEXT)


def streams(gw: Running) -> None:
    client, claude, google = gw.openai(), gw.anthropic(), gw.gemini()
    quiet = list(client.chat.completions.create(model="gpt-4o", messages=ASK, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in quiet)
    told = list(
        client.chat.completions.create(
            model="gpt-4o", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert told[-1].usage is not None and not told[-1].choices
    with client.responses.stream(model="gpt-4.1", input=TEXT) as stream:
        assert stream.get_final_response().usage is not None
    with claude.messages.stream(model="claude-haiku-4-5", max_tokens=300, messages=ASK) as message:
        assert message.get_final_message().usage.output_tokens > 0
    assert list(google.models.generate_content_stream(model="gemini-2.5-flash", contents=TEXT))


async def with_async_clients(gw: Running) -> None:
    client, claude, google = gw.async_openai(), gw.async_anthropic(), gw.gemini().aio
    await asyncio.gather(
        client.chat.completions.create(model="gpt-4o-mini", messages=ASK),
        client.responses.create(model="gpt-4.1", input=TEXT),
        client.embeddings.create(model="text-embedding-3-small", input=TEXT),
        claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=ASK),
        google.models.generate_content(model="gemini-2.5-flash", contents=TEXT),
    )
    assert [chunk async for chunk in await client.chat.completions.create(model="o3", messages=ASK, stream=True)]
    assert [event async for event in await client.responses.create(model="gpt-4.1", input=TEXT, stream=True)]
    async with claude.messages.stream(model="claude-haiku-4-5", max_tokens=300, messages=ASK) as message:
        await message.get_final_message()
    assert [c async for c in await google.models.generate_content_stream(model="gemini-2.5-flash", contents=TEXT)]
    await google.aclose()


@pytest.mark.parametrize(
    ("use", "count"), [(plain, 5), (streams, 5), (lambda gw: asyncio.run(with_async_clients(gw)), 9)]
)
def test_the_ledger_equals_the_bill(gw: Running, use: Callable[[Running], None], count: int) -> None:
    """The real SDKs, five formats, plain and streamed, sync and async: a row each, their sum the provider's bill."""
    use(gw)
    rows = gw.rows(count)
    assert {(row.status, row.cost_status, row.attempt) for row in rows} == {("completed", "final", 1)}
    assert gw.cost() == gw.sandbox.bill.total_nanos() > 0
    assert {row.response_id for row in rows} - {None} <= {line.id for line in gw.sandbox.bill.lines}


@pytest.mark.parametrize("api", PLAIN)
def test_an_answer_comes_as_the_provider_gave_it(gw: Running, api: str) -> None:
    """Body, status, ids and rate limits are relayed, no header twice; ours say what it was and what it cost."""
    path, body, headers = PLAIN[api]
    direct = streamed(gw.sandbox.url, path, msgspec.json.encode(body), headers)
    gw.fresh()
    status, told, answer = streamed(gw.url, path, msgspec.json.encode(body), headers)
    names = [name.lower() for name, _ in told]
    assert len(set(names)) == len(names)
    relayed = {name.lower() for name, _ in direct[1]} - {"transfer-encoding", "connection"}
    assert relayed <= set(names)
    assert status == direct[0] == 200
    assert msgspec.json.decode(answer).keys() == msgspec.json.decode(direct[2]).keys()
    row, said = gw.row(), {name.lower(): value for name, value in told}
    assert said["x-bursar-request-id"] == row.request_id
    assert said["x-bursar-cost-usd"] == format_usd(row.cost_nanos or 0)
    assert (said["x-bursar-cost-status"], said["x-bursar-cache"], said["x-bursar-attempts"]) == ("final", "bypass", "1")
    assert said["x-bursar-model"].startswith(f"{row.provider}/")
    assert row.api == api and row.provider == {"messages": "anthropic", "gemini": "gemini"}.get(api, "openai")


@pytest.mark.parametrize("api", PLAIN)
def test_only_what_is_the_providers_reaches_him(gw: Running, api: str) -> None:
    """An unedited body leaves byte for byte; no attribution header of ours or our peers' leaves; the row has them."""
    path, body, headers = PLAIN[api]
    spaced = b" " + msgspec.json.format(msgspec.json.encode({**body, "x_unknown": [1.50, "\u00e9"]}), indent=3) + b"\n"
    gw.post(path, spaced, {**headers, **ATTRIBUTION, "x-kept": "caf\u00e9"})
    got = gw.got()
    assert got.body == spaced
    sent = {name.decode(): value for name, value in got.headers}
    assert not sent.keys() & ATTRIBUTION.keys() and not any(name.startswith("x-bursar") for name in sent)
    assert sent["x-kept"] == "caf\u00e9".encode()
    assert got.path == (path if path.startswith("/v1") else "/v1" + path)
    row = gw.row()
    who = (row.user_id, row.session_id, row.run_id, row.parent_run_id, row.agent_id, row.step, row.user_tier)
    assert who == ("u1", "s1", "r1", "r0", "researcher", "plan", "free")
    assert dict(row.tags).items() >= {"team": "red", "shift": "2", "a": "true"}.items()


@pytest.mark.parametrize("slow", [False, True], ids=["", "slow"])
@pytest.mark.parametrize("api", STREAMS)
def test_a_stream_comes_byte_for_byte(api: str, slow: bool) -> None:
    """Through the gateway a stream has the very bytes that it has from the provider; so has one of slow bytes."""
    path, body, headers = STREAMS[api]
    if api == "chat":
        body = {**body, "stream_options": {"include_usage": True}}
    headers = {**headers, "x-sandbox-fault": "slow"} if slow else headers
    same = SandboxSettings(clock=lambda: 1.0e9, slow_ms=0.01)
    with running(same) as gw, SandboxServer(same) as alone:
        direct = streamed(alone.url, path, msgspec.json.encode(body), headers)
        through = streamed(gw.url, path, msgspec.json.encode(body), headers)
        assert through[2] == direct[2]
        assert gw.got().body == alone.requests[0].body
        assert "x-bursar-cost-usd" not in dict(through[1])
        assert gw.cost() == gw.sandbox.bill.total_nanos() == alone.bill.total_nanos()


def test_the_usage_chunk_is_hidden_from_who_did_not_ask(gw: Running) -> None:
    """It is asked of the provider all the same; nothing else of the stream is changed."""
    path, body, headers = STREAMS["chat"]
    asked = {**body, "stream_options": {"include_usage": True}}
    answer = gw.post(path, body, headers).content
    assert msgspec.json.decode(gw.got().body) == asked
    assert b"prompt_tokens" not in answer and answer.endswith(b"data: [DONE]\n\n")
    whole = gw.post(path, asked, headers).content
    assert len([e for e in whole.split(b"\n\n") if e]) == len([e for e in answer.split(b"\n\n") if e]) + 1


def test_models_are_named_three_ways(gw: Running) -> None:
    """provider/model, a bare model, a tier: the provider gets the model's own name, the body is else untouched."""
    client, google = gw.openai(), gw.gemini()
    for model, sent in (("second/gpt-4o", "gpt-4o"), ("gpt-4o", "gpt-4o"), ("small", "gpt-4o-mini")):
        client.chat.completions.create(model=model, messages=ASK)
        assert msgspec.json.decode(gw.sandbox.requests[-1].body)["model"] == sent
    for model in ("gemini/gemini-2.5-flash", "gemini-2.5-flash"):
        google.models.generate_content(model=model, contents=TEXT)
        assert gw.sandbox.requests[-1].path.endswith("/models/gemini-2.5-flash:generateContent")
    rows = gw.rows(5)
    assert [row.provider for row in rows] == ["second", "openai", "openai", "gemini", "gemini"]
    assert [row.requested_model for row in rows][2:4] == ["small", "gemini/gemini-2.5-flash"]
    assert gw.cost() == gw.sandbox.bill.total_nanos()


def test_bare_paths_are_served(gw: Running) -> None:
    """A base_url without the version works in every family (wire.md section 1.0)."""
    for api in ("chat", "responses", "embeddings", "messages", "gemini"):
        path, body, headers = PLAIN[api]
        bare = path.removeprefix("/v1beta").removeprefix("/v1")
        assert gw.post(bare, body, headers).status_code == 200
    assert gw.cost() == gw.sandbox.bill.total_nanos()


def test_a_retry_is_a_row(gw: Running) -> None:
    """429 with Retry-After, then an answer: two rows of one request, the wait obeyed, attempts told."""
    marked: Any = [{"role": "user", "content": "[[fault:429 once a]] hello"}]
    with running(SandboxSettings(retry_after_s=0.01)) as own:
        answer = own.openai().chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=marked)
        first, second = own.rows(2)
        assert answer.headers["x-bursar-attempts"] == "2"
        assert (first.status, first.http_status, first.cost_nanos) == ("failed", 429, 0)
        assert (second.status, second.attempt) == ("completed", 2)
        assert first.request_id == second.request_id == answer.headers["x-bursar-request-id"]
        assert second.started_at - first.started_at >= 10_000
        assert own.cost() == own.sandbox.bill.total_nanos()
    assert gw.rows() == []


def test_a_tier_fails_over(gw: Running) -> None:
    """All attempts at the first provider fail: the next one of the tier answers, each attempt a row."""
    marked: Any = [{"role": "user", "content": "[[fault:500 x3 b]] hello"}]
    answer = gw.openai().chat.completions.with_raw_response.create(model="small", messages=marked)
    rows = gw.rows(4)
    assert [row.provider for row in rows] == ["openai"] * 3 + ["second"]
    assert [row.attempt for row in rows] == [1, 2, 3, 4]
    assert answer.headers["x-bursar-model"] == "second/gpt-4.1-mini"
    assert (answer.headers["x-bursar-tier"], answer.headers["x-bursar-route-reason"]) == ("small", "tier:small:2")
    assert gw.cost() == gw.sandbox.bill.total_nanos()


@pytest.mark.parametrize("stream", [False, True])
def test_the_sdk_does_not_retry_what_was_retried(gw: Running, stream: bool) -> None:
    """The final error is the provider's own, with x-should-retry: false: an SDK set to retry makes no further call."""
    client = gw.openai().with_options(max_retries=4)
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="gpt-4o", messages=ASK, stream=stream, extra_headers={"x-sandbox-fault": "500"}
        )
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "x-request-id" in caught.value.response.headers
    assert [row.attempt for row in gw.rows(3)] == [1, 2, 3]
    assert len(gw.sandbox.requests) == 3


@pytest.mark.parametrize("status", ["400", "401", "402", "404", "422", "quota"])
@pytest.mark.parametrize("api", PLAIN)
def test_an_error_is_relayed(gw: Running, api: str, status: str) -> None:
    """What no retry cures comes back at once with the provider's own status and body, a row that cost nothing."""
    path, body, headers = PLAIN[api]
    faulty = {**headers, "x-sandbox-fault": status}
    direct = streamed(gw.sandbox.url, path, msgspec.json.encode(body), faulty)
    gw.fresh()
    through = gw.post(path, body, faulty)
    assert through.status_code == direct[0]
    assert through.json()["error"] == msgspec.json.decode(direct[2])["error"]
    rows = gw.rows()
    assert {(row.status, row.http_status, row.cost_nanos) for row in rows} == {("failed", direct[0], 0)}
    assert len(rows) == (3 if status == "quota" and "x-should-retry" not in dict(direct[1]) else 1)


def test_an_sdk_retry_is_counted(gw: Running) -> None:
    """x-stainless-retry-count is booked; nonsense in it is nothing."""
    for told in ("2", "\u00b2", "-1", "x"):
        path, body, headers = PLAIN["chat"]
        gw.post(path, body, {**headers, "x-stainless-retry-count": told})
    assert [row.sdk_retry for row in gw.rows(4)] == [2, 0, 0, 0]


def test_what_costs_nothing_passes_without_a_row(gw: Running) -> None:
    """Lists of models, counts of tokens, stored responses: to the family of the caller's headers, no row."""
    assert gw.get("/v1/models").json()["object"] == "list"
    assert gw.get("/v1/models", CLAUDE).json()["data"][0]["type"] == "model"
    assert "models" in gw.get("/v1beta/models?key=k").json()
    count = gw.anthropic().messages.count_tokens(model="claude-haiku-4-5", messages=ASK)
    assert count.input_tokens > 0
    assert gw.get("/v1/responses/resp_unknown", GPT).status_code == 404
    missing = gw.get("/v1/responses/resp_unknown")
    assert (missing.status_code, missing.json()["error"]["type"]) == (403, "permission_error")
    assert gw.rows() == []
    assert all("key=" not in got.path for got in gw.sandbox.requests)


def test_a_paid_path_that_is_not_known_is_a_row(gw: Running) -> None:
    """Any other POST needs the caller's own key; then it is booked as `other`, unpriced, and left as it is."""
    assert gw.post("/v1/images/generations", {"model": "gpt-image-1"}).status_code == 403
    assert gw.rows() == [] and gw.sandbox.requests == []
    gw.post("/v1/images/generations", {"model": "gpt-image-1"}, GPT)
    gw.post("/v1/messages/batches", {"requests": []}, CLAUDE)
    rows = gw.rows(2)
    assert [(row.api, row.provider, row.model) for row in rows] == [
        ("other", "openai", "gpt-image-1"),
        ("other", "anthropic", None),
    ]


def test_keys_admit_and_bound() -> None:
    """401 without, 403 with the wrong role; a key's tenant is on the row; ids it does not trust are only labels; the
    caller's credential never leaves, the provider's own does; ?key= is taken out; a revoked key stops."""
    own = {"openai": "sk-real", "anthropic": "ak-real", "gemini": "gk-real"}
    with running(keyed=True, credentials=own, settings=Settings(passthrough=("/v1/images",))) as gw:
        data = create_key(gw.store)
        trusted = create_key(gw.store, tenant="beta", trusted=frozenset(("user", "run")))
        path, body, _ = PLAIN["chat"]
        for headers, status in (({}, 401), ({"authorization": "Bearer bsr_wrong"}, 401), (_bearer(gw.admin), 403)):
            refused = gw.post(path, body, headers)
            assert (refused.status_code, refused.json()["error"].keys()) == (
                status,
                {"message", "type", "param", "code"},
            )
        assert gw.post(PLAIN["messages"][0], {}, {"anthropic-version": "x"}).json()["type"] == "error"
        assert gw.sandbox.requests == []

        gw.openai(data).chat.completions.create(model="gpt-4o", messages=ASK, extra_headers={"x-bursar-user-id": "u"})
        gw.anthropic(trusted).messages.create(model="claude-haiku-4-5", max_tokens=9, messages=ASK)
        google = gw.gemini(data)
        google.models.generate_content(model="gemini-2.5-flash", contents=TEXT)
        gw.post(FLASH + f"generateContent?key={data}&k%65y=x&alt=json", CONTENTS)
        assert gw.openai(data).models.list().data
        assert gw.openai(data).with_options(max_retries=0).get("/models/gpt-4o", cast_to=object)
        for got in gw.sandbox.requests:
            shown = repr(got)
            assert "bsr_" not in shown and "key=" not in got.path and "real" in shown
        rows = gw.rows(4)
        assert [row.tenant for row in rows] == ["acme", "beta", "acme", "acme"]
        assert rows[0].user_id == "u" and all(row.key_id and row.key_id.startswith("key_") for row in rows)

        assert gw.get("/v1/files", _bearer(data)).status_code == 403
        assert gw.post("/v1/audio/speech", {}, _bearer(data)).status_code == 403
        gw.post("/v1/images/generations", {"model": "gpt-image-1"}, _bearer(data))
        assert [row.api for row in gw.rows(5)][-1] == "other"

        (one,) = [key for key in gw.store.list_keys() if key.tenant == "beta"]
        assert gw.store.revoke_key(one.key_id, one.created_at)
        gw.app.proxy.doorkeeper._seen.clear()
        assert gw.post(path, body, _bearer(trusted)).status_code == 401


def _bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"host": "localhost:4600"}, True),
        ({"host": "[::1]:4600"}, True),
        ({"host": "127.0.0.1", "origin": "http://127.0.0.1"}, True),
        ({"host": "127.0.0.1", "sec-fetch-site": "none"}, True),
        ({"host": "127.0.0.1", "sec-fetch-site": "same-origin"}, True),
        ({"host": "evil.example"}, False),
        ({"host": "127.0.0.1.evil.example"}, False),
        ({"host": "127.0.0.1@evil.example"}, False),
        ({"host": "192.168.1.5:4600"}, False),
        ({"host": ""}, False),
        ({"host": "127.0.0.1", "origin": "http://evil.example"}, False),
        ({"host": "127.0.0.1", "origin": "null"}, False),
        ({"host": "127.0.0.1:1", "origin": "http://127.0.0.1:2"}, False),
        ({"host": "127.0.0.1", "sec-fetch-site": "cross-site"}, False),
        ({"host": "127.0.0.1", "sec-fetch-site": "same-site"}, False),
    ],
)
def test_without_keys_this_machine_alone_is_served(gw: Running, headers: dict[str, str], admitted: bool) -> None:
    """A foreign Host, Origin or Sec-Fetch-Site is refused everywhere that money or the ledger is."""
    path, body, _ = PLAIN["chat"]
    assert (gw.post(path, body, headers).status_code == 200) is admitted
    for page in ("/", "/metrics", "/bursar/v1/calls", "/v1/models"):
        assert (gw.get(page, headers).status_code == 200) is admitted, page
    assert len(gw.rows()) == admitted


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.8.8.8", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_may_be_bound_without_keys(host: str, loopback: bool) -> None:
    """Loopback of both families; nothing that another machine can reach."""
    assert access.is_loopback(host) is loopback


HELLO = [{"role": "user", "content": "hello"}]


def test_a_tier_asked_by_header_wins(gw: Running) -> None:
    """x-bursar-tier serves by that tier whatever the body's model says; an unknown one is 404 and names the known."""
    asked = gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO}, {"x-bursar-tier": "small"})
    assert asked.headers["x-bursar-model"] == "openai/gpt-4o-mini" and gw.row().tier == "small"
    wrong = gw.post("/v1/chat/completions", {"model": "gpt-4o", "messages": HELLO}, {"x-bursar-tier": "huge"})
    assert wrong.status_code == gw.rows(2)[1].http_status == 404
    assert "small, claude" in wrong.json()["error"]["message"]
