"""Runs on a terminal: text as it streams, tools as they run, requests as they wait."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.console import Console

from kheish.cli.output import JsonObject, JsonValue, printable

if TYPE_CHECKING:
    from kheish.sdk.sse import Event

_PREVIEW_CHARS = 160
_MARKS = {
    "completed": ("✓", "green"),
    "failed": ("✗", "red"),
    "interrupted": ("■", "yellow"),
    "cancelled": ("■", "yellow"),
}


class Screen:
    """Writes what happens in runs for a human; what others wrote can not command the terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, emoji=False, markup=False)
        self._line_open = False
        self._streamed = ""
        """Text of the current model reply, as far as it was seen."""
        self._turn: object = None
        self._status: str | None = None
        self._answered = False

    def show(self, event: Event) -> None:
        """Show one event."""
        data = event.data
        if event.type == "output_delta":
            self._delta(data)
        elif event.type == "output_reset":
            self._streamed = ""
            self.note("the model's reply broke off; it is asked again", "yellow")
        elif event.type == "trace" and isinstance(trace := data.get("trace"), dict):
            self._trace(trace)
        elif event.type == "output" and isinstance(output := data.get("output"), dict):
            self._output(output)
        elif event.type == "stream_gap":
            self.note("some events were missed", "yellow")
        elif event.type == "run_updated" and isinstance(run := data.get("run"), dict):
            self._run(run)

    def close(self, run: JsonObject) -> None:
        """Show the answer and how the run ended, unless that was shown."""
        answers = [row for row in _objects(run.get("outputs")) if row.get("source_kind") == "assistant_text"]
        if answers and not self._answered:
            self._output(answers[-1])
        self._run(run)
        self._answered, self._status = False, None

    def text(self, text: str) -> None:
        """Write text where the cursor is."""
        clean = printable(text)
        if clean:
            self._console.print(clean, end="", soft_wrap=True)
            self._line_open = not clean.endswith("\n")

    def note(self, text: str, style: str = "dim") -> None:
        """Write one line of our own."""
        self.end_line()
        self._console.print(printable(text), style=style, soft_wrap=True)

    def end_line(self) -> None:
        """Begin a new line unless the cursor is at one."""
        if self._line_open:
            self._console.print()
            self._line_open = False

    def request(self, request: JsonObject) -> None:
        """Show a tool call that waits for an approval."""
        self.note(f"? {request.get('tool_name')} wants to run", "bold yellow")
        if request.get("reason"):
            self.note(f"  {request['reason']}")
        value = request.get("input")
        fields = value if isinstance(value, dict) else {"input": value}
        for name, content in fields.items():
            shown = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            self.note(f"  {name}: " + shown.replace("\n", "\n    "), "")

    def _delta(self, data: JsonObject) -> None:
        turn = (data.get("run_id"), data.get("turn"), data.get("attempt"))
        if turn != self._turn:
            self.end_line()
            self._turn, self._streamed = turn, ""
        text = str(data.get("text", ""))
        self._streamed += text
        self.text(text)

    def _output(self, output: JsonObject) -> None:
        content = str(output.get("content", ""))
        self._answered = self._answered or output.get("source_kind") == "assistant_text"
        # Deltas may be dropped: whatever was not seen whole is shown whole.
        if output.get("source_kind") != "assistant_text" or self._streamed != content:
            self.end_line()
            self.text(content)
        self.end_line()
        self._streamed = ""

    def _trace(self, trace: JsonObject) -> None:
        kind = trace.get("kind")
        if kind == "tool_started":
            preview = str(trace.get("input_preview", ""))
            shown = preview if len(preview) <= _PREVIEW_CHARS else preview[:_PREVIEW_CHARS] + "…"
            self.note(f"▸ {trace.get('tool_name')} {shown}".replace("\n", " "), "cyan")
        elif kind == "tool_finished":
            failed = bool(trace.get("is_error"))
            self.note(f"{'✗' if failed else '✓'} {trace.get('tool_name')}", "red" if failed else "dim")
        elif kind == "recovery":
            self.note("the daemon restarted; the run goes on", "yellow")
        elif kind == "model_finished" and trace.get("error"):
            self.note(f"model: {trace['error']}", "yellow")

    def _run(self, run: JsonObject) -> None:
        status = str(run.get("status"))
        if status == self._status:
            return
        self._status = status
        if status == "waiting_for_approval":
            for request in _objects(run.get("pending_approvals")):
                self.request(request)
        elif status == "waiting_for_user_question":
            for request in _objects(run.get("pending_questions")):
                for question in _objects(request.get("questions")):
                    self.note(f"? {question.get('question')}", "bold yellow")
        elif status in _MARKS:
            self._ended(run, status)

    def _ended(self, run: JsonObject, status: str) -> None:
        mark, style = _MARKS[status]
        error = f": {run['error']}" if run.get("error") else ""
        self.note(f"{mark} {run.get('run_id')} {status}{error}", style)


def _objects(value: JsonValue) -> list[JsonObject]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
