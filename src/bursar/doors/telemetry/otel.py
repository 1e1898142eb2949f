"""OpenTelemetry: a span for every row, metrics and events, sent by OTLP. The one file that imports it (extra `otel`).

A physical attempt is a CLIENT span that begins as its bytes leave, so that the provider's own spans can be its
children; a hit and a refusal are INTERNAL spans. Their parent is the caller's: the current span in the library, the
`traceparent` of the request in the gateway. Where the current span is a model call already, because the SDK is
instrumented, no second one is made: Bursar's attributes are put on it. Spans that cannot be delivered are dropped and
counted; a call never waits for any of this.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Literal

import msgspec
from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bursar.doors.telemetry import facts, names
from bursar.doors.telemetry.facts import Place, UserIds
from bursar.doors.telemetry.instruments import Instruments
from bursar.policy import Provider
from bursar.types import Call, Entry, Headers

_SUPPRESSED = ("suppress_instrumentation", "suppress_language_model_instrumentation")
"""Keys by which instrumentations ask those below them to keep silent, the second one for model calls alone."""
_UNSAID = "unknown_service"
"""How the SDK names a service that nobody has named."""
_CARRIED = ("traceparent", "tracestate")
_W3C = TraceContextTextMapPropagator()
_EVENTS = {"failed": names.FAILED, "refused": names.REFUSED}

Lost = Callable[[str, int], None]
"""Hears of what could not be delivered: the signal ("spans", "metrics" or "events") and how many."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says under [telemetry]."""

    spans: Literal["auto", "always", "none"] = "auto"
    """auto: no second span where the current one is the same model call already."""
    metrics: bool = True
    events: bool = True
    user_ids: UserIds = "plain"
    propagate: bool = True
    """Requests to providers carry the attempt's `traceparent`."""
    hash_key: bytes = b""


class Providers(msgspec.Struct, frozen=True):
    """Where spans, metrics and events go. `own`: to be flushed and shut down with Bursar."""

    tracer: Any
    meter: Any
    logger: Any
    own: tuple[Any, ...] = ()


