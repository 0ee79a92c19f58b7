"""What a daemon is told at its start. The only place that reads the environment."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import TypeVar

from kheish.auth.audit_key import VARIABLE as AUDIT_KEY
from kheish.auth.audit_key import ConfiguredKey, configured_key
from kheish.auth.control_plane import AccessSettings, AuthMode, tokens_for
from kheish.auth.master_key import VARIABLE as MASTER_KEY
from kheish.auth.master_key import master_key
from kheish.auth.tokens import Token, configured
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.engine.budgets import Budget, Budgets
from kheish.engine.entries import OnRestart
from kheish.http.bodies import DEFAULT_MAX_BYTES
from kheish.http.cors import cors_policy
from kheish.providers.drivers import Driver
from kheish.providers.single_route import SingleRouteFlags
from kheish.store.feed import DEFAULT_CAPACITY_ROWS
from kheish.telemetry.tracing import TracingSettings, tracing_settings

DEFAULT_BIND = "127.0.0.1:4000"
DEFAULT_STATE_ROOT = ".kheish-daemon"
DEFAULT_DRAIN_MS = 8000
"""Below the container's kill at 10 s, so the journal always closes."""
DEFAULT_BUDGET_OUTPUT_TOKENS = 1_000_000
DEFAULT_BUDGET_COST_USD = 500.0
DEFAULT_BUDGET_PERIOD_HOURS = 24
MAX_EVENT_HISTORY = 262_144
LOG_LEVELS = ("error", "warn", "info", "debug", "trace")
LOG_FORMATS = ("auto", "pretty", "json")
_DAEMON_ONLY = frozenset({"KHEISH_DAEMON_ADMIN_TOKEN", "KHEISH_DAEMON_READONLY_TOKEN", MASTER_KEY, AUDIT_KEY})
"""No route may name these as its key."""

T = TypeVar("T")


class SettingsRefused(Problem):
    """The daemon cannot start with these settings."""

    code, status = "settings_refused", 500


