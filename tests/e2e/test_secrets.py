"""A known key is given to the daemon in every way there is, and found nowhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon
from tests.fakes.model_server import Answer, Call, ModelServer, Refusal, Request, Response

pytestmark = pytest.mark.e2e

KEY = "sk-known-secret-0123456789"
# Root may read any process; for everybody else the daemon's own environment is closed.
LOOK = "env; cat /proc/$PPID/cmdline" + ("" if os.geteuid() == 0 else " /proc/$PPID/environ")
ROUTES = """
default_route = "inline"
[routes.inline]
driver = "openai"
default_model = "gpt-5.4"
base_url = "{url}"
api_key = "{key}-inline"
[routes.from_env]
driver = "anthropic"
default_model = "claude-x"
base_url = "{url}/"
api_key_env = "MY_KEY"
"""


def test_keys_are_found_in_no_response_log_event_row_argument_or_tool(daemon_for: Callable[..., Daemon]) -> None:
    def respond(request: Request) -> Response:
        if request.user_text == "fail":
            return Refusal(status=401, body={"error": {"message": f"bad key {KEY}-inline", "type": "auth"}})
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": LOOK})])

    environment = {"MY_KEY": f"{KEY}-env", "KHEISH_API_KEY": f"{KEY}-api", "OPENAI_API_KEY": f"{KEY}-openai"}
    with ModelServer(respond) as server:
        routes = ROUTES.format(url=server.url, key=KEY)
        daemon = daemon_for(routes, env=environment, arguments=("--permission-mode", "bypass-permissions"))
        command_line = Path(f"/proc/{daemon.pid}/cmdline").read_bytes()
        session = daemon.session()
        views = [daemon.wait(daemon.submit(session, "work", provider=name)) for name in ("inline", "from_env")]
        views.append(daemon.wait(daemon.submit(session, "fail")))
        sent = [request.headers for request in server.requests]
        prompts = str([request.body for request in server.requests])

    pages = ("status", "runtime", "capabilities", "openapi.json", "runs", "sessions", f"sessions/{session}/events")
    shown = "".join(httpx2.get(f"{daemon.url}/v1/{page}", timeout=DEADLINE_S).text for page in pages)
    events = "".join(httpx2.get(f"{daemon.url}/v1/runs/{view['run_id']}/events").text for view in views)
    daemon.terminate()
    stored = b"".join(path.read_bytes() for path in daemon.state_root.rglob("*") if path.is_file())

    assert any(KEY in str(headers) for headers in sent), "the keys were not even used"
    assert [view["status"] for view in views] == ["completed", "completed", "failed"]
    for name, place in (
        ("responses", shown),
        ("run events", events),
        ("run views", str(views)),
        ("prompts", prompts),
        ("log", daemon.log()),
        ("arguments", command_line.decode()),
        ("state root", stored.decode(errors="replace")),
    ):
        assert KEY not in place, f"a key was found in the {name}"
