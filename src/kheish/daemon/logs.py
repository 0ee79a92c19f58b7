"""Logging: one line per event on stderr, JSON unless a person reads along."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import sys
from typing import TextIO, cast

import structlog

from kheish.core.redaction import Redactor

_LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


def configure(*, log_format: str, log_level: str, redactor: Redactor) -> None:
    """Send our events and the warnings of libraries to stderr in one form."""
    pretty = log_format == "pretty" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if pretty:
        final: list[structlog.typing.Processor] = [
            # The renderer's own choice shows the local variables of every frame: keys, commands, prompts.
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    else:
        final = [
            structlog.processors.format_exc_info,
            _redacting_values(redactor),
            structlog.processors.JSONRenderer(),
        ]
    final.append(_redacting(redactor))
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log_level]),
        # A line and its end in one write: a process that is killed leaves whole lines.
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Unbreakable(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    handler.addFilter(_worth_a_line)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[log_level], logging.WARNING))


class _Unbreakable(io.TextIOBase):
    """A log that cannot be written, on a disk that is full, must not end what it tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def _redacting(redactor: Redactor) -> structlog.typing.Processor:
    """The last step: whatever way a secret took into a line, it does not leave with it."""

    def redact(logger: object, method: str, line: structlog.typing.EventDict) -> str:
        return redactor.text(str(line))

    return redact


def _redacting_values(redactor: Redactor) -> structlog.typing.Processor:
    """Before JSON escapes what is escaped already, as a secret in the text of an exception is."""

    def redact(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {name: redactor.text(value) if isinstance(value, str) else value for name, value in event.items()}

    return redact


def _worth_a_line(record: logging.LogRecord) -> bool:
    """At shutdown the HTTP server cancels what stalled clients left open and calls each one a crash."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or not issubclass(kind, asyncio.CancelledError)
