"""One table: what every adapter makes of every fault of its provider, and with how many requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_server import _FRAMES, Answer, ModelServer, Raw, Refusal, Request, Response, Stream
from tests.http.house import House, opened

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

WORDS = "sk-SECRET words of the provider"
DRIVERS = {
    "openai_compatible": "m",
    "openrouter": "some/model",
    "openai": "gpt-5.4",
    "xai": "grok-4",
    "anthropic": "claude-sonnet-4-5",
    "google": "gemini-3-flash",
}
ROUTE = """
[routes.{driver}]
driver = "{driver}"
default_model = "{model}"
base_url = "{url}"
api_key = "sk-test-key"
retry = {{ backoff_ms = 1 }}
"""

Answers = Callable[[Request], Response]


@dataclass(frozen=True, kw_only=True)
class Fault:
    first: Answers
    """The first answer; and the second, when that is not a good one."""
    requests: int
    error: str | None = None
    """Part of the run's error; None: the run completes with the second answer, or with the first."""
    again: bool = False
    """The second request meets the same fault."""
    limits: str = ""
    """More keys of the route."""
    text: str = "good"


def refusal(status: int, code: str = "some_error", **headers: str) -> Answers:
    body = {"error": {"type": code, "code": code, "status": code, "message": WORDS}}
    return lambda request: Refusal(status=status, body=body, headers=headers)


def said(message: str, status: int = 400) -> Answers:
    return lambda request: Refusal(status=status, body={"error": {"message": f"{message}, {WORDS}"}})


def raw(chunks: Sequence[bytes], **options: Any) -> Answers:
    return lambda request: Raw(chunks=chunks, **options)


def some_frames(request: Request) -> list[bytes]:
    return _FRAMES[request.wire](Answer(text="a bad beginning"), "m")[:3]


def after_some_frames(*more: bytes, then: str = "end") -> Answers:
    return lambda request: Raw(chunks=[*some_frames(request), *more], then=then)


def event_of(code: str) -> Answers:
    """An error event of each wire's own shape, in the middle of the text."""

    def answer(request: Request) -> Response:
        told: Any = {"type": code, "code": code, "message": WORDS}
        event = {
            "responses": {**told, "type": "error"},
            "messages": {"type": "error", "error": told},
        }.get(request.wire, {"error": told})
        name = b"event: error\n" if request.wire == "messages" else b""
        frame = b"%bdata: %b\n\n" % (name, json.dumps(event).encode())
        return Raw(chunks=[*some_frames(request), frame, *_FRAMES[request.wire](Answer(text="late"), "m")])

    return answer


def document(request: Request) -> Response:
    return Raw(chunks=[b'{"error": {"message": "' + WORDS.encode()], content_type="application/json")


