"""Keys that live outside the routes: what a route needs from the secret store."""

from __future__ import annotations

from typing import Protocol

from kheish.providers.drivers import Driver

_SLOT_PROVIDERS = {
    Driver.ANTHROPIC: ("anthropic",),
    Driver.GOOGLE: ("google",),
    Driver.OPENAI: ("open_ai",),
    Driver.OPENROUTER: ("open_router",),
    Driver.XAI: ("x_ai",),
    Driver.OPENAI_COMPATIBLE: ("generic", "open_ai"),
}
"""Whose key each driver takes."""


class StoredKey(Protocol):
    """One secret of the store."""

    @property
    def provider(self) -> str:
        """Whose key it is, in the store's words."""
        ...

    @property
    def secret(self) -> str | None: ...

    def text(self, name: str) -> str | None:
        """Something kept beside the key: `organization`, `project`."""
        ...


class KeyStore(Protocol):
    """Finds secrets by the name a route gives in `auth_ref`, at each use: a rotated key counts at once."""

    def find(self, slot_id: str) -> StoredKey | None: ...


class NoKeys:
    """For daemons and checks without a secret store."""

    def find(self, slot_id: str) -> StoredKey | None:
        return None


def fits(driver: Driver, key: StoredKey) -> bool:
    """Whether the secret is a key of this driver's provider."""
    return key.provider in _SLOT_PROVIDERS.get(driver, ())
