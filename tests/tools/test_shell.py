from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import uvloop

from kheish.core.jsonvalue import JsonObject
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.orphans import kill_orphans, process_start_time
from kheish.tools.protocol import ToolCall, ToolContext, ToolOutcome
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import BatchBudget, ToolRuntime
from kheish.tools.shell import Bash, ShellEnvironment

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0


def context(workspace: Path, *forbidden: Path) -> ToolContext:
    return ToolContext(session_id="s", run_id="r", workspace_root=workspace.resolve(), forbidden_roots=forbidden)


def runtime(**extra: str) -> ToolRuntime:
    return ToolRuntime(ToolRegistry((Bash({"PATH": os.environ["PATH"], "HOME": "/nonexistent", **extra}),)))


async def bash(
    workspace: Path, command: str, *, limits: ToolRuntimeLimits | None = None, **more: object
) -> ToolOutcome:
    tools = runtime()
    call = ToolCall(id="c", name="bash", input={"command": command, **more})  # type: ignore[dict-item]
    prepared = await tools.prepare(call, context(workspace))
    budget = BatchBudget(limits or ToolRuntimeLimits())
    return await asyncio.wait_for(tools.execute(prepared, tools.descriptor("bash"), budget), DEADLINE_S)


def output(outcome: ToolOutcome) -> JsonObject:
    assert isinstance(outcome.output, dict)
    return outcome.output


def gone(pid: int) -> bool:
    start = process_start_time(pid)
    if start is None:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True  # it went while we looked


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} survived"
        time.sleep(0.01)


async def test_a_failing_command_is_a_result_and_no_tool_error(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "echo out; echo err >&2; exit 3")

    assert not outcome.is_error
    assert outcome.output == {
        "command": "echo out; echo err >&2; exit 3",
        "workdir": str(context(tmp_path).workspace_root),
        "exit_code": 3,
        "success": False,
        "stdout": "out\n",
        "stderr": "err\n",
    }


async def test_what_a_command_leaves_running_is_stopped_when_it_ends(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "sleep 600 & echo $!")

    wait_until_gone(int(str(output(outcome)["stdout"])))


async def test_a_leftover_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "(trap '' TERM; exec sleep 600) & echo $!")

    wait_until_gone(int(str(output(outcome)["stdout"])))


async def test_a_job_with_a_group_of_its_own_is_stopped_with_its_command(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "set -m; sleep 600 > /dev/null 2>&1 & echo $!")

    wait_until_gone(int(str(output(outcome)["stdout"])))


async def test_a_leftover_in_a_session_of_its_own_delays_no_result(tmp_path: Path) -> None:
    escaped = "setsid bash -c 'echo $$ > pid.tmp; mv pid.tmp pid; exec sleep 600' & until [ -e pid ]; do :; done"
    outcome = await bash(tmp_path, f"{escaped}; echo done")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    assert (output(outcome)["stdout"], output(outcome)["exit_code"]) == ("done\n", 0)
    assert output(outcome)["stdout_truncated"] is True


@pytest.mark.parametrize(("command", "word"), [("echo a\0b", "NUL"), (f"echo {'x' * 131_072}", "longer than")])
async def test_a_command_no_system_can_run_is_refused_with_the_reason(tmp_path: Path, command: str, word: str) -> None:
    outcome = await bash(tmp_path, command)

    assert outcome.is_error
    assert word in str(output(outcome)["error"])


