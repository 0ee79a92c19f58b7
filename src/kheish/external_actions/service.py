"""Reading the trail: nothing is shown that was not verified."""

from __future__ import annotations

from collections.abc import Collection

from kheish.auth.audit_chain import Fault
from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.external_actions import store
from kheish.runs.service import RunLedger
from kheish.store.database import Database


class TrailDamaged(Problem):
    """The trail of external actions is not as it was signed."""

    domain, code, status = "audit", "external_actions_damaged", 500

    def __init__(self, bucket: str, fault: Fault) -> None:
        self.fault = fault
        super().__init__(
            f"The external actions of {bucket} are not as they were signed: {fault}. "
            "Look at all of them with `kheish-daemon audit verify`."
        )


class ExternalActions:
    """The records of runs, verified on every read."""

    def __init__(self, *, database: Database, ledger: RunLedger, keys: Collection[str]) -> None:
        """``keys`` are the key ids to believe."""
        self._database = database
        self._ledger = ledger
        self._keys = keys

    async def of_run(self, run_id: str) -> list[JsonObject]:
        """A run's records, oldest first.

        Raises:
            RunNotFound: no run has the id.
            TrailDamaged: one of its records is not as it was signed; none is shown.
        """
        await self._ledger.session_of(run_id)
        found = await self._database.read(lambda reader: self._verified(store.chain(reader, run_id)))
        return [record.to_json() for record in found.records]

    def _verified(self, found: store.Chain) -> store.Chain:
        fault = found.check(self._keys)
        if fault is not None:
            raise TrailDamaged(found.bucket, fault)
        return found
