from __future__ import annotations

from pathlib import Path

import pytest

from kheish.providers.credentials import NoKeys
from kheish.providers.drivers import Driver, endpoint_for
from kheish.providers.routes import ModelSupport, ReadinessState, RouteNotReady
from kheish.providers.routes_file import load_routes, parse_routes
from kheish.providers.tables import RoutesError

SECRET = "sk-SECRET-0123456789"
TWO = b"""
default_route = "b"
[routes.a]
driver = "openai"
default_model = "gpt-5.4"
api_key_env = "A_KEY"
organization = "org-1"
project_env = "A_PROJECT"
[routes.b]
driver = "anthropic"
default_model = "claude-sonnet-4-6"
api_key = "sk-SECRET-0123456789"
anthropic_beta_headers = ["one", "two"]
multimodal_input = false
"""


def route(body: str, *, head: str = "[routes.r]") -> bytes:
    return f'{head}\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key = "k"\n{body}\n'.encode()


def test_a_whole_file_becomes_an_inventory_with_the_default_route_first() -> None:
    inventory = parse_routes(TWO, {"A_KEY": "a-key", "A_PROJECT": "proj"})

    assert [found.route_id for found in inventory.routes] == ["b", "a"]
    assert inventory.default_route == "b"
    b, a = inventory.routes
    assert b.driver is Driver.ANTHROPIC
    assert b.anthropic_beta_headers == ("one", "two")
    assert b.anthropic_version == "2023-06-01"
    assert b.capabilities.to_wire() == {
        "matrix_version": 2,
        "multimodal_input": False,
        "native_web_search": True,
        "image_generation": False,
        "image_edit": False,
        "audio_generation": False,
        "transcription": False,
    }
    assert a.api_key is not None
    assert (a.api_key.value, a.api_key.env) == ("a-key", "A_KEY")
    assert a.organization is not None
    assert a.organization.value == "org-1"
    assert a.project is not None
    assert a.project.value == "proj"
    assert a.model_support is ModelSupport.FAMILY


def test_a_route_may_name_the_window_of_its_models() -> None:
    inventory = parse_routes(route("context_window_tokens = 8192"), {})
    assert inventory.resolve().context_window_tokens == 8_192
    assert inventory.resolve().to_wire()["context_window_tokens"] == 8_192


def test_the_only_route_is_the_default_route() -> None:
    assert parse_routes(route(""), {}).default_route == "r"


def test_no_representation_of_a_route_shows_its_key() -> None:
    inventory = parse_routes(TWO, {"A_KEY": "hidden-env-key"})

    assert SECRET not in repr(inventory)
    assert "hidden-env-key" not in repr(inventory)


@pytest.mark.parametrize("override", [None, "openai"])
def test_several_routes_without_a_default_are_refused_with_and_without_an_override(override: str | None) -> None:
    """daemon-and-cli case 9."""
    data = b"""
[routes.openai]
driver = "openai"
default_model = "gpt-5.4"
[routes.other]
driver = "openai"
default_model = "gpt-5.4"
"""
    with pytest.raises(RoutesError, match=r"default_route: is required when the file has more than one route"):
        parse_routes(data, {}, default_route=override)


def test_an_override_replaces_a_valid_default_and_must_name_a_route() -> None:
    assert parse_routes(TWO, {}, default_route="a").default_route == "a"
    with pytest.raises(RoutesError, match=r"--default-route: names no route"):
        parse_routes(TWO, {}, default_route="zzz")


