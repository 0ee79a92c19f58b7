"""The rules of secrets: who changes the store, in which order, and what is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from kheish.auth.secret_store import SecretStore
from kheish.auth.slots import Slot, new_slot
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem, StoreUnavailable


class SecretNotFound(Problem):
    """No slot has this name."""

    domain, code, status = "secrets", "secret_not_found", 404

    def __init__(self, slot_id: str) -> None:
        super().__init__(f"There is no secret named {slot_id!r}.")


class Secrets:
    """Reads and changes the secret store while the daemon runs."""

    def __init__(
        self,
        *,
        store: SecretStore,
        clock: Clock,
        changed: Callable[[str], None],
        revoked_at: Callable[[str], int],
    ) -> None:
        """``changed`` is told the name of every slot that was written or removed, after it is durable; ``revoked_at``
        says when a slot was last revoked, in Unix milliseconds."""
        self._store = store
        self._revoked_at = revoked_at
        self._clock = clock
        self._changed = changed
        self._writing = asyncio.Lock()

    def list(self) -> list[JsonObject]:
        """Every slot's status, by name."""
        return [self._store.slots[slot_id].status() for slot_id in sorted(self._store.slots)]

    def get(self, slot_id: str) -> JsonObject:
        """One slot's status.

        Raises:
            SecretNotFound: there is none.
        """
        slot = self._store.slots.get(slot_id)
        if slot is None:
            raise SecretNotFound(slot_id)
        return slot.status()

    async def set(self, fields: JsonObject) -> JsonObject:
        """Create or rotate a slot; returns its status.

        Raises:
            SecretRefused: the record is not usable.
            StoreLocked: the daemon has no master key.
            StoreUnavailable: the disk refused; the old secret is in force.
        """
        slot = new_slot(fields, updated_at_ms=self._clock.now_ms())
        async with self._writing:
            slot = replace(slot, updated_at_ms=self._written_at(slot))
            await self._replace({**self._store.slots, slot.slot_id: slot})
        self._changed(slot.slot_id)
        return slot.status()

    async def delete(self, slot_id: str) -> bool:
        """Remove a slot; False when there was none.

        Raises:
            StoreLocked, StoreUnavailable: as for `set`.
        """
        async with self._writing:
            if slot_id not in self._store.slots:
                return False
            await self._replace({name: slot for name, slot in self._store.slots.items() if name != slot_id})
        self._changed(slot_id)
        return True

    def _written_at(self, slot: Slot) -> int:
        """Later than its last revocation and its last write, whatever the clock says: both end with this write."""
        earlier = self._store.slots.get(slot.slot_id)
        written = -1 if earlier is None else earlier.updated_at_ms
        return max(slot.updated_at_ms, written + 1, self._revoked_at(slot.slot_id) + 1)

    async def _replace(self, slots: dict[str, Slot]) -> None:
        try:
            await asyncio.to_thread(self._store.replace, slots)
        except OSError as error:
            raise StoreUnavailable(
                f"The secret store could not be written: {error.strerror}. The old content is in force."
            ) from error
