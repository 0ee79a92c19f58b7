"""One call: what is sent, when it is sent again, what a refusal becomes."""

from __future__ import annotations

import socket
import time
import traceback
from typing import Any

import pytest

from kheish import (
    ApiError,
    AuthError,
    BadRequest,
    ConflictError,
    ConnectionFailed,
    InvalidArgument,
    Kheish,
    KheishError,
    NotFound,
    PermissionDenied,
    RateLimited,
    ReplyTarget,
    RequestTimeout,
    Resolution,
    Route,
    ServerError,
    UnexpectedResponse,
)
from kheish.sdk.connection import connection
from kheish.sdk.exchange import client_settings
from tests.sdk.conftest import ClientFactory, ServerFactory
from tests.sdk.wire_server import Asked, Behaviour, Breaks, Says, Silence, problem, run_json, session_json

pytestmark = pytest.mark.anyio

TOKEN = "tok-5ecret-7f3a"


async def test_a_response_is_submitted_with_everything_the_caller_said(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    server = serve(lambda asked: Says(status=202, body=run_json("queued")))
    run = await connect(server).responses.create(
        session="a/b ä",
        prompt="hi",
        route=Route.openai("gpt-x"),
        generation={"temperature": 0.5},
        metadata={"ticket": 7},
        idempotency_key="k-1",
        reply_targets=[ReplyTarget.raw("cli", "x"), ReplyTarget.http("http://h/", headers={"a": "b"})],
        completion_requirements=[{"type": "workspace_file", "path": "a.md"}],
        binding_keys=["b1"],
        source_plugin="p",
        source_kind="s",
        actor_id="me",
        on_restart="interrupt",
        on_in_doubt="ask",
    )
    assert (run.run_id, run.session_id) == ("run-1", "demo")
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", "/v1/sessions/a%2Fb%20%C3%A4/runs")
    assert asked.headers["idempotency-key"] == "k-1"
    assert asked.headers["content-type"] == "application/json"
    assert asked.body == {
        "content": "hi",
        "provider": "openai",
        "generation": {"temperature": 0.5, "model": "gpt-x"},
        "metadata": {"ticket": 7},
        "reply_targets": [
            {"plugin": "cli", "address": "x"},
            {"type": "http", "url": "http://h/", "headers": {"a": "b"}},
        ],
        "completion_requirements": [{"type": "workspace_file", "path": "a.md"}],
        "binding_keys": ["b1"],
        "source_plugin": "p",
        "source_kind": "s",
        "actor_id": "me",
        "on_restart": "interrupt",
        "on_in_doubt": "ask",
    }


@pytest.mark.parametrize("trouble", [Breaks(), problem(503, "daemon_draining"), Says(status=500, body=b"oops")])
async def test_a_lost_submit_is_repeated_with_the_same_key(
    serve: ServerFactory, connect: ClientFactory, trouble: Behaviour
) -> None:
    server = serve(lambda asked: trouble if asked.number < 2 else Says(status=202, body=run_json()))
    await connect(server).responses.create(session="demo", prompt="hi")
    keys = {asked.headers["idempotency-key"] for asked in server.asked}
    assert len(server.asked) == 3
    assert len(keys) == 1
    assert all(asked.path == "/v1/sessions/demo/runs" for asked in server.asked)


async def test_two_creates_have_two_keys(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: Says(status=202, body=run_json()))
    client = connect(server)
    await client.responses.create(session="demo", prompt="hi")
    await client.responses.create(session="demo", prompt="hi")
    assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 2


async def test_a_missing_session_is_opened_and_the_submit_keeps_its_key(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    def respond(asked: Asked) -> Behaviour:
        if asked.path == "/v1/sessions":
            return Says(status=201, body=session_json())
        if asked.number == 0:
            return problem(404, "session_not_found", domain="sessions")
        return Says(status=202, body=run_json())

    server = serve(respond)
    await connect(server).responses.create(session="demo", prompt="hi")
    first, opened, second = server.asked
    assert opened.body == {"session_id": "demo"}
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


async def test_another_404_does_not_open_a_session(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: problem(404, "route_not_found", domain="api"))
    with pytest.raises(NotFound):
        await connect(server).responses.create(session="demo", prompt="hi")
    assert len(server.asked) == 1


async def test_a_conflict_on_session_creation_is_raised(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: problem(409, "conflict", detail="another persona"))
    with pytest.raises(ConflictError) as caught:
        await connect(server).sessions.create("demo", persona="p2")
    assert (caught.value.code, caught.value.domain, caught.value.detail) == ("conflict", None, "another persona")
    assert len(server.asked) == 1


async def test_a_session_is_created_with_its_defaults(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: Says(status=201, body=session_json("s")))
    session = await connect(server).sessions.create("s", route="r1", reply_targets=[ReplyTarget.raw("p", "a")])
    assert session.session_id == "s"
    assert [(asked.method, asked.path, asked.body) for asked in server.asked] == [
        ("POST", "/v1/sessions", {"session_id": "s"}),
        ("PUT", "/v1/sessions/s/route-policy", {"route_policy": {"provider": "r1"}}),
        ("PUT", "/v1/sessions/s/reply-targets", {"reply_targets": [{"plugin": "p", "address": "a"}]}),
    ]


@pytest.mark.parametrize("trouble", [Breaks(), problem(503, "daemon_draining")])
async def test_a_change_without_a_key_is_sent_once(
    serve: ServerFactory, connect: ClientFactory, trouble: Behaviour
) -> None:
    server = serve(lambda asked: trouble)
    with pytest.raises((ConnectionFailed, ServerError)):
        await connect(server).sessions.end("demo")
    assert len(server.asked) == 1


async def test_too_many_requests_are_repeated_after_the_time_the_daemon_names(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    arrived: list[float] = []

    def respond(asked: Asked) -> Behaviour:
        arrived.append(time.monotonic())
        return problem(429, "rate_limited", domain="auth", retry_after="1") if asked.number == 0 else Says(body={})

    await connect(serve(respond)).runtime.status()
    assert arrived[1] - arrived[0] >= 1.0


async def test_a_daemon_that_asks_for_too_much_patience_is_not_waited_for(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    server = serve(lambda asked: problem(429, "rate_limited", domain="auth", retry_after="3600"))
    with pytest.raises(RateLimited) as caught:
        await connect(server).runtime.status()
    assert caught.value.retry_after == 3600.0
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, AuthError),
        (403, PermissionDenied),
        (404, NotFound),
        (409, ConflictError),
        (413, BadRequest),
        (422, BadRequest),
    ],
)
async def test_a_refusal_is_typed_and_never_repeated(
    serve: ServerFactory, connect: ClientFactory, status: int, kind: type[ApiError]
) -> None:
    server = serve(lambda asked: problem(status, "some_code", domain="some", detail="why"))
    with pytest.raises(kind) as caught:
        await connect(server).runs.get("run-1")
    error = caught.value
    assert (error.status, error.code, error.domain, error.detail) == (status, "some_code", "some", "why")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Says(status=404, body=b"<html>not here</html>", media_type="text/html"),
        Says(status=404, body=b"\xff\xfe", media_type="text/plain"),
        Says(status=404, body=b"[1, 2]"),
        Says(status=404),
        Says(status=404, body={"code": 7, "detail": ["x"]}, media_type="application/problem+json"),
    ],
)
async def test_a_refusal_that_is_no_problem_document_is_still_typed(
    serve: ServerFactory, connect: ClientFactory, answer: Says
) -> None:
    with pytest.raises(NotFound) as caught:
        await connect(serve(lambda asked: answer)).runs.get("run-1")
    assert caught.value.code == "http_404"
    assert "<html>" not in str(caught.value)


