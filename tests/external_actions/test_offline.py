"""audit verify, export, relocate-key and rotate-key: on the files of a state root."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kheish.auth.audit_chain import SigningKey
from kheish.auth.audit_key import AuditKeyRefused, read_key_file, write_key_file
from kheish.daemon.main import build
from kheish.state.backup import backup
from kheish.state.restore import restore
from kheish.state.verify import verify as verify_everything
from kheish.store.lock import StateLock
from tests.auth.test_audit_chain import verified_by_hand
from tests.external_actions.rows import change
from tests.http.house import opened

OTHER = SigningKey(b"o" * 32)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped daemon's state with three runs, the first and the last with a command."""
    root = tmp_path_factory.mktemp("filled")
    asyncio.run(fill(root))
    return root


async def fill(root: Path) -> None:
    async with opened(root, permission_mode="bypassPermissions") as house:
        await house.session()
        for text in ("count once", "hi", "count once"):
            await house.submit(text)
            await house.settled()


@pytest.fixture
def place(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "copy")
    return tmp_path / "copy"


def audit(root: Path, *words: str, state_root: bool = True) -> Result:
    where = ["--state-root", str(root / "state")] if state_root else []
    return CliRunner(env={"HOME": str(root)}).invoke(build(), ["audit", *words, *where])


def reported(result: Result, status: int = 0) -> Any:
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


async def chains(root: Path, **options: Any) -> int:
    """Open the daemon, read each run's records; returns how many there are."""
    async with opened(root, **options) as house:
        found = [await house.get(f"/v1/runs/run-{number}/external-actions") for number in (1, 2, 3)]
        assert [response.status_code for response in found] == [200] * 3, [response.text for response in found]
        return sum(len(response.json()) for response in found)


def test_a_sound_trail_is_sound(place: Path) -> None:
    report = reported(audit(place, "verify"))
    key_id = read_key_file(place / "state" / "audit-signing.key").key_id

    assert report == {
        "ok": True,
        "buckets": 3,
        "records": 14,
        "key_ids": [key_id],
        "fault_count": 0,
        "faults": [],
    }
    assert verify_everything(place / "state")["checked"]["external_actions"] == 14


def test_the_first_bad_record_of_each_run_is_named(place: Path) -> None:
    change(
        place,
        "UPDATE external_actions SET target = 'tool:bath' WHERE bucket = 'run-1' AND position IN (3, 4)",
        "DELETE FROM external_actions WHERE bucket = 'run-3' AND position = 6",
    )
    report = reported(audit(place, "verify"), 1)
    faults = {fault["bucket"]: (fault["fault"], fault["position"]) for fault in report["faults"]}
    findings = verify_everything(place / "state")["findings"]

    assert faults == {"run-1": ("record_hash", 3), "run-3": ("truncated", 6)}
    assert [(one["code"], one["where"]) for one in findings] == [
        ("external_actions_damaged", "run-1"),
        ("external_actions_damaged", "run-3"),
    ]


def test_a_journal_that_says_something_else_than_was_signed_is_named(place: Path) -> None:
    change(place, "UPDATE journal SET body = REPLACE(body, 'once', 'twice') WHERE type = 'tool_intended'")
    faults = reported(audit(place, "verify"), 1)["faults"]

    assert [(one["bucket"], one["fault"], one["position"]) for one in faults] == [
        ("run-1", "journal", 3),
        ("run-3", "journal", 3),
    ]


def test_a_bucket_with_a_damaged_name_is_named(place: Path) -> None:
    change(place, "UPDATE external_actions SET bucket = x'ff' WHERE bucket = 'run-2' AND position = 1")

    assert {one["fault"] for one in reported(audit(place, "verify"), 1)["faults"]} == {"unreadable", "prev_hash"}


def test_a_key_id_is_enough_to_verify_and_a_wrong_one_is_not(place: Path) -> None:
    key = place / "state" / "audit-signing.key"
    key_id = read_key_file(key).key_id
    key.unlink()
    nameless = audit(place, "verify")

    assert reported(audit(place, "verify", "--key-id", key_id))["ok"]
    assert {one["fault"] for one in reported(audit(place, "verify", "--key-id", OTHER.key_id), 1)["faults"]} == {
        "key_id"
    }
    assert "--key-id" in nameless.stderr


