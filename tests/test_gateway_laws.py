"""Bad input and the admin API: whatever is sent is answered clearly, and no row is lost or left open by it.

Every test ends with an audited ledger without open rows and an application that raised nothing.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_from_bytes

import httpx2
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bursar.doors.gateway.proxy import Settings
from gateways import DEADLINE, TLS, Running, canned, create_key, running, settled, streamed

TEXT = "Tell me about bookkeeping."
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 9}
CLAUDE = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
PATHS = {
    "/v1/chat/completions": {"authorization": "Bearer k"},
    "/v1/responses": {"authorization": "Bearer k"},
    "/v1/embeddings": {"authorization": "Bearer k"},
    "/v1/messages": CLAUDE,
    "/v1beta/models/gemini-2.5-flash:generateContent": {"x-goog-api-key": "k"},
    "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse": {"x-goog-api-key": "k"},
}
LIMIT = 100_000


@pytest.fixture(scope="module")
def module_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    ledger = tmp_path_factory.mktemp("laws") / "ledger.db"
    with running(path=ledger, settings=Settings(max_body_bytes=LIMIT)) as gateway:
        yield gateway


@pytest.fixture
def gw(module_gateway: Running) -> Iterator[Running]:
    module_gateway.fresh()
    yield module_gateway
    settled(module_gateway)
    assert module_gateway.errors == []


def in_dialect(path: str, body: Any) -> bool:
    """An error object as the SDKs of that path read it."""
    error = body["error"]
    if path.startswith("/v1beta"):
        return isinstance(error["message"], str) and isinstance(error["status"], str) and error["status"] != ""
    if path == "/v1/messages":
        return body["type"] == "error" and bool(error["type"]) and isinstance(error["message"], str)
    return {"message", "type", "param", "code"} <= error.keys() and bool(error["type"])


BODIES: dict[str, bytes] = {
    "empty": b"", "half": b'{"model": "gpt-4o", "mess', "array": b"[1, 2]", "number": b"7", "null": b"null",
    "not utf-8": b'{"model": "\xff\xfe"}', "bom": b"\xef\xbb\xbf{}", "nan": b'{"model": NaN}', "nul": b"\x00" * 9,
    "wrong types": b'{"model": {"a": 1}, "stream": 3}',
    "no model": b'{"messages": []}', "unknown model": b'{"model": "gpt-99", "messages": [], "max_tokens": 1}',
    "negative": b'{"model": "gpt-4o", "max_tokens": -1, "messages": "x"}',
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("path", PATHS)
def test_a_bad_body_is_an_error_in_the_callers_dialect(gw: Running, path: str, body: bytes) -> None:
    """Not read here, it goes on as it is, and the provider's refusal comes back; a row that cost nothing."""
    answer = gw.post(path, body, PATHS[path])
    assert 400 <= answer.status_code < 500 or ("gemini" in path and answer.status_code == 200)
    if answer.status_code >= 400:
        assert in_dialect(path, answer.json())
        assert [row.cost_nanos for row in gw.rows(1)] == [0]
    assert [got.body for got in gw.sandbox.requests] == [body]


@pytest.mark.parametrize("path", PATHS)
def test_an_unreachable_provider_and_a_bottomless_body(path: str) -> None:
    """However deep a body nests it is sent on unread; where nobody listens that is 502 in the dialect, and free."""
    deep = b'{"model": "gpt-4o", "messages":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    with running(upstream="http://127.0.0.1:9", settings=Settings(attempts=2)) as own:
        answer = own.post(path, deep, PATHS[path])
        assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
        assert in_dialect(path, answer.json()) and "could not be reached" in answer.json()["error"]["message"]
        assert [(row.status, row.http_status, row.cost_nanos) for row in own.rows(2)] == [("failed", None, 0)] * 2


