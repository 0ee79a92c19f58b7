"""What must be true of a world when everything is over, however often its daemon was killed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kheish.engine.codec import decode_entry, encode_entry
from kheish.engine.entries import ModelFailed, ModelReplied, Recorded, RunEnded, ToolFinished, ToolIntended
from kheish.engine.state import fold
from kheish.external_actions.happenings import body_digest
from tests.crash.laboratory import World, scope_of
from tests.crash.work import Work, in_doubt

_ACTING = frozenset({"bash", "write_file", "edit_file", "apply_patch"})
"""Tools that change something outside of the store."""
TERMINAL = {"completed", "failed", "interrupted", "cancelled"}
_EXPECTED_ERRORS = frozenset({"daemon.drain_deadline_exceeded"})


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the summary prints."""

    seed: int
    runs: int
    kills: int
    by_manner: dict[str, int]
    clean_stops: int
    resumed_runs: int
    resumes: int
    in_doubt_calls: int
    repeated_effects: int
    lost_runs: int
    model_requests: int


def check(world: World) -> Report:
    """Stop the daemon and look at everything. Fails with every violation at once."""
    world.until_watched()
    world.stop()
    world.violations += world.verify()
    with contextlib.closing(sqlite3.connect(world.database)) as connection:
        connection.row_factory = sqlite3.Row
        evidence = _Evidence(world, connection)
        wrong = [*world.violations, *world.troubles(), *evidence.wrong()]
        report = evidence.report()
    summary = "\n".join(f"- {violation[:3000]}" for violation in wrong[:40])
    assert not wrong, f"{len(wrong)} violations (repeat with --crash-seed {world.seed}; {report}):\n{summary}"
    return report