def test_an_export_is_verified_without_the_state_root(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    report = reported(audit(place, "export", "--folder", str(folder)))
    ledger = folder / "external-actions" / "__safe" / f"id-{b'run-1'.hex()}.jsonl"
    checkpoint = folder / "external-action-checkpoints" / "__safe" / f"id-{b'run-1'.hex()}.json"
    before = None
    for line in ledger.read_text().splitlines():
        before = verified_by_hand(json.loads(line), before)
    again = audit(place, "export", "--folder", str(folder))
    shutil.rmtree(place)

    assert (report["buckets"], report["records"], report["damaged_buckets"]) == (3, 14, [])
    assert json.loads(checkpoint.read_text())["last_record_hash"] == before
    assert again.exit_code != 0
    verified = reported(audit(tmp_path, "verify", "--folder", str(folder), state_root=False))
    assert (verified["ok"], verified["records"]) == (True, 14)


def cut(folder: Path) -> None:
    ledger = folder / "external-actions" / "__safe" / f"id-{b'run-1'.hex()}.jsonl"
    ledger.write_text("".join(ledger.read_text().splitlines(keepends=True)[:-1]))


def changed(folder: Path) -> None:
    ledger = folder / "external-actions" / "__safe" / f"id-{b'run-1'.hex()}.jsonl"
    ledger.write_text(ledger.read_text().replace("tool:bash", "tool:bath", 1))


def torn(folder: Path) -> None:
    ledger = folder / "external-actions" / "__safe" / f"id-{b'run-1'.hex()}.jsonl"
    ledger.write_text(ledger.read_text()[:-30])


def removed(folder: Path) -> None:
    (folder / "external-actions" / "__safe" / f"id-{b'run-1'.hex()}.jsonl").unlink()


def exchanged(folder: Path) -> None:
    safe = folder / "external-actions" / "__safe"
    shutil.copyfile(safe / f"id-{b'run-3'.hex()}.jsonl", safe / f"id-{b'run-1'.hex()}.jsonl")


def uncounted(folder: Path) -> None:
    (folder / "external-action-checkpoints" / "__safe" / f"id-{b'run-1'.hex()}.json").write_text("{")


EXPORT_DAMAGE = {
    "truncated": (cut, 6),
    "record_hash": (changed, 3),
    "unreadable": (torn, 6),
    "bucket": (exchanged, 1),
}


@pytest.mark.parametrize("fault", EXPORT_DAMAGE)
def test_a_damaged_export_names_its_first_bad_record(place: Path, tmp_path: Path, fault: str) -> None:
    damage, position = EXPORT_DAMAGE[fault]
    reported(audit(place, "export", "--folder", str(tmp_path / "out")))
    damage(tmp_path / "out")
    report = reported(audit(place, "verify", "--folder", str(tmp_path / "out"), state_root=False), 1)

    [found] = report["faults"]
    assert (found["fault"], found["position"]) == (fault, position)


@pytest.mark.parametrize("damage", [removed, uncounted])
def test_a_ledger_or_checkpoint_that_is_gone_is_missed(place: Path, tmp_path: Path, damage: Any) -> None:
    reported(audit(place, "export", "--folder", str(tmp_path / "out")))
    damage(tmp_path / "out")

    assert reported(audit(place, "verify", "--folder", str(tmp_path / "out"), state_root=False), 1)["fault_count"] == 1


@pytest.mark.anyio
async def test_a_key_is_moved_out_of_the_state_root(place: Path, tmp_path: Path) -> None:
    stored, target = place / "state" / "audit-signing.key", tmp_path / "keys" / "audit.key"
    key_id = read_key_file(stored).key_id
    inside = audit(place, "relocate-key", "--to", str(place / "state" / "other.key"))
    report = reported(audit(place, "relocate-key", "--to", str(target)))

    assert "inside the state root" in inside.stderr
    assert (report["key_id"], read_key_file(target).key_id, stored.exists()) == (key_id, key_id, False)
    assert audit(place, "relocate-key", "--to", str(tmp_path / "again")).exit_code != 0
    assert await chains(place, audit_signing_key_file=str(target)) == 14


def test_a_place_that_is_taken_keeps_the_key_where_it_is(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    target.write_text("mine")
    for command in ("relocate-key", "rotate-key"):
        result = audit(place, command, "--to", str(target))
        assert "nothing is overwritten" in result.stderr

    assert target.read_text() == "mine"
    assert (place / "state" / "audit-signing.key").exists()
    assert reported(audit(place, "verify"))["ok"]


def test_keys_are_not_touched_while_a_daemon_runs(place: Path, tmp_path: Path) -> None:
    lock = StateLock(place / "state")
    lock.acquire()
    try:
        results = [audit(place, word, "--to", str(tmp_path / word)) for word in ("relocate-key", "rotate-key")]
    finally:
        lock.release()

    assert 0 not in [result.exit_code for result in results]
    assert not (tmp_path / "relocate-key").exists()
    assert not (tmp_path / "rotate-key").exists()


@pytest.mark.anyio
async def test_a_new_key_vouches_for_the_old_ones_records(place: Path, tmp_path: Path) -> None:
    first = read_key_file(place / "state" / "audit-signing.key")
    write_key_file(tmp_path / "first", first)
    second = reported(audit(place, "rotate-key", "--to", str(tmp_path / "second")))
    third = reported(
        audit(
            place, "rotate-key", "--to", str(tmp_path / "third"), "--audit-signing-key-file", str(tmp_path / "second")
        )
    )
    options = {"audit_signing_key_file": str(tmp_path / "third"), "permission_mode": "bypassPermissions"}

    assert second["retired_key_ids"] == [first.key_id]
    assert third["retired_key_ids"] == sorted([first.key_id, second["key_id"]])
    assert not (place / "state" / "audit-signing.key").exists()
    assert await chains(place, **options) == 14
    async with opened(place, **options) as house:
        run = await house.submit("hi")
        await house.settled()
        found = (await house.get(f"/v1/runs/{run['run_id']}/external-actions")).json()
    assert {record["key_id"] for record in found} == {third["key_id"]}
    verified = reported(audit(place, "verify", "--key-id", third["key_id"]))
    assert (verified["ok"], len(verified["key_ids"])) == (True, 3)
    for old in ("first", "second"):
        with pytest.raises(AuditKeyRefused):
            await chains(place, audit_signing_key_file=str(tmp_path / old))


@pytest.mark.anyio
async def test_a_lost_key_is_replaced_only_when_that_is_asked_for(place: Path, tmp_path: Path) -> None:
    (place / "state" / "audit-signing.key").unlink()
    refused = audit(place, "rotate-key", "--to", str(tmp_path / "new"))
    reported(audit(place, "rotate-key", "--to", str(tmp_path / "new"), "--present-key-lost"))

    assert "--present-key-lost" in refused.stderr
    assert await chains(place, audit_signing_key_file=str(tmp_path / "new")) == 14


@pytest.mark.parametrize("lost", [(), ("--present-key-lost",)])
def test_a_new_key_does_not_vouch_for_what_was_changed(place: Path, tmp_path: Path, lost: tuple[str, ...]) -> None:
    change(place, "UPDATE external_actions SET target = 'tool:bath' WHERE bucket = 'run-1' AND position = 3")
    result = audit(place, "rotate-key", "--to", str(tmp_path / "new"), *lost)

    assert "run-1: record 3 " in result.stderr
    assert not (tmp_path / "new").exists()
    assert (place / "state" / "audit-signing.key").exists()


@pytest.mark.anyio
async def test_a_restored_backup_goes_on_with_its_trail(place: Path, tmp_path: Path) -> None:
    report = backup(place / "state", tmp_path / "backup")
    shutil.rmtree(place / "state")
    restore(tmp_path / "backup", place / "state")

    assert report["audit_signing_key_included"] is True
    assert await chains(place) == 14


@pytest.mark.anyio
async def test_pruning_leaves_the_trail_whole(place: Path) -> None:
    async with opened(place) as house:
        await house.post("/v1/runs/prune", {"older_than_ms": 1})

    assert reported(audit(place, "verify"))["records"] == 14
