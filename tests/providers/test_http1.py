"""The HTTP/1.1 engine of model calls, over real sockets and both kinds of event loop."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from kheish.providers import dialling, http1
from kheish.providers.http1 import Answer
from kheish.providers.transport import new_model_client
from tests.providers.over_the_engine import Http1Transport

pytestmark = pytest.mark.anyio

DEADLINE_S = 30
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"content-length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return "asyncio", {"use_uvloop": request.param}


class Server:
    """Reads requests and lets the test say what each connection does with them."""

    def __init__(self, behave: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._behave = behave
        self.connections = 0
        self.requests: list[bytes] = []
        self.gone = asyncio.Event()
        """A client left a connection, or it was broken."""
        self.url = ""

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        _, _, rest = head.lower().partition(b"content-length: ")
        request = head + await reader.readexactly(int(rest.split(b"\r\n")[0] or 0) if rest else 0)
        self.requests.append(request)
        return request

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._behave(self, reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    behave: Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Server]:
    server = Server(behave)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    server.url = f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1/x?a=b%20c"
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield server
    finally:
        listener.close()


def answering(*answers: bytes) -> Callable[[Server, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """One answer a request; the connection is closed after the last one."""

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await server.read(reader)
            writer.write(answer)
            await writer.drain()

    return behave


async def always(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await server.read(reader)
        writer.write(HELLO)


def client() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=Http1Transport(), timeout=None)


async def turns(count: int = 50) -> None:
    """Let the loop do what is ready."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "answer",
    [
        HELLO,
        OK + b"\r\nhello",
        CHUNKED + b"2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\ntrailer: x\r\n\r\n",
        CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\ncontent-length: 5\n\nhello",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 5\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" + HELLO,
        b"HTTP/1.1 100 Continue\r\ncontent-length: 9\r\n\r\n" + OK + b"\r\nhello",
    ],
)
async def test_a_body_is_the_same_however_it_is_delimited(answer: bytes) -> None:
    async with serving(answering(answer)) as server, client() as http:
        response = await http.post(server.url, content=b"ask", headers={"x-a": "1"})

    assert (response.status_code, response.content) == (200, b"hello")
    assert "link" not in response.headers
    [request] = server.requests
    assert request.startswith(b"POST /v1/x?a=b%20c HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\nask")
    assert b"\r\nx-a: 1\r\n" in request
    assert b"\r\nContent-Length: 3\r\n" in request


@given(st.sets(st.integers(1, 200)))
def test_any_split_of_the_same_bytes_gives_the_same_answer(cuts: set[int]) -> None:
    whole = b"HTTP/1.1 102 Wait\r\n\r\n" + CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\nx: y\r\n\r\n"
    answer, body, edges = Answer(), b"", [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    for start, end in pairwise(edges):
        assert answer.feed(whole[start:end]) is None
        body += answer.take()

    assert (answer.status, answer.headers) == (200, [(b"Transfer-Encoding", b"chunked")])
    assert (body, answer.complete, answer.reusable) == (b"hello world", True, True)


async def test_what_has_arrived_comes_at_once_and_what_has_not_is_waited_for() -> None:
    taken = asyncio.Event()

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(CHUNKED + b"3\r\none\r\n3\r\ntwo\r\n")
        await taken.wait()
        writer.write(b"5\r\nthree\r\n0\r\n\r\n")
        await reader.read()

    async with serving(behave) as server, client() as http, http.stream("POST", server.url, content=b"") as response:
        pieces = response.aiter_bytes()
        first = await anext(pieces)
        taken.set()
        rest = [piece async for piece in pieces]

    assert (first, rest) == (b"onetwo", [b"three"])


async def test_calls_one_after_another_share_a_connection_until_the_server_wants_no_more() -> None:
    closing = OK + b"connection: close\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(HELLO, HELLO, closing)) as server, client() as http:
        for _ in range(4):
            await http.post(server.url, content=b"x")

    assert (len(server.requests), server.connections) == (4, 2)


async def test_calls_at_once_have_a_connection_each() -> None:
    here = asyncio.Event()

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        if len(server.requests) == 8:
            here.set()
        await here.wait()
        writer.write(HELLO)

    async with serving(behave) as server, client() as http:
        await asyncio.gather(*(http.post(server.url, content=b"x") for _ in range(8)))

    assert server.connections == 8


async def test_a_connection_that_was_closed_or_spoke_while_idle_is_not_used_again() -> None:
    for last_words in (b"", HELLO):
        async with serving(answering(HELLO + last_words)) as server, client() as http:
            for _ in range(3):
                assert (await http.post(server.url, content=b"x")).content == b"hello"

        assert server.connections == 3


async def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "IDLE_S", 0.01)
    async with serving(always) as server, client() as http:
        await http.post(server.url, content=b"x")
        await server.gone.wait()
        await http.post(server.url, content=b"x")

    assert server.connections == 2


