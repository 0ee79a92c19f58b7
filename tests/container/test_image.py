"""The built image in running containers: the acceptance cases of the container contract."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.container.engine import IMAGE, ROOT, Container, Engine, container, scripted, volume
from tests.e2e.daemon_process import wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]


def refusal(engine: Engine, *options: str, command: tuple[str, ...] = ()) -> tuple[int, str]:
    done = engine.call("run", "--rm", *options, IMAGE, *command)
    said = [line for line in done.stderr.splitlines() if line.startswith(("kheish-entrypoint:", "error:"))]
    return done.returncode, "\n".join(said)


def test_without_any_setting_the_image_refuses_to_serve(image: Engine) -> None:
    """Case 1."""
    status, said = refusal(image)
    assert status == 64
    assert "requires an admin token" in said


def test_relative_roots_and_a_missing_routes_file_are_refused(image: Engine) -> None:
    """Cases 2, 3 and 11."""
    token = ("-e", "KHEISH_DAEMON_ADMIN_TOKEN=x")
    for options, command, text in (
        (("-e", "KHEISH_STATE_ROOT=state"), (), "--state-root must be an absolute path"),
        ((), ("serve", "--workspace-root=work"), "--workspace-root must be an absolute path"),
        (("-e", "KHEISH_ROUTES_FILE=routes.toml"), (), "--routes-file must be an absolute path"),
        (("-e", "KHEISH_ROUTES_FILE=/etc/kheish/absent.toml"), (), "must point to a regular file"),
    ):
        status, said = refusal(image, *token, *options, command=command)
        assert (status, text in said) == (64, True), said


def test_roots_that_are_one_directory_are_refused(image: Engine, tmp_path: Path) -> None:
    """Case 4."""
    (tmp_path / "state").mkdir()
    (tmp_path / "link").symlink_to("state")
    tmp_path.chmod(0o755)
    token = ("-v", f"{tmp_path}:/data", "-e", "KHEISH_DAEMON_ADMIN_TOKEN=x", "-e", "KHEISH_STATE_ROOT=/data/state")
    for workspace in ("/data/state", "/data/link", "/data"):
        status, said = refusal(image, *token, "-e", f"KHEISH_WORKSPACE_ROOT={workspace}")
        assert (status, "must not resolve to the same directory" in said) == (64, True), said


def test_modes_flags_and_secrets_that_cannot_be_are_refused(image: Engine, tmp_path: Path) -> None:
    """Cases 7, 8, 9, 10 and 12."""
    tmp_path.chmod(0o755)
    for name, mode in (("token", 0o444), ("closed", 0o000)):
        (tmp_path / name).write_text("hunter2")
        (tmp_path / name).chmod(mode)
    mounted = ("-v", f"{tmp_path}:/run/secrets:ro")
    file = ("-e", "KHEISH_DAEMON_ADMIN_TOKEN_FILE=/run/secrets/token")
    inline = ("-e", "KHEISH_DAEMON_ADMIN_TOKEN=hunter2")
    key = "KHEISH_AUTH_STORE_MASTER_KEY"
    offline = ("secrets", "list", "--offline", "--state-root", "/var/lib/kheish/state")
    for options, command, text in (
        ((*file, "-e", "KHEISH_HTTP_AUTH_MODE=auto"), (), "non-loopback binds require bearer"),
        ((*file, *inline), (), "not both"),
        (inline, ("serve", "--http-admin-token-file", "/run/secrets/token"), "not both"),
        (("-e", f"{key}=x", "-e", f"{key}_FILE=/run/secrets/token"), offline, "not both"),
        ((*file, "-e", f"{key}_FILE=/run/secrets"), (), "must point to a regular file"),
        ((*file, "-e", f"{key}_FILE=/run/secrets/closed"), (), "is not readable"),
        (file, ("serve", "--bind"), "--bind requires a value"),
    ):
        status, said = refusal(image, *mounted, *options, command=command)
        assert (status, text in said, "hunter2" in said) == (64, True, False), (text, said)


def test_without_auth_it_serves_on_loopback_only(image: Engine, tmp_path: Path) -> None:
    """Case 5 and 6."""
    shared = scripted(tmp_path / "etc")
    options = (*shared, "-e", "KHEISH_DAEMON_ADMIN_TOKEN_FILE=", "-e", "KHEISH_HTTP_AUTH_MODE=none")
    status, said = refusal(image, *options)
    assert status == 64
    assert "KHEISH_ALLOW_INSECURE_NON_LOOPBACK" in said

    opted, said = refusal(image, *options, "-e", "KHEISH_ALLOW_INSECURE_NON_LOOPBACK=true")
    assert opted not in (0, 64)
    assert "kheish-entrypoint" not in said
    assert "loopback" in said

    with container(image, *options, "-e", "KHEISH_BIND=127.0.0.1:4000") as made:
        wait_for(lambda: made.exec("kheish-healthcheck").returncode == 0, "not ready", made.logs)
        assert '"routes"' in made.said("curl", "-fsS", "http://127.0.0.1:4000/v1/runtime")


@pytest.fixture(scope="module")
def running(image: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A daemon with a scripted model, started as `serve --log-level debug` by its flag alone."""
    options = scripted(tmp_path_factory.mktemp("shared") / "etc")
    with container(image, *options, command=("--log-level", "debug")) as made:
        yield made.ready()


