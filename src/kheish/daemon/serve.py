"""The life of the daemon's process: start order, signals, drain, exit status."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
import uvloop

from kheish.core.problems import Problem
from kheish.core.redaction import Redactor
from kheish.daemon import logs, service_manager
from kheish.daemon.composition import Daemon, open_daemon
from kheish.daemon.huge_pages import move_into_huge_pages
from kheish.daemon.one_write import OneWriteProtocol
from kheish.daemon.settings import Settings, from_options
from kheish.daemon.state_root import OpenDatabase
from kheish.store.database import SqliteDatabase
from kheish.tools.orphans import kill_children

log = structlog.get_logger(__name__)

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_CLOSING_S = 1.5
"""Of the drain deadline: for open responses and the store."""
_OVERRUN_S = 1.0
"""After the deadline the process ends whatever still runs; the journal makes that safe."""
_LAST_WORDS_S = 0.5
"""For the log line of a process that ends itself; a log that blocks must not keep it."""
_BACKLOG = 2048
_PR_SET_DUMPABLE = 4
_COLLECTIONS = (5_000, 20, 20)
"""When the garbage collector looks. Rarely, as runs leave it little; and a look must not keep streams waiting."""


class CannotListen(Problem):
    """The address cannot be listened on."""

    code, status = "cannot_listen", 500


def main(
    options: dict[str, object],
    *,
    open_database: OpenDatabase = SqliteDatabase,
    on_ready: Callable[[str, bool], None] | None = None,
) -> int:
    """Run `serve` on the database that ``open_database`` gives until a signal ends it; returns the exit status.

    ``on_ready`` is told the address that is listened on, and whether there is a model route.
    """
    try:
        settings = from_options(options)
        redactor = Redactor()
        logs.configure(log_format=settings.log_format, log_level=settings.log_level, redactor=redactor)
        _close_to_children()
        return uvloop.run(_serve(settings, redactor, open_database, on_ready))
    except Problem as problem:
        sys.stderr.write(f"error: {problem.detail}\n")
        return 1


def _close_to_children() -> None:
    """Keep the daemon's memory and environment closed to the processes that tools start."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


async def _serve(
    settings: Settings,
    redactor: Redactor,
    open_database: OpenDatabase,
    on_ready: Callable[[str, bool], None] | None,
) -> int:
    stop = _Stop()
    stop.watch()
    if settings.max_turns == 0:
        log.warning("daemon.no_turn_ceiling", variable="KHEISH_AGENT_MAX_TURNS")
    async with open_daemon(settings, redactor=redactor, open_database=open_database) as daemon:
        daemon.control_plane.require_boundary(settings.bind_host)
        with contextlib.closing(_bind(settings)) as listener:
            daemon.board.bind_addr = _address(listener)
            await daemon.start()
            server = _Server(daemon, listener)
            await server.start()
            _tell_address(settings.bound_address_file, daemon.board.bind_addr)
            _reload_on_hangup(daemon)
            log.info("daemon.ready", url=daemon.board.base_url, pid=os.getpid(), state_root=str(settings.state_root))
            service_manager.tell(settings.environ, service_manager.READY)
            if on_ready is not None:
                on_ready(daemon.board.bind_addr, daemon.board.has_routes)
            _keep_for_good()
            await server.until_stopped(stop.requested)
            status = 0 if stop.requested.is_set() else 1
            service_manager.tell(settings.environ, service_manager.STOPPING)
            await _shut_down(daemon, server, settings.drain_timeout_ms / 1000)
    if settings.bound_address_file is not None:
        with contextlib.suppress(OSError):
            settings.bound_address_file.unlink(missing_ok=True)
    log.info("daemon.stopped")
    return status


def _tell_address(file: Path | None, address: str) -> None:
    """Write where we listen. A health check can guess without it, so a disk that refuses stops nothing."""
    if file is None:
        return
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(f"{address}\n")
        temporary.replace(file)
    except OSError as error:
        log.warning("daemon.bound_address_not_written", path=str(file), error=error.strerror)


def _keep_for_good() -> None:
    """What the start made lives as long as the process: no collection looks through it again."""
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    gc.enable()
    # In a thread of its own: it takes some milliseconds, and the first requests are here.
    threading.Thread(target=move_into_huge_pages, name="kheish-huge-pages", daemon=True).start()


def _reload_on_hangup(daemon: Daemon) -> None:
    """SIGHUP: read the routes file again."""
    asked = asyncio.Event()

    async def reload() -> None:
        while True:
            await asked.wait()
            asked.clear()
            await daemon.reload_routes()

    daemon.supervisor.start("routes", reload)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)


async def _shut_down(daemon: Daemon, server: _Server, deadline_s: float) -> None:
    # A thread of its own: what overruns may well be the event loop, waiting for a disk that hangs.
    guard = threading.Timer(deadline_s + _OVERRUN_S, _give_up)
    guard.daemon = True
    guard.start()
    log.info("daemon.draining", deadline_s=deadline_s)
    await daemon.drain(max(0.0, deadline_s - _CLOSING_S))
    await server.close()


def _give_up() -> None:
    kill_children()
    words = threading.Thread(target=log.error, args=("daemon.drain_deadline_exceeded",), daemon=True)
    words.start()
    words.join(_LAST_WORDS_S)
    os._exit(1)


class _Stop:
    """The first signal asks for a drain, the second ends the process at once."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()

    def watch(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        # From here on past the event loop, which may be what hangs.
        for each in _STOP_SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(each)
            signal.signal(each, _end_at_once)
        log.info("daemon.signal", signal=number.name)
        self.requested.set()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    kill_children()
    os._exit(128 + number)


class _Uvicorn(uvicorn.Server):
    """Signals belong to the daemon; and somebody may want to know when the listener stands."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _Server:
    """The HTTP server as a task of the daemon."""

    def __init__(self, daemon: Daemon, listener: socket.socket) -> None:
        config = uvicorn.Config(
            daemon.app,
            http=OneWriteProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever is on this machine could name any caller: to the audit, and to the limit on failures.
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=1,
        )
        self._uvicorn = _Uvicorn(config)
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept connections."""
        self._task = asyncio.get_running_loop().create_task(
            self._uvicorn.serve(sockets=[self._listener]), name="http-server"
        )
        listening = asyncio.ensure_future(self._uvicorn.listening.wait())
        await asyncio.wait({self._task, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()

    async def until_stopped(self, requested: asyncio.Event) -> None:
        """Return when a stop is requested or the server ended by itself."""
        assert self._task is not None
        asked = asyncio.ensure_future(requested.wait())
        await asyncio.wait({self._task, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()

    async def close(self) -> None:
        """Close the listener, let open responses end, and wait."""
        assert self._task is not None
        self._uvicorn.should_exit = True
        await self._task


def _bind(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.bind_host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.bind_host, settings.bind_port))
    except OSError as error:
        listener.close()
        address = f"{settings.bind_host}:{settings.bind_port}"
        raise CannotListen(f"Cannot listen on {address}: {error.strerror}.") from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
