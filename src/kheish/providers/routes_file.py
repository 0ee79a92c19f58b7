"""The routes file: TOML in, a `RouteInventory` out, or one `RoutesError` that names the route and the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kheish.providers.capabilities import FLAGS, Capabilities
from kheish.providers.drivers import FACTS, Driver, base_url_fault
from kheish.providers.limits import Limits
from kheish.providers.prices import Price, read_price
from kheish.providers.routes import ModelSupport, Route, RouteInventory, Setting
from kheish.providers.tables import RoutesError, Table, parse_toml
from kheish.providers.terms import Backoff, RetryPolicy

if TYPE_CHECKING:
    from kheish.providers.script import Script

_SHOWN_ROUTE_ID = re.compile(r"[A-Za-z0-9_.:@+-]{1,80}\Z")
_MAX_ATTEMPTS = 10
_MAX_BACKOFF_MS = 3_600_000
_WITHOUT_ENDPOINT = {
    Driver.SCRIPTED: "a scripted route calls nobody and takes no such key",
    Driver.PYDANTIC_AI: "keys and addresses of a pydantic_ai route come from the environment",
}
_OWN_AUTH = (
    "api_key", "api_key_env", "openai_auth_source", "openai_auth_file", "anthropic_auth_source",
    "anthropic_credentials_file",
)  # fmt: skip
_OPENAI_ONLY = (
    "organization", "organization_env", "project", "project_env", "openai_auth_source", "openai_auth_file", "store",
)  # fmt: skip
_ANTHROPIC_ONLY = (
    "anthropic_auth_source", "anthropic_credentials_file", "anthropic_version", "anthropic_beta_headers",
)  # fmt: skip


class OpenAiAuth(StrEnum):
    API_KEY = "api_key"
    CODEX = "codex"


class AnthropicAuth(StrEnum):
    API_KEY = "api_key"
    CLAUDE_CODE = "claude_code"


def load_routes(path: Path, environ: Mapping[str, str], *, default_route: str | None = None) -> RouteInventory:
    """Read a routes file.

    ``environ`` is where `api_key_env` and its siblings are looked up. ``default_route`` replaces the file's own
    default, which must be valid all the same.

    Raises:
        RoutesError: the file cannot be read or breaks a rule. The message never holds the file's content.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RoutesError(f"routes file {path}: {error.strerror or 'cannot be read'}") from None
    return parse_routes(data, environ, source=f"routes file {path}", root=path.parent, default_route=default_route)


def parse_routes(
    data: bytes,
    environ: Mapping[str, str],
    *,
    source: str = "routes file",
    root: Path = Path(),
    default_route: str | None = None,
) -> RouteInventory:
    """Parse the content of a routes file; relative paths in it start from ``root``.

    Raises:
        RoutesError: as for `load_routes`.
    """
    top = Table(parse_toml(data, source=source), source)
    if top.integer("version") not in (None, 1):
        top.fail("version", "must be 1")
    file_default = top.text("default_route")
    tables = top.take("routes")
    top.done()
    if not isinstance(tables, Mapping) or not tables:
        raise RoutesError(f"{source}: routes: at least one [routes.<route_id>] table is required")
    routes: dict[str, Route] = {}
    for number, (route_id, table) in enumerate(tables.items(), start=1):
        where = f"{source}: route {_named(route_id, number)}"
        routes[route_id] = parse_route(route_id, table, environ, where=where, root=root)
    return _with_default(routes, file_default, default_route, source)


def parse_route(route_id: str, table: object, environ: Mapping[str, str], *, where: str, root: Path = Path()) -> Route:
    """Read one route's table; ``where`` names it in the error.

    Raises:
        RoutesError: the id or a key of the table is not usable.
    """
    if not route_id or "/" in route_id or any(character.isspace() for character in route_id):
        raise RoutesError(f"{where}: the id must not be empty and must have no '/' and no white space")
    return _route(route_id, Table(table, where), environ, root)


def _named(route_id: str, number: int) -> str:
    return f"'{route_id}'" if _SHOWN_ROUTE_ID.match(route_id) else f"number {number}"


def _with_default(
    routes: Mapping[str, Route], file_default: str | None, override: str | None, source: str
) -> RouteInventory:
    if file_default is not None and file_default not in routes:
        raise RoutesError(f"{source}: default_route: names no route of the file")
    if file_default is None and len(routes) > 1:
        raise RoutesError(f"{source}: default_route: is required when the file has more than one route")
    if override is not None and override not in routes:
        raise RoutesError(f"--default-route: names no route of the {source}")
    default = override or file_default or next(iter(routes))
    ordered = (routes[default], *(route for route in routes.values() if route.route_id != default))
    return RouteInventory(routes=ordered, default_route=default)


def _route(route_id: str, table: Table, environ: Mapping[str, str], root: Path) -> Route:
    driver = table.choice("driver", Driver)
    if driver is None:
        table.fail("driver", "is required")
    route = Route(
        route_id=route_id,
        driver=driver,
        default_model=table.required_text("default_model"),
        model_support=table.choice("model_support", ModelSupport) or ModelSupport.FAMILY,
        capabilities=_capabilities(table, driver),
        base_url=_base_url(table, driver),
        context_window_tokens=table.integer("context_window_tokens", minimum=1),
        retry=_retry(table),
        prices=_prices(table),
        limits=_limits(table),
    )
    _refuse_foreign_keys(table, driver)
    route = _with_auth(table, route, environ)
    if driver is Driver.OPENAI:
        route = replace(
            route,
            organization=_setting(table, "organization", environ),
            project=_setting(table, "project", environ),
            store=table.flag("store") is not False,
        )
    if driver is Driver.ANTHROPIC:
        route = replace(
            route,
            anthropic_version=table.text("anthropic_version") or route.anthropic_version,
            anthropic_beta_headers=table.texts("anthropic_beta_headers"),
        )
    if driver is Driver.SCRIPTED:
        route = replace(route, script=_script(table, root))
    table.done()
    return route


