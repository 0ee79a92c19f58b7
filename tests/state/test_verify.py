"""state verify: nothing to find on a sound state, and every kind of damage by its name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kheish.state.findings import MAX_LISTED
from kheish.state.root import StateRefused
from kheish.state.verify import verify
from kheish.store.blobs import BlobStore
from kheish.store.files import private_folder
from tests.http.house import opened
from tests.state.conftest import Kept, fill


def test_a_sound_state_has_no_findings(kept: Kept) -> None:
    BlobStore(kept.state / "blobs").put(b"content")
    report = kept.verified()

    assert (report["ok"], report["findings"], report["findings_left_out"]) == (True, [], 0)
    checked = report["checked"]
    assert (checked["sessions"], checked["runs"], checked["blobs"]) == (3, 8, 1)
    assert checked["outputs"] >= 4
    assert checked["entries"] == kept.rows("SELECT COUNT(*) FROM journal")[0][0]
    assert checked["events"] == kept.rows("SELECT COUNT(*) FROM feed")[0][0]


@pytest.mark.anyio
async def test_a_state_in_use_is_verified_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await fill(house)
        assert verify(tmp_path / "state")["findings"] == []
    assert not list((tmp_path / "state").glob("kheish.db-*"))
    assert verify(tmp_path / "state")["findings"] == []
    assert not list((tmp_path / "state").glob("kheish.db-*"))


DAMAGES: dict[str, tuple[str, ...]] = {
    "entry_damaged": ("UPDATE journal SET body = 'x' WHERE session_id = 's' AND position = 2",),
    "journal_gap": ("DELETE FROM journal WHERE session_id = 's' AND position = 3",),
    "session_row_differs": ("UPDATE sessions SET journal_len = 1 WHERE session_id = 's'",),
    "session_row_damaged": ("UPDATE sessions SET todos = '[' WHERE session_id = 's'",),
    "entry_without_run": ("UPDATE journal SET run_id = 'run-77' WHERE session_id = 's' AND type = 'model_replied'",),
    "output_differs": ("UPDATE outputs SET position = 1 WHERE run_id = 'run-1'",),
    "session_row_missing": ("DELETE FROM sessions WHERE session_id = 's'",),
    "run_row_differs": ("UPDATE runs SET status = 'running', live = 1 WHERE run_id = 'run-1'",),
    "run_row_missing": ("DELETE FROM runs WHERE run_id = 'run-2'",),
    "run_row_damaged": ("UPDATE runs SET request = '{' WHERE run_id = 'run-1'",),
    "output_damaged": ("UPDATE outputs SET body = '{' WHERE run_id = 'run-1'",),
    "output_missing": ("DELETE FROM outputs WHERE run_id = 'run-1'",),
    "output_without_journal": ("INSERT INTO outputs VALUES ('s', 'run-1', 'call-x', 1, '{}')",),
    "output_run_missing": ("INSERT INTO outputs VALUES ('s', 'run-77', '', 1, '{}')",),
    "key_run_missing": ("UPDATE idempotency SET run_id = 'run-77'",),
    "binding_session_missing": ("INSERT INTO binding_keys VALUES ('k', 'nobody')",),
    "event_damaged": ("UPDATE feed SET data = '{' WHERE id = 1",),
    "schema_newer": ("INSERT INTO schema_migrations VALUES (999, 'x', 'y')",),
    "schema_changed": ("UPDATE schema_migrations SET sha256 = 'x' WHERE number = 1",),
}


@pytest.mark.parametrize("code", DAMAGES)
def test_each_kind_of_damage_is_named(kept: Kept, code: str) -> None:
    kept.change(*DAMAGES[code])
    report = kept.verified()

    assert report["ok"] is False
    assert code in kept.codes()
    finding = next(one for one in report["findings"] if one["code"] == code)
    assert finding["severity"] == "error"
    assert finding["where"]
    assert finding["action"]


SESSION_COLUMNS = ("status", "pending_approvals", "pending_questions", "checkpoint_len", "journal_len")
RUN_COLUMNS = (
    "number", "agent_id", "kind", "status", "live", "first_offset", "last_offset", "submitted_at_ms", "updated_at_ms",
    "started_at_ms", "finished_at_ms", "error", "pending_approvals", "pending_questions",
)  # fmt: skip


@pytest.mark.parametrize("column", SESSION_COLUMNS)
def test_a_session_row_that_says_something_else_is_found(kept: Kept, column: str) -> None:
    kept.change(f"UPDATE sessions SET {column} = 77 WHERE session_id = 'wait'")

    [finding] = kept.verified()["findings"]
    assert (finding["code"], finding["where"]) == ("session_row_differs", "session wait")
    assert finding["message"].endswith(f"in {column}")


@pytest.mark.parametrize("column", RUN_COLUMNS)
def test_a_run_row_that_says_something_else_is_found(kept: Kept, column: str) -> None:
    other = "[77]" if column.startswith("pending") else "77"
    kept.change(f"UPDATE runs SET {column} = '{other}' WHERE run_id = 'run-2'")

    [finding] = kept.verified()["findings"]
    assert (finding["code"], finding["where"]) == ("run_row_differs", "run-2")
    assert finding["message"].endswith(f"in {column}")


def test_counted_bytes_that_are_wrong_are_a_warning(kept: Kept) -> None:
    kept.change("UPDATE sessions SET journal_bytes = 7")
    report = kept.verified()

    assert report["ok"] is True
    assert [finding["code"] for finding in report["findings"]] == ["session_size_differs"] * 3


def test_many_warnings_hide_no_error(kept: Kept) -> None:
    private_folder(kept.state / "blobs" / "aa")
    for number in range(MAX_LISTED + 10):
        (kept.state / "blobs" / "aa" / f".{number}.tmp").touch(mode=0o600)
    kept.change("UPDATE feed SET data = '{' WHERE id = 1")
    BlobStore(kept.state / "blobs").path("bb" * 32).parent.mkdir(mode=0o700)
    (kept.state / "blobs" / "bb" / ("bb" * 32)).touch(mode=0o600)
    report = kept.verified()

    assert len(report["findings"]) == MAX_LISTED
    assert [finding["code"] for finding in report["findings"]][:3] == [
        "event_damaged",
        "blob_damaged",
        "blob_unfinished",
    ]


def test_an_unreadable_row_of_any_bytes_is_found(kept: Kept) -> None:
    kept.change("UPDATE journal SET body = CAST(x'ff00fe' AS TEXT) WHERE session_id = 'wait' AND position = 1")

    assert "entry_damaged" in kept.codes()


def test_a_schema_that_is_behind_is_only_a_warning(kept: Kept) -> None:
    last = kept.rows("SELECT MAX(number) FROM schema_migrations")[0][0]
    kept.change(f"DELETE FROM schema_migrations WHERE number = {last}")
    report = kept.verified()

    assert report["ok"] is True
    assert "schema_older" in kept.codes()


def test_a_table_nobody_knows_is_a_warning_and_a_missing_one_an_error(kept: Kept) -> None:
    with_table = ["CREATE TABLE extra (x)"]
    kept.change(*with_table)
    assert kept.codes() == ["table_unknown"]
    assert kept.verified()["ok"] is True
    kept.change("DROP TABLE binding_keys")
    assert "table_missing" in kept.codes()


def test_a_damaged_page_is_found(kept: Kept) -> None:
    size = kept.database.stat().st_size
    with kept.database.open("r+b") as file:
        for offset in range(4096 * 3, size, 4096):
            file.seek(offset)
            file.write(b"\xa5" * 64)
    report = kept.verified()

    assert report["ok"] is False
    assert kept.codes() == ["database_damaged"]


def test_a_file_that_is_no_database_is_named_with_the_way_out(kept: Kept) -> None:
    kept.database.write_bytes(b"garbage" * 1000)
    report = kept.verified()

    assert (report["ok"], kept.codes()) == (False, ["database_damaged"])
    assert "state restore" in report["findings"][0]["action"]


def test_a_folder_without_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match="--state-root"):
        verify(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_blobs_are_compared_with_their_names(kept: Kept) -> None:
    blobs = BlobStore(kept.state / "blobs")
    blobs.path(blobs.put(b"one")).write_bytes(b"other")
    moved = blobs.path(blobs.put(b"two"))
    stray = kept.state / "blobs" / "zz" / hashlib.sha256(b"two").hexdigest()
    stray.parent.mkdir(mode=0o700)
    moved.rename(stray)
    unfinished = kept.state / "blobs" / "zz" / ".0123.tmp"
    unfinished.touch(mode=0o600)
    report = kept.verified()

    assert sorted(finding["code"] for finding in report["findings"]) == [
        "blob_damaged",
        "blob_damaged",
        "blob_unfinished",
    ]
    assert report["ok"] is False


def test_files_that_others_may_read_are_a_warning(kept: Kept) -> None:
    kept.database.chmod(0o644)
    report = kept.verified()

    assert report["ok"] is True
    assert [finding["code"] for finding in report["findings"]] == ["file_open_to_others"]
    assert "chmod 600" in report["findings"][0]["action"]


def test_the_list_is_bounded_and_the_rest_counted(kept: Kept) -> None:
    kept.change("UPDATE feed SET data = '{'")
    kept.change(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400) "
        "INSERT INTO feed (type, data) SELECT 'x', '{' FROM n"
    )
    report = kept.verified()

    assert len(report["findings"]) == 200
    assert report["findings_left_out"] + 200 == report["error_count"] == kept.rows("SELECT COUNT(*) FROM feed")[0][0]


def test_a_daemon_that_starts_meanwhile_is_no_damage(kept: Kept) -> None:
    steps: list[str] = []

    def start(name: str) -> None:
        steps.append(name)
        if name == "schema" and steps.count(name) == 1:
            kept.change("UPDATE runs SET error = error || ''", "UPDATE feed SET data = data || ' '")

    report = verify(kept.state, step=start)

    assert report["ok"] is True
    assert steps.count("database pages") == 2
