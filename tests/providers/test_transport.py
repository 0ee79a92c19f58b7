"""The transport over real sockets: refusals, broken and silent connections, time limits, what is sent."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from kheish.core.messages import Generation, Reasoning, ToolCallPart, ToolChoice, user_text
from kheish.providers.chat_completions import ChatDecoder
from kheish.providers.drivers import Driver
from kheish.providers.http1_pool import Http1Client
from kheish.providers.http_library import LibraryClient
from kheish.providers.limits import Limits
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, Provider, ProviderError, TextDelta
from kheish.providers.registry import ProviderRegistry
from kheish.providers.routes import ModelSupport, Route, RouteInventory, Setting
from kheish.providers.transport import ModelEndpoint
from tests.fakes.model_server import Answer, Call, ModelServer, Raw, Refusal, Request, Stream
from tests.fakes.model_wires import chat_frames
from tests.providers.reading import calls, text

pytestmark = pytest.mark.anyio

KEY = "sk-SECRET-key-0123456789"
DRIVERS = (Driver.OPENAI, Driver.ANTHROPIC, Driver.OPENROUTER, Driver.OPENAI_COMPATIBLE, Driver.GOOGLE, Driver.XAI)
MODELS = {Driver.ANTHROPIC: "claude-sonnet-4-5", Driver.GOOGLE: "gemini-2.5-flash"}
every_driver = pytest.mark.parametrize("driver", DRIVERS)


@dataclass(frozen=True)
class Pinned:
    route_id: str
    driver: str


@asynccontextmanager
async def provider(
    server: ModelServer | str, driver: Driver = Driver.OPENAI_COMPATIBLE, *, limits: Limits | None = None
) -> AsyncIterator[Provider]:
    route = Route(
        route_id="r",
        driver=driver,
        default_model=MODELS.get(driver, "m"),
        model_support=ModelSupport.ANY,
        api_key=Setting(value=KEY),
        base_url=server if isinstance(server, str) else server.url,
        organization=Setting(value="org-1") if driver is Driver.OPENAI else None,
        anthropic_beta_headers=("beta-1",),
    )
    registry = ProviderRegistry(RouteInventory(routes=(route,), default_route="r"), limits=limits)
    try:
        yield registry.provider_for(Pinned("r", driver.value))
    finally:
        await registry.aclose()


def request(driver: Driver = Driver.OPENAI_COMPATIBLE, **generation: object) -> ModelRequest:
    return ModelRequest(
        model=MODELS.get(driver, "m"),
        system=(),
        messages=(user_text("hi"),),
        tools=(),
        generation=Generation(**generation),  # type: ignore[arg-type]  # the fields of Generation, by name
    )


async def ask(target: Provider, made: ModelRequest) -> tuple[list[TextDelta], ModelReply]:
    deltas: list[TextDelta] = []
    reply = None
    async for event in target.stream(made):
        assert reply is None
        if isinstance(event, ModelReply):
            reply = event
        else:
            deltas.append(event)
    assert reply is not None
    return deltas, reply


async def failure(
    server: ModelServer | str, driver: Driver = Driver.OPENAI_COMPATIBLE, **options: object
) -> ProviderError:
    async with provider(server, driver, **options) as target:  # type: ignore[arg-type]  # only limits
        with pytest.raises(ProviderError) as caught:
            await ask(target, request(driver))
    told = "".join(traceback.format_exception(caught.value)) + repr(target)
    assert "SECRET" not in told
    return caught.value


@every_driver
@pytest.mark.parametrize("as_json", [False, True])
async def test_two_parallel_calls_arrive_as_a_stream_or_as_json(driver: Driver, as_json: bool) -> None:
    answer = Answer(text="Both.", calls=[Call(name="a", arguments={"n": 1}, id="1"), Call(name="b", id="2")])
    with ModelServer(Stream(answer=answer, as_json=as_json)) as server:
        async with provider(server, driver) as target:
            deltas, reply = await ask(target, request(driver))

    assert "".join(delta.text for delta in deltas) == text(reply) == "Both."
    assert calls(reply) == [("a", {"n": 1}, "1"), ("b", {}, "2")]
    assert all(isinstance(part, ToolCallPart) for part in reply.parts[1:])
    assert len(server.requests) == 1


async def test_each_driver_sends_its_headers_to_its_path() -> None:
    sent: dict[Driver, Request] = {}
    with ModelServer(Answer(text="x")) as server:
        for driver in DRIVERS:
            async with provider(server, driver) as target:
                await ask(target, request(driver))
            sent[driver] = server.requests[-1]

    assert {driver: found.path for driver, found in sent.items()} == {
        Driver.OPENAI: "/v1/responses",
        Driver.ANTHROPIC: "/v1/messages",
        Driver.OPENROUTER: "/v1/chat/completions",
        Driver.OPENAI_COMPATIBLE: "/v1/chat/completions",
        Driver.XAI: "/v1/responses",
        Driver.GOOGLE: "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    }
    assert sent[Driver.GOOGLE].headers["x-goog-api-key"] == KEY
    assert "authorization" not in sent[Driver.GOOGLE].headers
    anthropic = sent[Driver.ANTHROPIC].headers
    assert (anthropic["x-api-key"], anthropic["anthropic-version"]) == (KEY, "2023-06-01")
    assert anthropic["anthropic-beta"] == "beta-1"
    assert "authorization" not in anthropic
    assert sent[Driver.OPENAI].headers["openai-organization"] == "org-1"
    assert not [name for name in sent[Driver.XAI].headers if name.startswith("openai")]
    for driver in (Driver.OPENAI, Driver.OPENROUTER, Driver.OPENAI_COMPATIBLE, Driver.XAI):
        assert sent[driver].headers["authorization"] == f"Bearer {KEY}"
    for found in sent.values():
        assert found.method == "POST"
        assert found.headers["content-type"] == "application/json"
        assert KEY not in str(found.body)


@every_driver
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (429, ErrorKind.RATE_LIMITED, True),
        (529, ErrorKind.SERVER_OVERLOADED, True),
        (500, ErrorKind.UNKNOWN, True),
        (401, ErrorKind.AUTH, False),
        (400, ErrorKind.INVALID_REQUEST, False),
        (302, ErrorKind.UNKNOWN, False),
    ],
)
async def test_a_refusal_is_classified_with_its_status_and_without_its_words(
    driver: Driver, status: int, kind: ErrorKind, retryable: bool
) -> None:
    """providers-and-routes case 8, what the adapter contributes: one request, the wait, the redaction."""
    body = {"error": {"type": "some_error", "message": f"you sent {KEY}, SECRET words"}}
    headers = {"Retry-After": "1", "Location": "http://127.0.0.1:1/elsewhere"}
    with ModelServer(Refusal(status=status, body=body, headers=headers)) as server:
        error = await failure(server, driver)

    assert error.message == f"{driver.value} request failed: HTTP {status}, type=some_error"
    assert (error.kind, error.retryable, error.status) == (kind, retryable, status)
    assert error.retry_after_ms == 1000
    assert len(server.requests) == 1


async def test_a_refusal_with_an_endless_or_unreadable_body_still_names_the_status() -> None:
    for chunks in ([b"SECRET " * 20_000], [b"\xff\xfe SECRET"], []):
        with ModelServer(Raw(status=503, chunks=chunks, content_type="text/html", then="silence")) as server:
            error = await failure(server, limits=Limits(inactivity=0.2, whole=5))
        assert (error.status, error.kind) == (503, ErrorKind.SERVER_OVERLOADED)


@every_driver
async def test_a_stream_that_ends_cleanly_but_early_is_cut_short(driver: Driver) -> None:
    with ModelServer(Stream(answer=Answer(text="half of it"), cut_after=3)) as server:
        error = await failure(server, driver)

    assert (error.kind, error.retryable) == (ErrorKind.TRANSPORT, True)
    assert error.message == f"{driver.value} stream failed: cut short before the end of the reply"


@every_driver
async def test_a_connection_that_breaks_in_the_middle_is_a_transport_error(driver: Driver) -> None:
    with ModelServer(Stream(answer=Answer(text="half of it"), reset_after=3)) as server:
        error = await failure(server, driver)

    assert (error.kind, error.retryable) == (ErrorKind.TRANSPORT, True)
    assert "connection lost" in error.message


async def test_nobody_listening_and_a_connection_closed_without_an_answer_are_transport_errors() -> None:
    with ModelServer(Raw(then="reset", headers=False)) as server:
        closed = await failure(server)
        url = server.url
    refused = await failure(url)

    for error in (closed, refused):
        assert (error.kind, error.retryable, error.status) == (ErrorKind.TRANSPORT, True, None)
        assert "request failed: connection failed" in error.message


@pytest.mark.parametrize("headers", [True, False])
async def test_silence_ends_at_the_inactivity_limit(headers: bool) -> None:
    """providers-and-routes case 9, first half."""
    with ModelServer(Raw(then="silence", headers=headers)) as server:
        error = await failure(server, limits=Limits(inactivity=0.15, whole=30))

    assert (error.kind, error.retryable) == (ErrorKind.TRANSPORT, True)
    assert "inactive, nothing received for 0.15 s" in error.message
    assert len(server.requests) == 1


@every_driver
async def test_keep_alive_comments_count_as_activity(driver: Driver) -> None:
    """providers-and-routes case 9, second half: silent for longer than the limit, but never without bytes."""
    slow = Stream(answer=Answer(text="at last"), keep_alives=15, keep_alive_seconds=0.06)
    with ModelServer(slow) as server:
        async with provider(server, driver, limits=Limits(inactivity=0.6, whole=30)) as target:
            _, reply = await ask(target, request(driver))

    assert text(reply) == "at last"


async def test_a_stream_that_never_ends_is_stopped_at_the_whole_limit() -> None:
    endless = Stream(answer=Answer(text="x"), keep_alives=10_000, keep_alive_seconds=0.02)
    with ModelServer(endless) as server:
        error = await failure(server, limits=Limits(inactivity=5, whole=0.3))

    assert (error.kind, error.retryable) == (ErrorKind.TRANSPORT, True)
    assert "timed out, no end within 0.3 s" in error.message


async def test_text_is_handed_on_while_the_provider_is_still_talking() -> None:
    hold = threading.Event()
    with ModelServer(Stream(answer=Answer(text="one two", pieces=2), hold_after=2, hold=hold)) as server:
        async with provider(server) as target:
            stream = target.stream(request())
            first = await anext(stream)
            hold.set()
            rest = [event async for event in stream]

    assert first == TextDelta(text="one ")
    assert rest[0] == TextDelta(text="two")
    assert isinstance(rest[-1], ModelReply)


async def test_a_cancelled_call_leaves_at_once_and_closes_its_connection() -> None:
    with ModelServer(Raw(then="silence")) as server:
        async with provider(server) as target:
            task = asyncio.create_task(ask(target, request()))
            await asyncio.to_thread(server.wait_for_requests, 1)
            task.cancel()
            async with asyncio.timeout(5):
                with pytest.raises(asyncio.CancelledError):
                    await task


async def test_calls_one_after_another_share_a_connection_and_many_at_once_do_not_wait_for_each_other() -> None:
    everyone_is_here = asyncio.Event()

    async def respond(made: Request) -> Answer:
        if made.body["model"] == "together":
            if made.number == 3 + 119:
                everyone_is_here.set()
            await everyone_is_here.wait()
        return Answer(text="x")

    together = ModelRequest(model="together", system=(), messages=(), tools=(), generation=Generation())
    with ModelServer(respond) as server:
        async with provider(server) as target:
            for _ in range(3):
                await ask(target, request())
            assert server.connection_count == 1
            async with asyncio.timeout(20):
                replies = await asyncio.gather(*(ask(target, together) for _ in range(120)))

    assert {text(reply) for _, reply in replies} == {"x"}
    assert len(replies) == 120


@pytest.mark.parametrize("make_client", [Http1Client, LibraryClient])
async def test_a_reply_comes_before_the_end_of_its_answer_and_the_connection_is_used_again_after_it(
    make_client: type[Http1Client | LibraryClient],
) -> None:
    connections = 0
    end, over = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(2)
                body = b"".join(chat_frames(Answer(text="one"), "m"))
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                writer.write(head + b"%x\r\n%b\r\n" % (len(body), body))
                await end.wait()
                writer.write(b"0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(10), server:
        async with aclosing(make_client()) as client:
            endpoint = ModelEndpoint(provider="x", url=f"http://127.0.0.1:{port}/v1", client=client, headers={})
            for _ in range(2):
                end.clear()
                stream = endpoint.stream(b"{}", ChatDecoder("x"))
                replies = [item async for item in _up_to_the_reply(stream)]
                end.set()
                await stream.aclose()
                assert isinstance(replies[-1], ModelReply)
        await over.wait()

    assert connections == 1


async def _up_to_the_reply(
    stream: AsyncGenerator[TextDelta | ModelReply, None],
) -> AsyncIterator[TextDelta | ModelReply]:
    async for item in stream:
        yield item
        if isinstance(item, ModelReply):
            return


async def test_thinking_with_a_forced_tool_never_reaches_the_network() -> None:
    """providers-and-routes case 11."""
    with ModelServer(Answer(text="x")) as server:
        async with provider(server, Driver.ANTHROPIC) as target:
            forced = request(
                Driver.ANTHROPIC,
                reasoning=Reasoning(budget_tokens=2048),
                tool_choice=ToolChoice(type="required"),
            )
            with pytest.raises(ProviderError) as caught:
                await ask(target, forced)

    assert not caught.value.retryable
    assert server.requests == []


async def test_nothing_is_logged_that_holds_the_key_or_the_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with ModelServer(Refusal(status=500, body={"error": {"message": "SECRET"}})) as server:
        await failure(server)

    assert "SECRET" not in caplog.text


async def test_a_request_that_cannot_be_put_on_the_wire_is_refused_without_quoting_it() -> None:
    with ModelServer(Answer(text="x")) as server:
        async with provider(server) as target:
            unencodable = ModelRequest(model="SECRET \ud800", system=(), messages=(), tools=(), generation=Generation())
            with pytest.raises(ProviderError, match="cannot be sent") as caught:
                await ask(target, unencodable)

    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert not caught.value.retryable
    assert server.requests == []
