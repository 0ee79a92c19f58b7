"""Secrets are given to a daemon in every way there is, every surface is used, and none comes out anywhere."""

from __future__ import annotations

import base64
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kheish.auth.secret_store import PLACE, SecretStore
from kheish.auth.slots import stored_slot
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.daemon.openapi import document
from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for
from tests.e2e.leaks import Planted, Search, processes
from tests.e2e.surfaces import Caller, Operation, example, operations
from tests.e2e.talkative_daemon import SWITCH
from tests.fakes.model_server import Answer, Call, ModelServer, Raw, Refusal, Request, Response

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SLOTS = {
    "openai.prod": ("open_ai", "api_key"),
    "anthropic.prod": ("anthropic", "api_key"),
    "google.prod": ("google", "api_key"),
    "openrouter.prod": ("open_router", "api_key"),
    "xai.prod": ("x_ai", "api_key"),
    "local.key": ("generic", "opaque_secret"),
    "odd.key": ("generic", "opaque_secret"),
    "connectors.http.inbox.bearer_token": ("generic", "opaque_secret"),
    "mcp.linear.LINEAR_API_KEY": ("generic", "opaque_secret"),
}
ACCOUNT = ("access_token", "refresh_token", "client_secret")
ODD = 'sk-"quoted"\\slash\tü/&+ {}'
ROUTES = """
default_route = "openai"
[routes.openai]
driver = "openai"
default_model = "gpt-5.4"
auth_ref = "openai.prod"
[routes.anthropic]
driver = "anthropic"
default_model = "claude-x"
auth_ref = "anthropic.prod"
[routes.google]
driver = "google"
default_model = "gemini-3-flash"
auth_ref = "google.prod"
[routes.openrouter]
driver = "openrouter"
default_model = "some/model"
auth_ref = "openrouter.prod"
[routes.xai]
driver = "xai"
default_model = "grok-4"
auth_ref = "xai.prod"
[routes.local]
driver = "openai_compatible"
default_model = "m"
auth_ref = "local.key"
[routes.odd]
driver = "openai_compatible"
default_model = "m"
auth_ref = "odd.key"
[routes.inline]
driver = "openai"
default_model = "gpt-5.4"
api_key = "{inline}"
[routes.variable]
driver = "anthropic"
default_model = "claude-x"
api_key_env = "MY_KEY"
[routes.standard]
driver = "google"
default_model = "gemini-3-flash"
"""
PER_ROUTE = 'base_url = "{url}"\nretry = {{ attempts = {attempts}, backoff_ms = 1 }}\n'
ROUTE_IDS = ("openai", "anthropic", "google", "openrouter", "xai", "local", "odd", "inline", "variable", "standard")

Fault = Callable[[str], Response]


def _error(key: str) -> dict[str, Any]:
    said = {"message": f"the key {key} is wrong", "type": key, "code": key, "status": key, "param": key}
    return {"type": "error", "error": {**said, "details": [{"retryDelay": key}]}, "message": key, "code": key}


FAULTS: tuple[Fault, ...] = (
    lambda key: Refusal(status=401, body=_error(key)),
    lambda key: Refusal(status=429, body=_error(key), headers={"Retry-After": key, "X-Request-Id": key}),
    lambda key: Refusal(status=500, body=f"<html>{key}"),
    lambda key: Refusal(status=307, headers={"Location": f"http://127.0.0.1:9/{key}?key={key}"}),
    lambda key: Refusal(status=400, body=f"maximum context length exceeded by {key}"),
    lambda key: Raw(chunks=[f"data: {{oops {key}\n\n".encode()]),
    lambda key: Raw(chunks=[f"event: error\ndata: {json.dumps(_error(key))}\n\n".encode()]),
    lambda key: Raw(chunks=[json.dumps(_error(key)).encode()], content_type="application/json"),
    lambda key: Raw(chunks=[f"data: {key}".encode()], then="reset"),
    lambda key: Raw(chunks=[key.encode()], headers=False, then="reset"),
)
"""Each repeats the key it was called with."""
TOO_LONG = 4
SIGNING_KEY = "audit-signing.key"