def test_a_syntax_error_reports_line_and_column_and_never_the_content(tmp_path: Path) -> None:
    """daemon-and-cli case 10."""
    path = tmp_path / "routes.toml"
    path.write_text('[routes.a]\ndriver = "openai"\napi_key = "sk-SECRET\n')

    with pytest.raises(RoutesError) as caught:
        load_routes(path, {})

    assert caught.value.detail == f"routes file {path}: line 3, column 21: not valid TOML"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("data", "position"),
    [
        (b'version = 1\napi = "sk-SECRET', "line 2, column 17"),
        (b'a = "sk-SECRET"\na = 1\n', "line 2, column"),
        (b'version = 1\nkey = "sk-SECRET \xff\xfe"\n', "line 2, column 18"),
        (b"sk-SECRET", "line 1, column"),
        (b"[routes.a]\n[routes.a]\n", "line 2, column"),
    ],
)
def test_every_kind_of_broken_file_names_a_position_only(data: bytes, position: str) -> None:
    with pytest.raises(RoutesError) as caught:
        parse_routes(data, {})

    assert position in caught.value.detail
    assert "SECRET" not in caught.value.detail


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version = 2\n" + route(""), "version: must be 1"),
        (b"", "at least one"),
        (b"[routes]\n", "at least one"),
        (b"extra = 1\n" + route(""), "unknown key 'extra'"),
        (b'default_route = "x"\n' + route(""), "default_route: names no route"),
        (route("extra = 1"), "route 'r': unknown key 'extra'"),
        (route("context_window_tokens = 0"), "route 'r': context_window_tokens: must be at least 1"),
        (route('context_window_tokens = "8k"'), "route 'r': context_window_tokens: must be a whole number"),
        (route('"sk-SECRET-0123456789" = 1'), "unknown key \\(its name is not shown\\)"),
        (route("", head='[routes."a b"]'), "route number 1: the id must not be empty"),
        (route("", head='[routes."a/b"]'), "no '/'"),
        (route("", head='[routes.""]'), "the id must not be empty"),
        (route('api_key_env = "K"'), "route 'r': api_key: cannot be combined with api_key_env"),
        (route('auth_ref = "openai.prod"'), "auth_ref: cannot be combined with api_key"),
        (route('organization = "o"\norganization_env = "O"'), "organization: cannot be combined"),
        (route('project = "o"\nproject_env = "O"'), "project: cannot be combined"),
        (route('anthropic_version = "x"'), "anthropic_version: is for anthropic routes only"),
        (route('script = "x.toml"'), "script: is for scripted routes only"),
        (route('openai_auth_source = "codex"'), "openai_auth_source: account credentials are not available yet"),
        (route('openai_auth_source = "keychain"'), "openai_auth_source: must be one of api_key, codex"),
        (route('model_support = "all"'), "model_support: must be one of family, any"),
        (route('base_url = "ftp://h/x"'), "base_url: must be an absolute http or https URL"),
        (route('base_url = "/v1"'), "base_url: must be an absolute"),
        (route('base_url = "http://"'), "base_url: must be an absolute"),
        (route('base_url = "http://user:sk-SECRET-0123456789@h/v1"'), "must not contain a user name"),
        (route('base_url = "http://h/v1?key=sk-SECRET-0123456789"'), "must not have a query"),
        (route('base_url = "http://h/v1#"'), "must not have a query or a fragment"),
        (route('multimodal_input = "yes"'), "multimodal_input: must be true or false"),
        (b'[routes.r]\ndriver = "sk-SECRET-0123456789"\n', "driver: must be one of"),
        (b'[routes.r]\ndefault_model = "m"\n', "driver: is required"),
        (b'[routes.r]\ndriver = "openai"\ndefault_model = "  "\n', "default_model: must not be blank"),
        (b'[routes.r]\ndriver = "openai"\n', "default_model: is required"),
        (b"routes.r = 1\n", "must be a table"),
        (b'[routes.r]\ndriver = "openai_compatible"\ndefault_model = "m"\n', "base_url: is required"),
        (
            b'[routes.r]\ndriver = "anthropic"\ndefault_model = "claude-x"\naudio_generation = true\n',
            "audio_generation: anthropic has no backend",
        ),
        (
            b'[routes.r]\ndriver = "anthropic"\ndefault_model = "claude-x"\nanthropic_auth_source = "claude_code"\n',
            "anthropic_auth_source: account credentials are not available yet",
        ),
    ],
)
def test_a_broken_rule_names_the_route_and_the_key(data: bytes, message: str) -> None:
    with pytest.raises(RoutesError, match=message) as caught:
        parse_routes(data, {})

    assert SECRET not in caught.value.detail


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RoutesError, match=r"gone\.toml: No such file"):
        load_routes(tmp_path / "gone.toml", {})


