"""state backup and restore: whole, provable, and never over something else."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kheish.state.backup import backup
from kheish.state.restore import restore
from kheish.state.root import StateRefused, StateUnreadable
from kheish.state.vacuum import content_digest
from kheish.state.verify import verify
from kheish.store import snapshot
from kheish.store.blobs import BlobStore
from kheish.store.lock import StateLock, StateRootLocked
from tests.http.house import opened
from tests.state.conftest import Kept, allow, fill


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text())


def test_a_backup_restores_to_the_same_state(kept: Kept, tmp_path: Path) -> None:
    BlobStore(kept.state / "blobs").put(b"content")
    (kept.state / "auth").mkdir(mode=0o700)
    (kept.state / "auth" / "global-slots.json").write_text("{}")
    (kept.state / "auth-store-master.key").write_text("hunter2")
    target, fresh = tmp_path / "backup", tmp_path / "fresh"
    report = backup(kept.state, target)
    restored = restore(target, fresh)

    assert report["files"] == restored["files"] == 4
    assert (report["master_key_included"], report["audit_signing_key_included"]) == (False, True)
    assert content_digest(fresh / "kheish.db") == content_digest(kept.database)
    assert (fresh / "auth" / "global-slots.json").read_text() == "{}"
    assert verify(fresh)["findings"] == []
    for path in target.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
    assert not (fresh / "auth-store-master.key").exists()


@pytest.mark.anyio
async def test_runs_that_were_unfinished_go_on_from_a_backup_of_a_working_daemon(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await fill(house)
        backup(tmp_path / "state", tmp_path / "backup")
        await house.submit("not in the backup")
        await house.settled()
        pending = (await house.get("/v1/sessions/wait/approvals")).json()
    (tmp_path / "state").rename(tmp_path / "lost")
    restore(tmp_path / "backup", tmp_path / "state")

    async with opened(tmp_path) as house:
        assert (await house.get("/v1/sessions/wait/approvals")).json() == pending
        await allow(house, pending[0]["run_id"], pending[0]["request"]["id"])
        await house.settled("wait")
        statuses = {run["status"] for run in (await house.get("/v1/runs", session_id="wait")).json()}
    assert statuses == {"completed"}


@pytest.mark.anyio
async def test_a_command_that_ran_during_the_backup_is_in_doubt_after_a_restore_and_never_runs_twice(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as house:
        await house.session()
        run = await house.submit("hold")
        await house.tool_started(run["run_id"])
        backup(tmp_path / "state", tmp_path / "backup")
        house.release()
        await house.settled()
        assert (await house.run(run["run_id"]))["outputs"][0]["content"].count('"stdout":"released') == 1
    (tmp_path / "workspace" / "go").unlink()
    restore(tmp_path / "backup", tmp_path / "state", replace=True)

    async with opened(tmp_path, permission_mode="bypassPermissions") as house:
        await house.settled()
        found = await house.run(run["run_id"])
        types = await house.event_types(run["run_id"])
    # Were it run again, it would wait for a file that is gone.
    assert found["status"] == "completed"
    assert "interrupted" in found["outputs"][0]["content"]
    assert "resumed" in types
    assert verify(tmp_path / "state")["findings"] == []


def test_a_second_backup_copies_only_what_is_new_and_replaces_the_first(kept: Kept, tmp_path: Path) -> None:
    blobs = BlobStore(kept.state / "blobs")
    blobs.put(b"one")
    target = tmp_path / "backup"
    backup(kept.state, target)
    first = manifest(target)
    blobs.put(b"two")
    kept.change("UPDATE sessions SET last_error = 'later' WHERE session_id = 's'")
    report = backup(kept.state, target)

    assert report["blobs_already_there"] == 1
    assert len(manifest(target)["files"]) == len(first["files"]) + 1
    assert len(list(target.glob("database-*.db"))) == 1
    restore(target, tmp_path / "fresh")
    with closing(sqlite3.connect(tmp_path / "fresh" / "kheish.db")) as connection:
        found = connection.execute("SELECT last_error FROM sessions WHERE session_id = 's'").fetchone()
    assert found == ("later",)


def test_a_backup_that_was_interrupted_goes_on(kept: Kept, tmp_path: Path) -> None:
    blobs = BlobStore(kept.state / "blobs")
    names = [blobs.put(f"blob {number}".encode()) for number in range(3)]
    target = tmp_path / "backup"
    backup(kept.state, target)
    (target / "manifest.json").unlink()
    (target / "blobs" / names[0][:2] / names[0]).write_bytes(b"hal")
    (target / "database-1-aaaa.db").write_bytes(b"half")
    (target / ".x.partial").write_bytes(b"half")

    with pytest.raises(StateRefused, match="no finished backup"):
        restore(target, tmp_path / "fresh")
    report = backup(kept.state, target)

    assert report["blobs_already_there"] == 2
    restore(target, tmp_path / "fresh")
    assert verify(tmp_path / "fresh")["findings"] == []
    assert sorted(path.name for path in target.glob("*.db")) == [manifest(target)["files"][0]["stored_as"]]


def test_a_folder_with_other_things_is_never_written_to(kept: Kept, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "cat.jpg").write_bytes(b"cat")

    with pytest.raises(StateRefused, match="not empty"):
        backup(kept.state, other)
    assert [path.name for path in other.iterdir()] == ["cat.jpg"]
    for inside in (kept.state, kept.state / "blobs" / "x"):
        with pytest.raises(StateRefused, match="inside the state root"):
            backup(kept.state, inside)
    backup(kept.state, kept.state / "backups" / "mine")


def test_a_backup_without_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()

    with pytest.raises(StateRefused, match=r"kheish\.db is missing"):
        backup(tmp_path / "state", tmp_path / "backup")


def test_a_garbage_database_is_not_backed_up_as_if_it_were_sound(kept: Kept, tmp_path: Path) -> None:
    kept.database.write_bytes(b"garbage" * 1000)

    with pytest.raises(StateUnreadable):
        backup(kept.state, tmp_path / "backup")
    assert not (tmp_path / "backup" / "manifest.json").exists()


@pytest.mark.parametrize("damage", ["changed", "missing", "manifest", "escape"])
def test_a_damaged_backup_restores_nothing(kept: Kept, tmp_path: Path, damage: str) -> None:
    target, fresh = tmp_path / "backup", tmp_path / "fresh"
    backup(kept.state, target)
    [database] = target.glob("database-*.db")
    if damage == "changed":
        content = bytearray(database.read_bytes())
        content[5000] ^= 1
        database.write_bytes(content)
    elif damage == "missing":
        database.unlink()
    elif damage == "manifest":
        (target / "manifest.json").write_text("{")
    else:
        document = manifest(target)
        document["files"][0]["path"] = "../outside"
        (target / "manifest.json").write_text(json.dumps(document))

    with pytest.raises(StateRefused):
        restore(target, fresh)
    assert not fresh.exists()
    assert not (tmp_path / "outside").exists()


def test_a_state_that_is_there_is_only_moved_aside_on_request(kept: Kept, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    backup(kept.state, target)
    before = content_digest(kept.database)
    with pytest.raises(StateRefused, match="--replace"):
        restore(target, kept.state)
    assert content_digest(kept.database) == before
    lock = StateLock(kept.state)
    lock.acquire()
    with pytest.raises(StateRootLocked):
        restore(target, kept.state, replace=True)
    lock.release()
    report = restore(target, kept.state, replace=True)

    assert content_digest(Path(report["moved_aside_to"]) / "kheish.db") == before
    assert content_digest(kept.database) == before
    assert not list(tmp_path.glob("kept/.*restoring"))


def test_a_folder_with_the_manifest_of_something_else_keeps_everything(kept: Kept, tmp_path: Path) -> None:
    other = tmp_path / "web"
    other.mkdir()
    (other / "manifest.json").write_text('{"name": "an app"}')
    (other / "index.html").write_text("hello")

    with pytest.raises(StateRefused, match="not empty"):
        backup(kept.state, other)
    assert sorted(path.name for path in other.iterdir()) == ["index.html", "manifest.json"]


def test_what_an_operator_put_beside_a_backup_stays(kept: Kept, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    backup(kept.state, target)
    (target / "README").write_text("tape 7")
    backup(kept.state, target)

    assert (target / "README").read_text() == "tape 7"


def test_blobs_that_are_written_while_the_rows_are_copied_are_in_the_backup(kept: Kept, tmp_path: Path) -> None:
    blobs = BlobStore(kept.state / "blobs")
    written: list[str] = []

    def write_one(what: str, done: int, total: int) -> None:
        if what == "pages" and not written:
            written.append(blobs.put(b"named by a row of the next commit"))

    backup(kept.state, tmp_path / "backup", write_one)

    assert [file["path"] for file in manifest(tmp_path / "backup")["files"]][1:] == [
        "audit-signing.key",
        f"blobs/{written[0][:2]}/{written[0]}",
    ]


def test_files_that_come_and_go_meanwhile_do_not_end_a_backup(kept: Kept, tmp_path: Path) -> None:
    (kept.state / "auth").mkdir(mode=0o700)
    for name in (".global-slots.json.17.abcd", "dangling", "global-slots.json"):
        (kept.state / "auth" / name).write_text("{}")
    (kept.state / "auth" / "dangling").unlink()
    (kept.state / "auth" / "dangling").symlink_to("nowhere")
    backup(kept.state, tmp_path / "backup")

    stored = [file["path"] for file in manifest(tmp_path / "backup")["files"]]
    assert stored == ["kheish.db", "audit-signing.key", "auth/global-slots.json"]


def test_a_daemon_that_starts_while_a_backup_runs_does_not_spoil_it(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_PAGES_PER_STEP", 5)
    started: list[int] = []

    def start(what: str, done: int, total: int) -> None:
        if not started:
            started.append(done)
            kept.change("UPDATE journal SET body = body || ' '", "UPDATE runs SET error = 'x'")

    backup(kept.state, tmp_path / "backup", start)
    restore(tmp_path / "backup", tmp_path / "fresh")

    assert started == [5]
    assert content_digest(tmp_path / "fresh" / "kheish.db") == content_digest(kept.database)


def test_the_current_folder_may_be_the_new_state_root(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(kept.state, tmp_path / "backup")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    restore(tmp_path / "backup", Path())

    assert verify(tmp_path / "here")["ok"] is True


def test_a_state_is_put_back_when_the_new_one_cannot_take_its_place(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(kept.state, tmp_path / "backup")
    before = content_digest(kept.database)
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name.endswith(".restoring"):
            raise OSError(39, "Directory not empty")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StateRefused, match="Directory not empty"):
        restore(tmp_path / "backup", kept.state, replace=True)

    assert content_digest(kept.database) == before
    assert [path.name for path in kept.root.iterdir() if "restor" in path.name] == []


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A state root that is a file system of its own, as a container's volume is."""
    place = tmp_path / "volume"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(place)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_volume_is_filled_and_stays(kept: Kept, tmp_path: Path, mounted: Path) -> None:
    BlobStore(kept.state / "blobs").put(b"content")
    backup(kept.state, tmp_path / "backup")
    (mounted / "lost+found").mkdir(mode=0o700)
    assert "moved_aside_to" not in restore(tmp_path / "backup", mounted)
    assert verify(mounted)["findings"] == []
    before = content_digest(mounted / "kheish.db")
    assert before == content_digest(kept.database)
    assert list((mounted / "backups").iterdir()) == []

    with pytest.raises(StateRefused, match="--replace"):
        restore(tmp_path / "backup", mounted)
    (mounted / "backups" / "kheish-schema-0001-1.db").write_text("kept")
    backup(mounted, mounted / "backups" / "today")
    (mounted / "blobs" / "of-the-old-state").write_text("")
    report = restore(mounted / "backups" / "today", mounted, replace=True)

    aside = Path(report["moved_aside_to"])
    assert aside.parent == mounted / "backups"
    assert (aside / "blobs" / "of-the-old-state").exists()
    assert not (mounted / "blobs" / "of-the-old-state").exists()
    assert content_digest(aside / "kheish.db") == content_digest(mounted / "kheish.db") == before
    assert {path.name for path in (mounted / "backups").iterdir()} == {aside.name, "today", "kheish-schema-0001-1.db"}
    assert verify(mounted)["ok"] is True


def test_what_a_volume_held_is_put_back_when_the_new_state_cannot_take_its_place(
    kept: Kept, tmp_path: Path, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(kept.state, tmp_path / "backup")
    restore(tmp_path / "backup", mounted)
    (mounted / "mine").write_text("of the old state")
    before = {path.name for path in mounted.iterdir()}
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.parent.name.endswith(".restoring") and self.name == "kheish.db":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(StateRefused, match="No space left"):
        restore(tmp_path / "backup", mounted, replace=True)

    assert {path.name for path in mounted.iterdir()} == before | {"daemon.lock"}
    assert list((mounted / "backups").iterdir()) == []
    assert content_digest(mounted / "kheish.db") == content_digest(kept.database)


def test_a_restore_that_was_killed_is_repeated_and_leaves_nothing(kept: Kept, tmp_path: Path, mounted: Path) -> None:
    backup(kept.state, tmp_path / "backup")
    killed = mounted / "backups" / ".volume.0123abcd.restoring"
    killed.mkdir(parents=True)
    (killed / "kheish.db").write_bytes(b"half")
    (mounted / "auth").mkdir()
    restore(tmp_path / "backup", mounted, replace=True)

    assert not killed.exists()
    assert verify(mounted)["ok"] is True
