"""Both ways a model call can take, our own engine and the HTTP library, against the same servers."""

from __future__ import annotations

import asyncio
import gzip
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import httpcore2
import httpx2
import pytest

from kheish.providers import http1_pool
from kheish.providers.chat_completions import ChatDecoder
from kheish.providers.exchanges import ModelClient
from kheish.providers.http1_pool import Http1Client
from kheish.providers.http_library import LibraryClient
from kheish.providers.protocol import ErrorKind, ModelReply, ProviderError, TextDelta
from kheish.providers.transport import ModelEndpoint, new_model_client

pytestmark = pytest.mark.anyio

REPLY = b'data: {"choices":[{"delta":{"content":"one"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
OK = b"HTTP/1.1 200 OK\r\n"


both_ways = pytest.mark.parametrize("client", [Http1Client, LibraryClient])


def sized(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *headers, b"content-length: %d" % len(body), b"", body))


@asynccontextmanager
async def answering(answer: bytes, *, once: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The same answer to every request of a connection; yields the address of the server and what it was sent."""
    sent: list[bytes] = []
    connections: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        with suppress(OSError):
            while request := await reader.read(65_536):
                sent.append(request)
                writer.write(answer)
                if once:
                    break
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(30):
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", sent
    finally:
        listener.close()
        await asyncio.gather(*filter(None, connections))


async def told(client: ModelClient, url: str, headers: dict[str, str] | None = None) -> list[TextDelta | ModelReply]:
    endpoint = ModelEndpoint(provider="p", url=url, client=client, headers=headers or {})
    async with aclosing(client):
        return [item for _ in range(2) async for item in endpoint.stream(b'{"a":1}', ChatDecoder("p"))]


async def test_both_ways_send_the_same_bytes() -> None:
    cookie = b"set-cookie: a=b; Path=/"
    requests: list[list[bytes]] = []
    async with answering(sized(REPLY, cookie)) as (url, sent):
        for client in (Http1Client(), LibraryClient()):
            await told(client, f"{url}/v1/x?alt=sse", {"Authorization": "Bearer k"})
            requests.append(sent[:])
            sent.clear()

    ours, theirs = requests
    assert ours == theirs
    assert len(ours) == 2
    assert ours[0] == ours[1]
    assert ours[0].startswith(b"POST /v1/x?alt=sse HTTP/1.1\r\nHost: 127.0.0.1:")
    assert ours[0].endswith(b'\r\nAuthorization: Bearer k\r\nContent-Length: 7\r\n\r\n{"a":1}')


@pytest.mark.parametrize(
    "url",
    [
        "http://Host",
        "http://host:80/",
        "https://host:443/v1",
        "https://host:80/v1",
        "http://[::1]:8080/v1",
        "http://[::1]/v1",
        "http://bücher.example/v1",
        "http://a_b.example/a b/ü/%20/[x]|^`{}\\~!$&'()*+,;=:@\"<>",
        "http://host/v1:stream?alt=sse&q= ü'[]{}|^%20",
    ],
)
async def test_an_address_is_understood_as_the_library_does(url: str) -> None:
    known = httpx2.Request("POST", url)
    port = known.url.port or {"http": 80, "https": 443}[known.url.scheme]

    made = Http1Client().target(url, {})

    assert made._origin == (known.url.scheme, known.url.raw_host.decode(), port)
    named = known.headers["host"].encode()
    assert made._head == b"POST %b HTTP/1.1\r\nHost: %b\r\nConnection: keep-alive\r\n" % (known.url.raw_path, named)


@both_ways
@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("http://model/v1", {"X-Key": "SECRÉT"}),
        ("http://model:SECRET/v1", {}),
    ],
)
async def test_what_cannot_be_sent_is_refused_without_quoting_it(
    client: type[ModelClient], url: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ProviderError, match="its body, headers or address cannot be sent") as caught:
        await told(client(), url, headers)

    assert "SECR" not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.INVALID_REQUEST, False)


@pytest.mark.parametrize("value", ["SECRET\r\nb: c", "SECRET\nb", "SECRET\0b"])
async def test_a_header_that_would_be_two_is_never_sent(value: str) -> None:
    async with answering(sized(REPLY)) as (url, sent):
        with pytest.raises(ProviderError, match="cannot be sent") as caught:
            await told(Http1Client(), url, {"X-Key": value})

    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    assert sent == []


@both_ways
async def test_a_server_that_compresses_though_nobody_asked_is_understood(client: type[ModelClient]) -> None:
    async with answering(sized(gzip.compress(REPLY), b"content-encoding: gzip")) as (url, sent):
        items = await told(client(), url)

    assert [item for item in items if isinstance(item, TextDelta)] == [TextDelta(text="one")] * 2
    assert len(sent) == 2


@both_ways
async def test_compressed_bytes_that_are_none_are_a_lost_connection(client: type[ModelClient]) -> None:
    async with answering(sized(REPLY, b"content-encoding: gzip")) as (url, _):
        with pytest.raises(ProviderError, match=r"connection lost \(DecodingError\)"):
            await told(client(), url)


@both_ways
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0\r\n", r"request failed: connection failed \(RemoteProtocolError\)"),
        (OK + b"content-length: 9\r\n\r\ndata", r"stream failed: connection lost \(RemoteProtocolError\)"),
    ],
)
async def test_errors_have_the_same_names(client: type[ModelClient], answer: bytes, words: str) -> None:
    async with answering(answer, once=True) as (url, _):
        with pytest.raises(ProviderError, match=words) as caught:
            await told(client(), url)

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.TRANSPORT, True)


@both_ways
async def test_a_refusal_tells_when_to_come_again(client: type[ModelClient]) -> None:
    async with answering(b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\ncontent-length: 0\r\n\r\n") as (url, _):
        with pytest.raises(ProviderError) as caught:
            await told(client(), url)

    assert (caught.value.status, caught.value.retry_after_ms) == (429, 7_000)


async def test_behind_a_proxy_the_library_makes_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(sized(REPLY)) as (url, sent):
        monkeypatch.setenv("http_proxy", url)
        items = await told(new_model_client(), "http://a-model.invalid/v1")

    assert items[0] == TextDelta(text="one")
    assert sent[0].startswith(b"POST http://a-model.invalid/v1 ")


@pytest.mark.parametrize("excepted", ["127.0.0.1", "other.example, 127.0.0.1", "{place}", "*"])
async def test_a_host_the_environment_excepts_is_called_without_the_proxy(
    monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with answering(sized(REPLY)) as (url, sent):
        monkeypatch.setenv("no_proxy", excepted.format(place=url.removeprefix("http://")))
        client = new_model_client()
        items = await told(client, f"{url}/v1")

    assert isinstance(client, LibraryClient)
    assert items[0] == TextDelta(text="one")
    assert sent[0].startswith(b"POST /v1 ")


async def test_a_proxy_for_everything_takes_its_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(sized(REPLY)) as (url, sent):
        monkeypatch.setenv("all_proxy", url.removeprefix("http://").join(("us%20er:pass@", "")))
        await told(new_model_client(), "http://a-model.invalid/v1")

    assert sent[0].startswith(b"POST http://a-model.invalid/v1 ")
    assert b"\r\nProxy-Authorization: Basic dXMgZXI6cGFzcw==\r\n" in sent[0]


async def test_a_call_with_tls_goes_through_a_tunnel_that_sees_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with answering(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n", once=True) as (url, sent):
        monkeypatch.setenv("https_proxy", url)
        with pytest.raises(ProviderError, match="connection failed") as caught:
            await told(new_model_client(), "https://a-model.invalid/v1", {"Authorization": "Bearer k"})

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.TRANSPORT, True)
    assert sent[0].startswith(b"CONNECT a-model.invalid:443 ")
    assert b"Bearer" not in b"".join(sent)


async def test_a_server_that_takes_no_more_of_a_request_is_heard_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(httpcore2.AsyncMockStream):
        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            raise httpcore2.WriteError

    async def connect(*_: object) -> httpcore2.AsyncNetworkStream:
        return Closing([b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\n\r\n"])

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    with pytest.raises(ProviderError) as caught:
        await told(LibraryClient(), "http://a-model.invalid/v1")

    assert caught.value.status == 413


async def test_a_server_that_answers_twice_at_once_puts_no_later_request_out_of_step() -> None:
    sent: list[bytes] = []

    def said(word: bytes) -> bytes:
        return sized(REPLY.replace(b"one", word))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while arrived := await reader.read(65_536):
                for request in arrived.split(b"POST ")[1:]:
                    sent.append(request[-1:])
                    writer.write(said(b"one") + said(b"extra") if len(sent) == 1 else said(request[-1:]))
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with asyncio.timeout(30), aclosing(LibraryClient()) as client:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        endpoint = ModelEndpoint(provider="p", url=url, client=client, headers={})
        bodies = (b"1", b"2", b"3", b"4")
        heard = [[item async for item in endpoint.stream(body, ChatDecoder("p"))] for body in bodies]
    listener.close()

    # The second call takes what nobody asked for; its connection is left, and what waited on it is never sent.
    assert [items[0] for items in heard] == [TextDelta(text=text) for text in ("one", "extra", "3", "4")]
    assert sent == [b"1", b"3", b"4"]


async def test_a_request_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    class Noting(httpcore2.AsyncMockStream):
        async def write(self, buffer: bytes, timeout: float | None = None) -> None:
            written.append(buffer)

    async def connect(*_: object) -> httpcore2.AsyncNetworkStream:
        return Noting([sized(REPLY)] * 2)

    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
    await told(LibraryClient(), "http://a-model.invalid/v1")

    assert [message[-7:] for message in written] == [b'{"a":1}'] * 2


async def test_a_kind_of_proxy_that_is_not_spoken_is_said_when_a_route_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("all_proxy", "gopher://127.0.0.1:9")
    async with aclosing(new_model_client()) as client:
        with pytest.raises(ValueError, match="gopher"):
            client.target("https://a-model.invalid/v1", {})


async def test_a_socks_proxy_whose_package_is_missing_is_said_when_a_route_is_prepared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "socksio", None)
    async with aclosing(new_model_client()) as client:
        with pytest.raises(ValueError, match="socksio"):
            client.target("https://a-model.invalid/v1", {})


@pytest.mark.parametrize(("host", "written"), [("straße.example", "xn--strae-oqa.example"), ("model.example", None)])
def test_a_name_is_written_as_the_library_writes_it(host: str, written: str | None) -> None:
    origin, named, _ = http1_pool._address(f"https://{host}/v1")

    assert (origin[1], named) == (written or host, written or host)
    assert origin[1] == httpx2.URL(f"https://{host}").raw_host.decode()


@both_ways
async def test_a_header_that_would_be_two_is_refused_before_anything_is_sent(
    client: Callable[[], ModelClient],
) -> None:
    async with aclosing(client()) as models:
        with pytest.raises(ValueError, match="a header cannot be sent"):
            models.target("http://127.0.0.1:9/v1", {"x-key": "a\r\nb: c"})


@both_ways
async def test_closing_an_exchange_again_does_nothing(client: Callable[[], ModelClient]) -> None:
    async with answering(sized(b"x")) as (url, _), aclosing(client()) as models:
        exchange = await models.target(url, {}).send(b"x")
        await exchange.aclose()
        await exchange.aclose()
