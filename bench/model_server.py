"""A fake chat-completions server that is never the slow part: canned bytes over a raw asyncio protocol.

A last user message that says `stream 400 tokens at 50 per second` is answered at that pace, as a chunked stream with
one small delta a token; each token names the microsecond it was written in (`TOKEN`). Every other request is answered
at once. `GET /pace?from=..&until=..` tells how well the pace was kept, `POST /end` ends all paced answers, and between
`POST /pause` and `POST /resume` they wait, so that many can begin together.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import cast

import orjson

TOKEN = re.compile(rb"@(\d{14})")
"""The moment inside a token's text: `now_us()` of any process of the same machine."""
WORDS = ("some", "words", "about", "what", "the", "agent", "found", "and", "where", "else", "will", "look", "next")
FEWEST_PER_S = 1
MOST_PER_S = 1000
_SLOTS = 1024
"""Of one millisecond: the slowest pace fits."""
_SPREAD = 0.618
"""Golden ratio: the phases of any number of streams fall evenly over one period."""
_ASKED = re.compile(rb"stream (\d+) tokens at (\d+) per second")
_COMMAND = re.compile(rb"post /(pause|resume|end) ")
_SPAN = re.compile(rb"from=(\d+)&until=(\d+)")


def now_us() -> int:
    """Microseconds of the machine's monotonic clock."""
    return time.perf_counter_ns() // 1000


def _stream(*chunks: str) -> bytes:
    body = "".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]")).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


_ANSWER = _stream(
    '{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"done"},"finish_reason":null}]}',
    '{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":10,"completion_tokens":1}}',
)
_CALL = _stream(
    '{"id":"b","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"t","type":"function",'
    '"function":{"name":"read_file","arguments":"{\\"path\\":\\"note.txt\\"}"}}]},"finish_reason":null}]}',
    '{"id":"b","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],'
    '"usage":{"prompt_tokens":10,"completion_tokens":5}}',
)

_PACED_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = (
    '{"id":"chatcmpl-9f86d081884c7d659a2feaa0","object":"chat.completion.chunk","created":1767225600,"model":"m",'
    '"system_fingerprint":"fp_44709d6fcb","choices":['
)


def _framed(data: str) -> bytes:
    body = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(body), body)


def _around_the_moment(word: str) -> tuple[bytes, bytes]:
    delta = f'{{"index":0,"delta":{{"content":"{word}@{"0" * 14} "}},"logprobs":null,"finish_reason":null}}]}}'
    before, _, after = _framed(_CHUNK + delta).rpartition(b"0" * 14)
    return before, after


_PIECES = tuple(_around_the_moment(word) for word in WORDS)


def _paced_tail(tokens: int) -> bytes:
    usage = f'"usage":{{"prompt_tokens":10,"completion_tokens":{tokens},"total_tokens":{tokens + 10}}}}}'
    last = f'{_CHUNK}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}]}}'
    return b"".join((_framed(last), _framed(f"{_CHUNK}],{usage}"), _framed("[DONE]"), b"0\r\n\r\n"))


@dataclass(eq=False, slots=True)
class _Paced:
    """One answer on its way."""

    transport: asyncio.Transport
    left: int
    period_us: float
    due_us: float = 0.0
    written: int = 0


