"""OpenTelemetry by a real OTLP receiver: what both doors send, whose child it is, and that nothing is said twice.

Names are snapshots: a rename is a decision, in doors/telemetry/names.py and here.
"""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anthropic import AsyncAnthropic
from inline_snapshot import snapshot
from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import bursar
from bursar.doors.telemetry import names, otel
from bursar.policy import Budget, Policy, ResponseCache, Retry, StepRule
from bursar.sandbox import Settings as SandboxSettings
from bursar.sandbox.server import SandboxServer
from bursar.stores.memory import MemoryStore
from collectors import Collector, collecting, plain
from gateways import TLS, Running, running, until
from library_kit import PRICES, anthropic, chat, message, openai, rows, settings

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
CHAT: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is double entry?"}]}
CLIENT, INTERNAL = 3, 1


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with SandboxServer(settings()) as one:
        yield one


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as one:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", one.url)
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        yield one


def telemetry(policy: Policy, opt_in: str = "", sinks: otel.Providers | None = None, **options: Any) -> otel.Telemetry:
    told = otel.Options(**options)
    return otel.Telemetry(told, policy.providers, sinks or otel.sinks(told), {names.OPT_IN: opt_in})


def guarded(sinks: otel.Providers | None = None, opt_in: str = "", attempts: int = 1, **options: Any) -> bursar.Guard:
    rule = Policy(prices=PRICES, retry=Retry(base_ms=1, cap_ms=2))
    hears = telemetry(rule, opt_in, sinks, **options)
    return bursar.Guard(rule, MemoryStore(), attempts=attempts, telemetry=hears)


class Own:
    """The application's own tracing, as a user sets it up."""

    def __init__(self) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._kept = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = self.provider.get_tracer("the.application")
        quiet = otel.sinks(otel.Options(metrics=False, events=False, spans="none"))
        self.sinks = otel.Providers(self.provider, quiet.meter, quiet.logger)

    @property
    def spans(self) -> list[Any]:
        return sorted(self._kept.get_finished_spans(), key=lambda span: span.start_time or 0)


@pytest.fixture
def own(collector: Collector) -> Own:
    return Own()


