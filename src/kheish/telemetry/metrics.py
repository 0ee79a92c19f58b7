"""`GET /metrics`: what the daemon counts about itself, in the formats of OpenMetrics and Prometheus."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from kheish.telemetry.release import release
from kheish.telemetry.snapshot import Snapshot, SnapshotCollector

Take = Callable[[], Awaitable[Snapshot]]


class Metrics:
    """The registry of one daemon and the answer to a scrape."""

    def __init__(self, registry: CollectorRegistry, *, take: Take) -> None:
        self._registry = registry
        self._take = take
        self._collector = SnapshotCollector()
        registry.register(self._collector)
        self._knows_process = False

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """The families in the format ``accept`` asks for, and its content type."""
        snapshot = await self._take()
        encode, content_type = _encoder(accept)
        # No wait from here on: two scrapes at once each show their own snapshot.
        if not self._knows_process:
            self._knows_process = True
            _describe_process(self._registry)
        self._collector.snapshot = snapshot
        return encode(self._registry), content_type


def _describe_process(registry: CollectorRegistry) -> None:
    """Add what never changes. With the first scrape: our version is in files that are slow to look through."""
    for standard in (ProcessCollector, PlatformCollector, GCCollector):
        standard(registry=registry)
    build = Info("kheish_build", "What runs.", registry=registry)
    build.info({"version": release(), "python": platform.python_version(), "sqlite": sqlite3.sqlite_version})


def _encoder(accept: str) -> tuple[Callable[[CollectorRegistry], bytes], str]:
    try:
        return choose_encoder(accept)
    # Some version numbers are too odd for the library; such a client gets the format every one reads.
    except (TypeError, ValueError):
        return choose_encoder("")