async def test_a_command_that_died_at_its_gate_is_a_result(tmp_path: Path) -> None:
    tools = runtime()
    prepared = await tools.prepare(ToolCall(id="c", name="bash", input={"command": "echo no"}), context(tmp_path))
    pid = prepared.facts["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    wait_until_gone(pid)
    outcome = await tools.execute(prepared, tools.descriptor("bash"), BatchBudget(ToolRuntimeLimits()))

    assert (output(outcome)["exit_code"], output(outcome)["stdout"]) == (None, "")


async def test_a_command_that_was_signalled_has_no_exit_code(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "kill -9 $$")

    assert (output(outcome)["exit_code"], output(outcome)["success"]) == (None, False)


async def test_long_output_is_cut_and_says_so(tmp_path: Path) -> None:
    outcome = await bash(tmp_path, "head -c 1000000 /dev/zero | tr '\\0' 'x'; echo done >&2")

    assert len(str(output(outcome)["stdout"])) == 65_536
    assert output(outcome)["stdout_truncated"] is True
    assert output(outcome)["stderr"] == "done\n"
    assert "stderr_truncated" not in output(outcome)


async def test_output_that_is_not_utf8_is_shown_as_well_as_it_can_be(tmp_path: Path) -> None:
    assert output(await bash(tmp_path, "printf 'a\\377b'"))["stdout"] == "a�b"


async def test_a_timeout_stops_the_whole_group(tmp_path: Path) -> None:
    limits = ToolRuntimeLimits(max_timeout_ms=500)

    outcome = await bash(tmp_path, "sleep 600 & echo $! > pid; wait", limits=limits)

    assert outcome.is_error
    assert "timed out after 500 ms" in str(outcome.output)
    wait_until_gone(int((tmp_path / "pid").read_text()))


async def test_cancelling_stops_the_whole_group(tmp_path: Path) -> None:
    task = asyncio.create_task(bash(tmp_path, "sleep 600 & echo $! > pid.tmp; mv pid.tmp pid; wait"))
    async with asyncio.timeout(DEADLINE_S):
        while not (tmp_path / "pid").exists():  # noqa: ASYNC110  # another process's file
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    wait_until_gone(int((tmp_path / "pid").read_text()))


async def test_a_command_does_not_begin_before_its_gate_opens(tmp_path: Path) -> None:
    call = ToolCall(id="c", name="bash", input={"command": "touch began"})
    prepared = await runtime().prepare(call, context(tmp_path))

    assert process_start_time(int(str(prepared.facts["pid"]))) == prepared.facts["start_time"]
    await prepared.abandon()

    assert not (tmp_path / "began").exists()
    assert gone(int(str(prepared.facts["pid"])))


async def test_the_environment_is_an_allow_list() -> None:
    environ = {"PATH": "/bin", "LC_ALL": "C", "OPENAI_API_KEY": "sk-1", "KHEISH_API_KEY": "sk-2", "MINE": "x"}

    assert ShellEnvironment().variables(environ) == {"PATH": "/bin", "LC_ALL": "C"}
    assert ShellEnvironment(extra=("MINE",)).variables(environ) == {"PATH": "/bin", "LC_ALL": "C", "MINE": "x"}


async def test_env_in_a_command_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-topsecret")
    monkeypatch.setenv("KHEISH_DAEMON_TOKEN", "tok-topsecret")
    tools = ToolRuntime(ToolRegistry((Bash(ShellEnvironment().variables({**os.environ, "HOME": "/nonexistent"})),)))
    prepared = await tools.prepare(ToolCall(id="c", name="bash", input={"command": "env"}), context(tmp_path))
    outcome = await prepared.run()

    assert "topsecret" not in str(outcome.output)
    assert "PATH=" in str(outcome.output)


@pytest.mark.parametrize("workdir", ["..", "/etc", "../..", "missing", "file", "link", "state"])
async def test_a_workdir_outside_the_workspace_is_refused(tmp_path: Path, workdir: str) -> None:
    workspace = tmp_path / "w"
    (workspace / "state").mkdir(parents=True)
    (workspace / "file").write_text("")
    (workspace / "link").symlink_to("/etc")
    tools = runtime()
    call = ToolCall(id="c", name="bash", input={"command": "pwd", "workdir": workdir})
    prepared = await tools.prepare(call, context(workspace, (workspace / "state").resolve()))
    outcome = await prepared.run()

    assert outcome.is_error
    assert "workdir" in str(outcome.output)


async def test_a_workdir_inside_the_workspace_is_where_the_command_runs(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    assert output(await bash(tmp_path, "pwd", workdir="sub"))["stdout"] == f"{(tmp_path / 'sub').resolve()}\n"


async def test_a_command_that_cannot_start_leaves_no_descriptor_open(tmp_path: Path) -> None:
    def open_descriptors() -> int:
        return len(os.listdir("/dev/fd"))

    tools = ToolRuntime(ToolRegistry((Bash({"PATH": "/nowhere", "BAD\0NAME": "x"}),)))
    call = ToolCall(id="c", name="bash", input={"command": "true"})
    await (await tools.prepare(call, context(tmp_path))).run()
    before = open_descriptors()
    for _ in range(5):
        assert (await (await tools.prepare(call, context(tmp_path))).run()).is_error
    assert open_descriptors() == before


def test_it_works_under_uvloop(tmp_path: Path) -> None:
    outcome = uvloop.run(bash(tmp_path, "sleep 600 & echo $!; exit 2"))

    assert output(outcome)["exit_code"] == 2
    wait_until_gone(int(str(output(outcome)["stdout"])))


def test_under_uvloop_no_descriptor_is_closed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead: list[int] = []
    close = os.close

    def is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            dead.append(descriptor)
            return False
        return True

    class Watched(io.FileIO):
        def close(self) -> None:
            if not self.closed and is_open(self.fileno()):
                super().close()

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode, **_: Watched(descriptor, mode))
    monkeypatch.setattr(os, "close", lambda descriptor: close(descriptor) if is_open(descriptor) else None)
    uvloop.run(bash(tmp_path, "echo out; echo err >&2"))

    assert dead == []


_DAEMON = """
import asyncio, json, os, sys
from pathlib import Path
from kheish.tools.protocol import ToolCall, ToolContext
from kheish.tools.shell import Bash

async def main():
    context = ToolContext(session_id="s", run_id="r", workspace_root=Path(sys.argv[1]))
    command = sys.argv[2]
    bash = Bash({**os.environ, "HOME": "/nonexistent"})
    prepared = await bash.prepare(ToolCall(id="c", name="bash", input={"command": command}), context)
    print(json.dumps(prepared.facts), flush=True)
    if sys.argv[3] == "run":
        await prepared.run()
    else:
        await asyncio.sleep(600)

asyncio.run(main())
"""


def dead_daemon(workspace: Path, command: str, how: str, ready: Path | None) -> JsonObject:
    """Start a process that prepares or runs ``command``, kill it, return the facts of its intent."""
    code = textwrap.dedent(_DAEMON)
    arguments = [sys.executable, "-c", code, str(workspace.resolve()), command, how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "src"}) as process:
        assert process.stdout is not None
        facts: JsonObject = json.loads(process.stdout.readline())
        deadline = time.monotonic() + DEADLINE_S
        while ready is not None and not ready.exists():
            assert time.monotonic() < deadline, "the command did not begin"
            time.sleep(0.01)
        process.kill()
    return facts


