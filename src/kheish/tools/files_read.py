"""read_file: a bounded window of one file."""

from __future__ import annotations

import base64
import codecs
import hashlib
import os

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.tools.confinement import Place, Workspace, refusals
from kheish.tools.fields import boolean, closed, flag, number, string, text_of, whole
from kheish.tools.offload import Stop, off_loop
from kheish.tools.protocol import Replay, Sandbox, ToolCall, ToolContext, ToolDescriptor, ToolOutcome
from kheish.tools.simple import SimpleTool

MAX_READ_BYTES = 131_072


class ReadFile(SimpleTool):
    """Reads at most `MAX_READ_BYTES`; of a larger file, the window that begins at `start_line`."""

    descriptor = ToolDescriptor(
        name="read_file",
        description=(
            f"Read a file of the workspace, at most {MAX_READ_BYTES} bytes at once. `truncated` says that the file "
            "goes on: read on with a higher `start_line`. `sha256` is of the bytes read."
        ),
        schema=closed(
            {
                "path": string("Relative to the workspace, or absolute inside it."),
                "start_line": number("First line to return, counted from 1 (default 1)."),
                "line_count": number("How many lines to return (default: all that were read)."),
                "include_base64": boolean("Also return the bytes read as base64 (default false)."),
            },
            required=["path"],
        ),
        timeout_ms=5_000,
        sandbox=Sandbox.READ_ONLY,
        allows_parallel=True,
        replay=Replay.SAFE,
    )

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolOutcome:
        path = text_of(call.input, "path")
        start = whole(call.input, "start_line", default=1) or 1
        count = whole(call.input, "line_count")

        def read(stop: Stop) -> tuple[Place, _Window]:
            workspace = Workspace.of(context)
            place = workspace.resolve(path)
            return place, _read(workspace, place, start, stop)

        place, window = await off_loop(read)
        output: JsonObject = {"path": place.absolute, "start_line": start, **window.lines(start, count)}
        if flag(call.input, "include_base64"):
            output["content_base64"] = base64.b64encode(window.data).decode()
        return ToolOutcome(output=output, context_updates=({"type": "file_read", "path": place.relative},))


@value_class(frozen=True, kw_only=True, slots=True)
class _Window:
    data: bytes
    first_line: int
    """The number of the line with which ``data`` begins."""
    truncated: bool
    """The file goes on after ``data``."""

    def lines(self, start: int, count: int | None) -> JsonObject:
        """Return what the output says of the content; line ends stay as they are."""
        text = self._text()
        kept = [] if text is None else _split(text)[start - self.first_line :]
        if count is not None:
            kept = kept[:count]
        return {
            "line_count": len(kept),
            "content": "".join(kept),
            "bytes_read": len(self.data),
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "encoding": "binary" if text is None else "utf-8",
            "binary": text is None,
            "truncated": self.truncated,
        }

    def _text(self) -> str | None:
        try:
            # A window may end inside a character; that alone does not make the file binary.
            return codecs.getincrementaldecoder("utf-8")().decode(self.data, final=not self.truncated)
        except UnicodeDecodeError:
            return None


def _split(text: str) -> list[str]:
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _read(workspace: Workspace, place: Place, start: int, stop: Stop) -> _Window:
    with workspace.file(place) as handle, refusals(place):
        fits = os.fstat(handle).st_size <= MAX_READ_BYTES
        rest = b"" if fits else _skip_lines(handle, start - 1, stop)
        data = rest[: MAX_READ_BYTES + 1]
        while len(data) <= MAX_READ_BYTES:
            stop.check()
            chunk = os.read(handle, MAX_READ_BYTES + 1 - len(data))
            if not chunk:
                break
            data += chunk
    first_line = 1 if fits else start
    return _Window(data=data[:MAX_READ_BYTES], first_line=first_line, truncated=len(data) > MAX_READ_BYTES)


def _skip_lines(handle: int, lines: int, stop: Stop) -> bytes:
    """Read past ``lines`` line ends and return what was read beyond them."""
    while lines:
        stop.check()
        chunk = os.read(handle, MAX_READ_BYTES)
        if not chunk:
            return b""
        ends = chunk.count(b"\n")
        if ends < lines:
            lines -= ends
            continue
        at = -1
        for _ in range(lines):
            at = chunk.index(b"\n", at + 1)
        return chunk[at + 1 :]
    return b""
