"""One request, one effect: idempotency keys in the commit of what they protect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonValue, digest
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.http.idempotency import key_hash
from kheish.runs import store
from kheish.store.database import Database, Transaction

T = TypeVar("T")
Also = Callable[[Transaction], None]
"""Extra writes in the commit of a transition."""

_FINGERPRINT_VERSION = 1


class IdempotencyConflict(Problem):
    """This idempotency key was used with another request."""

    domain, code, status = "idempotency", "idempotency_conflict", 409


class _KeyTaken(Problem):
    """Another request with this key was committed first."""


@value_class(frozen=True, kw_only=True, slots=True)
class KeyedRequest:
    """A request that must take effect once within its scope."""

    scope: str
    key_hash: str
    fingerprint: str


def keyed(scope: str, key: str | None, request: JsonValue) -> KeyedRequest | None:
    """What identifies ``request`` under ``key``; None without a key."""
    if key is None:
        return None
    fingerprint = digest({"version": _FINGERPRINT_VERSION, "request": request})
    return KeyedRequest(scope=scope, key_hash=key_hash(key), fingerprint=fingerprint)


class IdempotencyKeys:
    """Finds what a key stands for, and claims it in the commit of the effect."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def once(
        self,
        request: KeyedRequest | None,
        attempt: Callable[[Callable[[str], Also]], Awaitable[T]],
        replay: Callable[[str], Awaitable[T]],
    ) -> T:
        """Run ``attempt`` unless the key was used; then return ``replay`` of the run it stands for.

        ``attempt`` gets a function from a run id to the write that claims the key.

        Raises:
            IdempotencyConflict: the key was used with another request.
        """
        if request is None:
            return await attempt(_no_claim)
        if (run_id := await self._find(request)) is not None:
            return await replay(run_id)
        try:
            return await attempt(self._claim(request))
        except Problem:
            # Lost a race, or refused because an earlier request with this key already had its effect.
            if (run_id := await self._find(request)) is not None:
                return await replay(run_id)
            raise

    def _claim(self, request: KeyedRequest) -> Callable[[str], Also]:
        def for_run(run_id: str) -> Also:
            def write(transaction: Transaction) -> None:
                connection = transaction.connection
                if store.find_key(connection, request.scope, request.key_hash) is not None:
                    raise _KeyTaken
                store.remember_key(
                    connection,
                    scope=request.scope,
                    key_hash=request.key_hash,
                    fingerprint=request.fingerprint,
                    run_id=run_id,
                    at_ms=self._clock.now_ms(),
                )

            return write

        return for_run

    async def _find(self, request: KeyedRequest) -> str | None:
        used = await self._database.read(lambda reader: store.find_key(reader, request.scope, request.key_hash))
        if used is None:
            return None
        if used.fingerprint != request.fingerprint:
            raise IdempotencyConflict
        return used.run_id


def _no_claim(_: str) -> Also:
    def nothing(_: Transaction) -> None:
        return

    return nothing
