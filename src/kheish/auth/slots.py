"""Slots of the secret store: what may be kept, and what may be shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from enum import StrEnum
from typing import TypeVar

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import Problem
from kheish.core.values import value_class

E = TypeVar("E", bound=StrEnum)

MAX_SLOT_ID_CHARS = 200
_GENERIC_PREFIXES = ("connectors.", "mcp.")
_OAUTH_PREFIX = "mcp.oauth."


class SecretRefused(Problem):
    """The secret cannot be kept as it was given."""

    domain, code, status = "secrets", "invalid_secret", 400


class SlotProvider(StrEnum):
    GENERIC = "generic"
    MCP_OAUTH = "mcp_oauth"
    OPENAI = "open_ai"
    ANTHROPIC = "anthropic"
    GOOGLE = "google"
    OPENROUTER = "open_router"
    XAI = "x_ai"


class SlotMode(StrEnum):
    OPAQUE_SECRET = "opaque_secret"  # noqa: S105  # a word of the wire contract
    API_KEY = "api_key"
    OAUTH_ACCOUNT = "oauth_account"


_SHOWN = frozenset({"kind", "organization", "project", "issuer", "resource", "scopes", "server_name"})
"""Texts of a state that are no secrets."""
_EARLIER_SPELLINGS = {"mcp_o_auth": "mcp_oauth", "o_auth_account": "oauth_account"}
_SUMMARIES = {
    SlotMode.OPAQUE_SECRET: "opaque secret",
    SlotMode.API_KEY: "API key",
    SlotMode.OAUTH_ACCOUNT: "OAuth account",
}


@value_class(frozen=True, kw_only=True, slots=True)
class Slot:
    """One secret under its name. `state` is never shown."""

    slot_id: str
    provider: SlotProvider
    mode: SlotMode
    updated_at_ms: int
    state: JsonObject = field(repr=False)

    def status(self) -> JsonObject:
        """All that any reader gets to see."""
        return {
            "slot_id": self.slot_id,
            "provider": self.provider.value,
            "mode": self.mode.value,
            "summary": _SUMMARIES[self.mode],
            "updated_at_ms": self.updated_at_ms,
        }

    @property
    def secret(self) -> str | None:
        """The key or value itself; None for an account, which has more than one."""
        value = self.state.get("value" if self.mode is SlotMode.OPAQUE_SECRET else "api_key")
        return value if isinstance(value, str) else None

    def secrets(self) -> list[str]:
        """Every text of the state that nobody may see."""
        return list(_hidden(self.state))

    def text(self, name: str) -> str | None:
        """Another text of the state, such as `organization`."""
        value = self.state.get(name)
        return value if isinstance(value, str) else None

    def record(self) -> JsonObject:
        """As it stands in the store."""
        return {
            "slot_id": self.slot_id,
            "provider": self.provider.value,
            "mode": self.mode.value,
            "state": self.state,
            "updated_at_ms": self.updated_at_ms,
        }


def _hidden(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _hidden(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in _SHOWN:
                yield from _hidden(item)


def check_slot_id(slot_id: str) -> None:
    """Refuse a name that no route, connector or command could use.

    Raises:
        SecretRefused: it is blank, has white space or control characters, or is too long.
    """
    usable = slot_id and len(slot_id) <= MAX_SLOT_ID_CHARS and slot_id.isprintable() and " " not in slot_id
    if not usable:
        raise SecretRefused(
            f"slot_id: give 1 to {MAX_SLOT_ID_CHARS} printable characters without spaces, for example openai.prod."
        )


def new_slot(fields: JsonObject, *, updated_at_ms: int) -> Slot:
    """A slot as a caller wants it kept.

    Raises:
        SecretRefused: a field is missing or wrong, or the name and the kind do not go together. Never repeats a value.
    """
    slot_id = fields.get("slot_id")
    if not isinstance(slot_id, str):
        raise SecretRefused("slot_id is missing.")
    check_slot_id(slot_id)
    provider = _word(SlotProvider, fields.get("provider"), "provider")
    mode = _word(SlotMode, fields.get("mode"), "mode")
    _check_kind(slot_id, provider, mode)
    state = fields.get("state")
    if not isinstance(state, dict):
        raise SecretRefused("state: give an object.")
    return Slot(
        slot_id=slot_id, provider=provider, mode=mode, updated_at_ms=updated_at_ms, state=_state(provider, state)
    )


def stored_slot(slot_id: str, record: JsonValue) -> Slot:
    """A slot as the store has it; kinds this release cannot make are kept as they are.

    Raises:
        ValueError: it is no slot.
    """
    if not isinstance(record, dict):
        raise ValueError("not an object")
    state, updated = record.get("state"), record.get("updated_at_ms", 0)
    if not isinstance(state, dict) or not isinstance(updated, int):
        raise ValueError("state or updated_at_ms is wrong")
    return Slot(
        slot_id=slot_id,
        provider=SlotProvider(_current_spelling(record.get("provider"))),
        mode=SlotMode(_current_spelling(record.get("mode"))),
        updated_at_ms=updated,
        state=state,
    )


def _current_spelling(word: JsonValue) -> str:
    return _EARLIER_SPELLINGS.get(str(word), str(word))


def _word(kind: type[E], word: JsonValue, name: str) -> E:
    try:
        return kind(_current_spelling(word))
    except ValueError:
        raise SecretRefused(f"{name}: must be one of {', '.join(kind)}.") from None


def _check_kind(slot_id: str, provider: SlotProvider, mode: SlotMode) -> None:
    if mode is SlotMode.OAUTH_ACCOUNT or provider is SlotProvider.MCP_OAUTH:
        raise SecretRefused(f"Accounts cannot be set as secrets; a slot named {_OAUTH_PREFIX}* comes from a login.")
    if slot_id.startswith(_OAUTH_PREFIX):
        raise SecretRefused(f"slot_id: {_OAUTH_PREFIX}* is for OAuth accounts.")
    if slot_id.startswith(_GENERIC_PREFIXES) and provider is not SlotProvider.GENERIC:
        raise SecretRefused(f"provider: a slot named {slot_id} must be generic.")
    wanted = SlotMode.OPAQUE_SECRET if provider is SlotProvider.GENERIC else SlotMode.API_KEY
    if mode is not wanted:
        raise SecretRefused(f"mode: must be {wanted} for the provider {provider}.")


def _state(provider: SlotProvider, given: JsonObject) -> JsonObject:
    if provider is SlotProvider.GENERIC:
        return {"value": _secret(given, "value", ("value",))}
    if provider is not SlotProvider.OPENAI:
        return {"kind": "api_key", "api_key": _secret(given, "api_key", ("kind", "api_key"))}
    key = _secret(given, "api_key", ("kind", "api_key", "organization", "project"))
    named = {name: _optional(given, name) for name in ("organization", "project")}
    return {"kind": "api_key", "api_key": key, **named}


def _secret(given: JsonObject, name: str, known: tuple[str, ...]) -> str:
    unknown = [key for key in given if key not in known]
    if unknown:
        raise SecretRefused(f"state: has a field that is none of {', '.join(known)}.")
    if given.get("kind", "api_key") != "api_key":
        raise SecretRefused("state.kind: must be api_key.")
    value = given.get(name)
    if not isinstance(value, str) or not value.strip():
        raise SecretRefused(f"state.{name}: the secret is missing or blank.")
    return value


def _optional(given: JsonObject, name: str) -> str | None:
    value = given.get(name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise SecretRefused(f"state.{name}: give a text, or leave it out.")
    return value
