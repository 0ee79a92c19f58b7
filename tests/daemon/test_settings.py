"""What `serve` accepts and refuses before it touches anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheish.core.problems import Problem
from kheish.daemon.settings import SettingsRefused, from_options
from kheish.engine.budgets import Budget


def test_without_options_the_daemon_serves_this_machine_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = from_options({}, {})

    assert (settings.bind_host, settings.bind_port) == ("127.0.0.1", 4000)
    assert settings.state_root == tmp_path / ".kheish-daemon"
    assert settings.workspace_root == tmp_path.resolve()
    assert (settings.max_turns, settings.drain_timeout_ms, settings.http_max_body_bytes) == (500, 8000, 33_554_432)


@pytest.mark.parametrize(
    ("bind", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("127.1.2.3:80", "127.1.2.3", 80),
        ("[::1]:9", "::1", 9),
        ("localhost:7", "127.0.0.1", 7),
    ],
)
def test_loopback_addresses_can_be_bound(tmp_path: Path, bind: str, host: str, port: int) -> None:
    settings = from_options({"bind": bind, "workspace_root": str(tmp_path)}, {})

    assert (settings.bind_host, settings.bind_port) == (host, port)


@pytest.mark.parametrize(
    ("options", "env", "named"),
    [
        ({"bind": "0.0.0.0:4000"}, {}, "--http-admin-token-file"),
        ({"bind": "192.168.1.2:4000"}, {}, "--http-admin-token-file"),
        ({"bind": "[::]:4000"}, {}, "--http-admin-token-file"),
        ({"bind": "0.0.0.0:4000", "http_auth_mode": "none"}, {}, "loopback"),
        ({"bind": "0.0.0.0:1", "http_auth_mode": "none", "http_admin_token": "hunter2"}, {}, "loopback"),
        ({"http_auth_mode": "bearer"}, {}, "--http-auth-mode"),
        ({"http_auth_mode": "always"}, {}, "--http-auth-mode"),
        ({"http_readonly_token": "hunter2"}, {}, "no admin token"),
        ({"http_admin_token": "hunter2", "http_readonly_token": "hunter2"}, {}, "the same"),
        ({"http_admin_token_file": __file__, "http_readonly_token_file": __file__}, {}, "the same"),
        ({"http_admin_token": "hunter2", "http_admin_token_file": __file__}, {}, "twice"),
        ({"http_admin_token": "  "}, {}, "blank"),
        ({"http_admin_token_file": "/nowhere/token"}, {}, "/nowhere/token"),
        ({"http_cors_allow_origin": ["*"]}, {}, "--http-cors-allow-origin"),
        ({"http_cors_allow_origin": ["https://example.com"]}, {}, "--http-cors-allow-origin"),
        ({"http_cors_allow_origin": ["http://localhost:1/"]}, {}, "--http-cors-allow-origin"),
        ({"http_cors_allow_origin": [""]}, {}, "--http-cors-allow-origin"),
        ({"bind": "example.com:80"}, {}, "not an IP address"),
        ({"bind": "127.0.0.1"}, {}, "--bind"),
        ({"bind": "127.0.0.1:99999"}, {}, "--bind"),
        ({"workspace_root": "/nowhere/at/all"}, {}, "--workspace-root"),
        ({"http_max_body_bytes": 0}, {}, "--http-max-body-bytes"),
        ({"log_level": "loud"}, {}, "--log-level"),
        ({"log_format": "xml"}, {}, "--log-format"),
        ({"restart_policy": "forget"}, {}, "--restart-policy"),
        ({}, {"KHEISH_AGENT_MAX_TURNS": "many"}, "KHEISH_AGENT_MAX_TURNS"),
        ({}, {"KHEISH_AGENT_MAX_TURNS": "-1"}, "KHEISH_AGENT_MAX_TURNS"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name_and_without_their_secret(
    options: dict[str, object], env: dict[str, str], named: str
) -> None:
    with pytest.raises(Problem) as caught:
        from_options(options, env)

    assert named in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_the_environment_sets_ceiling_and_thresholds() -> None:
    env = {
        "KHEISH_AGENT_MAX_TURNS": "0",
        "KHEISH_QUEUED_RUN_LAG_WARNING_THRESHOLD_MS": "5",
        "KHEISH_STALE_NON_TERMINAL_RUN_THRESHOLD_MS": "6",
    }
    settings = from_options({}, env)

    assert (settings.max_turns, settings.queued_run_lag_ms, settings.stale_run_ms) == (0, 5, 6)


def test_the_event_history_is_clamped() -> None:
    assert from_options({"event_history_capacity": 10**9}, {}).event_history_capacity == 262_144


def test_settings_show_no_key() -> None:
    options = {"provider": "openai", "api_key": "hunter2", "http_admin_token": "hunter2"}
    settings = from_options(options, {"OTHER_KEY": "hunter2", "KHEISH_DAEMON_ADMIN_TOKEN": "hunter2"})

    assert "hunter2" not in repr(settings)
    assert "KHEISH_DAEMON_ADMIN_TOKEN" not in settings.environ


def test_budgets_come_from_flags_and_zero_is_no_ceiling(tmp_path: Path) -> None:
    plain = from_options({"workspace_root": str(tmp_path)}, {})
    assert plain.budgets.route == Budget(max_output_tokens=1_000_000, max_cost_usd=500.0)
    assert (plain.budgets.session, plain.budgets.run, plain.budget_period_hours) == (Budget(), Budget(), 24)

    given = {
        "model_budget_max_total_output_tokens": 0,
        "model_budget_max_total_cost_usd": 0.0,
        "model_budget_max_session_output_tokens": 5,
        "model_budget_max_run_cost_usd": 0.25,
        "model_budget_period_hours": 0,
    }
    told = from_options({"workspace_root": str(tmp_path), **given}, {})
    assert told.budgets.route == Budget()
    assert told.budgets.session == Budget(max_output_tokens=5)
    assert told.budgets.run == Budget(max_cost_usd=0.25)
    assert told.budgets.period == ""
    for wrong in (-1.0, float("nan"), float("inf"), True):
        with pytest.raises(SettingsRefused, match="--model-budget-max-run-cost-usd"):
            from_options({"workspace_root": str(tmp_path), "model_budget_max_run_cost_usd": wrong}, {})
