"""Can the daemon still write where it must? Asked with a real file, under a timeout."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from pathlib import Path

from kheish.core.jsonvalue import JsonObject

_TIMEOUT_S = 2.0


async def write_probe(name: str, folder: Path) -> JsonObject:
    """Create, write, sync and delete a file in ``folder``; say how that went."""
    started = time.monotonic()
    fault: str | None = None
    code = "ok"
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await asyncio.to_thread(_touch, folder)
    except TimeoutError:
        code, fault = "write_timeout", f"no answer within {_TIMEOUT_S:g} s"
    except OSError as error:
        code, fault = "write_failed", error.strerror or "write failed"
    probe: JsonObject = {
        "name": name,
        "path": str(folder),
        "state": "ok" if fault is None else "error",
        "writable": fault is None,
        "latency_ms": round((time.monotonic() - started) * 1000),
        "code": code,
        "message": "writable" if fault is None else fault,
    }
    if fault is not None:
        probe["action"] = f"Check permissions, free space and the mount of {folder}."
    return probe


def _touch(folder: Path) -> None:
    path = folder / f".kheish-probe-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, b"probe")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