@value_class(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything `serve` was told; paths are absolute, secrets are never shown."""

    bind_host: str
    bind_port: int
    """0: any free port."""
    state_root: Path
    workspace_root: Path
    access: AccessSettings = field(default_factory=AccessSettings)
    master_key: bytes | None = field(default=None, repr=False)
    """Of the secret store."""
    require_encrypted_secrets: bool = False
    audit_key: ConfiguredKey | None = field(default=None, repr=False)
    """Signs external actions; None: one below the state root."""
    routes_file: Path | None = None
    default_route: str | None = None
    allow_empty_routes: bool = False
    single_route: SingleRouteFlags = field(default_factory=SingleRouteFlags, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Where routes look up the variables they name."""
    http_max_body_bytes: int = DEFAULT_MAX_BYTES
    event_history_capacity: int = DEFAULT_CAPACITY_ROWS
    log_format: str = "auto"
    log_level: str = "info"
    permission_mode: str = "default"
    restart_policy: OnRestart = OnRestart.RESUME
    drain_timeout_ms: int = DEFAULT_DRAIN_MS
    budgets: Budgets = field(default_factory=Budgets)
    budget_period_hours: int = DEFAULT_BUDGET_PERIOD_HOURS
    """How far back a route's usage counts; 0: since ever."""
    max_turns: int = 500
    """Model calls per run; 0 = no ceiling."""
    queued_run_lag_ms: int = 1_800_000
    stale_run_ms: int = 1_800_000
    tracing: TracingSettings | None = None
    bound_address_file: Path | None = None
    """Where to write the address that is listened on, for health checks of the container."""


def from_options(options: Mapping[str, object], environ: Mapping[str, str] | None = None) -> Settings:
    """Check the options of `serve` (flags and their environment already merged; None means not given).

    Raises:
        SettingsRefused: a value is not usable; the text names the option and never holds a secret.
    """
    given = os.environ if environ is None else environ
    env = {name: value for name, value in given.items() if name not in _DAEMON_ONLY}
    host, port = _bind(_given(options, "bind", str) or DEFAULT_BIND)
    access = _access(options)
    tokens_for(access, host)
    return Settings(
        bind_host=host,
        bind_port=port,
        access=access,
        master_key=master_key(given),
        require_encrypted_secrets=_env_flag(given, "KHEISH_AUTH_STORE_REQUIRE_ENCRYPTED"),
        audit_key=_audit_key(options, given),
        state_root=Path(str(options.get("state_root") or DEFAULT_STATE_ROOT)).absolute(),
        workspace_root=_workspace(options.get("workspace_root")),
        routes_file=None if not options.get("routes_file") else Path(str(options["routes_file"])).absolute(),
        default_route=_given(options, "default_route", str),
        allow_empty_routes=bool(options.get("allow_empty_routes")),
        single_route=_single_route(options),
        environ=env,
        http_max_body_bytes=_number(options, "http_max_body_bytes", DEFAULT_MAX_BYTES, low=1),
        event_history_capacity=min(
            _number(options, "event_history_capacity", DEFAULT_CAPACITY_ROWS, low=1), MAX_EVENT_HISTORY
        ),
        log_format=_choice(options, "log_format", LOG_FORMATS, "auto"),
        log_level=_choice(options, "log_level", LOG_LEVELS, "info"),
        permission_mode=_given(options, "permission_mode", str) or "default",
        restart_policy=OnRestart(_choice(options, "restart_policy", tuple(OnRestart), OnRestart.RESUME)),
        drain_timeout_ms=_number(options, "drain_timeout_ms", DEFAULT_DRAIN_MS, low=0),
        budgets=_budgets(options),
        budget_period_hours=_number(options, "model_budget_period_hours", DEFAULT_BUDGET_PERIOD_HOURS, low=0),
        max_turns=_env_number(env, "KHEISH_AGENT_MAX_TURNS", 500),
        queued_run_lag_ms=_env_number(env, "KHEISH_QUEUED_RUN_LAG_WARNING_THRESHOLD_MS", 1_800_000),
        stale_run_ms=_env_number(env, "KHEISH_STALE_NON_TERMINAL_RUN_THRESHOLD_MS", 1_800_000),
        tracing=tracing_settings(env),
        bound_address_file=_env_path(env, "KHEISH_BOUND_ADDRESS_FILE"),
    )


def _access(options: Mapping[str, object]) -> AccessSettings:
    given = options.get("http_cors_allow_origin") or ()
    texts = [str(text) for text in given] if isinstance(given, (list, tuple)) else []
    return AccessSettings(
        mode=AuthMode(_choice(options, "http_auth_mode", tuple(AuthMode), AuthMode.AUTO)),
        admin=_token(options, "admin"),
        read_only=_token(options, "readonly"),
        cors=cors_policy(origin for text in texts for origin in text.split(",")),
    )


def _token(options: Mapping[str, object], name: str) -> Token | None:
    value, file = options.get(f"http_{name}_token"), options.get(f"http_{name}_token_file")
    return configured(name, value=None if value is None else str(value), file=None if file is None else str(file))


def _audit_key(options: Mapping[str, object], environ: Mapping[str, str]) -> ConfiguredKey | None:
    return configured_key(environ.get(AUDIT_KEY, ""), str(options.get("audit_signing_key_file") or ""))


def _bind(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise SettingsRefused(f"--bind {text}: give an address and a port, as in {DEFAULT_BIND}")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise SettingsRefused(f"--bind {text}: {host!r} is not an IP address") from None
    return host, int(port)


def _workspace(given: object) -> Path:
    root = Path(str(given or Path.cwd())).absolute()
    if not root.is_dir():
        raise SettingsRefused(f"--workspace-root {root}: no such directory")
    return root.resolve()


def _single_route(options: Mapping[str, object]) -> SingleRouteFlags:
    headers = options.get("anthropic_beta_header") or ()
    urls = {driver.value: _given(options, f"{driver.value}_base_url", str) for driver in Driver}
    return SingleRouteFlags(
        provider=_given(options, "provider", str),
        model=_given(options, "model", str),
        api_key=_given(options, "api_key", str),
        google_api_key=_given(options, "google_api_key", str),
        base_urls={name: url for name, url in urls.items() if url},
        anthropic_version=_given(options, "anthropic_version", str),
        anthropic_beta_headers=tuple(str(header) for header in headers) if isinstance(headers, (list, tuple)) else (),
        openai_organization=_given(options, "openai_organization", str),
        openai_project=_given(options, "openai_project", str),
        openai_auth_source=_given(options, "openai_auth_source", str),
        anthropic_auth_source=_given(options, "anthropic_auth_source", str),
    )


def _given(options: Mapping[str, object], name: str, kind: type[T]) -> T | None:
    value = options.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, kind):
        raise SettingsRefused(f"--{name.replace('_', '-')} has the wrong type")
    return value


def _budgets(options: Mapping[str, object]) -> Budgets:
    hours = _number(options, "model_budget_period_hours", DEFAULT_BUDGET_PERIOD_HOURS, low=0)
    return Budgets(
        route=_budget(options, "total", DEFAULT_BUDGET_OUTPUT_TOKENS, DEFAULT_BUDGET_COST_USD),
        session=_budget(options, "session"),
        run=_budget(options, "run"),
        period=f" in the last {hours} h" if hours else "",
    )


def _budget(options: Mapping[str, object], scope: str, tokens: int = 0, cost_usd: float = 0.0) -> Budget:
    """Read one budget; 0 is no ceiling."""
    prefix = f"model_budget_max_{scope}"
    cost = options.get(f"{prefix}_cost_usd")
    if cost is not None and (not isinstance(cost, int | float) or isinstance(cost, bool) or not 0 <= cost < math.inf):
        raise SettingsRefused(f"--{prefix.replace('_', '-')}-cost-usd must be an amount that is not negative")
    return Budget(
        max_output_tokens=_number(options, f"{prefix}_output_tokens", tokens, low=0) or None,
        max_cost_usd=(cost_usd if cost is None else float(cost)) or None,
    )


def _number(options: Mapping[str, object], name: str, default: int, *, low: int) -> int:
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise SettingsRefused(f"--{name.replace('_', '-')} must be a whole number of at least {low}")
    return value


def _env_number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdecimal():
        raise SettingsRefused(f"{name} must be a whole number")
    return int(text)


def _env_path(env: Mapping[str, str], name: str) -> Path | None:
    text = env.get(name, "")
    return Path(text).absolute() if text else None


def _env_flag(env: Mapping[str, str], name: str) -> bool:
    text = env.get(name, "").strip().lower()
    if text not in ("", "0", "false", "1", "true"):
        raise SettingsRefused(f"{name} must be true or false")
    return text in ("1", "true")


def _choice(options: Mapping[str, object], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = options.get(name) or default
    if value not in allowed:
        raise SettingsRefused(f"--{name.replace('_', '-')} must be one of {', '.join(allowed)}")
    return str(value)