def test_a_leading_dash_serves(running: Container) -> None:
    """Case 13."""
    command = running.said("ps", "-o", "args=", "-C", "kheish-daemon,python")
    assert "serve --log-level debug" in command


def test_probes_need_no_token_and_the_control_plane_does(running: Container) -> None:
    """Case 14."""
    assert (running.get("/healthz", None).text, running.get("/readyz", None).text) == ("ok\n", "ready\n")
    assert running.get("/v1/runtime", None).status_code == 401
    assert running.get("/v1/runtime").status_code == 200


def test_the_health_check_of_the_image_passes(running: Container) -> None:
    """Case 14: what the engine runs by itself where it can."""
    assert "/usr/local/bin/kheish-healthcheck" in json.dumps(running.engine.inspect(IMAGE))
    done = running.exec("kheish-healthcheck")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_cli_inside_works_without_flags(running: Container) -> None:
    """Case 15."""
    assert json.loads(running.said("kheish-daemon", "status"))["ready"] is True


def test_what_is_in_the_image_and_whose_it_is(running: Container) -> None:
    """Case 16."""
    assert running.said("id", "-u", "kheish").strip() == running.said("id", "-u").strip() == "10001"
    assert running.exec("touch", "/usr/local/bin/x").returncode != 0
    found = dict(line.partition("=")[::2] for line in running.said("env").splitlines())
    assert {name: found[name] for name in ("HOME", "KHEISH_BIND", "KHEISH_STATE_ROOT", "KHEISH_WORKSPACE_ROOT")} == {
        "HOME": "/var/lib/kheish/home",
        "KHEISH_BIND": "0.0.0.0:4000",
        "KHEISH_STATE_ROOT": "/var/lib/kheish/state",
        "KHEISH_WORKSPACE_ROOT": "/workspace",
    }
    assert (found["KHEISH_HTTP_AUTH_MODE"], found["KHEISH_MCP_DISCOVERY"]) == ("bearer", "disabled")
    for program in ("bash", "rg", "git", "curl", "ps", "tini", "kheish-daemon", "kheish-entrypoint"):
        running.said("sh", "-c", f"command -v {program}")
    assert running.said("cat", "/proc/1/comm").strip() == "tini"
    assert "routes.openai" in running.said("cat", "/usr/share/kheish/routes.default.toml")


def test_no_build_tool_cache_or_secret_is_in_the_image(running: Container) -> None:
    """Case 22, and what an image scan looks for."""
    names = running.said("sh", "-c", "find / -xdev -type f -o -xdev -type l 2>/dev/null || :").splitlines()
    forbidden = re.compile(
        r"/(gcc|cc|g\+\+|make|pip3?|[^/]+\.pem|\.env(\..+)?|id_rsa|admin-token[^/]*|auth-store-master-key[^/]*)$"
        r"|/\.cache/|/pip/|/docker/|/tests?/container|/wheelhouse/"
    )
    # The authorities that outbound HTTPS trusts are public.
    places = ("/etc/ssl/certs/", "/usr/share/ca-certificates/", "/usr/lib/ssl/cert.pem", "/proc/")
    found = [name for name in names if forbidden.search(name) and not name.startswith(places)]
    assert found == []
    history = running.engine.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert not re.search(r"secret|token|\.env", history.replace("requirements", ""), re.IGNORECASE)


def test_the_daemon_runs_as_its_user_and_its_tools_too(running: Container) -> None:
    running.post("/v1/sessions", {"session_id": "identity"})
    run = running.post("/v1/sessions/identity/runs", {"content": "identity"})
    view = wait_for(lambda: _waits(running, run["run_id"]), "no approval was asked", running.logs)
    running.post(f"/v1/runs/{run['run_id']}/approvals", _allowed(view))
    wait_for(lambda: running.get(f"/v1/runs/{run['run_id']}").json()["status"] == "completed", "it did not end")

    assert running.said("stat", "-c", "%u", "/workspace/mine").strip() == "10001"
    assert running.said("ps", "-o", "uid=", "-C", "tini").split() == ["10001"]


def _waits(made: Container, run_id: str) -> object:
    view = made.get(f"/v1/runs/{run_id}").json()
    return view if view["status"] == "waiting_for_approval" else None


def _allowed(view: object) -> dict[str, object]:
    assert isinstance(view, dict)
    return {"resolutions": [{"request_id": asked["id"], "behavior": "allow"} for asked in view["pending_approvals"]]}