async def test_fields_and_states_nobody_knows_yet_are_kept(serve: ServerFactory, connect: ClientFactory) -> None:
    view = run_json("paused", colour="red", pending_approvals=[])
    run = await connect(serve(lambda asked: Says(body=view))).runs.get("run-1")
    assert run.status == "paused"
    assert run.extra == {"colour": "red"}
    assert run.raw == view
    assert (run.request.provider, run.outputs, run.error) == ("main", (), None)


@pytest.mark.parametrize(
    "body",
    [
        {"run_id": "run-1"},
        run_json(submitted_at_ms="yesterday"),
        run_json(outputs={}),
        run_json(outputs=["x"]),
        run_json(pending_approval_ids=[1]),
        [],
        b"{",
        b"",
    ],
)
async def test_an_answer_that_breaks_the_promise_is_an_error_of_its_own(
    serve: ServerFactory, connect: ClientFactory, body: Any
) -> None:
    with pytest.raises(UnexpectedResponse):
        await connect(serve(lambda asked: Says(body=body))).runs.get("run-1")


@pytest.mark.parametrize("run_id", ["a/b", "..", ".", "a?b#c", "%2F", "ü", " "])
async def test_an_id_is_one_path_segment_whatever_it_holds(
    serve: ServerFactory, connect: ClientFactory, run_id: str
) -> None:
    server = serve(lambda asked: Says(body=run_json()))
    await connect(server).runs.get(run_id)
    path = server.asked[0].path
    assert path.startswith("/v1/runs/")
    assert path.count("/") == 3
    assert ".." not in path