class House:
    """The daemon of this test: what was planted where, and everything that came out."""

    def __init__(self, root: Path, *, inline: bool) -> None:
        self.root = root
        self.inline = inline
        self.planted: dict[str, Planted] = {}
        self.environment: dict[str, str] = {}
        self.search = Search(planted=[])

    def plant(self, name: str, shape: str = "sk-{}") -> str:
        return self.keep(Planted.make(name, shape))

    def keep(self, planted: Planted) -> str:
        self.planted[planted.name] = planted
        self.search.planted.append(planted)
        return planted.text

    def text(self, name: str) -> str:
        return self.planted[name].text

    def give(self, variable: str, text: str, *, by_file: bool) -> None:
        """Hand a text over in the environment, or in a file that the environment names."""
        if not by_file:
            self.environment[variable] = text
            return
        path = self.root / f"{variable.lower()}.secret"
        path.write_text(text + "\n")
        path.chmod(0o600)
        self.environment[f"{variable}_FILE"] = str(path)

    def give_everything(self) -> None:
        master = Planted.key("master key")
        self.give("KHEISH_AUTH_STORE_MASTER_KEY", self.keep(master), by_file=not self.inline)
        self.give("KHEISH_DAEMON_ADMIN_TOKEN", self.plant("admin token"), by_file=not self.inline)
        self.give("KHEISH_DAEMON_READONLY_TOKEN", self.plant("read-only token"), by_file=self.inline)
        for variable in ("MY_KEY", "GEMINI_API_KEY", "KHEISH_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"):
            self.environment[variable] = self.plant(variable)
        if self.inline:
            signing = self.keep(Planted.key("audit signing key in a variable"))
            self.environment["KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY"] = signing
        self.environment["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization={self.plant('collector')}"
        slots: dict[str, JsonValue] = {}
        for slot_id, (provider, mode) in SLOTS.items():
            secret = self.plant(slot_id, ODD if slot_id == "odd.key" else "sk-{}")
            state: JsonValue = {"value": secret} if mode == "opaque_secret" else {"kind": "api_key", "api_key": secret}
            slots[slot_id] = {"provider": provider, "mode": mode, "state": state}
        account: JsonObject = {name: self.plant(name) for name in ACCOUNT}
        nested: JsonObject = {"issuer": "https://acme.example", "tokens": {"id_token": self.plant("id_token")}}
        slots["mcp.oauth.acme"] = {"provider": "mcp_oauth", "mode": "oauth_account", "state": {**account, **nested}}
        # Accounts come from logins, which no command of this release does: the store of another one has them.
        store = SecretStore(self.root / "daemon" / "state", master.meaning)
        store.replace({slot_id: stored_slot(slot_id, record) for slot_id, record in slots.items()})

    def routes(self, url: str) -> str:
        text = ROUTES.replace("{inline}", self.plant("inline route"))
        filled = PER_ROUTE.format(url=url, attempts=1)
        for route_id in ROUTE_IDS:
            text = text.replace(f"[routes.{route_id}]\n", f"[routes.{route_id}]\n{filled}")
        return text.replace("attempts = 1", "attempts = 2", 1)

    @property
    def known(self) -> list[str]:
        """What the daemon itself keeps, and so can mask when a tool prints it."""
        names = (*SLOTS, *ACCOUNT, "id_token", "master key", "inline route", "MY_KEY", "GEMINI_API_KEY")
        return [self.text(name) for name in names]


@pytest.fixture
def collector() -> Iterator[str]:
    """Where spans go: it refuses them and repeats the headers it was sent."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(401, str(self.headers["authorization"]))
            self.end_headers()
            self.wfile.write(str(self.headers).encode())

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(DEADLINE_S)


def look(parent: bool) -> str:
    """A command that shows all it can, as it is and encoded."""
    encode = (
        "import base64,json,urllib.parse as u;t=open('keys').read();"
        "print(t,json.dumps(t),json.dumps(t,ensure_ascii=False),u.quote(t),t.encode().hex(),base64.b64encode(b'x'+t.encode()).decode(),sep='\\n')"
    )
    # Root may read any process; for everybody else the daemon's own environment is closed.
    proc = "cat /proc/self/environ /proc/$PPID/cmdline" + (" /proc/$PPID/environ" if parent else "")
    return f'env; {proc}; cat keys keys >&2; {sys.executable} -c "{encode}"'


def respond(request: Request) -> Response:
    word, _, number = request.user_text.partition(" ")
    headers = request.headers
    key = headers.get("x-api-key") or headers.get("x-goog-api-key") or headers["authorization"].partition(" ")[2]
    if request.tool_results:
        return Answer(text="done")
    if word == "fail":
        return FAULTS[int(number)](key)
    if word == "look":
        commands = [
            Call(name="bash", arguments={"command": look(os.geteuid() != 0)}, id="call_1"),
            Call(name="read_file", arguments={"path": "keys"}, id="call_2"),
            Call(name="grep_search", arguments={"pattern": "sk-"}, id="call_3"),
            Call(name="read_file", arguments={"path": "/proc/self/environ"}, id="call_4"),
        ]
        return Answer(calls=commands)
    if word == "garble":
        return Answer(calls=[Call(name="bash", arguments=f'{{"command": "{key}')])
    if word == "hold":
        return Answer(calls=[Call(name="bash", arguments={"command": "until [ -e go ]; do sleep 0.05; done"})])
    if word == "ask":
        choices = [{"id": "a", "label": "A"}, {"id": "b", "label": "B"}]
        questions = [{"id": "q", "question": "Which?", "options": choices}]
        return Answer(calls=[Call(name="ask_user_question", arguments={"questions": questions})])
    return Answer(text="done")


@contextmanager
def started(house: House, collector: str, server: ModelServer) -> Iterator[Daemon]:
    house.give_everything()
    house.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
    arguments = ("--permission-mode", "bypass-permissions", "--log-level", "trace")
    daemon = Daemon(house.root / "daemon", routes=house.routes(server.url), arguments=arguments, env=house.environment)
    (daemon.workspace / "keys").write_text("\n".join(house.known))
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


class Visit:
    """Uses one daemon in every way and hands what it sees to the search."""

    def __init__(self, house: House, daemon: Daemon) -> None:
        self.house, self.daemon, self.search = house, daemon, house.search
        self.headers = {"authorization": f"Bearer {house.text('admin token')}"}
        self.caller = Caller(daemon.url, self.headers)
        self.document = document()
        self.ids = {"session_id": "s", "ref": "openai.prod", "slot_id": "openai.prod", "subject_id": "session:s"}

    def submit(self, content: str, route: str, *statuses: str) -> str:
        """Run to the end, or to one of the statuses."""
        run_id = self.begin(content, route)
        run, wanted = f"/v1/runs/{run_id}", statuses or ("completed",)

        def ended() -> bool:
            return self.daemon.call("GET", run, headers=self.headers)["status"] in wanted

        wait_for(ended, f"{content!r} on {route} did not reach {wanted}", self.daemon.log)
        for path in (run, f"{run}/events"):
            self.search.add(f"GET {path} ({content} on {route})", self.caller.send("GET", path))
        return run_id

    def begin(self, content: str, route: str) -> str:
        """Submit a run in a session of its own."""
        session = f"{content} on {route}"
        self.daemon.call("POST", "/v1/sessions", {"session_id": session}, headers=self.headers)
        self.ids["session_id"] = session
        body, path = {"content": content, "provider": route}, f"/v1/sessions/{quote(session)}/runs"
        return str(self.daemon.call("POST", path, body, status=202, headers=self.headers)["run_id"])

    def runs(self) -> None:
        self.daemon.call("POST", "/v1/sessions", {"session_id": "s"}, headers=self.headers)
        refused = self.caller.send("POST", "/v1/sessions/s/runs", body={"content": "look", "provider": "odd"})
        self.search.add("POST to a route whose key no header can hold", refused)
        for route in ROUTE_IDS:
            if route == "odd":
                continue
            self.submit("look", route)
            self.submit("garble", route)
            for number in range(len(FAULTS)):
                # A conversation that is too long may be shortened until it fits.
                self.submit(f"fail {number}", route, "failed", *(("completed",) if number == TOO_LONG else ()))

    def children(self) -> None:
        """What the process table says while a tool runs."""
        self.ids["run_id"] = self.begin("hold", "local")
        wait_for(lambda: b"until" in self._process_table(), "no tool was seen running")
        (self.daemon.workspace / "go").touch()

    def _process_table(self) -> bytes:
        seen = b""
        table = processes(self.daemon.pid)
        own = (table[self.daemon.pid] / "cmdline").read_bytes()
        for folder in table.values():
            try:
                line = (folder / "cmdline").read_bytes()
                seen += line
                self.search.add("process arguments", line)
                # The daemon's environment is where it got them from; a child that has not begun its program yet is
                # still the daemon's image, and closed to everybody but root like the daemon itself.
                if line != own:
                    self.search.add("environment of a child", (folder / "environ").read_bytes())
            except OSError:
                continue  # it has ended
        return seen

    def surfaces(self) -> None:
        """Every operation: well formed, malformed, with the reader's token, with wrong tokens."""
        self.submit("ask", "local", "waiting_for_user_question")
        words = ("Bearer x", "Basic x", f"Bearer {self.house.text('read-only token')}")
        with ExitStack() as stack:
            others = [stack.enter_context(Caller(self.daemon.url, {"authorization": word})) for word in words]
            for one in operations(self.document):
                if not one.stream:
                    self._operation(one, (*others, self.caller))

    def _operation(self, one: Operation, callers: Sequence[Caller]) -> None:
        url, place = one.url(self.ids), f"{one.method} {one.path}"
        body = BODIES.get(one.id, None if one.body is None else example(one.body, self.document))
        for caller in callers:
            self.search.add(place, caller.send(one.method, url, body=body))
        if one.method == "GET":
            self.search.add(place, self.caller.send("GET", f"{url}?cursor=x&limit=x&page=x"))
        else:
            self._badly(one.method, url)

    def _badly(self, method: str, url: str) -> None:
        secret = json.dumps(self.house.text("openai.prod"))
        for raw in (b"{", b"[]", b"\xff", f'{{"unexpected": {secret}}}'.encode(), f"{{{secret}".encode()):
            self.search.add(f"{method} {url}", self.caller.send(method, url, raw=raw))

    def secrets(self) -> None:
        """Set, rotated, refused."""
        for name, slot_id in (("rotated", "local.key"), ("new", "connectors.slack.token"), ("refused", "mcp.oauth.x")):
            secret = self.house.plant(f"{name} over HTTP")
            record = {"slot_id": slot_id, "provider": "generic", "mode": "opaque_secret", "state": {"value": secret}}
            for changed in ({}, {"mode": "api_key"}, {"state": secret}, {"state": {"value": [secret]}}, {"x": secret}):
                answer = self.caller.send("POST", "/v1/runtime/secrets", body={**record, **changed})
                self.search.add("POST /v1/runtime/secrets", answer)
        self.submit("look again", "local")

    def routes(self) -> None:
        """Added to the running daemon: a key is no part of one, and is not repeated from wherever it was put."""
        secret = self.house.plant("in a route over HTTP")
        good = {"driver": "openai", "default_model": "gpt-5.4", "auth_ref": "openai.prod"}
        for changed in (
            {},
            {"api_key": secret},
            {"driver": secret},
            {"api_key_env": secret},
            {"base_url": f"https://user:{secret}@example.com/"},
            {"base_url": f"https://example.com/?key={secret}"},
            {secret: secret},
        ):
            body = {"route_id": "added", "route": {**good, **changed}}
            self.search.add("POST /v1/runtime/routes", self.caller.send("POST", "/v1/runtime/routes", body=body))

    def streams(self) -> None:
        """All that was ever told, up to a run that ends last."""
        last = self.submit("the end", "local")
        for one in operations(self.document):
            if one.stream:
                url = f"{one.url({**self.ids, 'run_id': last})}?cursor=0"
                self.search.add(f"stream {one.path}", self.caller.beginning(url, until=b"the end"))

    def reload(self) -> None:
        """A routes file that cannot be read, with a key on the line that is wrong."""
        good = self.daemon.routes_file.read_text()
        self.daemon.routes_file.write_text(good + f'api_key = "{self.house.plant("broken routes file")}')
        self.daemon.signal(signal.SIGHUP)
        wait_for(lambda: "routes_not_reloaded" in self.daemon.log(), "the routes were not looked at")
        self.daemon.routes_file.write_text(good)
        self.daemon.signal(signal.SIGHUP)
        wait_for(lambda: "routes_reloaded" in self.daemon.log(), "the routes were not read again")

    def cli(self, *words: str, given: str = "", **environment: str) -> str:
        """Run a command; its output, both parts."""
        token = {"KHEISH_DAEMON_TOKEN": self.house.text("admin token"), "KHEISH_DAEMON_URL": self.daemon.url}
        done = subprocess.run(
            [sys.executable, "-m", "kheish", *words],
            env={**self.daemon.env, **token, **environment},
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.search.add(f"kheish-daemon {' '.join(words)}", f"{done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def commands_online(self) -> None:
        new, wrong, routes = self.house.plant("new by command"), self.house.plant("wrong"), str(self.daemon.routes_file)
        for words in ONLINE:
            self.cli(*words)
        self.cli("doctor", "routes", "--routes-file", routes)
        self.cli("doctor", "routes", "--check-auth", "--check-references", "--canary", "--route", "inline")
        self.cli("secrets", "set", "by.env", "--provider", "generic", "--from-env", "NEW", NEW=new)
        self.cli("secrets", "set", "by.stdin", "--provider", "xai", "--stdin", given=new)
        self.cli("secrets", "set", "connectors.x", "--provider", "xai", "--stdin", given=new)
        self.cli("secrets", "set", "a b", "--provider", "xai", "--stdin", given=new)
        for bad in (wrong, f"{wrong}\nx", f"{wrong}\u00fc", f"\x1b{wrong}"):
            for words in (("status",), ("doctor",), ("events", "stream")):
                self.cli(*words, KHEISH_DAEMON_TOKEN=bad)
                self.cli(*words, KHEISH_DAEMON_URL=f"http://user:{bad}@127.0.0.1:9")
        self.cli("status", KHEISH_DAEMON_URL="http://127.0.0.1:9")

    def commands_offline(self) -> None:
        root, at = self.daemon.state_root, ("--state-root", str(self.daemon.state_root))
        key = self.house.root / "next.key"
        key.write_text(self.house.keep(Planted.key("next master key")))
        key.chmod(0o600)
        self.cli("secrets", "list", "--offline", *at)
        self.cli("secrets", "get", "openai.prod", "--offline", *at)
        self.cli("secrets", "export", "--envelope-v1", "--to", str(self.house.root / "v1.json"), *at)
        self.cli("state", "verify", *at)
        self.cli("state", "backup", str(self.house.root / "backup"), *at)
        self.cli("state", "export", "--to", str(self.house.root / "export.jsonl"), *at)
        self.cli("audit", "verify", *at)
        self.cli("audit", "export", "--folder", str(self.house.root / "audit"), *at)
        self.cli("secrets", "rekey", "--new-key-file", str(key), *at)
        self.cli("secrets", "list", "--offline", *at)  # with the old key: refused
        for made in ("v1.json", "backup/manifest.json", "export.jsonl", "audit"):
            assert (self.house.root / made).exists(), made
        assert (root / PLACE).with_name(f"{PLACE.name}.before-rekey").exists()


BODIES: dict[str, dict[str, Any]] = {"prune_runs": {"older_than_ms": 10**13}}
"""Where a small well-formed body would destroy what is searched later."""
ONLINE = (
    ("status",), ("--output", "json", "doctor"), ("doctor", "--json"),
    ("doctor", "--cors-origin", "http://localhost:1"), ("capabilities",),
    ("runtime", "get"), ("runtime", "revisions"), ("runtime", "permissions", "matrix"), ("secrets", "list"),
    ("secrets", "get", "openai.prod"), ("secrets", "get", "none"), ("secrets", "delete", "by.env"),
    ("sessions", "list", "--page"), ("sessions", "get", "s"), ("sessions", "events", "s"), ("runs", "list"),
    ("sessions", "input", "s", "--wait", "hello"), ("sessions", "input", "s", "--wait", "fail 0"),
    ("approvals", "list"), ("questions", "list"), ("secrets", "set", "x", "--provider", "nobody", "--value", "x"),
)  # fmt: skip


@pytest.mark.parametrize("inline", [True, False], ids=["admin token in a variable", "admin token in a file"])
def test_no_planted_secret_comes_out_anywhere(tmp_path: Path, collector: str, inline: bool) -> None:
    """auth-and-secrets case 21."""
    house = House(tmp_path, inline=inline)
    (tmp_path / "daemon").mkdir()
    with ModelServer(respond) as server, started(house, collector, server) as daemon:
        if not inline:
            signing = house.keep(Planted.signing_key(daemon.state_root / SIGNING_KEY))
            with (daemon.workspace / "keys").open("a") as keys:
                keys.write(f"\n{signing}")
        visit = Visit(house, daemon)
        with visit.caller:
            visit.runs()
            visit.children()
            visit.reload()
            visit.secrets()
            visit.routes()
            visit.commands_online()
            visit.streams()
            visit.surfaces()
        daemon.terminate()
        visit.commands_offline()
        sent = str([request.headers for request in server.requests])
        house.search.add("prompts", str([request.body for request in server.requests]))
    house.search.add("log", daemon.log_file.read_bytes())
    house.search.add_files(tmp_path, without=_holders(tmp_path))

    for name in SLOTS:
        used = house.text(name) in sent
        assert used is (name.partition(".")[0] not in ("connectors", "mcp", "odd")), f"{name} in use: {used}"
    assert "[redacted]" in house.search.places["prompts"].decode(), "no tool printed a key"
    leaks = house.search.found()
    assert leaks == [], "\n".join(leaks)


def _holders(root: Path) -> frozenset[Path]:
    """The files the secrets were handed over in, and the signing key with its copy in the backup."""
    keys = (root / "next.key", root / "daemon/state" / SIGNING_KEY, root / "backup/files" / SIGNING_KEY)
    return frozenset([*root.glob("*.secret"), *keys, root / "daemon/routes.toml", root / "daemon/workspace/keys"])


def test_the_search_finds_every_form_and_both_ends_of_a_secret() -> None:
    planted = [Planted.make("odd", ODD), Planted.key("key")]
    odd = planted[0].text
    hidden = {
        "raw": odd,
        "begin": odd[:16],
        "end": odd[-16:],
        "json": json.dumps({"a": json.dumps({"b": odd})}),
        "url": f"?k={quote(odd)}",
        "hex": f"00{odd.encode().hex()}00",
        **{f"base64 {size}": base64.b64encode(b"x" * size + odd.encode() + b"yy").decode() for size in range(3)},
        "bytes": repr(odd.encode()),
        "key": planted[1].text,
        "meaning": planted[1].meaning.hex(),
    }
    for place, content in hidden.items():
        search = Search(planted=planted)
        search.add(place, content)
        assert search.found(), f"the form {place} is not found"
    harmless = Search(planted=planted)
    harmless.add("harmless", "nothing to see, sk- and all")
    assert harmless.found() == []


def test_a_bug_whose_text_holds_a_key_is_logged_and_answered_without_it(tmp_path: Path) -> None:
    house = House(tmp_path, inline=True)
    key = house.plant("inline route", "sk-'quoted'\\slash/&+{}")
    routes = f'[routes.main]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key = {json.dumps(key)}\n'

    class Talkative(Daemon):
        @property
        def command(self) -> list[str]:
            words = super().command
            at = words.index("kheish")
            return [*words[:at], "tests.e2e.talkative_daemon", *words[at + 2 :]]

    daemon = Talkative(tmp_path / "daemon", routes=routes, env={"KHEISH_SAYS": key, "PYTHONPATH": "src:."})
    daemon.start()
    try:
        daemon.session("s")
        (daemon.state_root / SWITCH).touch()
        for method, path, body in (
            ("GET", "/v1/runs", None),
            ("POST", "/v1/sessions", {"session_id": "t"}),
            ("POST", "/v1/sessions/s/runs", {"content": "go"}),
        ):
            with Caller(daemon.url, {}) as caller:
                answer = caller.send(method, path, body=body)
            assert answer.startswith(b"500"), answer
            assert b'"code":"internal"' in answer
            house.search.add(path, answer)
    finally:
        daemon.stop()
    house.search.add("log", daemon.log())

    assert daemon.log().count("Traceback") >= 3
    assert daemon.log().count("a bug that shows [redacted]") >= 3
    assert house.search.found() == []