@pytest.mark.parametrize(
    ("driver", "base_url", "endpoint"),
    [
        (Driver.OPENAI, None, "https://api.openai.com/v1/responses"),
        (Driver.ANTHROPIC, None, "https://api.anthropic.com/v1/messages"),
        (Driver.OPENROUTER, None, "https://openrouter.ai/api/v1/chat/completions"),
        (Driver.OPENAI, "http://h:1", "http://h:1/v1/responses"),
        (Driver.OPENAI, "http://h:1/", "http://h:1/v1/responses"),
        (Driver.OPENAI, "http://h:1/v1", "http://h:1/v1/responses"),
        (Driver.ANTHROPIC, "http://h:1/v1/", "http://h:1/v1/messages"),
        (Driver.OPENAI_COMPATIBLE, "http://h:1/v1", "http://h:1/v1/chat/completions"),
        (Driver.OPENAI_COMPATIBLE, "http://h:1/custom/", "http://h:1/custom/"),
        (Driver.ANTHROPIC, "http://h:1/proxy/messages", "http://h:1/proxy/messages"),
        (Driver.OPENROUTER, "https://openrouter.ai", "https://openrouter.ai/api/v1/chat/completions"),
        (Driver.SCRIPTED, None, None),
    ],
)
def test_a_base_url_is_an_api_root_or_the_endpoint(driver: Driver, base_url: str | None, endpoint: str | None) -> None:
    assert endpoint_for(driver, base_url) == endpoint


def test_an_unset_key_variable_makes_the_route_not_ready_and_names_what_to_do() -> None:
    inventory = parse_routes(TWO, {"A_PROJECT": "p"})

    a = inventory.find("a")
    assert a is not None
    readiness = a.readiness()
    assert (readiness.state, readiness.code) == (ReadinessState.ERROR, "api_key_env_unset")
    with pytest.raises(RouteNotReady, match=r"'a' is not ready: .*A_KEY is not set\. Action: Set A_KEY") as caught:
        inventory.require_ready("a")
    assert (caught.value.domain, caught.value.code) == ("routes", "route_not_ready")
    inventory.require_ready("b")


def test_a_route_without_credential_keys_falls_back_to_the_variable_of_its_driver() -> None:
    data = b'[routes.r]\ndriver = "openai"\ndefault_model = "gpt-5.4"\n'

    ready = parse_routes(data, {"OPENAI_API_KEY": "k"}).routes[0]
    unready = parse_routes(data, {}).routes[0]

    assert ready.readiness().state is ReadinessState.OK
    assert unready.readiness().message == "The environment variable OPENAI_API_KEY is not set."


def test_a_compatible_server_needs_no_key_and_is_never_sent_one_by_accident() -> None:
    data = b'[routes.r]\ndriver = "openai_compatible"\ndefault_model = "m"\nbase_url = "http://h"\n'

    found = parse_routes(data, {"OPENAI_API_KEY": "k", "KHEISH_API_KEY": "k"}).routes[0]

    assert found.api_key is None
    assert found.readiness().code == "no_auth"


def test_a_named_secret_must_exist() -> None:
    data = b'[routes.r]\ndriver = "anthropic"\ndefault_model = "claude-x"\nauth_ref = "anthropic.prod"\n'

    with pytest.raises(RoutesError, match=r"route 'r': auth_ref: the secret slot 'anthropic.prod' does not exist"):
        parse_routes(data, {}).with_keys(NoKeys())