@pytest.mark.parametrize("run_id", ["", "\ud800"])
async def test_an_id_no_path_can_carry_is_refused_here(
    serve: ServerFactory, connect: ClientFactory, run_id: str
) -> None:
    server = serve(lambda asked: Says(body=run_json()))
    with pytest.raises(InvalidArgument):
        await connect(server).runs.get(run_id)
    assert server.asked == []


async def test_lists_are_walked_lazily_page_by_page(serve: ServerFactory, connect: ClientFactory) -> None:
    def respond(asked: Asked) -> Behaviour:
        start = int(asked.params.get("cursor", "0"))
        end = start + 2
        pagination = {
            "limit": 2,
            "total_count": 5,
            "has_more": end < 5,
            "next_cursor": str(end) if end < 5 else None,
            "order": "x",
        }
        items = [run_json(run_id=f"run-{n}") for n in range(start, min(end, 5))]
        return Says(body={"items": items, "pagination": pagination})

    server = serve(respond)
    client = connect(server)
    runs = client.runs.list(session_id="demo", order="desc")
    assert (await anext(runs)).run_id == "run-0"
    assert len(server.asked) == 1
    assert [run.run_id async for run in runs] == ["run-1", "run-2", "run-3", "run-4"]
    assert len(server.asked) == 3
    assert server.asked[0].params == {"page": "true", "limit": "100", "session_id": "demo", "order": "desc"}
    assert [run.run_id async for run in client.runs.list(limit=3)] == ["run-0", "run-1", "run-2"]


async def test_decisions_have_their_wire_form(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: Says(status=202, body=run_json()))
    client = connect(server)
    resolutions = [
        Resolution(request_id="a1", allow=True, justification="fine"),
        Resolution(request_id="a2", allow=False, reason="no", updated_input=None),
    ]
    await client.approvals.resolve("run-1", resolutions, idempotency_key="k")
    await client.approvals.resolve_session("demo", resolutions[:1])
    await client.questions.resolve("run-1", "q1", {"db": ["pg"], "why": "fast"})
    await client.questions.decline("run-1", "q1", justification="no")
    await client.questions.cancel("run-1", "q/1")
    assert [(asked.path, asked.body) for asked in server.asked] == [
        (
            "/v1/runs/run-1/approvals",
            {
                "resolutions": [
                    {"request_id": "a1", "behavior": "allow", "justification": "fine"},
                    {"request_id": "a2", "behavior": "deny", "reason": "no"},
                ]
            },
        ),
        (
            "/v1/sessions/demo/approval-runs",
            {"resolutions": [{"request_id": "a1", "behavior": "allow", "justification": "fine"}]},
        ),
        (
            "/v1/runs/run-1/questions",
            {
                "resolution": {
                    "request_id": "q1",
                    "answers": [
                        {"question_id": "db", "selected_option_ids": ["pg"]},
                        {"question_id": "why", "freeform_answer": "fast"},
                    ],
                }
            },
        ),
        (
            "/v1/runs/run-1/questions",
            {"resolution": {"request_id": "q1", "declined": True, "justification": "no"}},
        ),
        ("/v1/runs/run-1/questions/q%2F1/cancel", {}),
    ]
    assert all(asked.headers["idempotency-key"] for asked in server.asked)


async def test_raw_reaches_any_endpoint(serve: ServerFactory, connect: ClientFactory) -> None:
    def respond(asked: Asked) -> Behaviour:
        return Says(body=b"ok\n", media_type="text/plain") if asked.path == "/healthz" else Says(body={"a": [1]})

    server = serve(respond)
    client = connect(server)
    assert await client.raw.request("get", "/healthz") == "ok\n"
    params = {"n": 3, "yes": True, "none": None}
    assert await client.raw.request("POST", "/v1/x", params=params, json={"b": None}) == {"a": [1]}
    assert server.asked[1].params == {"n": "3", "yes": "true"}
    assert server.asked[1].body == {"b": None}
    with pytest.raises(InvalidArgument):
        await client.raw.request("GET", "v1/x")


