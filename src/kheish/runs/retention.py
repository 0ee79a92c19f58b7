"""What may be deleted of runs that are over: debug evidence, never the runs themselves."""

from __future__ import annotations

from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.runs import store
from kheish.runs.models import PruneRuns
from kheish.store.database import Database

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000


class InvalidRetention(Problem):
    """The request says nothing that can be kept to."""

    domain, code, status = "runs", "run_retention_invalid_request", 400


class Retention:
    """Finds what is old enough to go. Records, events, journals and outputs of runs stay for good."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def prune(self, request: PruneRuns) -> JsonObject:
        """Delete the debug evidence of runs that ended ``older_than_ms`` ago or earlier.

        Raises:
            InvalidRetention: an age or a limit is not positive.
        """
        if request.older_than_ms <= 0:
            raise InvalidRetention("older_than_ms must be a positive number of milliseconds.")
        limit = DEFAULT_LIMIT if request.limit is None else request.limit
        if not 0 < limit <= MAX_LIMIT:
            raise InvalidRetention(f"limit must be between 1 and {MAX_LIMIT}.")
        now_ms = self._clock.now_ms()
        cutoff_ms = now_ms - request.older_than_ms
        matched = await self._database.read(
            lambda reader: store.count_ended_before(reader, cutoff_ms, session_id=request.session_id)
        )
        # This release records no debug evidence: every run that matches has none that could go.
        return {
            "dry_run": request.dry_run,
            "now_ms": now_ms,
            "cutoff_ms": cutoff_ms,
            "limit": limit,
            "matched_run_count": matched,
            "candidate_run_ids": [],
            "candidate_debug_bytes": 0,
            "pruned_debug_run_ids": [],
            "pruned_debug_bytes": 0,
        }
