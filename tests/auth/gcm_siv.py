"""AES-256-GCM-SIV as RFC 8452 writes it down, without the library's own mode: only AES of single blocks is borrowed."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 16
_POLYNOMIAL = (1 << 128) | (1 << 127) | (1 << 126) | (1 << 121) | 1
"""x^128 + x^127 + x^126 + x^121 + 1; bit i of a little-endian number is the coefficient of x^i."""


def open_sealed(key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Decrypt and check; raises ValueError when the tag is another one."""
    authentication, encryption = _derived(key, nonce)
    ciphertext, tag = sealed[:-_BLOCK], sealed[-_BLOCK:]
    plaintext = _counted(encryption, tag, ciphertext)
    if _tag(authentication, encryption, nonce, plaintext, associated) != tag:
        raise ValueError("the tag is another one")
    return plaintext


def _derived(key: bytes, nonce: bytes) -> tuple[bytes, bytes]:
    halves = [_aes(key, number.to_bytes(4, "little") + nonce)[:8] for number in range(6)]
    return b"".join(halves[:2]), b"".join(halves[2:])


def _tag(authentication: bytes, encryption: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    lengths = (8 * len(associated)).to_bytes(8, "little") + (8 * len(plaintext)).to_bytes(8, "little")
    hashed = bytearray(_polyval(authentication, _padded(associated) + _padded(plaintext) + lengths))
    for at, byte in enumerate(nonce):
        hashed[at] ^= byte
    hashed[15] &= 0x7F
    return _aes(encryption, bytes(hashed))


def _polyval(key: bytes, data: bytes) -> bytes:
    multiplier, total = int.from_bytes(key, "little"), 0
    for at in range(0, len(data), _BLOCK):
        total = _dot(total ^ int.from_bytes(data[at : at + _BLOCK], "little"), multiplier)
    return total.to_bytes(_BLOCK, "little")


def _dot(left: int, right: int) -> int:
    """left * right * x^-128 in the field."""
    product = 0
    for bit in range(128):
        if right >> bit & 1:
            product ^= left << bit
    for _ in range(128):
        # Dividing by x: what is odd is made even with the polynomial first.
        product = (product ^ _POLYNOMIAL if product & 1 else product) >> 1
    return product


def _counted(key: bytes, tag: bytes, data: bytes) -> bytes:
    first = bytearray(tag)
    first[15] |= 0x80
    counter, rest = int.from_bytes(first[:4], "little"), bytes(first[4:])
    found = bytearray()
    for number in range(-(-len(data) // _BLOCK)):
        stream = _aes(key, ((counter + number) % 2**32).to_bytes(4, "little") + rest)
        found += bytes(a ^ b for a, b in zip(data[number * _BLOCK : (number + 1) * _BLOCK], stream, strict=False))
    return bytes(found)


def _aes(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _BLOCK)
