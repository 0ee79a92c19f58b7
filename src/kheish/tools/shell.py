"""bash: one command in its own process group, gated so that its intent is durable before it begins."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.tools.failures import ToolFailure
from kheish.tools.offload import to_the_end
from kheish.tools.orphans import kill_orphans, process_start_time
from kheish.tools.protocol import (
    Prepared,
    Replay,
    Sandbox,
    ToolCall,
    ToolContext,
    ToolDescriptor,
    ToolOutcome,
)
from kheish.tools.runtime import Known

SHELL = "/bin/bash"
KEPT_BYTES = 65_536
"""Of each stream; the rest is read and thrown away."""
MAX_COMMAND_BYTES = 131_071
"""The longest single argument that Linux passes to a program."""
_LAST_OUTPUT_S = 1.0
"""After the command's end: a pipe that stays open longer is held by a process that left the group."""
_LEFTOVER_POLLS = 10
_LEFTOVER_POLL_S = 0.05
_GATE_CLOSED_STATUS = 125
_GATE = f'read -r -u "$0" || exit {_GATE_CLOSED_STATUS}; eval "exec $0<&-"; exec {SHELL} -lc "$1"'
"""Waits for one line on the gate. End of file, also by the daemon's death, means: do not begin."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_INHERITED = ("PATH", "HOME", "LANG", "TERM", "TZ", "TMPDIR")


@value_class(frozen=True, kw_only=True, slots=True)
class ShellEnvironment:
    """Which variables of the daemon a child may see: an allow-list, so that no key gets there by accident."""

    extra: tuple[str, ...] = ()
    """Named by the operator."""

    def variables(self, environ: Mapping[str, str]) -> dict[str, str]:
        allowed = {*_INHERITED, *self.extra}
        return {name: value for name, value in environ.items() if name in allowed or name.startswith("LC_")}


class Bash:
    """Runs a command with the workspace as its directory."""

    descriptor = ToolDescriptor(
        name="bash",
        description=(
            "Run a command with /bin/bash -lc in the workspace. Returns exit_code, stdout and stderr, each cut to "
            f"{KEPT_BYTES} bytes. What the command leaves running is stopped when it ends."
        ),
        schema={
            "type": "object",
            "properties": {
                "command": {"type": "string", "description": "What to run"},
                "workdir": {"type": "string", "description": "Directory inside the workspace; default its root"},
                "description": {"type": "string", "description": "What the command is for, in a few words"},
            },
            "required": ["command"],
            "additionalProperties": False,
        },
        timeout_ms=3_600_000,
        sandbox=Sandbox.WORKSPACE_WRITE,
        allows_parallel=False,
        replay=Replay.NEVER,
    )

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        command = str(call.input["command"])
        try:
            _check(command)
            directory = _directory(call.input.get("workdir"), context)
            return await _GatedCommand.spawn(command, directory, self._environment)
        except ToolFailure as failure:
            return Known(failure.outcome("bash"))

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        return None


def _check(command: str) -> None:
    if "\0" in command:
        raise ToolFailure("the command contains a NUL byte")
    if len(command.encode()) > MAX_COMMAND_BYTES:
        raise ToolFailure(f"the command is longer than {MAX_COMMAND_BYTES} bytes; write it to a file and run that")


def _directory(workdir: object, context: ToolContext) -> Path:
    root = context.workspace_root
    wanted = root if workdir in (None, "") else root / str(workdir)
    try:
        found = wanted.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise ToolFailure(f"workdir {workdir!r} does not exist in the workspace") from None
    closed = any(found.is_relative_to(forbidden) for forbidden in context.forbidden_roots)
    if closed or not found.is_relative_to(root):
        raise ToolFailure(f"workdir {workdir!r} is outside the workspace")
    if not found.is_dir():
        raise ToolFailure(f"workdir {workdir!r} is not a directory")
    return found


class _GatedCommand:
    """A child that waits at its gate."""

    def __init__(
        self, command: str, directory: Path, process: asyncio.subprocess.Process, gate: int, outputs: tuple[int, int]
    ) -> None:
        self.facts: JsonObject = {
            "pid": process.pid,
            "pgid": process.pid,
            "start_time": process_start_time(process.pid),
        }
        self._command = command
        self._directory = directory
        self._process = process
        self._gate = gate
        self._outputs = outputs

    @classmethod
    async def spawn(cls, command: str, directory: Path, environment: Mapping[str, str]) -> _GatedCommand:
        with contextlib.ExitStack() as child_ends, contextlib.ExitStack() as own_ends:
            gate_read, gate = _pipe(child_ends, own_ends, child=0)
            stdout_write, stdout = _pipe(child_ends, own_ends, child=1)
            stderr_write, stderr = _pipe(child_ends, own_ends, child=1)
            handle = _open_directory(directory)
            child_ends.callback(os.close, handle)
            process = await asyncio.create_subprocess_exec(
                SHELL,
                "-c",
                _GATE,
                str(gate_read),
                command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout_write,
                stderr=stderr_write,
                env=dict(environment),
                start_new_session=True,
                pass_fds=(gate_read,),
                preexec_fn=_in_child(handle),
            )
            # The command has them now; until here any failure closes both ends.
            own_ends.pop_all()
        return cls(command, directory, process, gate, (stdout, stderr))

    async def run(self) -> ToolOutcome:
        stdout, stderr = _Kept(bytearray()), _Kept(bytearray())
        readers = {
            asyncio.create_task(_read(end, kept), name="bash-output"): kept
            for end, kept in zip(self._outputs, (stdout, stderr), strict=True)
        }
        # A child that was killed at its gate has closed it; its exit status tells.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"\n")
        os.close(self._gate)
        try:
            await self._process.wait()
        finally:
            # Also when cancelled: nothing of the group survives, and the pipes come to their end.
            await to_the_end(asyncio.create_task(self._end(readers), name="bash-end"))
        return ToolOutcome(output=self._output(stdout, stderr))

    async def abandon(self) -> None:
        os.close(self._gate)
        await self._process.wait()
        for end in self._outputs:
            os.close(end)

    async def _end(self, readers: Mapping[asyncio.Task[None], _Kept]) -> None:
        for _ in _signals(self._process.pid):
            await asyncio.sleep(_LEFTOVER_POLL_S)
        await self._process.wait()
        # A shell with job control gives each job a group of its own; they share the session.
        await asyncio.to_thread(kill_orphans, self.facts)
        _, late = await asyncio.wait(readers, timeout=_LAST_OUTPUT_S)
        for reader in late:
            readers[reader].truncated = True
            reader.cancel()
        if late:
            await asyncio.wait(late)

    def _output(self, stdout: _Kept, stderr: _Kept) -> JsonObject:
        status = self._process.returncode
        output: JsonObject = {
            "command": self._command,
            "workdir": str(self._directory),
            "exit_code": status if status is not None and status >= 0 else None,
            "success": status == 0,
            "stdout": stdout.text,
            "stderr": stderr.text,
        }
        for name, kept in (("stdout", stdout), ("stderr", stderr)):
            if kept.truncated:
                output[f"{name}_truncated"] = True
        return output


def _signals(pgid: int) -> Iterator[None]:
    """SIGTERM, then a pause for each poll while somebody is left, then SIGKILL."""
    try:
        os.killpg(pgid, signal.SIGTERM)
        for _ in range(_LEFTOVER_POLLS):
            yield
            os.killpg(pgid, 0)
        os.killpg(pgid, signal.SIGKILL)
    # macOS answers EPERM for a group of which only a zombie is left.
    except (ProcessLookupError, PermissionError):
        return


def _pipe(child_ends: contextlib.ExitStack, own_ends: contextlib.ExitStack, *, child: int) -> tuple[int, int]:
    """A pipe as (the child's end, ours), each closed by its stack."""
    ends = os.pipe()
    child_ends.callback(os.close, ends[child])
    own_ends.callback(os.close, ends[1 - child])
    return ends[child], ends[1 - child]


def _open_directory(directory: Path) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ToolFailure(f"workdir {str(directory)!r} cannot be entered: {error.strerror}") from error


def _in_child(directory: int) -> Callable[[], None]:
    def prepare() -> None:
        os.fchdir(directory)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


@dataclass(slots=True)
class _Kept:
    """The beginning of a stream."""

    content: bytearray
    truncated: bool = False

    @property
    def text(self) -> str:
        return self.content.decode(errors="replace")


async def _read(end: int, kept: _Kept) -> None:
    """Read a pipe to its end and close it.

    Not with `connect_read_pipe`: uvloop closes the descriptor of its file twice, and the second close may hit whatever
    another thread has opened in between, the database's files among them.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(end, False)
    loop.add_reader(end, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                chunk = os.read(end, KEPT_BYTES)
            except BlockingIOError:
                continue
            if not chunk:
                return
            room = KEPT_BYTES - len(kept.content)
            kept.content += chunk[:room]
            kept.truncated = kept.truncated or len(chunk) > room
    finally:
        loop.remove_reader(end)
        os.close(end)
