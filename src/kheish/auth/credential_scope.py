"""Which credentials a session may borrow: lists of names that allow and that deny."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import BadRequest
from kheish.core.values import value_class

ANY = "*"


@value_class(frozen=True, kw_only=True, slots=True)
class CredentialScope:
    """Deny beats allow; an allow list that has entries excludes everything else. Nothing listed: everything goes."""

    route_allow: frozenset[str] = frozenset()
    route_deny: frozenset[str] = frozenset()
    connector_allow: frozenset[str] = frozenset()
    connector_deny: frozenset[str] = frozenset()
    connector_credential_allow: frozenset[str] = frozenset()
    """Entries `<connector>:<ENV_KEY>`."""
    connector_credential_deny: frozenset[str] = frozenset()
    mcp_server_allow: frozenset[str] = frozenset()
    mcp_server_deny: frozenset[str] = frozenset()

    @classmethod
    def of(cls, lists: Mapping[str, JsonValue] | None) -> CredentialScope:
        """Read the wire form; names of a newer release are passed over.

        Raises:
            ValueError: a list is no list of texts.
        """
        if not lists:
            return _UNLIMITED
        found: dict[str, frozenset[str]] = {}
        for name in _NAMES:
            entries = lists.get(name) or []
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise ValueError(f"{name} is no list of names")
            found[name] = frozenset(cast("list[str]", entries))
        return cls(**found)

    def lets_route(self, route_id: str) -> bool:
        """Whether a call over this route may be made."""
        return _lets(route_id, self.route_allow, self.route_deny)


_UNLIMITED = CredentialScope()
"""One for all: most sessions have no list."""
_NAMES = tuple(field.name for field in fields(CredentialScope))


def normalised(lists: Mapping[str, Sequence[str]] | None) -> JsonObject | None:
    """The form that is stored and compared: known names only, entries trimmed and sorted, `*` alone; None when empty.

    Raises:
        BadRequest: a name is none of the eight, or a credential entry has no `<connector>:<ENV_KEY>`.
    """
    found: JsonObject = {}
    for name, entries in (lists or {}).items():
        if name not in _NAMES:
            raise BadRequest(f"credential_scope: {name!r} is none of {', '.join(_NAMES)}.")
        kept = sorted({entry.strip() for entry in entries if entry.strip()})
        if name.startswith("connector_credential_"):
            _check_credentials(name, kept)
        values: list[JsonValue] = [ANY] if ANY in kept else [*kept]
        if values:
            found[name] = values
    return found or None


def _check_credentials(name: str, entries: list[str]) -> None:
    for entry in entries:
        connector, colon, variable = entry.partition(":")
        if entry != ANY and not (connector and colon and variable):
            raise BadRequest(f"credential_scope.{name}: {entry!r} must be <connector>:<ENV_KEY>, or *.")


def _lets(name: str, allow: frozenset[str], deny: frozenset[str]) -> bool:
    if ANY in deny or name in deny:
        return False
    return not allow or ANY in allow or name in allow
