"""The sealed store: what it looks like on disk, and what it refuses to read."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from kheish.auth.envelope import EnvelopeRefused, seal, unseal
from kheish.auth.master_key import MasterKeyRefused, master_key, parse_key
from kheish.auth.secret_store import PLACE, SecretStore, StoreLocked, StoreUnreadable
from kheish.auth.slots import SecretRefused, Slot, SlotMode, SlotProvider, new_slot
from tests.auth import gcm_siv

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
SECRET = "sk-hunter2-0123456789"


def slot(slot_id: str = "openai.prod", secret: str = SECRET) -> Slot:
    fields: Any = {"slot_id": slot_id, "provider": "open_ai", "mode": "api_key", "state": {"api_key": secret}}
    return new_slot(fields, updated_at_ms=7)


def written(root: Path, key: bytes = KEY) -> Path:
    store = SecretStore(root, key)
    store.replace({"openai.prod": slot()})
    return store.path


def test_what_is_kept_is_read_again_and_never_stands_in_the_file(tmp_path: Path) -> None:
    path = written(tmp_path)

    assert path == tmp_path / "auth" / "global-slots.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert SECRET not in path.read_text()
    assert SecretStore(tmp_path, KEY).find("openai.prod") == slot()
    assert SECRET not in repr(SecretStore(tmp_path, KEY).find("openai.prod"))
    assert [file.name for file in path.parent.iterdir()] == ["global-slots.json"]


def test_each_save_has_a_nonce_of_its_own(tmp_path: Path) -> None:
    first = json.loads(written(tmp_path).read_text())["nonce"]

    assert json.loads(written(tmp_path).read_text())["nonce"] != first


def test_the_envelope_is_what_the_format_says(tmp_path: Path) -> None:
    envelope = json.loads(written(tmp_path).read_text())
    nonce, ciphertext = (base64.b64decode(envelope[name], validate=True) for name in ("nonce", "ciphertext"))
    plaintext = AESGCMSIV(KEY).decrypt(nonce, ciphertext, b"kheish:auth-store:v2")

    assert set(envelope) == {"version", "nonce", "ciphertext"}
    assert (envelope["version"], len(nonce)) == (2, 12)
    assert json.loads(plaintext) == {
        "slots": {
            "openai.prod": {
                "slot_id": "openai.prod",
                "provider": "open_ai",
                "mode": "api_key",
                "state": {"kind": "api_key", "api_key": SECRET, "organization": None, "project": None},
                "updated_at_ms": 7,
            }
        }
    }


def test_an_independent_implementation_opens_what_is_kept(tmp_path: Path) -> None:
    """auth-and-secrets case 3."""
    # RFC 8452, C.2: the implementation is right.
    key = bytes.fromhex("01" + "00" * 31)
    sealed = bytes.fromhex("c2ef328e5c71c83b843122130f7364b761e0b97427e3df28")
    assert gcm_siv.open_sealed(key, bytes.fromhex("03" + "00" * 11), sealed, b"") == bytes.fromhex("0100000000000000")

    envelope = json.loads(written(tmp_path).read_text())
    nonce, sealed = (base64.b64decode(envelope[name], validate=True) for name in ("nonce", "ciphertext"))
    opened = json.loads(gcm_siv.open_sealed(KEY, nonce, sealed, b"kheish:auth-store:v2"))
    assert opened["slots"]["openai.prod"]["state"]["api_key"] == SECRET
    for changed in (sealed[:-1] + bytes([sealed[-1] ^ 1]), bytes([sealed[0] ^ 1]) + sealed[1:]):
        with pytest.raises(ValueError, match="tag"):
            gcm_siv.open_sealed(KEY, nonce, changed, b"kheish:auth-store:v2")


def test_the_documented_vector_opens() -> None:
    envelope = {
        "version": 2,
        "nonce": "AAECAwQFBgcICQoL",
        "ciphertext": base64.b64encode(
            AESGCMSIV(KEY).encrypt(bytes(range(12)), b'{"slots":{}}', b"kheish:auth-store:v2")
        ).decode(),
    }

    assert unseal(envelope, KEY) == b'{"slots":{}}'
    documented = (Path(__file__).parents[2] / "docs" / "secrets.md").read_text()
    assert envelope["ciphertext"] in documented


def test_an_envelope_of_an_earlier_daemon_is_read(tmp_path: Path) -> None:
    record = {
        "slot_id": "mcp.oauth.acme",
        "provider": "mcp_o_auth",
        "mode": "o_auth_account",
        "state": {"access_token": SECRET},
        "updated_at_ms": 1,
    }
    (tmp_path / "auth").mkdir()
    plaintext = json.dumps({"slots": {"mcp.oauth.acme": record}}).encode()
    (tmp_path / PLACE).write_text(json.dumps(seal(plaintext, KEY, version=1)))

    found = SecretStore(tmp_path, KEY).find("mcp.oauth.acme")

    assert found is not None
    assert (found.provider, found.mode) == (SlotProvider.MCP_OAUTH, SlotMode.OAUTH_ACCOUNT)
    SecretStore(tmp_path, KEY).replace({"mcp.oauth.acme": found})
    assert SecretStore(tmp_path, KEY).find("mcp.oauth.acme") == found


def test_a_plaintext_store_is_read_and_the_next_write_seals_it(tmp_path: Path) -> None:
    """auth-and-secrets case 4."""
    (tmp_path / "auth").mkdir()
    (tmp_path / PLACE).write_text(json.dumps({"slots": {"openai.prod": slot().record()}}))

    store = SecretStore(tmp_path, None)
    assert store.find("openai.prod") == slot()
    with pytest.raises(StoreLocked) as caught:
        store.replace({})
    assert "KHEISH_AUTH_STORE_MASTER_KEY_FILE" in caught.value.detail
    with pytest.raises(StoreUnreadable, match="not encrypted"):
        SecretStore(tmp_path, KEY, require_encrypted=True)
    SecretStore(tmp_path, KEY).replace(SecretStore(tmp_path, KEY).slots)
    assert SecretStore(tmp_path, KEY, require_encrypted=True).find("openai.prod") == slot()


def _flipped(text: str, name: str) -> str:
    envelope = json.loads(text)
    raw = bytearray(base64.b64decode(envelope[name]))
    raw[len(raw) // 2] ^= 1
    return json.dumps({**envelope, name: base64.b64encode(raw).decode()})


DAMAGES = {
    "truncated": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[]",
    "no slots": lambda text: '{"other": 1}',
    "a slot that is none": lambda text: '{"slots": {"a": 3}}',
    "a slot of an unknown kind": lambda text: '{"slots": {"a": {"provider": "x", "mode": "y", "state": {}}}}',
    "flipped ciphertext": lambda text: _flipped(text, "ciphertext"),
    "flipped nonce": lambda text: _flipped(text, "nonce"),
    "short nonce": lambda text: json.dumps({**json.loads(text), "nonce": "AAAA"}),
    "version 1 for 2": lambda text: json.dumps({**json.loads(text), "version": 1}),
    "version 3": lambda text: json.dumps({**json.loads(text), "version": 3}),
    "version true": lambda text: json.dumps({**json.loads(text), "version": True}),
    "not base64": lambda text: json.dumps({**json.loads(text), "ciphertext": "%%%"}),
    "of another key": lambda text: json.dumps(seal(b'{"slots":{}}', OTHER_KEY)),
    "sealed garbage": lambda text: json.dumps(seal(b"garbage", KEY)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_store_that_cannot_be_read_is_refused_and_left_alone(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path)
    path.write_text(DAMAGES[damage](path.read_text()))
    before = path.read_bytes()

    with pytest.raises(StoreUnreadable) as caught:
        SecretStore(tmp_path, KEY)

    assert str(path) in caught.value.detail
    assert SECRET not in caught.value.detail
    assert path.read_bytes() == before


def test_a_sealed_store_without_a_key_names_both_variables(tmp_path: Path) -> None:
    written(tmp_path)

    with pytest.raises(StoreUnreadable) as caught:
        SecretStore(tmp_path, None)

    assert "KHEISH_AUTH_STORE_MASTER_KEY or KHEISH_AUTH_STORE_MASTER_KEY_FILE" in caught.value.detail


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    store = SecretStore(tmp_path, KEY)
    (tmp_path / "auth").write_text("a file where the folder should be")

    with pytest.raises(FileExistsError):
        store.replace({"openai.prod": slot()})

    assert store.find("openai.prod") is None


def test_a_truncated_tag_is_no_envelope() -> None:
    with pytest.raises(EnvelopeRefused):
        unseal({"version": 2, "nonce": base64.b64encode(bytes(12)).decode(), "ciphertext": "AAAA"}, KEY)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (base64.b64encode(KEY), KEY),
        (b"  " + base64.b64encode(KEY) + b"\n", KEY),
        (b"0123456789abcdef0123456789abcde!", b"0123456789abcdef0123456789abcde!"),
        (b"0123456789abcdef0123456789abcde!\n", b"0123456789abcdef0123456789abcde!"),
        (b" " + KEY[1:], b" " + KEY[1:]),
    ],
)
def test_a_key_is_base64_or_raw(text: bytes, key: bytes) -> None:
    assert parse_key(text, "here") == key


@pytest.mark.parametrize("text", [b"", b"short", base64.b64encode(KEY[:16]), KEY + b"x", b"hunter2" * 20])
def test_a_key_of_another_size_is_refused_without_repeating_it(text: bytes) -> None:
    with pytest.raises(MasterKeyRefused) as caught:
        parse_key(text, "KHEISH_AUTH_STORE_MASTER_KEY")

    assert "32 raw bytes or base64 of 32 bytes" in caught.value.detail
    assert "hunter2" not in caught.value.detail


def test_the_key_comes_from_one_variable(tmp_path: Path) -> None:
    encoded = base64.b64encode(KEY).decode()
    file = tmp_path / "key"
    file.write_text(encoded)
    file.chmod(0o600)

    assert master_key({}) is None
    assert master_key({"KHEISH_AUTH_STORE_MASTER_KEY": encoded}) == KEY
    assert master_key({"KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(file)}) == KEY
    with pytest.raises(MasterKeyRefused, match="mutually exclusive"):
        master_key({"KHEISH_AUTH_STORE_MASTER_KEY": encoded, "KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(file)})
    with pytest.raises(MasterKeyRefused, match="cannot be read"):
        master_key({"KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(tmp_path / "gone")})
    file.chmod(0o644)
    with pytest.raises(MasterKeyRefused, match="chmod 600"):
        master_key({"KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"slot_id": ""}, "slot_id"),
        ({"slot_id": "a b"}, "slot_id"),
        ({"slot_id": "a\n"}, "slot_id"),
        ({"slot_id": "x" * 201}, "slot_id"),
        ({"slot_id": None}, "slot_id"),
        ({"provider": "acme"}, "provider"),
        ({"mode": "hunter2"}, "mode"),
        ({"mode": "opaque_secret"}, "mode"),
        ({"mode": "oauth_account"}, "login"),
        ({"provider": "mcp_oauth", "mode": "oauth_account"}, "login"),
        ({"slot_id": "connectors.http.in.bearer"}, "generic"),
        ({"slot_id": "mcp.linear.KEY"}, "generic"),
        ({"slot_id": "mcp.oauth.x", "provider": "generic", "mode": "opaque_secret"}, "OAuth"),
        ({"state": {}}, "api_key"),
        ({"state": {"api_key": "  "}}, "blank"),
        ({"state": {"api_key": 5}}, "api_key"),
        ({"state": {"api_key": "hunter2", "hunter2": 1}}, "none of"),
        ({"state": {"api_key": "hunter2", "kind": "oauth"}}, "kind"),
        ({"state": {"api_key": "hunter2", "project": ""}}, "project"),
        ({"state": "hunter2"}, "state"),
        ({"provider": "anthropic", "state": {"api_key": "hunter2", "project": "p"}}, "none of"),
        ({"provider": "generic", "mode": "opaque_secret", "state": {"api_key": "hunter2"}}, "none of"),
    ],
)
def test_a_record_that_cannot_be_kept_names_the_field_and_not_the_secret(changed: dict[str, Any], named: str) -> None:
    fields = {"slot_id": "a.b", "provider": "open_ai", "mode": "api_key", "state": {"api_key": "hunter2"}, **changed}
    with pytest.raises(SecretRefused) as caught:
        new_slot(fields, updated_at_ms=1)

    assert named in caught.value.detail
    assert "hunter2" not in caught.value.detail
