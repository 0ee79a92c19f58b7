"""The sealed form of the secret store: AES-256-GCM-SIV, whose nonces may even repeat without giving away the key.

Version 2 binds its version and purpose as associated data; version 1, of earlier daemons, has none.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from kheish.core.jsonvalue import JsonObject, JsonValue

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ASSOCIATED: Final[dict[int, bytes | None]] = {1: None, 2: b"kheish:auth-store:v2"}


class EnvelopeRefused(Exception):
    """The envelope cannot be opened; the text says why and holds nothing of it."""


def is_envelope(document: JsonObject) -> bool:
    """A sealed store, as opposed to the plaintext of earlier daemons."""
    return "ciphertext" in document


def seal(plaintext: bytes, key: bytes, *, version: int = 2) -> JsonObject:
    """Encrypt under a fresh nonce."""
    nonce = os.urandom(_NONCE_BYTES)
    ciphertext = AESGCMSIV(key).encrypt(nonce, plaintext, _ASSOCIATED[version])
    return {
        "version": version,
        "nonce": base64.b64encode(nonce).decode(),
        "ciphertext": base64.b64encode(ciphertext).decode(),
    }


def unseal(envelope: JsonObject, key: bytes) -> bytes:
    """Decrypt an envelope of version 1 or 2.

    Raises:
        EnvelopeRefused: unknown version, not an envelope, another key, or changed content.
    """
    version = envelope.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version not in _ASSOCIATED:
        raise EnvelopeRefused("its envelope version is not 1 or 2")
    nonce, ciphertext = _bytes(envelope.get("nonce")), _bytes(envelope.get("ciphertext"))
    if nonce is None or len(nonce) != _NONCE_BYTES or ciphertext is None:
        raise EnvelopeRefused("its envelope is damaged")
    try:
        return AESGCMSIV(key).decrypt(nonce, ciphertext, _ASSOCIATED[version])
    except (InvalidTag, ValueError):
        raise EnvelopeRefused("the master key is another one, or the content was changed") from None


def _bytes(text: JsonValue) -> bytes | None:
    if not isinstance(text, str):
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