def test_a_command_at_its_gate_never_begins_when_the_daemon_dies(tmp_path: Path) -> None:
    facts = dead_daemon(tmp_path, "touch began", "wait", None)

    wait_until_gone(int(str(facts["pid"])))
    assert not (tmp_path / "began").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_running_command_dies_with_the_daemon(tmp_path: Path) -> None:
    facts = dead_daemon(tmp_path, "touch began; exec sleep 600", "run", tmp_path / "began")

    wait_until_gone(int(str(facts["pid"])))


def test_what_outlives_the_daemon_is_killed_by_its_recorded_group(tmp_path: Path) -> None:
    facts = dead_daemon(tmp_path, "sleep 600 & echo $! > p; mv p pid; wait", "run", tmp_path / "pid")
    survivor = int((tmp_path / "pid").read_text())

    assert kill_orphans(facts) >= 1
    wait_until_gone(survivor)
    assert kill_orphans(facts) == 0


def test_a_reused_process_number_is_left_alone() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        assert kill_orphans({"pid": process.pid, "pgid": process.pid, "start_time": "1"}) == 0
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)


def test_an_intent_without_a_process_kills_nothing() -> None:
    assert kill_orphans({}) == 0
    assert kill_orphans({"pgid": 1, "start_time": process_start_time(1)}) == 0