def test_the_gateway_sends_spans_metrics_and_events(collector: Collector) -> None:
    """An attempt is a CLIENT span under the caller's; a hit and a refusal are INTERNAL ones; all of it parses."""
    spent = Budget(name="nobody", scope="user", limit_nanos=1, on_exhausted="refuse")
    with running(telemetry=lambda policy, meters: telemetry(policy), budgets=(spent,)) as gw:
        gw.post("/v1/chat/completions", CHAT, {**TRACEPARENT, "x-bursar-agent-id": "a", "x-bursar-run-id": "r"})
    assert gw.sandbox.requests == []
    with running(telemetry=lambda policy, meters: telemetry(policy)) as gw:
        told = {**TRACEPARENT, "x-bursar-agent-id": "tutor", "x-bursar-step": "plan", "x-bursar-user-id": "u1"}
        assert gw.post("/v1/chat/completions", CHAT, told).status_code == 200
        (got,) = gw.sandbox.requests
        row = gw.row()
    refused, span = collector.spans
    assert (refused.name, refused.kind) == ("bursar.refused", INTERNAL)
    assert plain(refused.attributes)[names.ERROR] == "budget_exceeded"
    assert (span.name, span.kind, span.trace_state) == ("chat gpt-4o-mini", CLIENT, "vendor=1")
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert dict(got.headers)[b"traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01".encode()
    assert dict(got.headers)[b"tracestate"] == b"vendor=1"
    attributes = plain(span.attributes)
    assert attributes[names.COST_NANO_USD] == row.cost_nanos == gw.sandbox.bill.total_nanos()
    assert attributes[names.COST_USD] == (row.cost_nanos or 0) / 1e9
    assert (attributes[names.INPUT_TOKENS], attributes[names.OUTPUT_TOKENS]) == (row.input_tokens, row.output_tokens)
    assert attributes[names.USER] == "u1" and attributes[names.SERVER] == "127.0.0.1"
    assert sorted(attributes) == snapshot(
        [
            "bursar.agent.id",
            "bursar.cache.status",
            "bursar.cost.nano_usd",
            "bursar.cost.price_id",
            "bursar.cost.status",
            "bursar.cost.usd",
            "bursar.provider",
            "bursar.request.attempt",
            "bursar.request.id",
            "bursar.request.model",
            "bursar.route.reason",
            "bursar.route.tier",
            "bursar.run.id",
            "bursar.status",
            "bursar.step",
            "bursar.tenant",
            "gen_ai.agent.name",
            "gen_ai.operation.name",
            "gen_ai.provider.name",
            "gen_ai.request.model",
            "gen_ai.response.id",
            "gen_ai.response.model",
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.input_tokens",
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.reasoning.output_tokens",
            "http.response.status_code",
            "openai.response.service_tier",
            "server.address",
            "server.port",
            "user.id",
        ]
    )
    assert sorted(collector.metrics) == snapshot(
        [
            "bursar.calls",
            "bursar.cost",
            "gen_ai.client.inference.duration",
            "gen_ai.client.inference.operation.input_tokens",
            "gen_ai.client.inference.operation.output_tokens",
            "gen_ai.client.inference.usage.input_tokens",
            "gen_ai.client.inference.usage.output_tokens",
        ]
    )
    assert [event.event_name for event in collector.events] == [names.REFUSED]
    assert collector.resources[0]["service.name"] == "bursar"
    assert collector.resources[0]["deployment.environment.name"] == "test"
    assert all(one["service.instance.id"] for one in collector.resources)  # so that workers' counters do not collide


def test_every_attempt_has_a_span_and_streams_too(collector: Collector) -> None:
    """A failed attempt is an error without the provider's words; a stream's first chunk is timed."""
    with running(telemetry=lambda policy, meters: telemetry(policy)) as gw:
        said = [{"role": "user", "content": "What is double entry? [[fault:500 once]]"}]
        assert gw.post("/v1/chat/completions", {**CHAT, "messages": said, "stream": True}).status_code == 200
        gw.rows(2)
    failed, done = collector.spans
    assert plain(failed.attributes)[names.ERROR] == "500" and failed.status.code == 2 and not failed.status.message
    assert plain(failed.attributes)[names.FINISH_REASONS] == ["error"]
    assert plain(done.attributes)[names.REQUEST_STREAM] is True and names.FIRST_CHUNK in plain(done.attributes)
    assert [plain(one.attributes)[names.ATTEMPT] for one in (failed, done)] == [1, 2]
    assert failed.trace_id != b"" and failed.span_id != done.span_id
    (event,) = collector.events
    assert (event.event_name, plain(event.attributes)[names.EXCEPTION]) == (names.FAILED, "500")
    assert event.span_id == failed.span_id
    assert names.TIME_TO_FIRST_CHUNK in collector.metrics


def test_a_hit_calls_no_model(collector: Collector) -> None:
    """An INTERNAL span with what it saved, and no tokens that anybody could sum."""
    kept = StepRule(response_cache=ResponseCache(ttl_ms=3_600_000))
    with running(telemetry=lambda policy, meters: telemetry(policy), steps=(kept,)) as gw:
        for _ in range(2):
            gw.post("/v1/chat/completions", CHAT, {**TRACEPARENT, "x-bursar-user-id": "u"})
        first, hit = gw.rows(2)
    call, span = collector.spans
    assert (call.name, span.name, span.kind) == ("chat gpt-4o-mini", "bursar.hit", INTERNAL)
    told = plain(span.attributes)
    assert told[names.CACHE] == "hit" and told[names.COST_NANO_USD] == 0
    assert told[names.SAVED_USD] == (first.cost_nanos or 0) / 1e9 > 0
    assert hit.saved_nanos == first.cost_nanos and not {name for name in told if name.startswith("gen_ai.usage")}
    assert {one.parent_span_id.hex() for one in (call, span)} == {PARENT}


@pytest.mark.parametrize("on_disconnect", ["drain", "cancel"])
def test_a_caller_who_leaves_is_still_the_parent(on_disconnect: Any, collector: Collector) -> None:
    """The door has let go of the call by the time that its row is closed: the span is whose it was."""
    slow = SandboxSettings(chunk_ms=5, chunk_tokens=1)
    with running(slow, telemetry=lambda policy, meters: telemetry(policy), on_disconnect=on_disconnect) as gw:
        with httpx2.stream(
            "POST", gw.url + "/v1/chat/completions", json={**CHAT, "stream": True}, headers=TRACEPARENT, verify=TLS
        ) as answer:
            next(answer.iter_bytes())
        row = gw.row()
    assert row.status == "abandoned"
    (span,) = collector.spans
    assert (span.name, span.kind, span.parent_span_id.hex()) == ("chat gpt-4o-mini", CLIENT, PARENT)
    told = plain(span.attributes)
    assert (told[names.STATUS], told[names.ERROR], told[names.FINISH_REASONS]) == ("abandoned", "cancelled", ["error"])


def test_tokens_and_costs_add_up(collector: Collector) -> None:
    """What the counters say is what the ledger says; durations are histograms by the conventions' own bounds."""
    with running(telemetry=lambda policy, meters: telemetry(policy)) as gw:
        for _ in range(3):
            gw.post("/v1/chat/completions", CHAT)
        booked = gw.rows(3)
    found = collector.metrics
    (told,) = found[names.USAGE_INPUT].sum.data_points
    assert told.as_int == sum(row.input_tokens or 0 for row in booked)
    (cost,) = found[names.COST].sum.data_points
    assert cost.as_double == pytest.approx(sum(row.cost_nanos or 0 for row in booked) / 1e9)
    (duration,) = found[names.DURATION].histogram.data_points
    assert duration.count == 3 and tuple(duration.explicit_bounds) == names.SECONDS
    assert plain(duration.attributes)[names.PROVIDER] == "openai"


@pytest.mark.parametrize(
    ("opt_in", "more"),
    [
        ("", set()),
        ("http,gen_ai/dup", {names.OLD_TOKENS, names.OLD_DURATION}),
        ("gen_ai_latest_experimental", {names.PROPOSED_COST}),
    ],
)
def test_older_and_proposed_names_are_opted_into(
    opt_in: str, more: set[str], collector: Collector, sandbox: SandboxServer
) -> None:
    """Only who asks for them gets names that are gone, or not there yet."""
    with guarded(opt_in=opt_in) as guard:
        chat(guard.wrap(openai(sandbox.url)))
    optional = {names.OLD_TOKENS, names.OLD_DURATION, names.PROPOSED_COST}
    assert set(collector.metrics) & optional == more
    (span,) = collector.spans
    assert (names.COST_AMOUNT in plain(span.attributes)) == ("latest" in opt_in)
    assert (names.OLD_SYSTEM in plain(span.attributes)) == ("dup" in opt_in)


def test_the_library_is_a_child_of_the_current_span(own: Own, sandbox: SandboxServer) -> None:
    """In threads and in tasks; and the provider is told of the attempt's own span."""
    with guarded(own.sinks) as guard:
        client = guard.wrap(openai(sandbox.url))
        with own.tracer.start_as_current_span("work"):
            chat(client)
    work, call = own.spans
    assert call.parent.span_id == work.context.span_id and call.kind is trace.SpanKind.CLIENT
    (got,) = sandbox.requests
    assert dict(got.headers)[b"traceparent"].split(b"-")[2].decode() == f"{call.context.span_id:016x}"


def test_an_instrumented_sdk_is_not_doubled(own: Own, sandbox: SandboxServer) -> None:
    """anthropic makes spans of its own: ours is not made, what we know is on theirs, all attempts summed."""
    with guarded(own.sinks, attempts=2) as guard:
        client = guard.wrap(anthropic(sandbox.url, open_telemetry={"tracer_provider": own.provider}))
        message(client, "What is double entry? [[fault:500 once]]")
        booked = rows(guard)
    (span,) = own.spans
    assert span.instrumentation_scope.name == "com.anthropic.sdk.python"
    assert span.attributes[names.ATTEMPTS] == 2 and span.attributes[names.STATUS] == "completed"
    assert span.attributes[names.COST_NANO_USD] == sum(row.cost_nanos or 0 for row in booked)
    assert {dict(got.headers)[b"traceparent"].split(b"-")[2].decode() for got in sandbox.requests} == {
        f"{span.context.span_id:016x}"
    }


def test_a_span_that_has_ended_is_not_written_on(own: Own, sandbox: SandboxServer) -> None:
    """A stream may outlive the SDK's span: what it cost is then a small span below it, without the model's tokens."""
    with guarded(own.sinks) as guard:
        client = guard.wrap(openai(sandbox.url))
        theirs = own.tracer.start_span("chat gpt-4o", attributes={names.OPERATION: "chat"})
        with trace.use_span(theirs, end_on_exit=True):
            stream = chat(client, stream=True)
        list(stream)
    span, ours = own.spans
    assert span.name == "chat gpt-4o" and names.COST_USD not in span.attributes
    assert (ours.name, ours.kind) == ("bursar.settle", trace.SpanKind.INTERNAL)
    assert ours.parent.span_id == span.context.span_id
    assert names.COST_USD in ours.attributes and names.INPUT_TOKENS not in ours.attributes


def test_an_agents_span_is_no_model_call(own: Own, sandbox: SandboxServer) -> None:
    """`invoke_agent` is a parent like any other; "always" makes a span under a model call too; "none" never."""
    for spans, made in (("auto", [True, False]), ("always", [True, True]), ("none", [False, False])):
        app = Own()
        with guarded(app.sinks, spans=spans) as guard:
            client = guard.wrap(openai(sandbox.url))
            for operation in ("invoke_agent", "chat"):
                with app.tracer.start_as_current_span(operation, attributes={names.OPERATION: operation}):
                    chat(client)
        ours = [span for span in app.spans if span.instrumentation_scope.name == "bursar"]
        parents = [next(one.name for one in app.spans if one.context.span_id == span.parent.span_id) for span in ours]
        assert parents == [name for name, due in zip(("invoke_agent", "chat"), made, strict=True) if due], spans


@pytest.mark.parametrize("key", ["suppress_instrumentation", "suppress_language_model_instrumentation"])
def test_who_asks_for_silence_gets_it(key: str, own: Own, sandbox: SandboxServer) -> None:
    with guarded(own.sinks) as guard:
        client = guard.wrap(openai(sandbox.url))
        token = contexts.attach(contexts.set_value(key, True))
        try:
            chat(client)
        finally:
            contexts.detach(token)
    assert own.spans == []


def test_asyncio_and_a_user_that_is_hashed(own: Own, sandbox: SandboxServer) -> None:
    """Tasks have contexts of their own; a user's id leaves only as a keyed hash where that is asked for."""

    async def work(guard: bursar.Guard) -> None:
        client = guard.wrap(anthropic(sandbox.url, AsyncAnthropic))

        async def one(name: str) -> None:
            with own.tracer.start_as_current_span(name), guard.run(agent="a", user="u42"):
                await message(client)

        await asyncio.gather(*(one(f"task {n}") for n in range(4)))
        await guard.aclose()

    asyncio.run(work(guarded(own.sinks, user_ids="hash", hash_key=b"k" * 32)))
    calls = [span for span in own.spans if span.instrumentation_scope.name == "bursar"]
    parents = {span.context.span_id: span.name for span in own.spans}
    assert sorted(parents[call.parent.span_id] for call in calls) == [f"task {n}" for n in range(4)]
    assert len({call.attributes[names.USER_HASH] for call in calls}) == 1
    assert all("u42" not in map(str, (call.attributes or {}).values()) for call in calls)


def test_what_cannot_be_delivered_is_counted(collector: Collector) -> None:
    """A receiver that refuses costs no call anything, and /metrics says how much was lost."""
    collector.refuses = True

    def made(policy: Policy, meters: Any) -> otel.Telemetry:
        return telemetry(policy, sinks=otel.sinks(otel.Options(), lost=meters.lost))

    with running(telemetry=made, noisy=True) as gw:
        assert gw.post("/v1/chat/completions", CHAT).status_code == 200
        gw.rows(1)
        for sink in gw.app.telemetry._sinks.own if gw.app.telemetry else ():
            sink.force_flush()
        text = gw.get("/metrics").text
    assert 'bursar_telemetry_dropped_total{signal="spans"} 1.0' in text


def test_a_receiver_that_hangs_is_not_waited_for(collector: Collector, sandbox: SandboxServer) -> None:
    """Closing takes its own time at most: it is over while nothing has been answered."""
    collector.answers.clear()
    guard = guarded()
    chat(guard.wrap(openai(sandbox.url)))
    guard.close(0.05)
    assert collector.spans == [] and not collector.answers.is_set()
    collector.answers.set()
    until(lambda: len(collector.spans) == 1, "the span arrives all the same")


def test_the_configuration_turns_it_on(
    collector: Collector, sandbox: SandboxServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bursar.open reads [telemetry]; who the service is, the environment may say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    (tmp_path / "bursar.toml").write_text('[telemetry]\nenabled = true\nuser_ids = "hash"\nevents = false\n')
    with bursar.open() as guard, guard.run(user="u42"):
        chat(guard.wrap(openai(sandbox.url)))
    (span,) = collector.spans
    assert collector.resources[0]["service.name"] == "shop"
    assert names.USER_HASH in plain(span.attributes) and "u42" not in collector.text


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not silently nothing; and where it is not asked for, nothing of it is imported."""
    (tmp_path / "bursar.toml").write_text("[telemetry]\nenabled = true\n")
    monkeypatch.delitem(sys.modules, "bursar.doors.telemetry.otel")
    monkeypatch.delattr("bursar.doors.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(bursar.ConfigError, match=r"pip install 'bursar\[otel\]'"):
        bursar.open(tmp_path / "bursar.toml", store="memory://")
    with bursar.open(store="memory://") as guard:
        assert guard._desk.telemetry is None


def test_no_word_of_a_prompt_or_an_answer_is_sent(collector: Collector) -> None:
    """Neither prompts nor keys nor answers nor what an error quotes of them, whatever becomes of the call."""
    with running(telemetry=lambda policy, meters: telemetry(policy), noisy=True) as gw:
        _mixed(gw)
    assert "chat gpt-4o-mini" in collector.text and "sentinel" not in collector.text


def _mixed(gw: Running) -> None:
    for fault in ("", "400", "429", "500", "cut", "error-event"):
        for stream in (False, True):
            said = [{"role": "user", "content": "sentinel-prompt"}]
            told = {"authorization": "Bearer sentinel-key", "x-sandbox-fault": fault}
            gw.post("/v1/chat/completions", {**CHAT, "messages": said, "stream": stream}, told)
    gw.rows()