async def test_only_so_many_connections_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.providers.http1_pool._MAX_IDLE", 2)
    async with serving(always) as server, client() as http:
        for _ in range(2):
            responses = [await http.send(http.build_request("POST", server.url), stream=True) for _ in range(4)]
            for response in responses:
                await response.aread()

    assert server.connections == 4 + 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200", httpx2.RemoteProtocolError),
        (b"SSH-2.0-server\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", httpx2.RemoteProtocolError),
        (OK + b"x: " + b"y" * 300_000, httpx2.RemoteProtocolError),
        (OK + b"x: y\r\n" * 30_000, httpx2.RemoteProtocolError),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, httpx2.RemoteProtocolError),
        (OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", httpx2.RemoteProtocolError),
        (OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\na", httpx2.RemoteProtocolError),
    ],
)
async def test_an_answer_without_a_proper_head_is_an_error(answer: bytes, kind: type[Exception]) -> None:
    async with serving(answering(answer)) as server, client() as http:
        with pytest.raises(kind):
            await http.send(http.build_request("POST", server.url, content=b"x"), stream=True)

    assert (len(server.requests), server.connections) == (1, 1)


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"8\r\nunfin",
        b"zz\r\n",
        b"fffffffffffffffff\r\n",
        b"1;" + b"x" * 300_000,
        b"0\r\ntrailer: " + b"x" * 300_000,
        b"1\r\nno line end",
    ],
)
async def test_a_body_that_breaks_off_gives_what_came_and_then_an_error(rest: bytes) -> None:
    async with serving(answering(CHUNKED + b"4\r\nsome\r\n" + rest)) as server, client() as http:
        response = await http.send(http.build_request("POST", server.url, content=b"x"), stream=True)
        pieces = response.aiter_bytes()
        first = await anext(pieces)
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)

    assert first.startswith(b"some")


async def test_a_connection_that_is_reset_is_a_read_error() -> None:
    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK + b"\r\nsome")
        await writer.drain()
        await reader.readexactly(1)
        connected: socket.socket = writer.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with serving(behave) as server:
        transport = Http1Transport()
        async with httpx2.AsyncClient(transport=transport, timeout=None) as http:
            response = await http.send(http.build_request("POST", server.url, content=b"x"), stream=True)
            pieces = response.aiter_bytes()
            first = await anext(pieces)
            [connection] = transport.engine._open
            connection.network.write(b"!")
            with pytest.raises(httpx2.ReadError):
                await anext(pieces)

    assert first == b"some"


async def test_nobody_listening_is_a_connect_error() -> None:
    async with serving(always) as server:
        pass
    async with client() as http:
        with pytest.raises(httpx2.ConnectError):
            await http.post(server.url, content=b"x")


@pytest.mark.parametrize("headers", [{"x": "a\r\nb: c"}, {"x": "a\nb"}, {"x": "a\0b"}])
async def test_a_header_that_would_be_two_is_never_sent(headers: dict[str, str]) -> None:
    async with serving(always) as server, client() as http:
        with pytest.raises(httpx2.LocalProtocolError):
            await http.post(server.url, content=b"x", headers=headers)

    assert server.connections == 0


async def test_a_body_of_unknown_length_and_a_foreign_scheme_are_refused() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(always) as server, client() as http:
        with pytest.raises(httpx2.LocalProtocolError):
            await http.post(server.url, content=pieces())
        with pytest.raises(httpx2.UnsupportedProtocol):
            await http.post("ftp://127.0.0.1/", content=b"x")

    assert server.connections == 0


