"""How large a prompt may grow, and what it shrinks to: figures derived from the model's context window. Pure."""

from __future__ import annotations

from functools import lru_cache

from kheish.core.messages import Generation
from kheish.core.values import value_class
from kheish.engine.entries import RouteRef
from kheish.providers.model_table import context_window

UNKNOWN_WINDOW_TOKENS = 128_000
"""Assumed of a model nobody knows. A smaller one answers with an overflow, and that is relieved too."""
KEEP_LAST_MESSAGES = 6
SNIP_KEEPS_MESSAGES = 10
MICROCOMPACT_KEEPS_RESULTS = 5
IDLE_TIMEOUT_MS = 900_000

# The shares are those of the figures of a 200,000 token window: see docs/context-windows.md.
_OUTPUT_TOKENS = 20_000
_BUFFER_TOKENS = 13_000
_RESULT_TOKENS = 25_000
_MEMORY_TOKENS = 40_000
_SUMMARY_TOKENS = 8_000


@value_class(frozen=True, kw_only=True, slots=True)
class WindowPolicy:
    """All in tokens."""

    window: int
    """What the model can read and write in one call."""
    threshold: int
    """A prompt of this size is made smaller before it is sent."""
    snip_budget: int
    """What relief aims at."""
    memory_min: int
    memory_max: int
    """The recent messages that a compaction keeps are worth between these two."""
    summary_max: int
    """What the model may write when it is asked to summarise."""

    @property
    def least_gain(self) -> int:
        """A relief that frees less is not worth a cold prompt cache."""
        return max(1, self.threshold // 20)


def window_policy(route: RouteRef, generation: Generation, max_output_tokens: int | None = None) -> WindowPolicy:
    """Derive the figures of one model call; ``max_output_tokens`` is the ceiling it asks for, when it is raised."""
    window = window_tokens(route, generation)
    asked = max_output_tokens or generation.max_output_tokens or 0
    output = min(max(asked, min(_OUTPUT_TOKENS, window // 10)), window // 4)
    threshold = max(1, window - output - min(_BUFFER_TOKENS, window * 65 // 1000))
    return WindowPolicy(
        window=window,
        threshold=threshold,
        snip_budget=threshold * 120 // 167,
        memory_min=min(_MEMORY_TOKENS, threshold * 40 // 167) // 4,
        memory_max=min(_MEMORY_TOKENS, threshold * 40 // 167),
        summary_max=max(1, min(_SUMMARY_TOKENS, threshold * 20 // 167)),
    )


def window_tokens(route: RouteRef, generation: Generation) -> int:
    """The window of a run: what its route says, else the smaller one of its model and its fallback."""
    if route.context_window_tokens is not None:
        return route.context_window_tokens
    models = (route.model, generation.fallback_model or route.model)
    return min(_known(model) for model in models)


def result_tokens(window: int, calls: int) -> int:
    """How much of each result the model is shown when it made ``calls`` calls at once: together a third at most."""
    return max(1, min(_RESULT_TOKENS, window // 8, window // 3 // max(1, calls)))


@lru_cache
def _known(model: str) -> int:
    # Routers prefix the vendor: `anthropic/claude-...`.
    return context_window(model) or context_window(model.rpartition("/")[2]) or UNKNOWN_WINDOW_TOKENS
