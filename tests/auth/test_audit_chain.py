"""The signed chain of external actions: computed again by other means, and every change of it named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from kheish.auth.audit_chain import (
    Action,
    Checkpoint,
    Fault,
    FaultKind,
    Phase,
    Record,
    SigningKey,
    read_checkpoint,
    read_record,
    seal,
    seal_checkpoint,
    verify,
)

KEY = SigningKey(bytes(range(32)))
OTHER = SigningKey(bytes(32))
HASHED = (  # noqa: SIM905  # a list of one word per line is no easier to read
    "timestamp_ms session_id agent_id run_id tool_call_id principal_id parent_principal_id grant_id phase kind target "
    "request_digest response_digest outcome prev_hash"
).split()


def action(number: int = 0, **fields: Any) -> Action:
    given: dict[str, Any] = {"session_id": "s", "agent_id": "a", "run_id": "run-1", "phase": Phase.REQUEST, **fields}
    return Action(timestamp_ms=1_000 + number, kind="tool_call", target=given.pop("target", "tool:bash"), **given)


def chained(actions: list[Action], key: SigningKey = KEY) -> tuple[list[Record], Checkpoint]:
    records: list[Record] = []
    for one in actions:
        records.append(seal(one, records[-1].record_hash if records else None, key))
    last = records[-1].record_hash if records else None
    return records, seal_checkpoint(actions[0].bucket if actions else "run-1", len(records), last, key)


def three() -> tuple[list[Record], Checkpoint]:
    return chained([action(number) for number in range(3)])


def fault(records: list[Record], checkpoint: Checkpoint | None, *keys: str) -> Fault | None:
    return verify("run-1", records, checkpoint, keys or (KEY.key_id,))


def compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def verified_by_hand(line: dict[str, Any], before: str | None) -> str:
    """Check one ledger line with nothing of ours; returns its hash."""
    told = {name: line.get(name) for name in HASHED if name != "grant_id" or "grant_id" in line}
    hashed = hashlib.sha256(compact(told)).hexdigest()
    head = {"action_id": line["action_id"], "signature_alg": "ed25519", "key_id": line["key_id"]}
    signed = compact({**head, "record_hash": line["record_hash"], **told})
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(line["key_id"])).verify(bytes.fromhex(line["signature"]), signed)
    assert (line["record_hash"], line["action_id"], line.get("prev_hash")) == (hashed, hashed, before)
    return hashed


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
optional = st.none() | texts
actions = st.builds(
    Action,
    timestamp_ms=st.integers(0, 2**53),
    session_id=optional,
    agent_id=optional,
    run_id=st.just("run-1"),
    tool_call_id=optional,
    principal_id=optional,
    parent_principal_id=optional,
    grant_id=optional,
    phase=st.sampled_from(Phase),
    kind=texts,
    target=texts,
    request_digest=optional,
    response_digest=optional,
    outcome=optional,
)


@given(st.lists(actions, max_size=4))
def test_what_is_signed_is_computed_the_same_by_other_means(given: list[Action]) -> None:
    records, checkpoint = chained(given)
    before = None
    for record in records:
        before = verified_by_hand(record.to_json(), before)
    counted = checkpoint.to_json()
    signature = counted.pop("signature")
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.key_id)).verify(
        bytes.fromhex(str(signature)), compact(counted)
    )

    assert list(counted) == [name for name in CHECKPOINT if name != "last_record_hash" or before is not None]
    assert (counted["record_count"], counted.get("last_record_hash")) == (len(given), before)
    assert fault(records, checkpoint) is None


CHECKPOINT = ("bucket", "record_count", "last_record_hash", "signature_alg", "key_id")


@given(st.lists(actions, min_size=1, max_size=4))
def test_records_and_checkpoints_read_back_as_they_were(given: list[Action]) -> None:
    records, checkpoint = chained(given)

    assert [read_record(json.loads(compact(record.to_json()))) for record in records] == records
    assert read_checkpoint(json.loads(compact(checkpoint.to_json()))) == checkpoint


@given(st.lists(actions, min_size=1, max_size=4), st.data())
def test_any_changed_field_is_named_with_its_record(given: list[Action], data: st.DataObject) -> None:
    records, checkpoint = chained(given)
    position = data.draw(st.integers(1, len(records)))
    field = data.draw(st.sampled_from([name for name in HASHED if name != "prev_hash"]))
    told = records[position - 1].action
    old = getattr(told, field)
    new = {"timestamp_ms": told.timestamp_ms + 1, "phase": Phase(({*Phase} - {told.phase}).pop())}.get(
        field, f"{old or ''}x"
    )
    records[position - 1] = replace(records[position - 1], action=replace(told, **{field: new}))

    found = fault(records, checkpoint)
    assert found is not None
    assert (found.kind, found.position) == (FaultKind.RECORD_HASH, position)


def resealed(records: list[Record]) -> None:
    """The second record says something else, signed by somebody without the key."""
    records[1] = seal(action(1, target="tool:other"), records[0].record_hash, OTHER)


def of_another_bucket(records: list[Record]) -> None:
    records[1] = seal(action(1, run_id="run-2"), records[0].record_hash, KEY)


def damaged_signature(records: list[Record]) -> None:
    signature = records[1].signature
    records[1] = replace(records[1], signature=("1" if signature[0] == "0" else "0") + signature[1:])


def stolen_name(records: list[Record]) -> None:
    """Signed with another key, and said to be signed with ours."""
    resealed(records)
    records[1] = replace(records[1], key_id=KEY.key_id)


CHANGES: dict[str, tuple[Callable[[list[Record]], object], FaultKind, int]] = {
    "another key": (resealed, FaultKind.KEY_ID, 2),
    "another bucket": (of_another_bucket, FaultKind.BUCKET, 2),
    "a damaged signature": (damaged_signature, FaultKind.SIGNATURE, 2),
    "the name of the right key": (stolen_name, FaultKind.SIGNATURE, 2),
    "two changed places": (lambda records: records.insert(0, records.pop(1)), FaultKind.PREV_HASH, 1),
    "the first is missing": (lambda records: records.pop(0), FaultKind.PREV_HASH, 1),
    "one in the middle is missing": (lambda records: records.pop(1), FaultKind.PREV_HASH, 2),
    "one is there twice": (lambda records: records.insert(1, records[0]), FaultKind.PREV_HASH, 2),
    "the last is missing": (lambda records: records.pop(), FaultKind.TRUNCATED, 3),
    "all are missing": (lambda records: records.clear(), FaultKind.TRUNCATED, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_named(change: str) -> None:
    apply, kind, position = CHANGES[change]
    records, checkpoint = three()
    apply(records)

    found = fault(records, checkpoint)
    assert found is not None
    assert (found.kind, found.position) == (kind, position)
    assert f"record {position}" in str(found)


def test_more_records_than_the_checkpoint_counts_are_accepted() -> None:
    records, _ = three()

    for count in range(4):
        last = records[count - 1].record_hash if count else None
        assert fault(records, seal_checkpoint("run-1", count, last, KEY)) is None


def test_a_checkpoint_that_says_something_else_is_a_fault() -> None:
    records, checkpoint = three()
    wrong = [
        None,
        replace(checkpoint, record_count=2),
        seal_checkpoint("run-1", 3, records[1].record_hash, KEY),
        seal_checkpoint("run-2", 3, records[2].record_hash, KEY),
        seal_checkpoint("run-1", 3, records[2].record_hash, OTHER),
        replace(seal_checkpoint("run-1", 3, records[2].record_hash, OTHER), key_id=KEY.key_id),
    ]
    found = [fault(records, one) for one in wrong]

    assert [one.kind for one in found if one is not None] == [FaultKind.CHECKPOINT] * len(wrong)
    assert fault([], None) is None


def test_a_chain_goes_on_under_another_key_that_is_believed() -> None:
    records, _ = three()
    records.append(seal(action(3), records[-1].record_hash, OTHER))
    checkpoint = seal_checkpoint("run-1", 4, records[-1].record_hash, OTHER)

    assert fault(records, checkpoint, KEY.key_id, OTHER.key_id) is None
    assert str(fault(records, checkpoint, OTHER.key_id)).startswith("record 1 ")


@pytest.mark.parametrize(
    "change",
    [
        {"note": "x"},
        {"signature_alg": "none"},
        {"action_id": "0" * 64},
        {"timestamp_ms": "1"},
        {"timestamp_ms": True},
        {"timestamp_ms": -1},
        {"phase": "later"},
        {"target": None},
        {"outcome": 3},
    ],
)
def test_a_record_that_is_no_record_is_refused(change: dict[str, object]) -> None:
    records, _ = three()
    with pytest.raises(ValueError, match=r"."):
        read_record({**records[0].to_json(), **change})


def test_a_key_does_not_show_itself() -> None:
    assert repr(KEY) == f"SigningKey({KEY.key_id})"
    assert all(form not in repr(KEY) for form in KEY.forms())