NO_ROOM = "an output ceiling that leaves no room"
BROKEN = "data: {oops " + WORDS + "\n\n"
SOON = {"Retry-After": "0"}
FAULTS: dict[str, Fault] = {
    "429": Fault(first=refusal(429, **SOON), requests=2),
    "429 twice": Fault(first=refusal(429), again=True, requests=2, error="HTTP 429"),
    "429 until a date": Fault(
        first=lambda request: refusal(429, **{"Retry-After": formatdate(usegmt=True)})(request), requests=2
    ),
    "500": Fault(first=refusal(500), requests=2),
    "500 twice": Fault(first=refusal(500), again=True, requests=2, error="HTTP 500"),
    "502": Fault(first=refusal(502), requests=2),
    "503": Fault(first=refusal(503), requests=2),
    "504": Fault(first=refusal(504), requests=2),
    "529": Fault(first=refusal(529), requests=2),
    "529 twice": Fault(first=refusal(529), again=True, requests=2, error="HTTP 529"),
    "400": Fault(first=refusal(400), requests=1, error="HTTP 400"),
    "401": Fault(first=refusal(401), requests=1, error="HTTP 401"),
    "403": Fault(first=refusal(403), requests=1, error="HTTP 403"),
    "404": Fault(first=refusal(404), requests=1, error="HTTP 404"),
    "a redirect": Fault(first=refusal(302, Location="http://127.0.0.1:9/"), requests=1, error="HTTP 302"),
    "a proxy's page": Fault(first=lambda request: Refusal(status=502, body=f"<html>{WORDS}"), requests=2),
    "a reset before the answer": Fault(first=raw([], headers=False, then="reset"), requests=2),
    "a reset twice": Fault(
        first=raw([], headers=False, then="reset"), again=True, requests=2, error="connection failed"
    ),
    "a reset in the text": Fault(first=after_some_frames(then="reset"), requests=2),
    "an early end": Fault(first=after_some_frames(), requests=2),
    "an early end twice": Fault(first=after_some_frames(), again=True, requests=2, error="cut short"),
    "an empty answer": Fault(first=raw([]), again=True, requests=2, error="cut short"),
    "a page in place of a stream": Fault(
        first=raw([f"<html>{WORDS}</html>".encode()], content_type="text/html"),
        again=True, requests=2, error="cut short",
    ),
    "half a document": Fault(first=document, requests=2),
    "a frame that is not JSON": Fault(first=after_some_frames(BROKEN.encode()), requests=2),
    "a frame that is not JSON twice": Fault(
        first=after_some_frames(BROKEN.encode()), again=True, requests=2, error="not JSON"
    ),
    "silence": Fault(
        first=raw([], headers=False, then="silence"), requests=2, limits="inactivity_timeout_ms = 1500"
    ),
    "silence after headers": Fault(first=raw([], then="silence"), requests=2, limits="inactivity_timeout_ms = 1500"),
    "silence in the text": Fault(
        first=after_some_frames(then="silence"), requests=2, limits="inactivity_timeout_ms = 1500"
    ),
    "silence twice": Fault(
        first=raw([], then="silence"), again=True, requests=2, error="inactive",
        limits="inactivity_timeout_ms = 300",
    ),
    "a stream without end": Fault(
        first=lambda request: Stream(answer=Answer(text="x"), keep_alives=10_000, keep_alive_seconds=0.02),
        again=True, requests=2, error="timed out", limits="total_timeout_ms = 400",
    ),
    "a slow stream": Fault(
        first=lambda request: Stream(answer=Answer(text="slow"), keep_alives=12, keep_alive_seconds=0.2),
        requests=1, limits="inactivity_timeout_ms = 1800", text="slow",
    ),
    "an overloaded event in the text": Fault(first=event_of("overloaded_error"), requests=2),
    "a rate limit event twice": Fault(
        first=event_of("rate_limit_error"), again=True, requests=2, error="rate_limit_error"
    ),
    "a bad request event in the text": Fault(
        first=event_of("invalid_request_error"), requests=1, error="invalid_request_error"
    ),
    NO_ROOM: Fault(
        first=said("input length and `max_tokens` exceed context limit: 200000 + 8000 > 204000"), requests=2
    ),
}  # fmt: skip


def ceilings(body: dict[str, Any]) -> set[int]:
    """What the request allows for output, in whatever field its wire has for that."""
    named = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
    return {
        value for fields in (body, body.get("generationConfig", {})) for name in named if (value := fields.get(name))
    }


async def started(house: House, driver: str) -> str:
    session = f"with {driver}"
    await house.session(session)
    return str((await house.submit("go", session, provider=driver))["run_id"])


@pytest.mark.parametrize("name", FAULTS)
async def test_every_adapter_ends_a_fault_as_the_contract_says(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]

    def respond(request: Request) -> Response:
        return fault.first(request) if request.number == 0 or fault.again else Answer(text="good")

    with ExitStack() as stack:
        servers = {driver: stack.enter_context(ModelServer(respond)) for driver in DRIVERS}
        routes = "".join(
            ROUTE.format(driver=driver, model=model, url=servers[driver].url) + fault.limits
            for driver, model in DRIVERS.items()
        )
        async with opened(tmp_path, routes=f'default_route = "openai"\n{routes}') as house:
            runs = {driver: await started(house, driver) for driver in DRIVERS}
            for driver in DRIVERS:
                await house.settled(f"with {driver}")
            views = {driver: await house.run(run_id) for driver, run_id in runs.items()}

    if name == NO_ROOM:
        assert [ceilings(server.requests[1].body) for server in servers.values()] == [{3000}] * len(servers)
    for driver, view in views.items():
        assert len(servers[driver].requests) == fault.requests, (driver, view)
        assert "SECRET" not in json.dumps(view), driver
        if fault.error is None:
            assert [output["content"] for output in view["outputs"]] == [fault.text], (driver, view)
        else:
            assert view["status"] == "failed", (driver, view)
            assert fault.error in view["error"], (driver, view)
            assert driver in view["error"], (driver, view)
            assert ("2 attempts" in view["error"]) is fault.again, (driver, view)
