"""What a human sees of a run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.terminal import Screen
from kheish.sdk.sse import Event


class Shown:
    """A screen and what it wrote."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.screen = Screen(Console(file=self._file, width=200, highlight=False, emoji=False, markup=False))

    def event(self, kind: str, **data: JsonValue) -> Shown:
        self.screen.show(Event(type=kind, data={"type": kind, **data}))
        return self

    def delta(self, text: str, turn: int = 1, attempt: int = 1) -> Shown:
        return self.event("output_delta", run_id="run-1", turn=turn, attempt=attempt, part=0, text=text)

    def output(self, content: str, kind: str = "assistant_text") -> Shown:
        return self.event("output", output={"run_id": "run-1", "content": content, "source_kind": kind})

    def over(self, content: str | None = None) -> str:
        run: JsonObject = {"run_id": "run-1", "status": "completed"}
        self.event("run_updated", run=run)
        answer: JsonObject = {"content": content, "source_kind": "assistant_text"}
        self.screen.close({**run, "outputs": [] if content is None else [answer]})
        return self._file.getvalue()


def test_text_that_streamed_is_not_repeated_and_the_end_is_told_once() -> None:
    shown = Shown().delta("Hello, ").delta("world").output("Hello, world").over("Hello, world")
    assert shown == "Hello, world\n✓ run-1 completed\n"


def test_an_answer_of_which_pieces_were_dropped_is_shown_whole() -> None:
    assert Shown().delta("world").output("Hello, world").over() == "world\nHello, world\n✓ run-1 completed\n"


def test_an_answer_no_event_told_of_is_taken_from_the_run() -> None:
    assert Shown().over("Hello") == "✓ run-1 completed\nHello\n"


def test_the_same_end_is_told_for_each_run() -> None:
    shown = Shown()
    shown.over("one")
    assert shown.over("two").count("completed") == 2


def test_a_reply_that_breaks_off_starts_on_a_new_line() -> None:
    shown = Shown().delta("Hel").event("output_reset").delta("Hello", attempt=2).output("Hello").over()
    assert shown == "Hel\nthe model's reply broke off; it is asked again\nHello\n✓ run-1 completed\n"


def test_emitted_outputs_are_shown_beside_the_answer() -> None:
    assert (
        Shown()
        .output("a note", "emit_output")
        .output("the answer")
        .over("the answer")
        .startswith("a note\nthe answer\n")
    )


def test_markup_and_long_lines_of_others_are_plain_text() -> None:
    text = "[bold]:smile: " + "x" * 500
    assert Shown().delta(text).output(text).over() == text + "\n✓ run-1 completed\n"


@pytest.mark.parametrize("place", ["delta", "output", "tool", "error"])
def test_escape_sequences_of_others_reach_no_terminal(place: str) -> None:
    evil, shown = "\x1b[2Jx\x9b\x07\r", Shown()
    if place == "delta":
        shown.delta(evil)
    elif place == "output":
        shown.output(evil)
    elif place == "tool":
        shown.event("trace", trace={"kind": "tool_started", "tool_name": evil, "input_preview": evil})
    else:
        shown.event("run_updated", run={"run_id": "run-1", "status": "failed", "error": evil})
    assert not {"\x1b", "\x9b", "\x07", "\r"} & set(shown.over())


def test_a_request_shows_everything_that_would_run() -> None:
    shown = Shown()
    shown.screen.request({"tool_name": "bash", "reason": "runs a command", "input": {"command": "a\nb", "n": 1}})
    assert shown.over() == ("? bash wants to run\n  runs a command\n  command: a\n    b\n  n: 1\n✓ run-1 completed\n")
