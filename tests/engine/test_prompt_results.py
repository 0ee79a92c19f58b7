"""Results too large for a prompt: what the model reads instead."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonValue, encode
from kheish.core.messages import ToolResultPart
from kheish.engine.prompt_results import for_prompt, stub
from kheish.engine.tokens import value_tokens

texts = st.text(max_size=200).map(lambda text: text * 200)
values: st.SearchStrategy[JsonValue] = st.one_of(
    texts, st.lists(texts, max_size=4), st.dictionaries(st.text(max_size=5), texts, max_size=4), st.integers(0, 9)
)


@given(output=values, limit=st.integers(1, 4_000))
def test_what_fits_is_left_alone_and_what_does_not_is_named_and_cut(output: JsonValue, limit: int) -> None:
    shown = for_prompt("call-1", output, limit)
    data = encode(output)
    if len(data) <= limit * 4:
        assert shown is output
        return
    assert isinstance(shown, dict)
    facts = {name: value for name, value in shown.items() if name != "preview"}
    assert facts == {
        "truncated": True,
        "raw_ref": "tool_result:call-1",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "estimated_tokens": -(-len(data) // 4),
    }
    # Below that the facts alone take the room.
    assert value_tokens(shown) <= max(limit, 400)
    assert for_prompt("call-1", output, limit) == shown


@given(output=values)
def test_a_stub_is_always_smaller_and_a_stub_of_a_stub_is_none(output: JsonValue) -> None:
    part = ToolResultPart(call_id="call-1", name="look", output=output, is_error=True, provider_call_id="p")
    made = stub(part)
    if made is None:
        return
    assert value_tokens(made.output) < value_tokens(output)
    assert (made.call_id, made.name, made.is_error, made.provider_call_id) == ("call-1", "look", True, "p")
    assert stub(made) is None


def test_a_text_shows_its_beginning_and_its_end() -> None:
    shown = for_prompt("call-1", "begin " + "x" * 9_000 + " end", 200)
    assert isinstance(shown, dict)
    preview = str(shown["preview"])
    assert preview.startswith("begin xxx")
    assert preview.endswith("xxx end")
    assert "bytes left out" in preview


def test_a_stub_of_a_truncated_result_keeps_what_it_says_of_the_whole() -> None:
    whole = "x" * 9_000
    part = ToolResultPart(call_id="call-1", name="look", output=for_prompt("call-1", whole, 500))
    made = stub(part)
    assert made is not None
    assert isinstance(made.output, dict)
    assert made.output["bytes"] == 9_002
    assert made.output["sha256"] == hashlib.sha256(encode(whole)).hexdigest()