class Telemetry:
    """Of one guard or gateway. `listen` is for StoreWorld(settled=...); `follow` for a door as a call comes in."""

    def __init__(
        self,
        options: Options,
        providers: Mapping[str, Provider],
        sinks: Providers,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.options, self._providers, self._sinks = options, providers, sinks
        self._wishes = names.wishes(environ.get(names.OPT_IN, ""))
        self._tracer = sinks.tracer.get_tracer("bursar")
        self._logger = sinks.logger.get_logger("bursar")
        meter = sinks.meter.get_meter("bursar")
        self._instruments = Instruments(meter, self._wishes) if options.metrics else None
        self._traces: weakref.WeakValueDictionary[str, Trace] = weakref.WeakValueDictionary()
        self._places: dict[tuple[str, str | None], Place] = {}

    def follow(self, call: Call, headers: Headers | None = None) -> "Trace":
        """Remember whose call this is. headers: the caller's, where he is another process; None: he runs here.

        The trace lasts as long as the door, or the driver, holds it.
        """
        here = contexts.get_current() if headers is None else _W3C.extract(_first(headers), Context())
        told = trace.get_current_span(here) if headers is None and self.options.spans == "auto" else None
        trace_ = Trace(self, call, here, told if told is not None and _is_inference(told) else None)
        trace_.silent = self.options.spans == "none" or any(contexts.get_value(key, here) for key in _SUPPRESSED)
        self._traces[call.request_id] = trace_
        return trace_

    def listen(self, entry: Entry) -> None:
        """A row has been closed."""
        trace_ = self._traces.get(entry.request_id) or self._traces.get(entry.request_id.rpartition("-")[0])
        where = self.place(entry.provider, trace_.call.origin if trace_ is not None else None)
        span_context = self._spanned(entry, where, trace_)
        if self._instruments is not None:
            self._instruments.record(entry, where)
        if self.options.events:
            self._tell(entry, where, span_context)

    def close(self, seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most. What is the application's own it shuts down itself."""
        until = time.monotonic() + seconds
        enders = [threading.Thread(target=sink.shutdown, daemon=True) for sink in self._sinks.own]
        try:
            for ender in enders:
                ender.start()
        except RuntimeError:  # the interpreter is on its way out and starts no threads: the exporters' patience holds
            for sink in self._sinks.own:
                sink.shutdown()
            return
        for ender in enders:
            ender.join(max(0.0, until - time.monotonic()))

    def begin(self, name: str, parent: Context, attributes: facts.Attributes) -> Span:
        """A CLIENT span, now."""
        span: Span = self._tracer.start_span(name, context=parent, kind=SpanKind.CLIENT, attributes=attributes)
        return span

    def place(self, provider: str, origin: str | None) -> Place:
        """Where a provider is."""
        key = (provider, origin)
        found = self._places.get(key)
        if found is None:
            if len(self._places) > 1_000:
                self._places.clear()
            found = self._places[key] = facts.place(provider, self._providers.get(provider), origin)
        return found

    def _spanned(self, entry: Entry, where: Place, trace_: "Trace | None") -> Context:
        """Write the row on its span; the context to tell events in."""
        parent = trace_.parent if trace_ is not None else Context()
        if self.options.spans == "none" or (trace_ is not None and (trace_.silent or trace_.annotate(entry))):
            return parent
        sent = entry.status not in ("hit", "refused")
        span = trace_.taken() if trace_ is not None and sent else None
        if span is None:
            theirs = trace_ is not None and trace_.theirs is not None
            kind = SpanKind.CLIENT if sent and not theirs else SpanKind.INTERNAL
            name = "bursar.settle" if theirs else facts.span_name(entry)
            span = self._tracer.start_span(name, context=parent, kind=kind, start_time=entry.started_at * 1000)
            ended: int | None = (entry.started_at + (entry.duration_ms or 0) * 1000) * 1000
            told = facts.inference(entry, where) if kind is SpanKind.CLIENT else {}
        else:
            span.update_name(facts.span_name(entry))
            told, ended = facts.inference(entry, where), None
        key = self.options.hash_key
        more = facts.on_request(entry, where, self._wishes) if sent else {}
        people = facts.people(entry, self.options.user_ids, key)
        span.set_attributes({**told, **facts.ours(entry), **people, **more})
        if (error := facts.error_type(entry)) is not None:
            span.set_attribute(names.ERROR, error)
            if entry.status != "refused":
                span.set_status(Status(StatusCode.ERROR))
        span.end(ended)
        return trace.set_span_in_context(span, parent)

    def _tell(self, entry: Entry, where: Place, at: Context) -> None:
        """Events: an attempt that failed, a call that was refused, a cost that nobody knows."""
        unpriced = entry.status == "completed" and entry.cost_nanos is None
        name = names.UNPRICED if unpriced else _EVENTS.get(entry.status)
        if name is None:
            return
        told = {**facts.asked(entry, where), **facts.ours(entry)}
        if name == names.FAILED:
            told[names.EXCEPTION] = told[names.ERROR]
        record = LogRecord(event_name=name, severity_number=SeverityNumber.WARN, attributes=told, context=at)
        self._logger.emit(record)


class Trace:
    """One call: whose child it is, and the attempt under way. Used by one thread at a time."""

    __slots__ = ("__weakref__", "_attempts", "_nanos", "_open", "_telemetry", "call", "parent", "silent", "theirs")

    def __init__(self, telemetry: Telemetry, call: Call, parent: Context, theirs: Span | None) -> None:
        self._telemetry, self.call, self.parent, self.theirs = telemetry, call, parent, theirs
        self.silent = False
        self._open: Span | None = None
        self._attempts, self._nanos = 0, 0

    def sending(self, provider: str) -> Headers:
        """An attempt is about to leave: its span begins. The headers that it is to carry."""
        options = self._telemetry.options
        if self.theirs is None and not self.silent:
            view, where = self.call.view, self._telemetry.place(provider, self.call.origin)
            model = (view.model or "").removeprefix(f"{provider}/")
            operation = facts.operation(self.call.api)
            told: facts.Attributes = {names.OPERATION: operation, names.PROVIDER: where.provider}
            if model:
                told[names.REQUEST_MODEL] = model
            if view.max_output_tokens is not None:
                told[names.REQUEST_MAX_TOKENS] = view.max_output_tokens
            if view.choices != 1:
                told[names.REQUEST_CHOICES] = view.choices
            self._open = self._telemetry.begin(f"{operation} {model}".rstrip(), self.parent, told)
        if not options.propagate:
            return ()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self.parent if self._open is None else trace.set_span_in_context(self._open, self.parent))
        return tuple(carrier.items())

    def taken(self) -> Span | None:
        """The span under way, which is to be ended."""
        span, self._open = self._open, None
        return span

    def annotate(self, entry: Entry) -> bool:
        """Put the row on the span that the caller's own instrumentation has; False where it has none, or an ended one.

        Amounts are of all attempts so far: the span is of the whole call.
        """
        span = self.theirs
        self._attempts += entry.status not in ("hit", "refused")
        self._nanos += entry.cost_nanos or 0
        if span is None or not span.is_recording():
            return False
        told = facts.ours(entry)
        if entry.cost_nanos is not None:
            told |= {names.COST_USD: self._nanos / facts.NANOS, names.COST_NANO_USD: self._nanos}
        span.set_attributes({**told, names.ATTEMPTS: self._attempts})
        return True


def _first(headers: Headers) -> dict[str, str]:
    return {name: value for name, value in reversed(headers) if name in _CARRIED}


def _is_inference(span: Span) -> bool:
    """The span is a model call by the conventions, made by whoever instruments the SDK."""
    told = getattr(span, "attributes", None)
    return span.is_recording() and told is not None and told.get(names.OPERATION) in facts.INFERENCES


# --- where it goes


def sinks(options: Options, environ: Mapping[str, str] = os.environ, lost: Lost | None = None) -> Providers:
    """The application's own providers where it has set up any of them; else ours, by the OTEL_* variables."""
    tracer, meter, logger = trace.get_tracer_provider(), metrics.get_meter_provider(), get_logger_provider()
    if any(map(_is_set, (tracer, meter, logger))):
        return Providers(tracer, meter, logger)
    ours = _Ours(environ, lost or (lambda signal, count: None), options)
    made = (ours.spans(), ours.meters, ours.events())
    return Providers(*made, made)


def _is_set(provider: object) -> bool:
    return not type(provider).__name__.lstrip("_").startswith(("Proxy", "NoOp", "Default"))


class _Ours:
    """Providers of our own, set globally nowhere. OTEL_TRACES_EXPORTER=none and its like leave a signal out."""

    def __init__(self, environ: Mapping[str, str], lost: Lost, options: Options) -> None:
        self._environ, self._lost, self._options = environ, lost, options
        said = Resource.create().attributes
        unsaid = str(said.get("service.name", _UNSAID)).startswith(_UNSAID)
        mine = {"service.name": "bursar", "service.version": version("bursar")}
        self._resource = Resource.create(mine if unsaid else {})
        self.meters = self._meters()

    def spans(self) -> TracerProvider:
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        if self._wanted("TRACES", self._options.spans != "none"):
            exporter = self._counted(OTLPSpanExporter, "spans")
            provider.add_span_processor(BatchSpanProcessor(exporter, meter_provider=self.meters))
        return provider

    def _meters(self) -> MeterProvider:
        """Of Bursar, and of the SDK itself: what its queues drop."""
        wanted = self._wanted("METRICS", self._options.metrics)
        readers = [PeriodicExportingMetricReader(self._counted(OTLPMetricExporter, "metrics"))] if wanted else []
        return MeterProvider(readers, self._resource, shutdown_on_exit=False)

    def events(self) -> LoggerProvider:
        provider = LoggerProvider(self._resource, shutdown_on_exit=False)
        if self._wanted("LOGS", self._options.events):
            exporter = self._counted(OTLPLogExporter, "events")
            provider.add_log_record_processor(BatchLogRecordProcessor(exporter, meter_provider=self.meters))
        return provider

    def _wanted(self, variable: str, asked: bool) -> bool:
        return asked and self._environ.get(f"OTEL_{variable}_EXPORTER", "").strip() != "none"

    def _counted(self, kind: type[Any], signal: str) -> Any:
        """An exporter that says what it could not deliver."""
        lost = self._lost

        class Counted(kind):  # type: ignore[misc]
            def export(self, batch: Any, *args: Any, **kwargs: Any) -> Any:
                result = super().export(batch, *args, **kwargs)
                if result.name != "SUCCESS":
                    lost(signal, len(batch) if hasattr(batch, "__len__") else 1)
                return result

        return Counted()