@pytest.mark.parametrize(
    ("model", "told"),
    [("nobody/gpt-4o", "unknown provider 'nobody'"), ("anthropic/claude-haiku-4-5", "speaks the anthropic format"),
     ("flash", "tier 'flash' has no model")],
)  # fmt: skip
def test_what_no_provider_can_serve_is_said(gw: Running, model: str, told: str) -> None:
    """An unknown provider, another family's, a tier without this family: 404 with the cure, nothing is sent."""
    answer = gw.post("/v1/chat/completions", {**CHAT, "model": model})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (404, "false")
    assert told in answer.json()["error"]["message"]
    row = gw.row()
    assert (row.status, row.provider, row.cost_nanos) == ("refused", "(none)", 0) and told in (row.error or "")
    assert gw.sandbox.requests == []


@pytest.mark.parametrize("path", PATHS)
def test_a_huge_body_is_413(gw: Running, path: str) -> None:
    """By its Content-Length before it is read, and by its chunks as they come; in the dialect, nothing is sent."""
    huge = b'{"model": "' + b"x" * LIMIT + b'"}'
    plain = gw.post(path, huge, PATHS[path])
    chunked = _chunked(gw, path, [huge[:70_000], huge[70_000:]], PATHS[path])
    for answer in (plain, chunked):
        assert answer.status_code == 413 and in_dialect(path, answer.json())
        assert "max_body_bytes" in answer.json()["error"]["message"]
    assert gw.rows() == [] and gw.sandbox.requests == []


def _chunked(gw: Running, path: str, pieces: list[bytes], headers: dict[str, str]) -> Any:
    return httpx2.post(gw.url + path, content=iter(pieces), headers=headers, verify=TLS, timeout=DEADLINE)


