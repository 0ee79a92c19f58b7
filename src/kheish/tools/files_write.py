"""write_file and edit_file."""

from __future__ import annotations

import base64
import binascii

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.tools.confinement import Place, Workspace
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import boolean, closed, flag, optional_text, string, text_of
from kheish.tools.file_change import ChangeSet, FileChange, FileChangingTool, FileState, check_expected, read_state
from kheish.tools.offload import Stop
from kheish.tools.protocol import Replay, Sandbox, ToolDescriptor

MAX_EDIT_BYTES = 4_194_304
"""The largest file that can be edited, before and after."""
PATH = string("Relative to the workspace, or absolute inside it.")
EXPECTED_SHA256 = string("Refuse unless this is the SHA-256 (hex) of the whole current file.")


class WriteFile(FileChangingTool):
    """Makes a file's content be what was given; missing folders are made."""

    descriptor = ToolDescriptor(
        name="write_file",
        description="Create a file of the workspace or replace its whole content. Missing folders are created.",
        schema=closed(
            {
                "path": PATH,
                "content": string("The new content as text."),
                "content_base64": string("The new content as base64, instead of `content`."),
                "expected_sha256": EXPECTED_SHA256,
            },
            required=["path"],
        ),
        timeout_ms=5_000,
        sandbox=Sandbox.WORKSPACE_WRITE,
        allows_parallel=False,
        replay=Replay.NEVER,
    )

    def plan(self, fields: JsonObject, workspace: Workspace, stop: Stop) -> ChangeSet:
        content = _content(fields)
        place = workspace.resolve_target(text_of(fields, "path"))
        before = read_state(workspace, place, stop)
        check_expected(optional_text(fields, "expected_sha256"), before, place)
        change = FileChange(place=place, before=before, content=content)
        output: JsonObject = {"path": place.absolute, "bytes_written": len(content), "sha256": change.sha256}
        return ChangeSet(changes=(change,), output=output)


class EditFile(FileChangingTool):
    """Replaces text in an existing UTF-8 file."""

    descriptor = ToolDescriptor(
        name="edit_file",
        description=(
            "Replace text in an existing UTF-8 file of the workspace: the first place where `old_text` occurs, "
            "or every one with `replace_all`. `old_text` must match exactly, white space included."
        ),
        schema=closed(
            {
                "path": PATH,
                "old_text": string("The text to replace; not empty."),
                "new_text": string("What to put in its place."),
                "replace_all": boolean("Replace every occurrence (default false: the first)."),
                "expected_sha256": EXPECTED_SHA256,
            },
            required=["path", "old_text", "new_text"],
        ),
        timeout_ms=5_000,
        sandbox=Sandbox.WORKSPACE_WRITE,
        allows_parallel=False,
        replay=Replay.NEVER,
    )

    def plan(self, fields: JsonObject, workspace: Workspace, stop: Stop) -> ChangeSet:
        edit = Edit.of(fields)
        place = workspace.resolve_target(text_of(fields, "path"))
        before = editable(workspace, place, stop)
        check_expected(optional_text(fields, "expected_sha256"), before, place)
        text, replacements = edit.apply(text_in(before, place), place)
        change = FileChange(place=place, before=before, content=text.encode())
        output: JsonObject = {"path": place.absolute, "replacements": replacements, "sha256": change.sha256}
        return ChangeSet(changes=(change,), output=output)


@value_class(frozen=True, kw_only=True, slots=True)
class Edit:
    """One replacement in a text."""

    old: str
    new: str
    everywhere: bool

    @classmethod
    def of(cls, fields: JsonObject) -> Edit:
        """Read the fields of an edit.

        Raises:
            ToolFailure: `old_text` is empty.
        """
        old = text_of(fields, "old_text")
        if not old:
            raise ToolFailure("`old_text` must not be empty")
        return cls(old=old, new=text_of(fields, "new_text"), everywhere=flag(fields, "replace_all"))

    def apply(self, text: str, place: Place) -> tuple[str, int]:
        """Return the changed text and how many replacements were made.

        Raises:
            ToolFailure: `old_text` does not occur, or the result would be too large.
        """
        old, new = self.old, self.new
        if "\r" not in old and (old not in text or _is_crlf(text)):
            # Models write plain line ends; a file with CRLF keeps its own.
            old, new = old.replace("\n", "\r\n"), new.replace("\r\n", "\n").replace("\n", "\r\n")
        found = text.count(old)
        if not found:
            raise ToolFailure(f"`old_text` was not found: {place.relative}")
        count = found if self.everywhere else 1
        # Before it is built: a short text replaced everywhere by a long one could fill the memory.
        if len(text.encode()) + count * (len(new.encode()) - len(old.encode())) > MAX_EDIT_BYTES:
            raise ToolFailure(f"the file would become larger than {MAX_EDIT_BYTES} bytes: {place.relative}")
        return text.replace(old, new, count), count


def _is_crlf(text: str) -> bool:
    """Every line ends with CR LF."""
    lines = text.count("\n")
    return lines > 0 and lines == text.count("\r\n")


def editable(workspace: Workspace, place: Place, stop: Stop) -> FileState:
    """Return an existing file with its content.

    Raises:
        ToolFailure: there is no such file, or it is larger than `MAX_EDIT_BYTES`.
    """
    state = read_state(workspace, place, stop, max_bytes=MAX_EDIT_BYTES)
    if state is None:
        raise ToolFailure(f"no such file: {place.relative}")
    return state


def text_in(state: FileState, place: Place) -> str:
    """Return the file's text.

    Raises:
        ToolFailure: it is not UTF-8.
    """
    try:
        return (state.content or b"").decode()
    except UnicodeDecodeError:
        raise ToolFailure(f"not a UTF-8 text file: {place.relative}") from None


def _content(fields: JsonObject) -> bytes:
    text = optional_text(fields, "content")
    encoded = optional_text(fields, "content_base64")
    if (text is None) == (encoded is None):
        raise ToolFailure("give exactly one of `content` and `content_base64`")
    if text is not None:
        return text.encode()
    try:
        return base64.b64decode(encoded or "", validate=True)
    except (binascii.Error, ValueError):
        raise ToolFailure("`content_base64` is not valid base64") from None