def test_secrets_of_files_are_in_no_log_and_no_inspection(running: Container) -> None:
    """Rule 11."""
    running.get("/v1/runtime", "hunter2-wrong-token")
    assert "hunter2" not in running.logs()
    assert "hunter2" not in json.dumps(running.engine.inspect(running.name))


def test_the_health_script_fails_on_a_503_and_silently(running: Container) -> None:
    """Case 21."""
    server = (
        "import http.server as h\n"
        "class Busy(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(503); self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "h.HTTPServer(('127.0.0.1', 4503), Busy).serve_forever()\n"
    )
    running.engine.ok("exec", "-d", running.name, "python3", "-c", server)
    wait_for(lambda: running.exec("curl", "-s", "http://127.0.0.1:4503").returncode == 0, "no server")
    done = running.engine.call(
        "exec", "-e", "KHEISH_HEALTHCHECK_URL=http://127.0.0.1:4503/", running.name, "kheish-healthcheck"
    )
    assert (done.returncode != 0, done.stdout) == (True, "")


@pytest.mark.parametrize("bind", ["[::]:4001", "[::1]:4001", "127.0.0.1:4001"])
def test_the_health_script_finds_a_daemon_wherever_a_flag_put_it(image: Engine, tmp_path: Path, bind: str) -> None:
    with container(image, *scripted(tmp_path / "etc"), command=("serve", "--bind", bind)) as made:
        wait_for(lambda: made.exec("kheish-healthcheck").returncode == 0 or not made.running, "not ready", made.logs)
        assert made.running, made.logs()
        assert made.exec("kheish-healthcheck").returncode == 0


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_a_stop_drains_and_ends_with_0(image: Engine, tmp_path: Path, signal: str) -> None:
    """Case 17: not ready while a run is in flight, and no need to be killed."""
    with container(image, *scripted(tmp_path / "etc")) as made:
        made.ready()
        run = _holding(made)
        made.engine.ok("kill", "--signal", signal, made.name)
        draining = wait_for(lambda: _problem(made), "readiness never turned", made.logs)
        assert draining["code"] == "daemon_draining"
        assert made.exited() == 0
        assert run not in made.logs() or "Traceback" not in made.logs()


def _problem(made: Container) -> object:
    response = made.get("/readyz", None)
    return response.json() if response.status_code == 503 else None


def _holding(made: Container) -> str:
    """Start a run whose command waits for a file; returns its id once the command runs."""
    made.post("/v1/sessions", {"session_id": "s"})
    run_id = str(made.post("/v1/sessions/s/runs", {"content": "hold"})["run_id"])
    view = wait_for(lambda: _waits(made, run_id), "no approval was asked", made.logs)
    made.post(f"/v1/runs/{run_id}/approvals", _allowed(view))
    wait_for(lambda: made.exec("test", "-e", "/workspace/began").returncode == 0, "no command", made.logs)
    return run_id


def test_a_run_that_was_killed_in_the_middle_of_a_tool_call_ends_in_the_next_container(
    image: Engine, tmp_path: Path
) -> None:
    """Rule 10 and case 18, after SIGKILL."""
    options = scripted(tmp_path / "etc")
    with volume(image) as state, volume(image) as workspace:
        volumes = ("-v", f"{state}:/var/lib/kheish/state", "-v", f"{workspace}:/workspace")
        with container(image, *options, *volumes) as made:
            run_id = _holding(made.ready())
            made.stop("SIGKILL")
        with container(image, *options, *volumes) as made:
            made.ready()
            wait_for(lambda: made.get(f"/v1/runs/{run_id}").json()["status"] == "completed", "not ended", made.logs)
            assert made.said("cat", "/workspace/began").split() == ["began"]
            second, said = refusal(image, *options, *volumes)

    assert second == 1
    assert "locked" in said


def test_a_read_only_root_without_any_capability_is_enough(image: Engine, tmp_path: Path) -> None:
    """Rule 9."""
    hardened = (
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/var/lib/kheish/home:mode=1777", "--tmpfs", "/run/kheish:mode=1777"),
    )
    with container(image, *scripted(tmp_path / "etc"), *hardened) as made:
        run_id = _holding(made.ready())
        assert made.exec("touch", "/etc/kheish-was-here").returncode != 0
        assert made.exec("kheish-healthcheck").returncode == 0
        made.said("touch", "/workspace/go")
        wait_for(lambda: made.get(f"/v1/runs/{run_id}").json()["status"] == "completed", "not ended", made.logs)
        assert made.stop() == 0


def test_the_example_of_a_derived_image_builds_and_serves(image: Engine, tmp_path: Path) -> None:
    tag = "kheish-daemon:derived-test"
    image.build(ROOT / "docker" / "examples", "-f", str(ROOT / "docker/examples/with-node.Dockerfile"), tag=tag)
    try:
        with container(image, *scripted(tmp_path / "etc"), image=tag) as made:
            made.ready()
            assert made.said("node", "-e", "console.log(6 * 7)").strip() == "42"
            assert made.said("id", "-u").strip() == "10001"
    finally:
        image.call("rmi", "-f", tag)
