"""OpenRouter's Models API: what a route's model can do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from kheish.providers.openrouter_models import VARIABLE, Discovery, asks, narrowed, wanted
from kheish.providers.routes import RouteInventory
from kheish.providers.routes_file import parse_routes
from kheish.providers.tables import RoutesError
from tests.http.house import opened

MODELS = {
    "data": [
        {"id": "vendor/text", "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]}},
        {"slug": "vendor/eye", "architecture": {"input_modalities": ["Text", "Image"], "output_modalities": ["text"]}},
        {
            "id": "vendor/painter",
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text", "IMAGE"]},
        },
        {"id": "vendor/odd", "architecture": None},
    ]
}


@contextmanager
def models_api(status: int, body: Any) -> Iterator[tuple[str, list[str]]]:
    """A server that answers every request; gives its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api/v1", asked
        finally:
            server.shutdown()
            thread.join()


def routes(address: str | None, *models: str) -> RouteInventory:
    base = "" if address is None else f'base_url = "{address}"'
    blocks = [
        f'[routes.r{number}]\ndriver = "openrouter"\ndefault_model = "{model}"\nmodel_support = "any"\n'
        f'api_key = "sk-or-test"\n{base}\n'
        for number, model in enumerate(models)
    ]
    return parse_routes(('default_route = "r0"\n' + "".join(blocks)).encode(), {})


def test_routes_lose_what_their_model_has_not_and_keep_speech() -> None:
    with models_api(200, MODELS) as (address, asked):
        found = narrowed(routes(address, "vendor/text", "vendor/eye", "vendor/painter", "new/one"), Discovery.REQUIRED)

    text, eye, painter, unknown = (route.capabilities for route in found.routes)
    assert [each.multimodal_input for each in (text, eye, painter, unknown)] == [False, True, False, True]
    assert [each.image_generation for each in (text, eye, painter, unknown)] == [False, False, True, True]
    assert [each.image_edit for each in (text, eye, painter, unknown)] == [False, False, False, True]
    assert text.audio_generation
    assert text.transcription
    assert set(asked) == {"/api/v1/models"}


@pytest.mark.parametrize(("status", "body"), [(500, MODELS), (200, {"data": []}), (200, b"<html>"), (200, {})])
def test_a_required_answer_that_does_not_come_is_an_error(status: int, body: Any) -> None:
    with models_api(status, body) as (address, _):
        inventory = routes(address, "vendor/text")
        with pytest.raises(RoutesError, match=VARIABLE):
            narrowed(inventory, Discovery.REQUIRED)


def test_by_default_only_the_vendors_own_host_is_asked() -> None:
    assert [route.route_id for route in asks(routes(None, "vendor/text"), Discovery.BEST_EFFORT)] == ["r0"]
    assert asks(routes("http://127.0.0.1:9/v1", "vendor/text"), Discovery.BEST_EFFORT) == []
    assert asks(routes(None, "vendor/text"), Discovery.DISABLED) == []


def test_the_variable_takes_two_words() -> None:
    assert [wanted({}), wanted({VARIABLE: "required"}), wanted({VARIABLE: "disabled"})] == [*Discovery]
    with pytest.raises(RoutesError, match="required or disabled"):
        wanted({VARIABLE: "best_effort"})


@pytest.mark.anyio
async def test_a_daemon_that_requires_the_answer_does_not_start_without_it(tmp_path: Path) -> None:
    """Case 18."""
    with models_api(200, MODELS) as (address, _):
        text = f"""[routes.r0]
driver = "openrouter"
default_model = "vendor/text"
model_support = "any"
api_key = "sk-or-test"
base_url = "{address}"
"""
        async with opened(tmp_path, routes=text, environ={VARIABLE: "required"}) as house:
            shown = (await house.get("/v1/runtime")).json()["default_route"]["capabilities"]
    with pytest.raises(RoutesError):
        async with opened(tmp_path, routes=text, environ={VARIABLE: "required"}):
            pass
    async with opened(tmp_path, routes=text, environ={VARIABLE: "disabled"}) as house:
        unasked = (await house.get("/v1/runtime")).json()["default_route"]["capabilities"]

    assert (shown["multimodal_input"], unasked["multimodal_input"]) == (False, True)
