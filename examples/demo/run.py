"""The demo: a real daemon, a real workspace, an approval, a kill -9 in the middle of a tool, and a run that finishes.

Run it with `./dev demo`; `--live` uses a real model, whichever provider's key is in the environment.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.demo.daemon_process import DaemonProcess
from examples.demo.report_check import check_report
from kheish import ApprovalRequest, Event, Kheish, RunHandle

HERE = Path(__file__).parent
REPORT_TASK = (
    "Look at this project and write REPORT.md: quote the README, list every file, and include the output of the "
    "tests and the line count of every file."
)
BUILD_TASK = (
    "Run this slow build exactly once with bash: echo started >> build.log; sleep 30; echo finished >> build.log . "
    "If the daemon restarts meanwhile, read build.log and report what it says instead of running it again."
)
RUN_DEADLINE_S = 300.0
PREVIEW_CHARS = 80


def main() -> int:
    options = _options()
    root = Path(options.directory or tempfile.mkdtemp(prefix="kheish-demo-"))
    workspace, state_root = root / "workspace", root / "state"
    if workspace.exists() or state_root.exists():
        print(f"{root} holds an earlier demo already; name another directory", file=sys.stderr)
        return 2
    shutil.copytree(HERE / "project", workspace)
    daemon = DaemonProcess(state_root=state_root, workspace=workspace, arguments=_model_arguments(options.live))
    with daemon:
        _say(f"A daemon is running at {daemon.url}", f"state in {state_root}, workspace in {workspace}")
        _report_run(daemon, workspace)
        _killed_run(daemon, workspace)
    _farewell(root, workspace)
    return 0


def _report_run(daemon: DaemonProcess, workspace: Path) -> None:
    with Kheish(base_url=daemon.url) as client:
        _say("Run 1: an agent works on real files")
        run = client.responses.create(session="demo", prompt=REPORT_TASK)
        _settle(run)
        _timeline(run)
    problems = check_report(workspace)
    if problems:
        raise SystemExit("The report does not match the files:\n" + "\n".join(problems))
    _say("REPORT.md, checked against the files it was made from")
    print((workspace / "REPORT.md").read_text())


def _killed_run(daemon: DaemonProcess, workspace: Path) -> None:
    _say("Run 2: kill -9 while a tool is working")
    log = workspace / "build.log"
    with Kheish(base_url=daemon.url) as client:
        run = client.responses.create(session="demo", prompt=BUILD_TASK)
        blocked = run.wait_until_blocked(timeout=RUN_DEADLINE_S)
        _show_approvals(blocked.run.pending_approvals)
        blocked.approve_all("the demo says yes")
        daemon.wait_for_file(log, "started")
        print("  build.log says 'started': the command is running. Killing the daemon with SIGKILL.")
        daemon.kill()
    daemon.start()
    print(f"  Started again at {daemon.url} on the same state. Nobody submits anything.")
    with Kheish(base_url=daemon.url) as client:
        resumed = client.runs.handle(run.run_id)
        _settle(resumed)
        _timeline(resumed)
    started = log.read_text().split().count("started")
    if started != 1:
        raise SystemExit(f"the build ran {started} times; it must run once")
    print("  build.log holds one 'started': nothing ran twice.")


def _settle(run: RunHandle) -> None:
    """Answer every approval visibly until the run is over; a failed run fails the demo."""
    while True:
        view = run.wait_until_blocked(timeout=RUN_DEADLINE_S)
        if not view.requires_approval:
            break
        _show_approvals(view.run.pending_approvals)
        view.approve_all("the demo says yes")
    result = run.wait(timeout=RUN_DEADLINE_S, raise_on_failure=True)
    print(f"  {run.run_id} {result.status}: {result.output_text}")


def _show_approvals(approvals: Sequence[ApprovalRequest]) -> None:
    for request in approvals:
        print(f"  approval asked for {request.tool_name}: {request.input}")
        print("  -> the demo answers: allow")


def _timeline(run: RunHandle) -> None:
    """What happened, from the stored events: the same after a restart."""
    print(f"  Timeline of {run.run_id}:")
    status = ""
    for event in run.stream():
        if event.run is not None and event.run.status != status:
            status = event.run.status
            print(f"    {status}")
        elif event.type == "trace" and (line := _trace_line(event)):
            print(f"      {line}")


def _trace_line(event: Event) -> str | None:
    trace = event.data.get("trace")
    if not isinstance(trace, dict):
        return None
    match trace["kind"]:
        case "model_finished":
            return f"model, turn {trace['turn']}: {trace.get('finish_reason', 'failed')}"
        case "tool_started":
            return f"{trace['tool_name']} {str(trace.get('input_preview', ''))[:PREVIEW_CHARS]}"
        case "tool_finished" if trace.get("is_error"):
            return f"{trace['tool_name']}: error"
        case "recovery":
            return "the daemon restarted; the run goes on"
        case _:
            return None


def _model_arguments(live: bool) -> list[str]:
    if not live:
        return ["--routes-file", str(HERE / "routes.toml")]
    for provider in ("anthropic", "openai", "openrouter"):
        if os.environ.get(f"{provider.upper()}_API_KEY"):
            return ["--provider", provider]
    raise SystemExit("--live needs ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY in the environment")


def _say(*lines: str) -> None:
    print("\n== " + lines[0])
    for line in lines[1:]:
        print(f"   {line}")


def _farewell(root: Path, workspace: Path) -> None:
    serve = f"./dev serve --state-root {root / 'state'} --workspace-root {workspace}"
    _say("Where to look next", f"the report: {workspace / 'REPORT.md'}", "three commands to try:")
    print(f"   1. {serve} --routes-file {HERE / 'routes.toml'}")
    print("   2. .venv/bin/kheish-daemon runs list           in another terminal")
    print("   3. .venv/bin/kheish-daemon sessions chat demo  say: write REPORT.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--live", action="store_true", help="use a real model instead of the scripted one")
    parser.add_argument("--directory", help="where to put state and workspace (default: a new temporary directory)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
