"""The one route of a daemon that was started with flags instead of a routes file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from kheish.core.values import value_class
from kheish.providers.drivers import FACTS, Driver, base_url_fault
from kheish.providers.routes import ModelSupport, Route, RouteInventory, Setting
from kheish.providers.routes_file import environment_key
from kheish.providers.tables import RoutesError

_KEY_SOURCES = ("api_key", "api-key", "auto")


@value_class(frozen=True, kw_only=True, slots=True)
class SingleRouteFlags:
    """The flags of `serve` that describe one route; None means not given, then the environment is asked."""

    provider: str | None = None
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    google_api_key: str | None = field(default=None, repr=False)
    base_urls: Mapping[str, str] = field(default_factory=dict)
    """Driver name → the value of its own base URL flag."""
    anthropic_version: str | None = None
    anthropic_beta_headers: tuple[str, ...] = ()
    openai_organization: str | None = None
    openai_project: str | None = None
    openai_auth_source: str | None = None
    anthropic_auth_source: str | None = None


def single_route(flags: SingleRouteFlags, environ: Mapping[str, str]) -> RouteInventory:
    """Build an inventory of one route, whose id is the provider's name. A flag wins over the environment.

    Raises:
        RoutesError: the provider is unknown, its key is missing, or its base URL is not usable.
    """
    driver = _driver(flags.provider or environ.get("KHEISH_PROVIDER") or Driver.ANTHROPIC.value)
    facts = FACTS[driver]
    _refuse_account_auth(flags, environ)
    model = flags.model or environ.get("KHEISH_MODEL") or facts.default_model
    if not model or not model.strip():
        raise RoutesError(f"--model (or KHEISH_MODEL) is required for the provider {driver}")
    own_family = driver not in (Driver.OPENROUTER, Driver.OPENAI_COMPATIBLE)
    openai, anthropic = driver is Driver.OPENAI, driver is Driver.ANTHROPIC
    headers = environ.get("ANTHROPIC_BETA_HEADERS", "").split(",")
    route = Route(
        route_id=driver.value,
        driver=driver,
        default_model=model,
        model_support=ModelSupport.FAMILY if own_family else ModelSupport.ANY,
        capabilities=facts.capabilities,
        api_key=_key(flags, environ, driver),
        base_url=_base_url(flags, environ, driver),
        organization=_optional(flags.openai_organization, environ, "OPENAI_ORGANIZATION") if openai else None,
        project=_optional(flags.openai_project, environ, "OPENAI_PROJECT") if openai else None,
        anthropic_version=(anthropic and (flags.anthropic_version or environ.get("ANTHROPIC_VERSION"))) or "2023-06-01",
        anthropic_beta_headers=tuple(
            part.strip()
            for header in flags.anthropic_beta_headers or headers
            for part in header.split(",")
            if part.strip()
        ),
    )
    return RouteInventory(routes=(route,), default_route=route.route_id)


def _driver(name: str) -> Driver:
    try:
        driver = Driver(name)
    except ValueError:
        raise RoutesError("--provider (or KHEISH_PROVIDER) must be one of " + ", ".join(Driver)) from None
    if driver in (Driver.SCRIPTED, Driver.PYDANTIC_AI):
        raise RoutesError(f"the provider {driver} needs a routes file (--routes-file)")
    return driver


def _refuse_account_auth(flags: SingleRouteFlags, environ: Mapping[str, str]) -> None:
    for flag, value, env in (
        ("--openai-auth-source", flags.openai_auth_source, "KHEISH_OPENAI_AUTH_SOURCE"),
        ("--anthropic-auth-source", flags.anthropic_auth_source, "KHEISH_ANTHROPIC_AUTH_SOURCE"),
    ):
        if (value or environ.get(env) or "auto") not in _KEY_SOURCES:
            raise RoutesError(f"{flag}: account credentials are not available yet; use an API key")


def _key(flags: SingleRouteFlags, environ: Mapping[str, str], driver: Driver) -> Setting | None:
    facts = FACTS[driver]
    given = (driver is Driver.GOOGLE and flags.google_api_key) or flags.api_key
    if given:
        return Setting(value=given)
    key = environment_key(("KHEISH_API_KEY", *facts.key_envs), environ)
    if key.value:
        return key
    if not facts.key_required:
        return None
    names = " or ".join(("KHEISH_API_KEY", *facts.key_envs))
    raise RoutesError(f"no key for the provider {driver}: set {names}, or name a routes file with --routes-file")


def _base_url(flags: SingleRouteFlags, environ: Mapping[str, str], driver: Driver) -> str | None:
    env = FACTS[driver].base_url_env
    base_url = flags.base_urls.get(driver.value) or (environ.get(env) if env else None) or None
    if base_url is None:
        if driver is Driver.OPENAI_COMPATIBLE:
            raise RoutesError(f"a base URL is required for the provider {driver}: set {env}")
        return None
    fault = base_url_fault(base_url)
    if fault is not None:
        raise RoutesError(f"the base URL of the provider {driver} ({env}) {fault}")
    return base_url


def _optional(flag: str | None, environ: Mapping[str, str], env: str) -> Setting | None:
    value = flag or environ.get(env)
    return Setting(value=value) if value else None
