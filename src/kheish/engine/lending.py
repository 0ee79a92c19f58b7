"""Credentials of model calls: borrowed before each one, checked again when it is sent, told with its outcome."""

from __future__ import annotations

import hashlib
from typing import Protocol

from kheish.core.values import changed
from kheish.engine.entries import CredentialUse
from kheish.engine.state import RunState


class Lender(Protocol):
    """Who decides about credentials."""

    async def borrow(self, run: RunState) -> CredentialUse:
        """Lend the credential of the run's route.

        Raises:
            Problem: this run may not have it; nothing is sent.
        """
        ...

    def require(self, use: CredentialUse) -> None:
        """Check that what was lent still counts.

        Raises:
            Problem: it was revoked meanwhile.
        """
        ...


class Loan:
    """What one model call borrowed; `None` in `use` until it did."""

    def __init__(self, lender: Lender | None) -> None:
        """``lender`` None: nothing is lent and nothing is checked, as in a daemon without an edge."""
        self._lender = lender
        self.use: CredentialUse | None = None

    async def take(self, run: RunState) -> None:
        """Borrow for one call of ``run``.

        Raises:
            Problem: the run may not have the credential.
        """
        if self._lender is not None:
            self.use = await self._lender.borrow(run)

    def before_send(self, body: bytes) -> None:
        """Called by the transport with the bytes it is about to send.

        Raises:
            Problem: the credential was revoked; nothing is sent.
        """
        if self._lender is None or self.use is None:
            return
        self._lender.require(self.use)
        self.use = changed(self.use, request_digest=hashlib.sha256(body).hexdigest())