def _retry(table: Table) -> RetryPolicy:
    given = table.take("retry")
    if given is None:
        return RetryPolicy()
    inner, default = Table(given, f"{table.where}: retry"), RetryPolicy()
    attempts = inner.integer("attempts", minimum=1, maximum=_MAX_ATTEMPTS)
    backoff_ms = inner.integer("backoff_ms", maximum=_MAX_BACKOFF_MS)
    max_backoff_ms = inner.integer("max_backoff_ms", maximum=_MAX_BACKOFF_MS)
    policy = RetryPolicy(
        attempts=default.attempts if attempts is None else attempts,
        backoff=inner.choice("backoff", Backoff) or default.backoff,
        backoff_ms=default.backoff_ms if backoff_ms is None else backoff_ms,
        max_backoff_ms=default.max_backoff_ms if max_backoff_ms is None else max_backoff_ms,
        jitter=inner.amount("jitter", maximum=1) or 0.0,
    )
    inner.done()
    return policy


def _limits(table: Table) -> Limits:
    default = Limits()
    inactivity_ms = table.integer("inactivity_timeout_ms", minimum=1)
    whole_ms = table.integer("total_timeout_ms", minimum=1)
    return Limits(
        inactivity=default.inactivity if inactivity_ms is None else inactivity_ms / 1000,
        whole=default.whole if whole_ms is None else whole_ms / 1000,
    )


def _prices(table: Table) -> dict[str, Price]:
    given = table.take("prices")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        table.fail("prices", "must be a table of models")
    numbered = enumerate(given.items(), start=1)
    return {
        model: read_price(Table(fields, f"{table.where}: prices of model number {number}"))
        for number, (model, fields) in numbered
    }


def _capabilities(table: Table, driver: Driver) -> Capabilities:
    backed = FACTS[driver].capabilities
    narrowed: dict[str, bool] = {}
    for flag in FLAGS:
        wanted = table.flag(flag)
        if wanted and not getattr(backed, flag):
            table.fail(flag, f"{driver} has no backend for it, so it cannot be switched on")
        if wanted is not None:
            narrowed[flag] = wanted
    return replace(backed, **narrowed)


def _base_url(table: Table, driver: Driver) -> str | None:
    base_url = table.text("base_url")
    if base_url is None:
        if driver is Driver.OPENAI_COMPATIBLE:
            table.fail("base_url", f"is required for {driver}")
        return None
    fault = base_url_fault(base_url)
    if fault is not None:
        table.fail("base_url", fault)
    return base_url


def _refuse_foreign_keys(table: Table, driver: Driver) -> None:
    for owner, keys in (
        (Driver.OPENAI, _OPENAI_ONLY),
        (Driver.ANTHROPIC, _ANTHROPIC_ONLY),
        (Driver.SCRIPTED, ("script",)),
    ):
        for key in keys:
            if key in table and driver is not owner:
                table.fail(key, f"is for {owner} routes only")
    refusal = _WITHOUT_ENDPOINT.get(driver)
    for key in ("auth_ref", "api_key", "api_key_env", "base_url"):
        if refusal is not None and key in table:
            table.fail(key, refusal)
    if driver is Driver.PYDANTIC_AI and find_spec("pydantic_ai") is None:
        table.fail("driver", "the library pydantic-ai is not installed; install kheish[pydantic-ai]")


def _with_auth(table: Table, route: Route, environ: Mapping[str, str]) -> Route:
    for key in _OWN_AUTH:
        table.refuse_together("auth_ref", key)
    auth_ref = table.text("auth_ref")
    if auth_ref is not None:
        if auth_ref != auth_ref.strip():
            table.fail("auth_ref", "must not begin or end with white space")
        return replace(route, auth_ref=auth_ref)
    openai = table.choice("openai_auth_source", OpenAiAuth)
    anthropic = table.choice("anthropic_auth_source", AnthropicAuth)
    table.text("openai_auth_file")
    table.text("anthropic_credentials_file")
    if openai is OpenAiAuth.CODEX or "openai_auth_file" in table:
        table.fail("openai_auth_source", "account credentials are not available yet; use api_key_env")
    if anthropic is AnthropicAuth.CLAUDE_CODE or "anthropic_credentials_file" in table:
        table.fail("anthropic_auth_source", "account credentials are not available yet; use api_key_env")
    facts = FACTS[route.driver]
    api_key = _setting(table, "api_key", environ)
    if api_key is None and facts.key_required:
        api_key = environment_key(facts.key_envs, environ)
    return replace(route, api_key=api_key)


def _setting(table: Table, key: str, environ: Mapping[str, str]) -> Setting | None:
    """Read ``key`` or ``key``_env, which exclude each other."""
    table.refuse_together(key, f"{key}_env")
    value, env = table.text(key), table.text(f"{key}_env")
    if value is not None:
        return Setting(value=value)
    if env is not None:
        return Setting(value=environ.get(env, "").strip() or None, env=env)
    return None


def environment_key(names: tuple[str, ...], environ: Mapping[str, str]) -> Setting:
    """Return the first of the variables that is set; an unset `Setting` named after the first when none is."""
    for name in names:
        value = environ.get(name, "").strip()
        if value:
            return Setting(value=value, env=name)
    return Setting(value=None, env=names[0])


def _script(table: Table, root: Path) -> Script:
    # Late: only the routes of demos and tests have a script.
    from kheish.providers.script_file import load_script

    return load_script(root / table.required_text("script"), where=table.where)
