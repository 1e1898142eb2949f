"""An OTLP receiver on a real socket, for tests: HTTP with protobuf, as a collector speaks it. Not a test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

_KINDS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


class Collector:
    """What has been sent so far, parsed."""

    def __init__(self) -> None:
        self.url = ""
        self.refuses = False
        """Answer 400, which is final."""
        self.answers = threading.Event()
        """Until it is set, nobody gets an answer."""
        self.answers.set()
        self._got: list[Any] = []
        self._lock = threading.Lock()

    def take(self, path: str, body: bytes) -> int:
        self.answers.wait(60)
        if self.refuses:
            return 400
        told = _KINDS[path]()
        told.ParseFromString(body)
        with self._lock:
            self._got.append(told)
        return 200

    @property
    def resources(self) -> list[dict[str, Any]]:
        """Of every batch of spans."""
        return [plain(r.resource.attributes) for got in self._of(ExportTraceServiceRequest) for r in got.resource_spans]

    @property
    def spans(self) -> list[Any]:
        """In the order of their beginning."""
        found = [
            span
            for got in self._of(ExportTraceServiceRequest)
            for resource in got.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    @property
    def metrics(self) -> dict[str, Any]:
        """The last word on each."""
        return {
            metric.name: metric
            for got in self._of(ExportMetricsServiceRequest)
            for resource in got.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if scope.scope.name == "bursar"
        }

    @property
    def events(self) -> list[Any]:
        return [
            record
            for got in self._of(ExportLogsServiceRequest)
            for resource in got.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def text(self) -> str:
        """Everything, as text."""
        return "\n".join(map(str, self._got))

    def _of(self, kind: type[Any]) -> list[Any]:
        with self._lock:
            return [one for one in self._got if isinstance(one, kind)]


def plain(attributes: "list[KeyValue] | Any") -> dict[str, Any]:
    """Attributes as a dict."""
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    """A receiver on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = collector.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