def test_a_chunked_body_is_sent_on_whole(gw: Running) -> None:
    """However it is cut."""
    body = msgspec.json.encode(CHAT)
    assert _chunked(gw, "/v1/chat/completions", [body[:5], body[5:6], body[6:]], {}).status_code == 200
    assert gw.got().body == body


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["x-bursar-user-id: a", "x-bursar-user-id: b"], 400),
        (["x-bursar-user-id: a b"], 400),
        (["x-bursar-max-cost-usd: a"], 400),
        (["x-bursar-user-id: \u00b2"], 400),
        (["x-bursar-cache: only"], 504),
        (["x-portkey-metadata: " + '{"a":' * 9000], 200),
        (["baggage: " + "a=b," * 3000], 200),
        (["x-custom: a", "x-custom: b", "x-custom: \u00e9"], 200),
        (["x-stainless-retry-count: \u00b2"], 200),
        ([f"x-flood-{n}: v" for n in range(5_000)], 431),
        (["x-flood: " + "v" * 300_000], 431),
        (["x-control: a\x01b"], 400),
        (["x-control: a\x00b"], 400),
        (["bad name: v"], 400),
        (["no colon"], 400),
        (["content-length: 7"], 400),
        (["content-length: -1"], 400),
        (["content-length: \u00b2"], 400),
        (["transfer-encoding: chunked"], 400),
    ],
)
def test_odd_headers_are_answered(gw: Running, lines: list[str], status: int) -> None:
    """Duplicates, control characters, floods, framing that contradicts itself: one clear status, in bounded time."""
    body = msgspec.json.encode(CHAT)
    head = ["POST /v1/chat/completions HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *lines]
    answer = gw.raw("\r\n".join([*head, "connection: close", "", ""]).encode("latin-1") + body)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert [row.status for row in gw.rows()] == {200: ["completed"], 504: ["refused"]}.get(status, [])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/uploads/../chat/completions", "/v1/uploads/%2e%2e/chat/completions", "/v1/uploads/%252e%252e/images",
        "/v1/uploads/..%2Fchat/completions", "/v1/uploads/..\\chat/completions", "/v1/./chat/completions",
        "/v1/models/x%0d%0aHost:%20evil/y:generateContent", "/v1/uploads/..;/images", "/v1/files/%00", "/..", "/v1/..",
    ],
)  # fmt: skip
def test_a_path_that_may_mean_two_things_is_refused(gw: Running, path: str) -> None:
    """Dot segments, plain, encoded once or twice, and control characters: 400, nothing is sent."""
    for method in ("POST", "GET"):
        request = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer k\r\nconnection: close\r\n"
        answer = gw.raw(request.encode() + b"content-length: 0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert gw.rows() == [] and gw.sandbox.requests == []


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/images/generations%23/files", "/v1/images/generations%23/files"),
        ("/v1/images%3F/files", "/v1/images%3F/files"),
        ("/v1/x%20y%2Fz?q=%41+b&c&a=%zz", "/v1/x%20y%2Fz?q=%41+b&c&a=%zz"),
        ("/v1/x?a=1&k%65y=secret&b=%20", "/v1/x?a=1&b=%20"),
        ("//v1/x", "//v1/x"),
    ],
)
def test_a_path_is_sent_on_as_it_came(path: str, sent: str) -> None:
    """No byte of it is decoded or encoded on the way to the provider; only a key is taken out of its query."""
    with canned(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as (url, heard), running(upstream=url) as own:
        head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\nx-goog-api-key: k\r\nconnection: close\r\n"
        assert own.raw(head.encode() + b"content-length: 0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert heard[0].startswith(f"POST {sent} HTTP/1.1\r\n".encode())
        assert [row.api for row in own.rows()] == ([] if path.endswith("/files") and "%3F" not in path else ["other"])


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"POST /v1/messages HTTP/9.9\r\n\r\n",
        b"CONNECT .evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET http:// HTTP/1.1\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{",
        b"GET /v1/models HTTP/1.0\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage_on_the_socket_harms_nothing(gw: Running, data: bytes) -> None:
    """No HTTP, half a request, another protocol: refused or dropped, and the next caller is served."""
    answer = gw.raw(data, end=True)
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:100]
    assert gw.post("/v1/chat/completions", CHAT).status_code == 200
    assert len(gw.sandbox.requests) == 1


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "GET", "HEAD", "OPTIONS"])
def test_a_wrong_method_creates_no_row(gw: Running, method: str) -> None:
    """Without a credential it does not pass; with one the provider says what he thinks of it; never a row."""
    head = f"{method} /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    assert gw.raw(head.encode() + b"\r\n").startswith(b"HTTP/1.1 403 ")
    assert gw.raw(head.encode() + b"authorization: Bearer k\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert gw.rows() == []


def test_a_websocket_is_declined(gw: Running) -> None:
    """The upgrade is ignored, as HTTP allows: the request is answered like any other."""
    head = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    answer = gw.raw(
        head + b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", end=True
    )
    assert not answer.startswith(b"HTTP/1.1 101") and b" 500 " not in answer[:20]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8) | st.sampled_from(["gpt-4o", "user"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["model", "messages", "input", "contents", "role", "content", "parts", "text", "stream", "max_tokens", "n",
             "tools", "metadata", "user", "stream_options", "include_usage", "system", "type"]
        ) | st.text(max_size=4),
        inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip
BYTES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
SEGMENT = st.sampled_from(
    ["v1", "v1beta", "chat", "completions", "responses", "messages", "models", "embeddings", "files", "uploads", "..",
     "bursar", "calls", "runs", "spend", "keys", "gemini-2.5-flash:generateContent", "count_tokens", "", "metrics"]
) | st.binary(max_size=6).map(lambda raw: quote_from_bytes(raw, safe=""))  # fmt: skip
PATHED = st.sampled_from(list(PATHS)) | st.lists(SEGMENT, max_size=5).map(lambda parts: "/" + "/".join(parts))
HEADER = st.tuples(
    st.sampled_from(["x-bursar-user-id", "x-bursar-tags", "x-portkey-metadata", "baggage", "traceparent", "accept",
                     "x-stainless-retry-count", "content-type", "content-encoding", "anthropic-version", "x-other",
                     "x-goog-api-key", "authorization", "expect", "accept-encoding", "x-sandbox-fault"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20),
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["POST"] * 4 + ["GET", "PUT", "DELETE"]), PATHED, st.lists(HEADER, max_size=4), BYTES)
def test_no_request_breaks_the_gateway(gw: Running, method: str, path: str, headers: Any, body: bytes) -> None:
    """Any method, path, headers and body, on every endpoint: an answer that is no 500 of ours, and no open row."""
    lines = [f"{name}: {value}" for name, value in headers if name != "x-sandbox-fault" or value in ("429", "cut")]
    head = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", "connection: close"]
    answer = gw.raw("\r\n".join([*head, *lines, "", ""]).encode("latin-1") + body)
    assert re.match(rb"HTTP/1\.1 [2345]\d\d ", answer), answer[:300]
    assert b"Internal Server Error" not in answer[:1000]
    assert gw.errors == []


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["health", "ready", "openapi.json", "spend", "calls", "calls/x", "runs", "runs/x", "keys", "zzz"]),
    st.lists(
        st.tuples(
            st.sampled_from(["by", "since", "until", "limit", "cursor", "zone", "tenant", "step", "model", "status"]),
            st.text(max_size=12)
            | st.sampled_from(["7d", "99999999w", "1.1", f"{2**70}.1", "tag:", "tag:\x00", "day", "0009999999", "²",
                               "Z", "0001-01-01", "9999-12-31", "../etc/passwd", "America/New_York", "1", "agent"]),
        ),
        max_size=4,
    ),
)  # fmt: skip
def test_no_query_breaks_the_admin_api(gw: Running, page: str, query: list[tuple[str, str]]) -> None:
    """200, or 400 and 404 that say what was wrong."""
    text = "&".join(f"{name}={quote(value, safe='')}" for name, value in query)
    answer = gw.get(f"/bursar/v1/{page}?{text}")
    assert answer.status_code in (200, 400, 404), (answer.status_code, answer.text)
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    assert gw.errors == []


