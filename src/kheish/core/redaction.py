"""Takes known secrets out of text on its way to people, models, logs and the store."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator

from kheish.core.jsonvalue import JsonValue

MASK = "[redacted]"
MIN_CHARS = 8
"""Shorter texts are no secrets worth the name, and would be found everywhere."""
_PLAIN_IN_URLS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Redactor:
    """Knows every secret this daemon has held; none is ever forgotten, for old ones may still be valid elsewhere."""

    def __init__(self) -> None:
        self._secrets: tuple[str, ...] = ()

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secrets, from now on."""
        known = set(self._secrets)
        for secret in secrets:
            if len(secret) >= MIN_CHARS:
                known.update(form for form in (secret, secret.strip(), *_forms(secret)) if len(form) >= MIN_CHARS)
        # The longest first: a secret may begin with another one.
        self._secrets = tuple(sorted(known, key=lambda secret: (-len(secret), secret)))

    def text(self, text: str) -> str:
        """``text`` with a mask in the place of each secret."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        return text

    def value(self, value: JsonValue) -> JsonValue:
        """The same for every text and key in a JSON value."""
        if not self._secrets:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(key): self.value(item) for key, item in value.items()}
        return value


def _forms(secret: str) -> Iterator[str]:
    """How it stands in log lines, JSON, addresses, and in what commands encode."""
    raw = secret.encode(errors="replace")
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (repr(secret)[1:-1], repr(raw)[2:-1])
    strict = "".join(chr(byte) if byte in _PLAIN_IN_URLS else f"%{byte:02X}" for byte in raw)
    yield from (strict, strict.replace("%2F", "/"), strict.replace("%20", "+"), raw.hex(), raw.hex().upper())
    for before in range(3):
        # Inside a longer text the outermost characters of base64 mix with the neighbours.
        encoded = base64.b64encode(bytes(before) + raw).decode().rstrip("=")
        inner = encoded[(0, 2, 3)[before] : -1 if (before + len(raw)) % 3 else None]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))