async def test_a_daemon_that_never_answers_ends_in_a_timeout(serve: ServerFactory, connect: ClientFactory) -> None:
    client = connect(serve(lambda asked: Silence()), timeout=0.2, max_retries=0)
    with pytest.raises(RequestTimeout) as caught:
        await client.runs.get("run-1")
    assert isinstance(caught.value, ConnectionFailed)
    assert isinstance(caught.value, TimeoutError)


async def test_no_daemon_is_a_connection_error_that_names_the_address(connect: ClientFactory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionFailed, match=url):
            await connect(url, max_retries=0).runs.get("run-1")


@pytest.mark.parametrize(
    "answer",
    [
        problem(401, "invalid_token", detail=f"unknown token {TOKEN}"),
        Says(status=500, body=TOKEN.encode(), media_type="text/plain"),
        Breaks(),
        Says(body=b"{"),
        Silence(),
    ],
)
async def test_no_error_and_no_repr_contains_the_token(
    serve: ServerFactory,
    connect: ClientFactory,
    answer: Behaviour,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)
    server = serve(lambda asked: answer)
    client = connect(server, TOKEN, timeout=0.3, max_retries=0)
    with pytest.raises(KheishError) as caught:
        await client.runs.get("run-1")
    assert server.asked[0].headers["authorization"] == f"Bearer {TOKEN}"
    shown = "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value)) + repr(client)
    assert TOKEN not in shown
    assert TOKEN not in caplog.text


def test_the_client_is_a_context_manager_and_refuses_to_work_after_it(serve: ServerFactory) -> None:
    server = serve(lambda asked: Says(body={}))
    with Kheish(server.url) as client:
        client.runtime.status()
    with Kheish(server.url) as unused:
        pass
    with pytest.raises(KheishError):
        unused.runtime.status()
    with pytest.raises(KheishError):
        client.runtime.status()


def test_the_environment_names_daemon_and_token(serve: ServerFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda asked: Says(body={}))
    for name in ("KHEISH_BASE_URL", "KHEISH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KHEISH_DAEMON_URL", server.url)
    monkeypatch.setenv("KHEISH_DAEMON_TOKEN", "old")
    with Kheish.from_env() as client:
        client.runtime.status()
    monkeypatch.setenv("KHEISH_BASE_URL", f"{server.url}/")
    monkeypatch.setenv("KHEISH_TOKEN", "new\n")
    with Kheish.from_env() as client:
        client.runtime.status()
    assert [asked.headers["authorization"] for asked in server.asked] == ["Bearer old", "Bearer new"]
    assert [asked.path for asked in server.asked] == ["/v1/status", "/v1/status"]


def test_without_a_token_no_credential_is_sent(serve: ServerFactory) -> None:
    server = serve(lambda asked: Says(body={}))
    with Kheish(server.url) as client:
        client.runtime.status()
    assert "authorization" not in server.asked[0].headers


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    serve: ServerFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    server = serve(lambda asked: Says(body={}))
    with Kheish(server.url) as client:
        client.runtime.status()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "url", ["ftp://x", "127.0.0.1:4000", "http://", "http://u:p@h", "http://h/?q=1", "http://h:99999", "http://[::1"]
)
def test_a_base_url_that_cannot_be_meant_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Kheish(url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("token", ["a b", "a\nb", "tökén"])
def test_a_token_no_header_can_carry_is_refused_without_repeating_it(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Kheish(token=token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https"])
def test_certificates_are_checked_however_the_scheme_is_written(scheme: str) -> None:
    assert client_settings(connection(f"{scheme}://127.0.0.1:1"))["verify"] is True
    assert client_settings(connection("http://127.0.0.1:1"))["verify"] is False


def test_route_and_generation_must_not_name_two_models() -> None:
    with Kheish() as client, pytest.raises(InvalidArgument):
        client.responses.create(session="s", prompt="x", route=Route.openai("a"), generation={"model": "b"})


@pytest.mark.parametrize("key", ["", " ", "ä", "a\nb"])
def test_a_key_no_header_can_carry_is_refused_here(key: str) -> None:
    with Kheish() as client, pytest.raises(InvalidArgument):
        client.responses.create(session="s", prompt="x", idempotency_key=key)
    with Kheish() as client, pytest.raises(InvalidArgument):
        client.approvals.resolve("run-1", [Resolution(request_id="a", allow=True)], idempotency_key=key)
    with Kheish() as client, pytest.raises(InvalidArgument):
        client.raw.request("POST", "/v1/x", idempotency_key=key)
