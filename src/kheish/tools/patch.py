"""apply_patch: several edits in several files, all or none."""

from __future__ import annotations

from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.confinement import Place, Workspace
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import array, boolean, closed, objects, optional_text, string, text_of
from kheish.tools.file_change import ChangeSet, FileChange, FileChangingTool, FileState, check_expected
from kheish.tools.files_write import EXPECTED_SHA256, PATH, Edit, editable, text_in
from kheish.tools.offload import Stop
from kheish.tools.protocol import Replay, Sandbox, ToolDescriptor

MAX_FILES = 100
"""Every file of a patch is held in memory, before and after, until all are written."""

_HUNK = closed(
    {
        "path": PATH,
        "old_text": string("The text to replace; not empty."),
        "new_text": string("What to put in its place."),
        "replace_all": boolean("Replace every occurrence (default false: the first)."),
        "expected_sha256": EXPECTED_SHA256,
    },
    required=["path", "old_text", "new_text"],
)


class ApplyPatch(FileChangingTool):
    """Edits existing UTF-8 files; nothing changes unless every hunk applies."""

    descriptor = ToolDescriptor(
        name="apply_patch",
        description=(
            "Edit several places in existing UTF-8 files at once, all or none. Hunks of one file apply in order, "
            "each to the result of the one before."
        ),
        schema=closed({"hunks": array("The edits, in order; at least one.", _HUNK)}, required=["hunks"]),
        timeout_ms=10_000,
        sandbox=Sandbox.WORKSPACE_WRITE,
        allows_parallel=False,
        replay=Replay.NEVER,
    )

    def plan(self, fields: JsonObject, workspace: Workspace, stop: Stop) -> ChangeSet:
        hunks = objects(fields, "hunks")
        if not hunks:
            raise ToolFailure("`hunks` must hold at least one hunk")
        files: dict[Place, _Draft] = {}
        for index, hunk in enumerate(hunks):
            stop.check()
            try:
                _apply(hunk, files, workspace, stop)
            except ToolFailure as failure:
                raise ToolFailure(f"hunks[{index}]: {failure.message}", **failure.facts, hunk=index) from failure
        drafts = [files[place] for place in sorted(files)]
        output: JsonObject = {
            "changed_files": list[JsonValue](draft.summary() for draft in drafts),
            "file_count": len(drafts),
        }
        return ChangeSet(changes=tuple(draft.change() for draft in drafts), output=output)


@dataclass(kw_only=True, slots=True)
class _Draft:
    """One file while hunks are applied to it."""

    place: Place
    before: FileState
    text: str
    expected: str | None = None
    hunks: int = 0
    replacements: int = field(default=0)

    def change(self) -> FileChange:
        return FileChange(place=self.place, before=self.before, content=self.text.encode())

    def summary(self) -> JsonObject:
        change = self.change()
        return {
            "path": self.place.relative,
            "hunks": self.hunks,
            "replacements": self.replacements,
            "bytes_written": len(change.content),
            "sha256": change.sha256,
        }


def _apply(hunk: JsonObject, files: dict[Place, _Draft], workspace: Workspace, stop: Stop) -> None:
    edit = Edit.of(hunk)
    place = workspace.resolve_target(text_of(hunk, "path"))
    draft = files.get(place)
    if draft is None:
        if len(files) == MAX_FILES:
            raise ToolFailure(f"a patch may change at most {MAX_FILES} files")
        before = editable(workspace, place, stop)
        draft = files[place] = _Draft(place=place, before=before, text=text_in(before, place))
    expected = optional_text(hunk, "expected_sha256")
    if expected is not None:
        expected = expected.strip().lower()
        if draft.expected not in (None, expected):
            raise ToolFailure(f"two hunks name different expected_sha256 for one file: {place.relative}")
        draft.expected = expected
        check_expected(expected, draft.before, place)
    draft.text, replacements = edit.apply(draft.text, place)
    draft.hunks += 1
    draft.replacements += replacements