async def test_a_request_is_never_sent_again_when_the_server_leaves_without_a_word() -> None:
    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        if len(server.requests) == 1:
            writer.write(HELLO)
            await server.read(reader)

    async with serving(behave) as server, client() as http:
        await http.post(server.url, content=b"x")
        with pytest.raises(httpx2.RemoteProtocolError):
            await http.post(server.url, content=b"x")

    assert (len(server.requests), server.connections) == (2, 1)


@pytest.mark.parametrize("begun", [b"", CHUNKED + b"4\r\nsome\r\n"])
async def test_a_call_that_is_cancelled_or_left_closes_its_connection(begun: bytes) -> None:
    asked = asyncio.Event()

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(begun)
        asked.set()
        await reader.readexactly(1)

    async with serving(behave) as server, client() as http:
        call = asyncio.create_task(http.post(server.url, content=b"x"))
        await asked.wait()
        await turns()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.gone.wait()


async def test_a_reader_that_takes_nothing_makes_the_server_wait() -> None:
    size, block = 20_000_000, b"x" * 65_536

    async def behave(server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK + b"content-length: %d\r\n\r\n" % size)
        for _ in range(size // len(block)):
            writer.write(block)
            await writer.drain()
        writer.write(block[: size % len(block)])
        await reader.read()

    async with serving(behave) as server, client() as http, http.stream("POST", server.url, content=b"x") as response:
        await turns(2_000)
        pieces = [len(piece) async for piece in response.aiter_bytes()]

    assert sum(pieces) == size
    assert max(pieces) < 600_000


async def test_a_client_that_closes_takes_its_connections_with_it() -> None:
    async with serving(always) as server, client() as http:
        await http.post(server.url, content=b"x")
        await http.aclose()
        await server.gone.wait()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that only its own file vouches for, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a model server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, secret)
    return chain, context


async def test_a_server_with_a_trusted_certificate_is_spoken_to_over_one_kept_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, context = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with serving(always, tls=context) as server, client() as http:
        answers = [(await http.post(server.url, content=b"x" * 100_000)).content for _ in range(3)]

    assert (answers, server.connections) == ([b"hello"] * 3, 1)


async def test_a_server_nobody_vouches_for_is_not_spoken_to(tmp_path: Path) -> None:
    _, context = certificate(tmp_path)
    async with serving(always, tls=context) as server, client() as http:
        with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
            await http.post(server.url, content=b"x")

    assert server.requests == []


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always) as server:
        monkeypatch.setenv("http_proxy", server.url)
        async with aclosing(new_model_client()) as models:
            exchange = await models.target("http://a-model.invalid/v1", {}).send(b"x")
            answered = await exchange.read()
            await exchange.aclose()

    assert answered == b"hello"
    assert server.requests[0].startswith(b"POST http://a-model.invalid/v1 ")


def places(*hosts: tuple[str, int]) -> list[tuple[object, ...]]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in hosts]


async def test_an_address_that_refuses_or_is_silent_does_not_keep_the_next_from_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dialling, "_NEXT_ADDRESS_S", 0.01)
    silent, refusing = ("192.0.2.1", 80), ("127.0.0.1", 1)
    connect = dialling._connected
    begun: list[tuple[object, ...]] = []

    async def connected(address: dialling._Address) -> socket.socket:
        begun.append(address[4])
        if address[4] == silent:
            await asyncio.Event().wait()
        return await connect(address)

    monkeypatch.setattr(dialling, "_connected", connected)
    async with serving(always) as server:
        good = ("127.0.0.1", httpx2.URL(server.url).port or 0)
        found = places(silent, refusing, good, ("192.0.2.2", 80))
        made = await dialling._first(list(found))  # type: ignore[arg-type]  # plain tuples of the same shape
        made.close()
        with pytest.raises(ConnectionRefusedError):
            await dialling._first(places(refusing, refusing))  # type: ignore[arg-type]

    assert begun[:3] == [silent, refusing, good]


def test_the_families_of_a_host_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(family, socket.SOCK_STREAM, 6, "", (number,)) for number, family in enumerate((six, six, six, four))]

    assert [address[4] for address in dialling._alternating(found)] == [(0,), (3,), (1,), (2,)]