class _Evidence:
    def __init__(self, world: World, connection: sqlite3.Connection) -> None:
        self._world = world
        self._sql = connection
        self._entries = [_recorded(row) for row in connection.execute("SELECT * FROM journal ORDER BY 1, 2")]
        self._types = Counter(row["type"] for row in connection.execute("SELECT type FROM journal"))
        self._runs = {row["run_id"]: row for row in connection.execute("SELECT * FROM runs")}
        self._labels = {run_id: label for label, run_id in world.submitter.accepted.items()}
        self._repeated = 0

    def report(self) -> Report:
        world = self._world
        return Report(
            seed=world.seed,
            runs=len(self._runs),
            kills=world.tally.kills,
            by_manner=world.tally.by_manner,
            clean_stops=world.tally.clean_stops,
            resumed_runs=len({entry.run_id for entry in self._entries if _type(entry) == "Resumed"}),
            resumes=self._types["resumed"],
            in_doubt_calls=len(self._doubted()),
            repeated_effects=self._repeated,
            lost_runs=len(list(self._lost_runs())),
            model_requests=len(world.model.arrivals),
        )

    def wrong(self) -> Iterator[str]:
        yield from self._integrity()
        yield from self._lost_runs()
        yield from self._run_ids()
        yield from self._rows_against_journal()
        yield from self._trail()
        yield from self._answers()
        yield from self._effects()
        yield from self._model_calls()
        yield from self._conversations()
        yield from self._outputs()
        yield from self._events()
        yield from self._leftovers()
        yield from self._log()

    # The store

    def _integrity(self) -> Iterator[str]:
        (verdict,) = self._sql.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            yield f"the database is damaged: {verdict}"
        for session_id, positions in self._by_session(lambda entry: entry.offset).items():
            if positions != list(range(1, len(positions) + 1)):
                yield f"the journal of {session_id} has holes: {positions}"
        for session_id, times in self._by_session(lambda entry: entry.at_ms).items():
            if times != sorted(times):
                yield f"time runs backwards in the journal of {session_id}"

    def _rows_against_journal(self) -> Iterator[str]:
        """The tables say what the journal says."""
        for session_id, journal in self._by_session(lambda entry: entry).items():
            state = fold(session_id, journal)
            if state.active is not None or state.queue:
                yield f"the journal of {session_id} has unfinished runs"
        for entry in self._entries:
            if not isinstance(entry.entry, RunEnded):
                continue
            row = self._runs.get(entry.run_id or "")
            if row is None or (row["status"], row["last_offset"]) != (entry.entry.status.value, entry.offset):
                yield f"the row of {entry.run_id} does not say {entry.entry.status} at {entry.offset}"

    def _trail(self) -> Iterator[str]:
        """What was done outside is signed once each, and nothing else is."""
        intended = [entry for entry in self._entries if isinstance(entry.entry, ToolIntended)]
        begun = {entry.entry.call_id for entry in intended if entry.entry.name in _ACTING}
        asked = Counter(
            (one.run_id, body_digest(encode_entry(one.entry))) for one in intended if one.entry.name in _ACTING
        )
        told = Counter(
            (one.run_id, body_digest(encode_entry(one.entry)))
            for one in self._entries
            if isinstance(one.entry, ModelReplied | ModelFailed)
            or (isinstance(one.entry, ToolFinished) and one.entry.call_id in begun)
        )
        requests = "SELECT run_id, request_digest FROM external_actions WHERE phase = 'request' AND kind = 'tool_call'"
        responses = "SELECT run_id, response_digest FROM external_actions WHERE phase = 'response'"
        for name, query, expected in (("intents", requests, asked), ("outcomes", responses, told)):
            signed = Counter(tuple(row) for row in self._sql.execute(query))
            if signed != expected:
                yield f"the signed {name} are not those of the journal: {signed - expected} and {expected - signed}"

    # Runs

    def _lost_runs(self) -> Iterator[str]:
        for label in self._world.model.works:
            run = self._runs.get(self._world.submitter.accepted.get(label, ""))
            if run is None:
                yield f"{label} was accepted, or never answered, and there is no run"
            elif run["status"] not in TERMINAL:
                yield f"{label} is {run['status']}"

    def _run_ids(self) -> Iterator[str]:
        stands_for: dict[str, str] = {}
        for label, run_id in self._world.submitter.answers:
            if stands_for.setdefault(run_id, label) != label:
                yield f"{run_id} stands for {stands_for[run_id]} and {label}"
        if len(self._runs) != len(self._world.submitter.accepted):
            yield f"{len(self._world.submitter.accepted)} pieces of work became {len(self._runs)} runs"

    def _answers(self) -> Iterator[str]:
        """Decision 1: the same answer, or, for a call in doubt, an answer that shows that the model was told."""
        for run_id, label in self._labels.items():
            work, run = self._world.model.works[label], self._runs.get(run_id)
            if run is None:
                continue
            if run["status"] not in _allowed(work):
                yield f"{label} is {run['status']}: {run['error']}"
            said, expected = self._answer(run_id), self._calm_but_for_doubt(run_id, work)
            if run["status"] == "completed" and said != expected:
                yield f"{label} ended with\n    {said!r}, not\n    {expected!r}"

    def _answer(self, run_id: str) -> str:
        ends = [entry.entry for entry in self._entries if entry.run_id == run_id and isinstance(entry.entry, RunEnded)]
        return str(ends[-1].output) if ends else ""

    def _calm_but_for_doubt(self, run_id: str, work: Work) -> str:
        """The answer without a kill, with the calls in doubt named as such."""
        doubted = self._doubted()
        replies = [entry.entry for entry in self._entries if entry.run_id == run_id and _type(entry) == "ModelReplied"]
        outcomes = [
            ["doubt" if part.call_id in doubted else "ok" for part in reply.parts if hasattr(part, "call_id")]
            for reply in replies
        ]
        return work.answer([outcome for outcome in outcomes if outcome])

    def _doubted(self) -> set[str]:
        """Calls whose recorded result says that nobody knows."""
        return {
            entry.entry.call_id
            for entry in self._entries
            if _type(entry) == "ToolFinished" and in_doubt(entry.entry.output)
        }

    # Effects

    def _effects(self) -> Iterator[str]:
        """Each call with an effect took it once, or at most once when it was in doubt or stopped."""
        doubted = self._doubted()
        lines = Counter(
            line for file in self._world.effects.iterdir() for line in file.read_text(errors="replace").splitlines()
        )
        for run_id, label in self._labels.items():
            finished = self._finished_by_token(run_id, self._world.model.works[label])
            for token in self._world.model.works[label].tokens:
                if lines[token] > 1:
                    self._repeated += 1
                    yield f"the effect {token} took place {lines[token]} times"
                sure = finished.get(token)
                if sure is not None and not sure.is_error and sure.call_id not in doubted and lines[token] != 1:
                    yield f"the effect {token} took place {lines[token]} times and the journal says it succeeded"
                if _denied(sure) and lines[token]:
                    yield f"the denied {token} took place"

    def _finished_by_token(self, run_id: str, work: Work) -> dict[str, Any]:
        found: dict[str, Any] = {}
        calls: dict[str, str] = {}
        for entry in self._entries:
            if entry.run_id != run_id:
                continue
            if _type(entry) == "ModelReplied":
                texts = {part.call_id: json.dumps(part.input) for part in entry.entry.parts if hasattr(part, "call_id")}
                for token in work.tokens:
                    calls |= {call_id: token for call_id, text in texts.items() if token in text}
            elif _type(entry) == "ToolFinished" and entry.entry.call_id in calls:
                found[calls[entry.entry.call_id]] = entry.entry
        return found

    # The model

    def _model_calls(self) -> Iterator[str]:
        """A reply that was recorded is never asked for again."""
        recorded = {
            (self._labels.get(entry.run_id or ""), entry.entry.turn): entry.at_ms
            for entry in self._entries
            if _type(entry) == "ModelReplied"
        }
        for (label, turn), at_ms in recorded.items():
            asked = self._world.model.requests(label or "", turn - 1)
            if not asked:
                yield f"{label} has a reply {turn} that nobody asked for"
            late = [arrival.at_ms for arrival in asked if arrival.at_ms > at_ms]
            if late:
                yield f"{label} asked for reply {turn} again, {late[0] - at_ms} ms after it was recorded"

    def _conversations(self) -> Iterator[str]:
        """What a session says to its model only grows, and is the same when it is said again."""
        last: dict[str, tuple[str, ...]] = {}
        for arrival in self._world.model.arrivals:
            session = self._world.sessions[arrival.label]
            before = last.get(session, ())
            if arrival.messages[: len(before)] != before:
                yield f"{arrival.label} turn {arrival.turn}: the conversation is not a continuation of what was said"
            last[session] = arrival.messages

    # What people see

    def _outputs(self) -> Iterator[str]:
        """Each output is dispatched once."""
        for run_id, label in self._labels.items():
            rows = self._sql.execute("SELECT body FROM outputs WHERE run_id = ? ORDER BY position", (run_id,))
            contents = [json.loads(row["body"])["content"] for row in rows]
            work = self._world.model.works[label]
            if self._runs[run_id]["status"] == "completed" and contents != [*work.emitted, self._answer(run_id)]:
                yield f"{label} has the outputs {contents}"
            events = [
                json.loads(row["data"])["output"]["content"]
                for row in self._sql.execute(
                    "SELECT data FROM feed WHERE type = 'output' AND run_id = ? ORDER BY id", (run_id,)
                )
            ]
            if events != contents:
                yield f"{label} has the outputs {contents} and the feed told {events}"

    def _events(self) -> Iterator[str]:
        """A watcher that reconnects with its last id has seen every event, once, in order."""
        for watcher in self._world.watchers:
            seen = [(one.id, one.type, one.data) for one in watcher.seen]
            statement = f"SELECT id, type, data FROM feed {scope_of(watcher.path)} ORDER BY id"
            kept = [(row["id"], row["type"], row["data"]) for row in self._sql.execute(statement)]
            if [one[0] for one in seen] != sorted({one[0] for one in seen}):
                yield f"{watcher.name} saw ids that do not increase strictly"
            if seen != kept:
                lost, more = sorted(set(kept) - set(seen)), sorted(set(seen) - set(kept))
                yield f"{watcher.name} missed {lost[:3]} and saw {more[:3]}, which is not in the feed"

    # The machine

    def _leftovers(self) -> Iterator[str]:
        if left := self._world.daemon.processes():
            yield f"processes outlived the daemon: {left}"
        if files := [file.name for file in self._world.effects.iterdir() if file.name.endswith(".tmp")]:
            yield f"half-written files are left: {files}"

    def _log(self) -> Iterator[str]:
        """A kill is no reason for an error in the log, or for a traceback beside it."""
        for line in self._world.daemon.log().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                yield f"not a log line: {line[:300]}"
                continue
            if entry.get("level") in ("error", "critical") and entry.get("event") not in _EXPECTED_ERRORS:
                yield f"the log has an error: {line}"

    def _by_session(self, of: Any) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for entry in self._entries:
            found.setdefault(entry.session_id, []).append(of(entry))
        return found


def _denied(finished: Any) -> bool:
    """A human said no before it ran."""
    output = None if finished is None else finished.output
    return isinstance(output, dict) and output.get("denied") is True and not in_doubt(output)


def _allowed(work: Work) -> set[str]:
    """How a run may end."""
    if work.hangs:
        # Completed: a kill put its command in doubt, and it went on before somebody stopped it.
        return {"completed", "cancelled", "interrupted"}
    return {"completed", "interrupted"} if work.fragile else {"completed"}


def _recorded(row: sqlite3.Row) -> Recorded:
    return Recorded(
        session_id=row["session_id"],
        offset=row["position"],
        at_ms=row["at_ms"],
        run_id=row["run_id"],
        entry=decode_entry(row["type"], row["version"], row["body"]),
    )


def _type(entry: Recorded) -> str:
    return type(entry.entry).__name__
