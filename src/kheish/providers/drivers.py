"""The drivers and the facts about each that are data, not behaviour."""

from __future__ import annotations

from enum import StrEnum
from urllib.parse import urlsplit

from kheish.core.values import value_class
from kheish.providers.capabilities import Capabilities

_VENDORS_WITH_OWN_DRIVER = frozenset({"anthropic", "openai", "google", "xai", "x-ai"})


class Driver(StrEnum):
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OPENAI = "openai"
    OPENROUTER = "openrouter"
    XAI = "xai"
    OPENAI_COMPATIBLE = "openai_compatible"  # any other server that speaks chat completions
    PYDANTIC_AI = "pydantic_ai"  # any vendor that library knows; an optional extra
    SCRIPTED = "scripted"  # answers from a file, offline


@value_class(frozen=True, kw_only=True, slots=True)
class DriverFacts:
    """What is fixed for a driver."""

    capabilities: Capabilities
    default_model: str | None = None
    key_envs: tuple[str, ...] = ()
    """Environment variables that may hold the key, first one wins; empty: a key is never looked up."""
    key_required: bool = True
    default_endpoint: str | None = None
    resource: str = ""
    """What is appended to a `base_url` that is only an API root; `{model}` stands for the model of each call."""
    api_version: str = "v1"
    """What is appended before it when the root names no version."""
    base_url_env: str | None = None


FACTS: dict[Driver, DriverFacts] = {
    Driver.ANTHROPIC: DriverFacts(
        capabilities=Capabilities(multimodal_input=True, native_web_search=True),
        default_model="claude-opus-4-6",
        key_envs=("ANTHROPIC_API_KEY",),
        default_endpoint="https://api.anthropic.com/v1/messages",
        resource="messages",
        base_url_env="ANTHROPIC_BASE_URL",
    ),
    Driver.GOOGLE: DriverFacts(
        capabilities=Capabilities(multimodal_input=True, image_generation=True, image_edit=True),
        default_model="gemini-2.5-flash",
        key_envs=("KHEISH_GOOGLE_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY"),
        default_endpoint="https://generativelanguage.googleapis.com/v1beta/models/{model}:streamGenerateContent",
        resource="models/{model}:streamGenerateContent",
        api_version="v1beta",
        base_url_env="GOOGLE_BASE_URL",
    ),
    Driver.OPENAI: DriverFacts(
        capabilities=Capabilities(
            multimodal_input=True,
            native_web_search=True,
            image_generation=True,
            image_edit=True,
            audio_generation=True,
            transcription=True,
        ),
        default_model="gpt-5.4",
        key_envs=("OPENAI_API_KEY",),
        default_endpoint="https://api.openai.com/v1/responses",
        resource="responses",
        base_url_env="OPENAI_BASE_URL",
    ),
    Driver.OPENROUTER: DriverFacts(
        capabilities=Capabilities(
            multimodal_input=True, image_generation=True, image_edit=True, audio_generation=True, transcription=True
        ),
        default_model="openai/gpt-5.4-mini",
        key_envs=("OPENROUTER_API_KEY",),
        default_endpoint="https://openrouter.ai/api/v1/chat/completions",
        resource="chat/completions",
        base_url_env="OPENROUTER_BASE_URL",
    ),
    Driver.XAI: DriverFacts(
        capabilities=Capabilities(
            multimodal_input=True, native_web_search=True, image_generation=True, image_edit=True
        ),
        default_model="grok-4-fast-reasoning",
        key_envs=("XAI_API_KEY",),
        default_endpoint="https://api.x.ai/v1/responses",
        resource="responses",
        base_url_env="XAI_BASE_URL",
    ),
    Driver.OPENAI_COMPATIBLE: DriverFacts(
        capabilities=Capabilities(multimodal_input=True),
        key_required=False,
        resource="chat/completions",
        base_url_env="OPENAI_COMPATIBLE_BASE_URL",
    ),
    Driver.PYDANTIC_AI: DriverFacts(capabilities=Capabilities(), key_required=False),
    Driver.SCRIPTED: DriverFacts(capabilities=Capabilities(), key_required=False),
}


def endpoint_for(driver: Driver, base_url: str | None) -> str | None:
    """Return the URL a model call is posted to; None for a driver without one.

    An empty path, `/` and the API's version (`/v1`) are a root and get the driver's own suffix; any other path is the
    endpoint.
    """
    facts = FACTS[driver]
    if base_url is None:
        return facts.default_endpoint
    path = urlsplit(base_url).path
    root = base_url.removesuffix("/")
    if path.removesuffix("/") in ("/v1", f"/{facts.api_version}"):
        return f"{root}/{facts.resource}"
    if path in ("", "/"):
        prefix = "api/v1" if urlsplit(base_url).hostname == "openrouter.ai" else facts.api_version
        return f"{root}/{prefix}/{facts.resource}"
    return base_url


def base_url_fault(base_url: str) -> str | None:
    """Say which rule a base URL breaks; None when it is usable."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "must be an absolute http or https URL"
    if parts.scheme not in ("http", "https") or not host or any(character.isspace() for character in base_url):
        return "must be an absolute http or https URL with a host"
    if "@" in parts.netloc:
        return "must not contain a user name or password"
    if "?" in base_url or "#" in base_url:
        return "must not have a query or a fragment"
    return None


def in_family(driver: Driver, model: str) -> bool:
    """Say whether `model_support = "family"` accepts this model id."""
    name = model.lower()
    match driver:
        case Driver.ANTHROPIC:
            return "claude" in name
        case Driver.GOOGLE:
            return name.startswith("gemini")
        case Driver.OPENAI:
            return name.startswith(("gpt", "o1", "o3"))
        case Driver.XAI:
            return name.startswith("grok")
        case Driver.OPENROUTER:
            vendor, slash, rest = name.partition("/")
            return bool(slash and vendor and rest) and vendor not in _VENDORS_WITH_OWN_DRIVER
        case Driver.OPENAI_COMPATIBLE | Driver.PYDANTIC_AI | Driver.SCRIPTED:
            return bool(name)
