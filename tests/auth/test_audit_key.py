"""The key that signs external actions: its sources and forms, and the keys it vouches for."""

from __future__ import annotations

import base64
import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from kheish.auth.audit_chain import SigningKey
from kheish.auth.audit_key import (
    AuditKeyRefused,
    believed,
    configured_key,
    new_key,
    parse_key,
    read_key_file,
    vouch,
    write_key_file,
)

SECRET = bytes(range(200, 232))
KEY = SigningKey(SECRET)
FORMS = {
    "hex": SECRET.hex().encode(),
    "base64": base64.b64encode(SECRET),
    "base64 without padding": base64.b64encode(SECRET).rstrip(b"="),
    "URL-safe base64": base64.urlsafe_b64encode(SECRET),
    "URL-safe base64 without padding": base64.urlsafe_b64encode(SECRET).rstrip(b"="),
    "raw": SECRET,
    "JSON": json.dumps({"algorithm": "ed25519", "secret_key_hex": SECRET.hex()}).encode(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_key_has_many_forms(form: str, end: bytes) -> None:
    assert parse_key(FORMS[form] + end, "it").key_id == KEY.key_id


@pytest.mark.parametrize("raw", [b" " * 32, b"{" + b"x" * 31, b"\n" + b"x" * 31, b"f" * 32])
def test_any_32_bytes_are_a_key(raw: bytes) -> None:
    assert parse_key(raw, "it").key_id == SigningKey(raw).key_id


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"x",
        b"f" * 63,
        b"{}",
        b'{"algorithm":"rsa","secret_key_hex":"' + b"0" * 64 + b'"}',
        b'{"algorithm":"ed25519","secret_key_hex":"00"}',
        base64.b64encode(b"x" * 31),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(text: bytes) -> None:
    with pytest.raises(AuditKeyRefused) as caught:
        parse_key(text, "the file K")
    assert "the file K" in caught.value.detail
    assert len(text) < 8 or text.decode() not in caught.value.detail


def test_two_sources_exclude_each_other_and_none_is_none(tmp_path: Path) -> None:
    with pytest.raises(AuditKeyRefused, match="mutually exclusive"):
        configured_key(SECRET.hex(), str(tmp_path / "k"))
    assert configured_key("", "") is None

    inline = configured_key(SECRET.hex(), "")
    write_key_file(tmp_path / "k", KEY)
    filed = configured_key("", str(tmp_path / "k"))
    assert inline is not None
    assert filed is not None
    assert (inline.key.key_id, inline.path) == (KEY.key_id, None)
    assert (filed.key.key_id, filed.path) == (KEY.key_id, tmp_path / "k")


def test_a_written_key_is_its_owners_only_and_takes_no_other_place(tmp_path: Path) -> None:
    path = tmp_path / "new" / "audit-signing.key"
    write_key_file(path, KEY)

    assert json.loads(path.read_bytes()) == {"algorithm": "ed25519", "secret_key_hex": SECRET.hex()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_key_file(path, new_key())
    assert read_key_file(path).key_id == KEY.key_id
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k"
    write_key_file(path, KEY)
    path.chmod(0o644)

    with pytest.raises(AuditKeyRefused, match="chmod 600"):
        read_key_file(path)
    with pytest.raises(AuditKeyRefused, match="cannot be read"):
        read_key_file(tmp_path / "missing")


def test_a_key_is_believed_through_those_that_vouch_for_it() -> None:
    first, second, third, stranger = (new_key() for _ in range(4))
    entries = [
        vouch(first.key_id, second, 1),
        vouch(second.key_id, third, 2),
        vouch(third.key_id, third, 3),
        vouch(stranger.key_id, stranger, 4),
    ]
    all_three = {first.key_id, second.key_id, third.key_id}

    assert believed(third.key_id, entries) == all_three
    assert believed(second.key_id, entries) == {first.key_id, second.key_id}
    assert believed(first.key_id, entries) == {first.key_id}
    assert believed(third.key_id, []) == {third.key_id}


def test_nobody_can_put_words_into_a_keys_mouth() -> None:
    present, forger = new_key(), new_key()
    sound = vouch(forger.key_id, forger, 1)

    assert believed(present.key_id, [replace(sound, vouched_by=present.key_id)]) == {present.key_id}
    honest = vouch(KEY.key_id, present, 1)
    assert believed(present.key_id, [replace(honest, key_id=forger.key_id)]) == {present.key_id}
    assert believed(present.key_id, [replace(honest, signature="no hex")]) == {present.key_id}
