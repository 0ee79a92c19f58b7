"""Known secrets leave no text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.redaction import MASK, MIN_CHARS, Redactor


def redactor(*secrets: str) -> Redactor:
    made = Redactor()
    made.add(secrets)
    return made


def test_a_secret_is_masked_wherever_it_stands() -> None:
    known = redactor("hunter2-hunter2")

    assert known.text("key=hunter2-hunter2; again hunter2-hunter2.") == f"key={MASK}; again {MASK}."
    assert known.value({"a": ["hunter2-hunter2", 3, None], "hunter2-hunter2": True}) == {
        "a": [MASK, 3, None],
        MASK: True,
    }


def test_the_longer_of_two_secrets_is_masked_whole() -> None:
    assert redactor("12345678", "12345678-and-more").text("12345678-and-more 12345678") == f"{MASK} {MASK}"


def test_a_short_text_is_no_secret() -> None:
    assert redactor("a", "", "1234567").text("a 1234567") == "a 1234567"


def test_what_was_a_secret_stays_one() -> None:
    known = redactor("old-secret")
    known.add(["new-secret"])

    assert known.text("old-secret new-secret") == f"{MASK} {MASK}"


def test_a_secret_with_line_ends_around_it_is_known_without_them() -> None:
    assert redactor("  secret-key\n").text("secret-key") == MASK


@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
        lambda text: text.encode().hex(),
        lambda text: text.encode().hex().upper(),
        quote,
        quote_plus,
        lambda text: quote(text, safe=""),
        lambda text: repr(text.encode()),
        repr,
        json.dumps,
    ],
)
@settings(deadline=None)
@given(secret=st.text(min_size=MIN_CHARS, max_size=40), before=st.binary(max_size=4), after=st.binary(max_size=4))
def test_an_encoded_secret_is_masked_wherever_it_stands(
    encoded: Callable[[str], str], secret: str, before: bytes, after: bytes
) -> None:
    whole = before.hex() + secret + after.hex()
    masked = redactor(secret).text(encoded(whole))

    assert MASK in masked
    assert secret not in masked or secret in MASK


@given(secret=st.text(min_size=MIN_CHARS, max_size=40), before=st.text(), after=st.text())
def test_no_text_and_no_json_keeps_a_secret(secret: str, before: str, after: str) -> None:
    known = redactor(secret)
    text = before + secret + after

    assert secret not in known.text(text) or secret in MASK
    for ascii_only in (True, False):
        masked = known.text(json.dumps({"text": text}, ensure_ascii=ascii_only))
        escaped = json.dumps(secret, ensure_ascii=ascii_only)[1:-1]
        assert escaped not in masked or escaped in MASK
