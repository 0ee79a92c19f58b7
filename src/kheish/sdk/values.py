"""Values callers build: routes, reply targets, answers, generation settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from kheish.sdk.jsonvalue import JsonObject, JsonValue

OnRestart = Literal["resume", "interrupt"]
"""What a restart of the daemon does with a run that is running."""
OnInDoubt = Literal["report", "ask"]
"""A call that may have taken effect when the daemon died: tell the model, or ask a human whether to run it again."""


class GenerationOptions(TypedDict, total=False):
    """How the model answers; what is left out keeps the session's or the daemon's setting."""

    model: str
    fallback_model: str
    tool_choice: JsonValue
    """`auto`, `none`, `required`, or `{"type": "specific", "name": …}`."""
    allow_parallel_tool_calls: bool
    max_output_tokens: int
    temperature: float
    reasoning: JsonObject
    response_format: JsonObject


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the daemon by its id, and optionally another model than the route's own."""

    route_id: str
    model: str | None = None

    @classmethod
    def openai(cls, model: str | None = None) -> Route:
        """The route called `openai`."""
        return cls("openai", model)

    @classmethod
    def anthropic(cls, model: str | None = None) -> Route:
        """The route called `anthropic`."""
        return cls("anthropic", model)

    @classmethod
    def google(cls, model: str | None = None) -> Route:
        """The route called `google`."""
        return cls("google", model)

    @classmethod
    def openrouter(cls, model: str | None = None) -> Route:
        """The route called `openrouter`."""
        return cls("openrouter", model)

    @classmethod
    def xai(cls, model: str | None = None) -> Route:
        """The route called `xai`."""
        return cls("xai", model)


@dataclass(frozen=True, slots=True)
class ReplyTarget:
    """Where outputs are delivered. Build one with a class method."""

    fields: JsonObject = field(repr=False)
    """The wire form; an HTTP target's headers may be confidential, so it is not shown."""

    @classmethod
    def raw(cls, plugin: str, address: str) -> ReplyTarget:
        """A plugin and an address in the plugin's own notation."""
        return cls({"plugin": plugin, "address": address})

    @classmethod
    def http(cls, url: str, *, headers: Mapping[str, str] | None = None) -> ReplyTarget:
        """A web hook."""
        return cls(_without_none({"type": "http", "url": url, "headers": dict(headers) if headers else None}))

    @classmethod
    def telegram(
        cls,
        connector: str,
        chat_id: int,
        *,
        message_thread_id: int | None = None,
        reply_to_message_id: int | None = None,
    ) -> ReplyTarget:
        """A chat, reached through a Telegram connector."""
        fields: JsonObject = {"type": "telegram", "connector": connector, "chat_id": chat_id}
        optional: JsonObject = {"message_thread_id": message_thread_id, "reply_to_message_id": reply_to_message_id}
        return cls(_without_none({**fields, **optional}))

    @classmethod
    def slack(
        cls,
        connector: str,
        channel_id: str,
        *,
        thread_ts: str | None = None,
        team_id: str | None = None,
        enterprise_id: str | None = None,
    ) -> ReplyTarget:
        """A channel or thread, reached through a Slack connector."""
        fields: JsonObject = {"type": "slack", "connector": connector, "channel_id": channel_id}
        optional: JsonObject = {"thread_ts": thread_ts, "team_id": team_id, "enterprise_id": enterprise_id}
        return cls(_without_none({**fields, **optional}))

    @classmethod
    def external(cls, connector: str, route: JsonValue) -> ReplyTarget:
        """A place an external connector knows."""
        return cls({"type": "external", "connector": connector, "route": route})


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An answer with options and text; a plain list or text will do where only one is given."""

    option_ids: Sequence[str] = ()
    text: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """The decision on one approval request."""

    request_id: str
    allow: bool
    updated_input: JsonValue = None
    """Run the tool with this input instead; null keeps what the model asked for."""
    justification: str | None = None
    reason: str | None = None
    """What the model is told of a denial."""

    def to_json(self) -> JsonObject:
        """The wire form."""
        return _without_none(
            {
                "request_id": self.request_id,
                "behavior": "allow" if self.allow else "deny",
                "updated_input": self.updated_input,
                "justification": self.justification,
                "reason": self.reason,
            }
        )


def _without_none(fields: JsonObject) -> JsonObject:
    return {key: value for key, value in fields.items() if value is not None}
