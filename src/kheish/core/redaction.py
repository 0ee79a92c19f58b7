"""Takes known secrets out of text on its way to people, models, logs and the store."""

from __future__ import annotations

import json
from collections.abc import Iterable

from kheish.core.jsonvalue import JsonValue

MASK = "[redacted]"
MIN_CHARS = 8
"""Shorter texts are no secrets worth the name, and would be found everywhere."""


class Redactor:
    """Knows every secret this daemon has held; none is ever forgotten, for old ones may still be valid elsewhere."""

    def __init__(self) -> None:
        self._secrets: tuple[str, ...] = ()

    def add(self, secrets: Iterable[str]) -> None:
        """Learn more secrets, from now on."""
        known = set(self._secrets)
        for secret in secrets:
            for form in (secret, secret.strip(), *_escaped(secret)):
                if len(form) >= MIN_CHARS:
                    known.add(form)
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


def _escaped(secret: str) -> tuple[str, ...]:
    """How JSON writes it, which is how it would stand in a log line."""
    return json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
