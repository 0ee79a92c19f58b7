"""What is known about models, as data: window, output caps, and which request fields they take."""

from __future__ import annotations

from functools import lru_cache

from kheish.core.values import value_class

ESCALATION_CEILING_TOKENS = 64_000
"""The most that truncation recovery may ask for."""
ANTHROPIC_UNSET_MAX_TOKENS = 8_000
"""Messages requires `max_tokens`; an unset one is the smaller of this and the model's default."""


@value_class(frozen=True, kw_only=True, slots=True)
class OutputCaps:
    """Output tokens: what is asked for when nobody says, and what the model refuses to exceed."""

    default: int
    upper: int


# First match wins. "^x" matches the start of the model id, "x" anywhere in it.
_WINDOWS: tuple[tuple[str, int], ...] = (
    ("^claude-", 200_000),
    ("^gemini-2.5-", 1_048_576),
    ("^gemini-3", 65_536),
    ("image-preview", 65_536),
    ("^gpt-5", 400_000),
    ("^gpt-4.1", 1_047_576),
    ("^gpt-4o", 128_000),
)
_OUTPUTS: tuple[tuple[str, int, int], ...] = (
    ("opus-4-6", 64_000, 128_000),
    ("sonnet-4-6", 32_000, 128_000),
    ("opus-4-5", 32_000, 64_000),
    ("sonnet-4", 32_000, 64_000),
    ("haiku-4", 32_000, 64_000),
    ("opus-4-1", 32_000, 32_000),
    ("opus-4", 32_000, 32_000),
    ("claude-3-opus", 4_096, 4_096),
    ("claude-3-haiku", 4_096, 4_096),
    ("claude-3-sonnet", 8_192, 8_192),
    ("3-5-sonnet", 8_192, 8_192),
    ("3-5-haiku", 8_192, 8_192),
    ("3-7-sonnet", 32_000, 64_000),
    ("^gemini-2.5-", 65_536, 65_536),
    ("^gemini-3", 32_768, 32_768),
    ("image-preview", 32_768, 32_768),
)
_OTHER_OUTPUT = OutputCaps(default=8_000, upper=64_000)
# Claude models whose thinking is adaptive: no token budget, no temperature, an effort instead.
_CLAUDE_SINCE_4_7 = ("opus-4-7", "opus-4-8", "opus-5", "sonnet-5", "haiku-5", "mythos", "fable")
_ADAPTIVE_THINKING = ("opus-4-6", "sonnet-4-6", *_CLAUDE_SINCE_4_7)
# OpenAI models that reason can return their reasoning encrypted.
_OPENAI_REASONING = ("^gpt-5", "^o1", "^o3", "^o4", "^codex")
# Grok models that reason, and those that hold to a schema for the reply while they call tools.
_XAI_REASONING = ("^grok-3-mini", "^grok-4", "^grok-5", "^grok-code")
_XAI_WITHOUT_REASONING = "non-reasoning"
_XAI_STRUCTURES_BESIDE_TOOLS = ("^grok-4", "^grok-5")
_WITHOUT_TEMPERATURE = (*_OPENAI_REASONING, *_CLAUDE_SINCE_4_7)


def _matches(pattern: str, model: str) -> bool:
    name = model.lower()
    return name.startswith(pattern[1:]) if pattern.startswith("^") else pattern in name


@lru_cache(maxsize=256)
def context_window(model: str) -> int | None:
    """Return the context window in tokens, None when the model is not known."""
    return next((window for pattern, window in _WINDOWS if _matches(pattern, model)), None)


@lru_cache(maxsize=256)
def output_caps(model: str) -> OutputCaps:
    """Return the output caps in tokens; models that are not known get a common pair."""
    for pattern, default, upper in _OUTPUTS:
        if _matches(pattern, model):
            return OutputCaps(default=default, upper=upper)
    return _OTHER_OUTPUT


def thinks_adaptively(model: str) -> bool:
    """Say whether a Claude model takes adaptive thinking only."""
    return any(_matches(pattern, model) for pattern in _ADAPTIVE_THINKING)


def is_openai_reasoning(model: str) -> bool:
    """Say whether an OpenAI model reasons before it answers."""
    return any(_matches(pattern, model) for pattern in _OPENAI_REASONING)


def is_xai_reasoning(model: str) -> bool:
    """Say whether a Grok model reasons before it answers."""
    return not _matches(_XAI_WITHOUT_REASONING, model) and any(_matches(pattern, model) for pattern in _XAI_REASONING)


def structures_beside_tools(model: str) -> bool:
    """Say whether a Grok model takes a schema for its reply together with tools."""
    return any(_matches(pattern, model) for pattern in _XAI_STRUCTURES_BESIDE_TOOLS)


def takes_temperature(model: str) -> bool:
    """Say whether the model accepts a temperature at all."""
    return not any(_matches(pattern, model) for pattern in _WITHOUT_TEMPERATURE)
