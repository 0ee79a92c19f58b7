"""The bench's daemon runs as people run theirs: its gate is closed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.load import Client, Refused
from bench.processes import TOKEN, child, environment, serve
from bench.seeding import Place

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def test_only_the_benchs_token_opens_its_daemon(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    place.prepare()
    command = serve(state=place.state, workspace=place.workspace, routes=place.routes)
    with child(command, tmp_path / "log") as daemon:
        async with Client(daemon.url) as stranger, Client(daemon.url, TOKEN) as client:
            with pytest.raises(Refused, match="401"):
                await stranger.get("/v1/status")
            created = await client.post("/v1/sessions", {"session_id": "one"})
        spent = daemon.cpu_s()

    assert b'"session_id":"one"' in created
    assert spent is None if sys.platform != "linux" else spent


async def test_settings_of_whoever_runs_the_bench_do_not_reach_its_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KHEISH_HTTP_AUTH_MODE", "none")
    for name in ("https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    settings = {name for name in environment() if name.startswith("KHEISH_") or name.lower().endswith("_proxy")}

    assert settings == {"KHEISH_DAEMON_ADMIN_TOKEN"}
