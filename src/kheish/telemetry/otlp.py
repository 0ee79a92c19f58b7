"""Spans out through the OpenTelemetry SDK and its OTLP/HTTP exporter. Imported only when tracing is on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanKind as OtelKind

from kheish.telemetry.spans import Span, SpanKind

_KINDS = {SpanKind.INTERNAL: OtelKind.INTERNAL, SpanKind.CLIENT: OtelKind.CLIENT}
_NS_PER_MS = 1_000_000
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class OtlpSink:
    """Turns our finished spans into the SDK's and sends them in one request."""

    def __init__(self, *, endpoint: str, service_name: str | None, version: str) -> None:
        """``service_name`` None: the standard variables name the service."""
        # Not the SDK's batch processor: it starts a thread in every process that a tool forks.
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        # It logs the collector's own words, which may repeat the headers it was sent; the queue tells of failures.
        exporter_log = logging.getLogger("opentelemetry.exporter")
        exporter_log.addHandler(logging.NullHandler())
        exporter_log.propagate = False
        self._closed = False
        self._ids = _GivenIds()
        self._made = _Collected()
        named = {} if service_name is None else {SERVICE_NAME: service_name}
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({**named, SERVICE_VERSION: version}),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        provider.add_span_processor(self._made)
        self._tracer = provider.get_tracer("kheish", version)

    def send(self, spans: Sequence[Span]) -> bool:
        for span in spans:
            self._make(span)
        return self._exporter.export(self._made.taken()) is SpanExportResult.SUCCESS

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own

    def _make(self, span: Span) -> None:
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            span.name,
            context=_inside(span),
            kind=_KINDS[span.kind],
            attributes=span.attributes,
            start_time=span.started_at_ms * _NS_PER_MS,
            record_exception=False,
        )
        if span.failed:
            made.set_status(Status(StatusCode.ERROR))
        made.end(end_time=span.ended_at_ms * _NS_PER_MS)


class _GivenIds(IdGenerator):
    """The ids our spans have already."""

    trace_id = span_id = 1

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id


class _Collected(SpanProcessor):
    """Keeps what the tracer has finished until the batch is complete."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self._spans.append(span)

    def taken(self) -> list[ReadableSpan]:
        found, self._spans = self._spans, []
        return found


def _inside(span: Span) -> Context:
    if span.parent_id is None:
        return Context()
    parent = SpanContext(trace_id=span.trace_id, span_id=span.parent_id, is_remote=False, trace_flags=_SAMPLED)
    return set_span_in_context(NonRecordingSpan(parent), Context())
