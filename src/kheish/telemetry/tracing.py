"""Whether a daemon traces, and its way to the collector. What makes and sends spans is imported only if it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.telemetry.release import release

if TYPE_CHECKING:
    from kheish.telemetry.span_queue import SpanQueue, SpanSink

log = structlog.get_logger(__name__)

_DEFAULT_ENDPOINT = "http://localhost:4318/v1/traces"
_PROTOCOL = "http/protobuf"
_SERVICE = "kheish-daemon"
_YES, _NO = ("1", "true"), ("0", "false")


class TracingRefused(Problem):
    """Tracing was asked for and is not possible."""

    code, status = "settings_refused", 500


@value_class(frozen=True, kw_only=True, slots=True)
class TracingSettings:
    """Where spans go."""

    endpoint: str
    """The URL that takes OTLP/HTTP traces."""
    required: bool
    """Asked for by name: a daemon that cannot trace does not start."""
    protocol: str = _PROTOCOL
    service_named: bool = False
    """The standard variables say what this service is called."""


def tracing_settings(environ: Mapping[str, str]) -> TracingSettings | None:
    """What the environment says: `KHEISH_OTEL`, and the standard `OTEL_` variables. None: tracing is off.

    Raises:
        TracingRefused: `KHEISH_OTEL` is neither on nor off.
    """

    def given(*names: str) -> str:
        return next((text for name in names if (text := environ.get(name, "").strip())), "")

    ours = given("KHEISH_OTEL").lower()
    if ours not in (*_YES, *_NO, ""):
        raise TracingRefused("KHEISH_OTEL must be 1 or 0.")
    base = given("OTEL_EXPORTER_OTLP_ENDPOINT").rstrip("/")
    endpoint = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (f"{base}/v1/traces" if base else "")
    off = given("OTEL_SDK_DISABLED").lower() == "true" or given("OTEL_TRACES_EXPORTER").lower() == "none"
    if off or ours in _NO or not (endpoint or ours):
        return None
    return TracingSettings(
        endpoint=endpoint or _DEFAULT_ENDPOINT,
        required=ours in _YES,
        protocol=given("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOL,
        service_named=bool(given("OTEL_SERVICE_NAME")) or "service.name=" in given("OTEL_RESOURCE_ATTRIBUTES"),
    )


def open_spans(settings: TracingSettings | None) -> SpanQueue | None:
    """The way to the collector; close it. None when tracing is off, or was not asked for by name and is not possible.

    Raises:
        TracingRefused: it was asked for by name and is not possible; the text says what to do.
    """
    if settings is None:
        return None
    from kheish.telemetry.span_queue import SpanQueue

    try:
        return SpanQueue(_sink(settings))
    except TracingRefused as problem:
        if settings.required:
            raise
        log.warning("tracing.off", detail=problem.detail)
        return None


def _sink(settings: TracingSettings) -> SpanSink:
    place = urlsplit(settings.endpoint)
    if place.scheme not in ("http", "https") or not place.hostname:
        raise TracingRefused("The OTLP endpoint must be an http or https URL.")
    if settings.protocol != _PROTOCOL:
        raise TracingRefused(f"Traces are sent as {_PROTOCOL} only; OTEL_EXPORTER_OTLP_PROTOCOL names another one.")
    try:
        from kheish.telemetry.otlp import OtlpSink
    except ImportError:
        raise TracingRefused(
            "Tracing is configured but not installed: pip install 'kheish[otel]', or set KHEISH_OTEL=0."
        ) from None
    name = None if settings.service_named else _SERVICE
    sink = OtlpSink(endpoint=settings.endpoint, service_name=name, version=release())
    log.info("tracing.on", host=place.hostname)
    return sink