def test_the_admin_api_tells_the_ledger(gw: Running) -> None:
    """Pages by cursor, filters, one call, one run, sums, keys: all as contract.md section 3 has it."""
    for n in range(5):
        who = {
            "x-bursar-run-id": f"run{n // 2}",
            "x-bursar-user-id": "u1",
            "x-bursar-agent-id": "a",
            "x-bursar-step": "s",
        }
        assert gw.post("/v1/chat/completions", CHAT, who).status_code == 200
    rows = gw.rows(5)
    seen: list[Any] = []
    cursor = ""
    while True:
        page = gw.get(f"/bursar/v1/calls?limit=2&user_id=u1{cursor}").json()
        seen += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert [item["request_id"] for item in seen] == [row.request_id for row in reversed(rows)]
    assert seen[0]["cost_usd"] is not None and seen[0]["agent_id"] == "a" and seen[0]["step"] == "s"
    assert gw.get("/bursar/v1/calls?user_id=nobody").json() == {"items": [], "next_cursor": None}
    one = gw.get(f"/bursar/v1/calls/{rows[0].request_id}").json()
    assert [attempt["attempt"] for attempt in one["attempts"]] == [1]
    run = gw.get("/bursar/v1/runs/run0").json()
    assert len(run["calls"]) == 2 and run["total"]["run_id"] == "run0"
    assert run["calls"][0]["why"]["route"] == "the caller's model was kept" and run["calls"][0]["depth"] == 0
    assert {item["run_id"] for item in gw.get("/bursar/v1/runs?user_id=u1").json()["items"]} >= {"run0", "run1", "run2"}
    spend = gw.get("/bursar/v1/spend?by=user&since=1h").json()
    (line,) = [item for item in spend["items"] if item["user"] == "u1"]
    assert line["attempts"] == 5
    assert gw.get("/bursar/v1/keys").json()["items"] == []
    assert "rows" not in gw.get("/").text and gw.get("/").headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("page", "status", "told"),
    [
        ("calls?limit=0", 400, "limit"), ("calls?limit=\u00b2", 400, "limit"), ("calls?limit=0009999999", 400, "limit"),
        ("calls?cursor=garbage", 400, "cursor"), (f"calls?cursor={2**70}.1", 400, ""),
        ("calls?since=x", 400, "expected"),
        ("runs?step=s", 400, "step"), ("spend?by=colour", 400, "by"), ("spend?zone=Mars/Base", 400, "zone"),
        ("calls/none", 404, "none"), ("runs/none", 404, "none"), ("zzz", 404, "openapi.json"),
        ("", 404, "openapi.json"),
    ],
)  # fmt: skip
def test_a_bad_question_is_answered_with_its_cure(gw: Running, page: str, status: int, told: str) -> None:
    """400 names the parameter, 404 what was not found."""
    answer = gw.get(f"/bursar/v1/{page}")
    assert answer.status_code == status and told in answer.json()["error"]["message"]


