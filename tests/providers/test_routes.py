from __future__ import annotations

from dataclasses import dataclass

import pytest

from kheish.providers.drivers import Driver, in_family
from kheish.providers.model_table import OutputCaps, context_window, output_caps
from kheish.providers.prices import Price
from kheish.providers.registry import ProviderRegistry
from kheish.providers.routes import (
    ModelNotSupported,
    ModelSupport,
    Route,
    RouteGone,
    RouteInventory,
    RouteNotReady,
    Setting,
    UnknownRoute,
)
from kheish.providers.script_file import parse_script
from kheish.providers.single_route import SingleRouteFlags, single_route
from kheish.providers.tables import RoutesError

pytestmark = pytest.mark.anyio

A = Route(route_id="a", driver=Driver.OPENAI, default_model="gpt-5.4", api_key=Setting(value="k"))
B = Route(
    route_id="b",
    driver=Driver.OPENROUTER,
    default_model="x/y",
    model_support=ModelSupport.ANY,
    api_key=Setting(value="k"),
)
INVENTORY = RouteInventory(routes=(A, B), default_route="a")


@dataclass(frozen=True)
class Pinned:
    route_id: str
    driver: str


@dataclass(frozen=True)
class Key:
    provider: str = "generic"
    secret: str | None = "k"

    def text(self, name: str) -> str | None:
        return None


@dataclass(frozen=True)
class Keys:
    slots: dict[str, Key]

    def find(self, slot_id: str) -> Key | None:
        return self.slots.get(slot_id)


def test_override_then_policy_then_default_each_resolve_to_their_route() -> None:
    """providers-and-routes case 5, at the level of the inventory."""
    assert INVENTORY.resolve().to_wire() == {
        "route_id": "a",
        "provider": "openai",
        "model": "gpt-5.4",
        "capabilities": {"matrix_version": 2, **dict.fromkeys(
            (
                "multimodal_input", "native_web_search", "image_generation", "image_edit", "audio_generation",
                "transcription",
            ), False,
        )},
    }  # fmt: skip
    assert INVENTORY.resolve("b").model == "x/y"
    assert INVENTORY.resolve("b", "any/thing").model == "any/thing"
    assert INVENTORY.resolve(None, "gpt-4o").route_id == "a"


def test_an_unknown_route_and_a_model_of_another_family_are_refused() -> None:
    with pytest.raises(UnknownRoute) as unknown:
        INVENTORY.resolve("c")
    with pytest.raises(ModelNotSupported) as refused:
        INVENTORY.resolve("a", "claude-x")
    with pytest.raises(ModelNotSupported):
        INVENTORY.resolve("b", " ")

    assert (unknown.value.domain, unknown.value.code, unknown.value.status) == ("routes", "unknown_route", 400)
    assert (refused.value.code, refused.value.status) == ("model_not_supported", 400)


def test_a_daemon_without_routes_says_what_to_do() -> None:
    with pytest.raises(RouteNotReady, match=r"no model route\. Action: "):
        RouteInventory().resolve()


def test_a_new_default_moves_first_and_keeps_the_others() -> None:
    changed = INVENTORY.with_default("b", "m/n")

    assert [route.route_id for route in changed.routes] == ["b", "a"]
    assert changed.resolve().model == "m/n"
    assert INVENTORY.resolve().model == "gpt-5.4"


@pytest.mark.parametrize(
    ("driver", "model", "accepted"),
    [
        (Driver.ANTHROPIC, "us.Claude-3", True),
        (Driver.ANTHROPIC, "gpt-4", False),
        (Driver.OPENAI, "GPT-5", True),
        (Driver.OPENAI, "o1-mini", True),
        (Driver.OPENAI, "o3", True),
        (Driver.OPENAI, "o4-mini", False),
        (Driver.GOOGLE, "gemini-2", True),
        (Driver.GOOGLE, "models/gemini-2", False),
        (Driver.XAI, "grok-4", True),
        (Driver.OPENROUTER, "mistral/large", True),
        (Driver.OPENROUTER, "openai/gpt-5", False),
        (Driver.OPENROUTER, "X-AI/grok", False),
        (Driver.OPENROUTER, "large", False),
        (Driver.OPENAI_COMPATIBLE, "anything", True),
    ],
)
def test_the_family_rule_of_each_driver(driver: Driver, model: str, accepted: bool) -> None:
    assert in_family(driver, model) is accepted


