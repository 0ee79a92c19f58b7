"""The trail as files: a ledger and a checkpoint per bucket, and the keys, in a folder that can be verified alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from kheish.auth.audit_chain import (
    Checkpoint,
    Fault,
    FaultKind,
    Record,
    read_checkpoint,
    read_record,
    verify_checkpoint,
    verify_records,
)
from kheish.auth.audit_key import KeyEntry
from kheish.core.jsonvalue import decode_object, encode
from kheish.state.layout import stem
from kheish.store.files import private_folder

_LEDGERS = Path("external-actions") / "__safe"
_CHECKPOINTS = Path("external-action-checkpoints") / "__safe"
_KEYS = Path("external-action-keys.jsonl")


def write_bucket(folder: Path, records: Collection[Record], checkpoint: Checkpoint) -> None:
    """Write one bucket's ledger and checkpoint.

    Raises:
        OSError: they cannot be written, or are there already.
    """
    name = stem(checkpoint.bucket)
    _write(folder / _LEDGERS / f"{name}.jsonl", b"".join(encode(record.to_json()) + b"\n" for record in records))
    _write(folder / _CHECKPOINTS / f"{name}.json", encode(checkpoint.to_json()) + b"\n")


def write_keys(folder: Path, entries: Collection[KeyEntry]) -> None:
    """Write which keys signed, and who vouches for them."""
    _write(folder / _KEYS, b"".join(encode(entry.to_json()) + b"\n" for entry in entries))


def _write(path: Path, content: bytes) -> None:
    private_folder(path.parent)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)


def is_export(folder: Path) -> bool:
    return (folder / _KEYS).is_file()


def names(folder: Path) -> list[str]:
    """The file names, without their suffixes, of all buckets of an export."""
    found = {path.name.removesuffix(".jsonl") for path in (folder / _LEDGERS).glob("*.jsonl")}
    return sorted(found | {path.name.removesuffix(".json") for path in (folder / _CHECKPOINTS).glob("*.json")})


def read_keys(folder: Path) -> Iterator[KeyEntry]:
    """The keys of an export; a line that is none vouches for nothing."""
    for line in (folder / _KEYS).read_bytes().splitlines():
        try:
            found = decode_object(line)
        except ValueError:
            continue
        key_id, vouched_by, signature, at_ms = (found.get(n) for n in ("key_id", "vouched_by", "signature", "at_ms"))
        if (
            isinstance(key_id, str)
            and isinstance(vouched_by, str)
            and isinstance(signature, str)
            and isinstance(at_ms, int)
        ):
            yield KeyEntry(key_id=key_id, vouched_by=vouched_by, at_ms=at_ms, signature=signature)


def check_ledger(folder: Path, name: str, keys: Collection[str]) -> tuple[str, int, Fault | None]:
    """One bucket of an export: what to call it, how many records could be read, and its first fault.

    Raises:
        OSError: a file cannot be read.
    """
    records, unreadable = _records(folder / _LEDGERS / f"{name}.jsonl")
    checkpoint, damaged = _checkpoint(folder / _CHECKPOINTS / f"{name}.json")
    bucket = records[0].action.bucket if records else name if checkpoint is None else checkpoint.bucket
    if stem(bucket) != name:
        moved = Fault(kind=FaultKind.BUCKET, position=1 if records else None, detail=f"it belongs to {bucket!r}")
        return name, len(records), moved
    fault = verify_records(bucket, records, keys) or unreadable or damaged
    return bucket, len(records), fault or verify_checkpoint(bucket, records, checkpoint, keys)


def _records(path: Path) -> tuple[list[Record], Fault | None]:
    found: list[Record] = []
    if not path.exists():
        return found, None
    for position, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            found.append(read_record(decode_object(line)))
        except ValueError as error:
            return found, Fault(kind=FaultKind.UNREADABLE, position=position, detail=str(error))
    return found, None


def _checkpoint(path: Path) -> tuple[Checkpoint | None, Fault | None]:
    if not path.exists():
        return None, None
    try:
        return read_checkpoint(decode_object(path.read_bytes())), None
    except ValueError as error:
        return None, Fault(kind=FaultKind.UNREADABLE, position=None, detail=str(error))