def test_openapi_lists_what_exists(gw: Running) -> None:
    """Every path of it answers, with its parameters filled in; nothing else is a GET of the admin API."""
    paths = gw.get("/bursar/v1/openapi.json").json()["paths"]
    for path in (path for path, methods in paths.items() if "get" in methods):
        answer = gw.get(re.sub(r"\{.*\}", "none", path))
        assert answer.status_code == (404 if "{" in path else 200), path
        assert gw.post(path, {}).status_code == 405
    routes = {getattr(route, "path", "").replace(":path", "") for route in gw.app.admin.routes}
    assert routes - set(paths) == {"/bursar/v1/openapi.json"}


def test_metrics_are_prometheus(gw: Running) -> None:
    """Prometheus' own parser reads it, model names of any kind included, and it counts what the provider billed."""
    gw.post("/v1/chat/completions", {**CHAT, "model": 'openai/we"ird\\mo\ndel'})
    gw.post("/v1/chat/completions", CHAT)
    gw.rows(2)
    families = text_string_to_metric_families(gw.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples]
    models = {sample.labels["model"] for sample in samples if sample.name == "bursar_calls_total"}
    assert 'we"ird\\mo\ndel' in models
    spent = sum(sample.value for sample in samples if sample.name == "bursar_cost_usd_total")
    assert spent * 1e9 >= gw.sandbox.bill.total_nanos() > 0


def test_the_admin_api_asks_the_admin_key() -> None:
    """With keys every page, /metrics and OpenAPI ask it, a data key is not one; health and ready alone are open."""
    with running(keyed=True) as gw:
        data = create_key(gw.store)
        pages = [
            "/",
            "/metrics",
            *(f"/bursar/v1/{name}" for name in ("openapi.json", "calls", "runs", "spend", "keys")),
        ]
        for page in pages:
            assert gw.get(page).status_code == 401, page
            assert gw.get(page, {"authorization": f"Bearer {data}"}).status_code == 403, page
            assert gw.get(page, {"authorization": f"Bearer {gw.admin}"}).status_code == 200, page
        assert gw.get("/bursar/v1/health").json() == {"status": "ok"}
        assert gw.get("/bursar/v1/ready").json() == {"status": "ok"}
        shown = gw.get("/bursar/v1/keys", {"x-api-key": gw.admin}).json()["items"]
        assert {item["role"] for item in shown} == {"data", "admin"} and "hash" not in shown[0]


def test_a_ledger_that_cannot_be_written_sends_nothing() -> None:
    """503 in the dialect, no further attempt by an SDK, and the provider has not heard of it."""
    with running() as own:
        own.store.close()
        status, headers, body = streamed(own.url, "/v1/messages", msgspec.json.encode(CHAT), CLAUDE)
        assert (status, dict(headers)["x-should-retry"]) == (503, "false")
        assert in_dialect("/v1/messages", msgspec.json.decode(body)) and own.sandbox.requests == []