@pytest.mark.parametrize(
    ("model", "window", "caps"),
    [
        ("claude-opus-4-6", 200_000, (64_000, 128_000)),
        ("claude-sonnet-4-6", 200_000, (32_000, 128_000)),
        ("claude-sonnet-4-5-20250929", 200_000, (32_000, 64_000)),
        ("claude-opus-4-1", 200_000, (32_000, 32_000)),
        ("claude-3-5-haiku-latest", 200_000, (8_192, 8_192)),
        ("claude-3-7-sonnet", 200_000, (32_000, 64_000)),
        ("gemini-2.5-pro", 1_048_576, (65_536, 65_536)),
        ("x-image-preview", 65_536, (32_768, 32_768)),
        ("gpt-5.4", 400_000, (8_000, 64_000)),
        ("gpt-4.1-mini", 1_047_576, (8_000, 64_000)),
        ("gpt-4o", 128_000, (8_000, 64_000)),
        ("llama", None, (8_000, 64_000)),
    ],
)
def test_the_model_table(model: str, window: int | None, caps: tuple[int, int]) -> None:
    assert context_window(model) == window
    assert output_caps(model) == OutputCaps(default=caps[0], upper=caps[1])


def test_flags_win_over_the_environment_and_keys_are_looked_up_in_order() -> None:
    environ = {"KHEISH_PROVIDER": "openai", "KHEISH_API_KEY": "second", "OPENAI_API_KEY": "third"}

    def key(flags: SingleRouteFlags, environ: dict[str, str]) -> str | None:
        setting = single_route(flags, environ).routes[0].api_key
        return setting.value if setting else None

    assert key(SingleRouteFlags(api_key="first"), environ) == "first"
    assert key(SingleRouteFlags(), environ) == "second"
    assert key(SingleRouteFlags(), {**environ, "KHEISH_API_KEY": ""}) == "third"
    assert single_route(SingleRouteFlags(), environ).resolve().to_wire()["model"] == "gpt-5.4"
    chosen = single_route(SingleRouteFlags(provider="anthropic"), environ).routes[0]
    assert (chosen.route_id, chosen.default_model) == ("anthropic", "claude-opus-4-6")


def test_a_single_route_takes_its_details_from_flags_or_the_environment() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_BASE_URL": "http://h:1",
        "ANTHROPIC_BETA_HEADERS": "one, two",
        "ANTHROPIC_VERSION": "2024-01-01",
        "KHEISH_MODEL": "claude-x",
    }
    route = single_route(SingleRouteFlags(base_urls={"anthropic": "http://h:2/v1"}), environ).routes[0]

    assert route.endpoint == "http://h:2/v1/messages"
    assert route.anthropic_beta_headers == ("one", "two")
    assert route.anthropic_version == "2024-01-01"
    assert route.default_model == "claude-x"
    openai = single_route(
        SingleRouteFlags(provider="openai", api_key="k", openai_organization="o"), {"OPENAI_PROJECT": "p"}
    ).routes[0]
    assert openai.organization is not None
    assert openai.project is not None
    assert (openai.organization.value, openai.project.value) == ("o", "p")


def test_a_compatible_server_needs_a_base_url_and_a_model_but_no_key() -> None:
    environ = {"OPENAI_COMPATIBLE_BASE_URL": "http://localhost:11434/v1"}
    route = single_route(SingleRouteFlags(provider="openai_compatible", model="llama"), environ).routes[0]

    assert route.endpoint == "http://localhost:11434/v1/chat/completions"
    assert route.api_key is None
    assert route.model_support is ModelSupport.ANY


