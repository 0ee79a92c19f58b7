"""What commands print: JSON on standard output."""

from __future__ import annotations

import json
import re
import sys
from typing import Literal

from kheish.sdk.jsonvalue import JsonObject as JsonObject
from kheish.sdk.jsonvalue import JsonValue as JsonValue

Form = Literal["pretty", "json"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|[\ud800-\udfff]")
"""Everything but tab and newline that a terminal could take for a command of its own."""
_HIGH_CONTROL = re.compile(r"[\x7f-\x9f]")


def print_json(value: JsonValue, form: Form) -> None:
    """Print one value: indented, or on one line."""
    if form == "json":
        write_line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    else:
        write_line(json.dumps(value, ensure_ascii=False, indent=2))


def write_line(text: str) -> None:
    """Write JSON text and a newline at once, whatever the terminal's encoding."""
    # The encoder escapes the first 32 control characters; these could still command a terminal.
    text = _HIGH_CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = _escaped(text, encoding)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text of others for a terminal: no escape sequences, no cursor moves."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _escaped(text: str, encoding: str) -> str:
    """JSON text with what ``encoding`` cannot hold as JSON escapes."""

    def fits(character: str) -> bool:
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            return False
        return True

    return "".join(character if fits(character) else json.dumps(character)[1:-1] for character in text)
