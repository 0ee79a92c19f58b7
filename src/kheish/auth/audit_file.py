"""The control plane's own log of refusals: one JSON object per line, never a token."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from kheish.core.jsonvalue import JsonObject, encode

log = structlog.get_logger(__name__)

_MAX_TEXT_CHARS = 512


class AuditFile:
    """Appends lines; a failing disk is logged and changes no answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, record: JsonObject) -> None:
        """Write one line. Called from the event loop: the limiter bounds how often."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, encode(record) + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            log.error("control_plane.audit_failed", path=str(self._path), reason=error.strerror)


def printable(text: str) -> str:
    """``text`` without control characters, at most 512 characters."""
    return "".join(character for character in text[: 4 * _MAX_TEXT_CHARS] if character.isprintable())[:_MAX_TEXT_CHARS]