@pytest.mark.parametrize(
    ("flags", "environ", "message"),
    [
        (SingleRouteFlags(), {}, "no key for the provider anthropic: set KHEISH_API_KEY or ANTHROPIC_API_KEY"),
        (SingleRouteFlags(provider="openrouter"), {}, "OPENROUTER_API_KEY"),
        (SingleRouteFlags(provider="sk-SECRET"), {}, r"must be one of anthropic, google"),
        (SingleRouteFlags(provider="scripted"), {}, "needs a routes file"),
        (SingleRouteFlags(provider="openai_compatible"), {}, "--model"),
        (SingleRouteFlags(provider="openai_compatible", model="m"), {}, "OPENAI_COMPATIBLE_BASE_URL"),
        (SingleRouteFlags(api_key="k"), {"ANTHROPIC_BASE_URL": "nope"}, "ANTHROPIC_BASE_URL"),
        (SingleRouteFlags(api_key="k", openai_auth_source="codex"), {}, "--openai-auth-source"),
        (SingleRouteFlags(api_key="k"), {"KHEISH_ANTHROPIC_AUTH_SOURCE": "claude-code"}, "--anthropic-auth-source"),
    ],
)
def test_a_single_route_that_cannot_work_is_refused(
    flags: SingleRouteFlags, environ: dict[str, str], message: str
) -> None:
    with pytest.raises(RoutesError, match=message) as caught:
        single_route(flags, environ)

    assert "SECRET" not in caught.value.detail


async def test_the_registry_builds_a_provider_once_and_names_a_route_that_is_gone() -> None:
    script = parse_script({"fallback": {"text": "hello"}})
    scripted = Route(route_id="s", driver=Driver.SCRIPTED, default_model="m", script=script)
    unready = Route(route_id="u", driver=Driver.OPENAI, default_model="gpt-5", api_key=Setting(value=None, env="KEY"))
    registry = ProviderRegistry(RouteInventory(routes=(scripted, unready), default_route="s"))

    first = registry.provider_for(Pinned("s", "scripted"))

    assert first.driver == "scripted"
    assert registry.provider_for(Pinned("s", "scripted")) is first
    with pytest.raises(RouteGone, match="'b'"):
        registry.provider_for(Pinned("b", "scripted"))
    with pytest.raises(RouteGone, match="'s'"):
        registry.provider_for(Pinned("s", "anthropic"))
    with pytest.raises(RouteNotReady, match="KEY"):
        registry.provider_for(Pinned("u", "openai"))
    registry.replace_routes(RouteInventory(routes=(unready,), default_route="u"))
    with pytest.raises(RouteGone, match="'s'"):
        registry.provider_for(Pinned("s", "scripted"))
    await registry.aclose()


def test_a_key_that_goes_from_the_secret_store_is_missed_at_once() -> None:
    keys = {"slot": Key()}
    route = Route(
        route_id="r", driver=Driver.OPENAI_COMPATIBLE, default_model="m", base_url="http://h", auth_ref="slot"
    )
    inventory = RouteInventory(routes=(route,), default_route="r", keys=Keys(keys))
    registry = ProviderRegistry(inventory)
    registry.provider_for(Pinned("r", "openai_compatible"))

    del keys["slot"]

    with pytest.raises(RouteNotReady, match="slot"):
        registry.provider_for(Pinned("r", "openai_compatible"))


def test_the_terms_of_a_route_are_those_in_force() -> None:
    cheap, dear = (Price(input=price, output=price, cached_input=0, cache_write=0) for price in (1.0, 2.0))
    routes = [
        Route(
            route_id="r", driver=Driver.OPENAI_COMPATIBLE, default_model="m", base_url="http://h", prices={"m": price}
        )
        for price in (cheap, dear)
    ]
    registry = ProviderRegistry(RouteInventory(routes=(routes[0],), default_route="r"))
    pinned = Pinned("r", "scripted")
    seen = [registry.terms_for(pinned).price("m")]
    registry.replace_routes(RouteInventory(routes=(routes[1],), default_route="r"))
    seen.append(registry.terms_for(pinned).price("m"))
    registry.replace_routes(RouteInventory(routes=(), default_route=None))

    assert seen == [cheap, dear]
    assert registry.terms_for(pinned).price("m") is None
