"""No reply, however odd, makes a decoder fail in any way but a `ProviderError`."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from kheish.providers.protocol import ProviderError
from kheish.providers.wire import as_int, load, wire_call_id
from tests.fakes.model_wires import Answer, Call
from tests.providers.reading import random_chunks, read
from tests.providers.wires import WIRES, Wire

ANSWER = Answer(text="hello", thinking="hm", calls=[Call(name="x", arguments={"a": 1})])
ODD: tuple[Any, ...] = (None, [], {}, "", "text", 0, -1, 1e300, True, [None], [[]], {"type": "text"}, 2**62)
every_wire = pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])


def changed(value: Any, dice: random.Random) -> Any:
    """Replace, drop or double things anywhere inside a JSON value."""
    if dice.random() < 0.08:
        return dice.choice(ODD)
    if isinstance(value, dict):
        return {key: changed(item, dice) for key, item in value.items() if dice.random() > 0.05}
    if isinstance(value, list):
        items = [changed(item, dice) for item in value]
        return items + items if dice.random() < 0.05 else items
    return value


def ends_well(wire: Wire, data: bytes, seed: int) -> None:
    with suppress(ProviderError):  # a refusal to understand is a fine answer
        read(wire.decoder(), random_chunks(data, seed))


@every_wire
@pytest.mark.parametrize("seed", range(40))
def test_changed_events(wire: Wire, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(10):
        frames = []
        for frame in wire.frames(ANSWER):
            head, _, data = frame.partition(b"data: ")
            if data.strip() != b"[DONE]" and dice.random() < 0.5:
                data = json.dumps(changed(json.loads(data), dice)).encode() + b"\n\n"
            frames.append(head + b"data: " + data)
        if dice.random() < 0.2:
            dice.shuffle(frames)
        ends_well(wire, b"".join(frames), seed)


@every_wire
def test_changed_documents(wire: Wire) -> None:
    for seed in range(300):
        document = changed(wire.document(ANSWER), random.Random(seed))
        ends_well(wire, json.dumps(document).encode(), seed)


@every_wire
def test_flipped_bytes(wire: Wire) -> None:
    data = b"".join(wire.frames(ANSWER))
    for seed in range(300):
        dice = random.Random(seed)
        broken = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            broken[dice.randrange(len(broken))] = dice.randrange(256)
        ends_well(wire, bytes(broken), seed)


@every_wire
def test_json_nested_without_end(wire: Wire) -> None:
    deep = b"[" * 100_000 + b"]" * 100_000

    with pytest.raises(ProviderError, match="an event is not JSON"):
        read(wire.decoder(), [b"data: " + deep + b"\n\n"])
    with pytest.raises(ProviderError, match="not JSON"):
        read(wire.decoder(), [b'{"x": ' + deep + b"}"])


def test_numbers_that_are_no_counts_are_nothing() -> None:
    assert [as_int(load(text)) for text in (b"7", b"7.9", b"-1", b"true", b'"7"', b"1e300", b"null")] == [7, 7] + [
        0
    ] * 5


def test_two_odd_call_ids_never_become_one() -> None:
    ids = ["a b", "a_b", "a/b", "", " ", "ä", "ö", "x" * 64, "x" * 65, "x" * 66]

    assert len({wire_call_id(call_id) for call_id in ids}) == len(ids)
    assert wire_call_id("call-1_A") == "call-1_A"