class Pacer:
    """Writes the tokens of all paced answers from one tick a millisecond: a ring of slots, no task per answer."""

    def __init__(self) -> None:
        self._ring: list[list[_Paced]] = [[] for _ in range(_SLOTS)]
        self._next_ms = 0
        """The first millisecond whose slot is still to be looked at."""
        self._open: set[_Paced] = set()
        self._placed = 0
        self._paused = False
        self._ticking = False
        self._written_us = array("Q")
        self._late_us = array("L")

    def add(self, transport: asyncio.Transport, tokens: int, per_s: int) -> None:
        """Begin an answer; its first token comes within one period."""
        period_us = 1_000_000 / min(max(per_s, FEWEST_PER_S), MOST_PER_S)
        transport.write(_PACED_HEAD)
        paced = _Paced(transport=transport, left=tokens, period_us=period_us)
        self._open.add(paced)
        if not self._paused:
            self._place(paced)

    def pause(self) -> None:
        """No token is due until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Each answer goes on within one period."""
        if self._paused:
            self._paused = False
            for slot in self._ring:
                slot.clear()
            for paced in self._open:
                self._place(paced)

    def end(self) -> None:
        """End all answers, each when its next token would be due."""
        for paced in self._open:
            paced.left = 0
        self.resume()

    def kept(self, from_us: int, until_us: int) -> dict[str, int]:
        """How many answers are open; how many tokens were written in that time, how late by their own pace."""
        span = slice(bisect_left(self._written_us, from_us), bisect_left(self._written_us, until_us))
        late = sorted(self._late_us[span])
        ranked = late or [0]
        return {
            "open": sum(not paced.transport.is_closing() for paced in self._open),
            "tokens": len(late),
            "p50_late_us": ranked[len(ranked) // 2],
            "p95_late_us": ranked[len(ranked) * 95 // 100],
        }

    def _place(self, paced: _Paced) -> None:
        now = now_us()
        self._placed += 1
        paced.due_us = now + paced.period_us * (self._placed * _SPREAD % 1)
        self._ring[int(paced.due_us) // 1000 % _SLOTS].append(paced)
        if not self._ticking:
            self._next_ms = now // 1000
            self._tick_later()

    def _tick_later(self) -> None:
        self._ticking = True
        asyncio.get_running_loop().call_later(0.001, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._paused:
            return
        this_ms = now_us() // 1000
        for ms in range(max(self._next_ms, this_ms - _SLOTS), this_ms):
            slot = self._ring[ms % _SLOTS]
            if slot:
                self._ring[ms % _SLOTS] = []
                for paced in slot:
                    self._write(paced, this_ms)
        self._next_ms = this_ms
        if self._open:
            self._tick_later()
        elif len(self._written_us) > 1_000_000:
            self._written_us, self._late_us = array("Q"), array("L")

    def _write(self, paced: _Paced, this_ms: int) -> None:
        if paced.transport.is_closing():
            self._open.discard(paced)
            return
        if paced.left <= 0:
            self._open.discard(paced)
            paced.transport.write(_paced_tail(paced.written))
            return
        before, after = _PIECES[paced.written % len(_PIECES)]
        moment = now_us()
        paced.transport.write(b"%b%014d%b" % (before, moment, after))
        self._written_us.append(moment)
        self._late_us.append(max(int(moment - paced.due_us), 0))
        paced.written += 1
        paced.left -= 1
        paced.due_us += paced.period_us
        # One that fell behind catches up one token a millisecond.
        self._ring[max(int(paced.due_us) // 1000, this_ms) % _SLOTS].append(paced)


class ModelProtocol(asyncio.Protocol):
    """Answers each request: at a pace when asked to, a tool call for a fresh "use a tool" message, else text."""

    def __init__(self, pacer: Pacer) -> None:
        self._pacer = pacer
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            assert self._transport is not None
            self._answer(self._transport, head, body)

    def _answer(self, transport: asyncio.Transport, head: bytes, body: bytes) -> None:
        if head.startswith(b"get /pace?"):
            span = _SPAN.search(head)
            found = self._pacer.kept(int(span[1]), int(span[2])) if span else {}
            transport.write(_document(found))
        elif command := _COMMAND.match(head):
            {b"pause": self._pacer.pause, b"resume": self._pacer.resume, b"end": self._pacer.end}[command[1]]()
            transport.write(_document({}))
        elif asked := _ASKED.search(body, max(body.rfind(b'"role":"user"'), 0)):
            self._pacer.add(transport, int(asked[1]), int(asked[2]))
        else:
            transport.write(_reply(body))


def _document(content: object) -> bytes:
    body = orjson.dumps(content)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _reply(body: bytes) -> bytes:
    last_user = body.rfind(b"use a tool")
    wants_tool = last_user >= 0 and body.find(b'"role":"tool"', last_user) < 0
    return _CALL if wants_tool else _ANSWER


async def main(port: int) -> None:
    pacer = Pacer()
    server = await asyncio.get_running_loop().create_server(lambda: ModelProtocol(pacer), "127.0.0.1", port)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
