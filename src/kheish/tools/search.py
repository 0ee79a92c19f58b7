"""list_files, glob_search and grep_search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.confinement import Place, Workspace
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import closed, number, optional_text, string, text_of, whole
from kheish.tools.globs import BadGlob, PathGlob
from kheish.tools.offload import Stop, off_loop
from kheish.tools.protocol import Replay, Sandbox, ToolCall, ToolContext, ToolDescriptor, ToolOutcome
from kheish.tools.search_engine import Match, SearchEngine
from kheish.tools.simple import SimpleTool

MAX_RESULTS = 200
MAX_PATTERN_BYTES = 4096
MAX_TEXT_CHARS = 500
"""Of one matching line; minified files have very long ones."""

_BASE = string("Folder to search, relative to the workspace or absolute inside it (default: the workspace).")
_LIMIT = number(f"How many results to return at most (default and highest: {MAX_RESULTS}).")
_SKIPS = "Hidden files, links and what ignore files exclude are left out. `truncated` says that there is more."


class _Search(SimpleTool):
    """What the three have in common: a base, a limit, and saying when results were cut."""

    def __init__(self, engine: SearchEngine) -> None:
        self._engine = engine

    @abstractmethod
    def results(self, fields: JsonObject) -> tuple[str, Callable[[Workspace, Place, int, Stop], Iterator[JsonValue]]]:
        """Check the input; return the output's name for the results, and what finds them."""

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolOutcome:
        limit = min(whole(call.input, "limit", default=MAX_RESULTS) or MAX_RESULTS, MAX_RESULTS)
        base_path = optional_text(call.input, "base") or "."
        name, find = self.results(call.input)

        def search(stop: Stop) -> tuple[Place, list[JsonValue]]:
            workspace = Workspace.of(context)
            base = workspace.resolve(base_path)
            return base, list(islice(find(workspace, base, limit + 1, stop), limit + 1))

        base, found = await off_loop(search)
        output: JsonObject = {"base": base.relative}
        if "pattern" in call.input:
            output["pattern"] = call.input["pattern"]
        output |= {name: found[:limit], "truncated": len(found) > limit}
        return ToolOutcome(output=output)

    def files(self, workspace: Workspace, base: Place, stop: Stop) -> Iterator[tuple[str, ...]]:
        return (path for path in self._engine.files(workspace, base, stop) if workspace.holds((*base.parts, *path)))

    def matches(self, workspace: Workspace, base: Place, pattern: str, most: int, stop: Stop) -> Iterator[Match]:
        found = self._engine.matches(workspace, base, pattern, stop, per_file=most)
        return (match for match in found if workspace.holds((*base.parts, *match.path)))


class ListFiles(_Search):
    """Lists the files below a folder."""

    descriptor = ToolDescriptor(
        name="list_files",
        description=f"List the files below a folder of the workspace, sorted by path. {_SKIPS}",
        schema=closed({"base": _BASE, "limit": _LIMIT}),
        timeout_ms=10_000,
        sandbox=Sandbox.READ_ONLY,
        allows_parallel=True,
        replay=Replay.SAFE,
    )

    def results(self, fields: JsonObject) -> tuple[str, Callable[[Workspace, Place, int, Stop], Iterator[JsonValue]]]:
        return "paths", lambda workspace, base, _, stop: map(_shown, self.files(workspace, base, stop))


class GlobSearch(_Search):
    """Finds files by their path."""

    descriptor = ToolDescriptor(
        name="glob_search",
        description=(
            "Find files of the workspace by path. `*` and `?` stay inside one name, `**` spans folders, `[a-z]` and "
            f"`{{a,b}}` are choices; a pattern without a slash matches at any depth. {_SKIPS}"
        ),
        schema=closed(
            {"pattern": string("For example *.py or src/**/test_*.py."), "base": _BASE, "limit": _LIMIT},
            required=["pattern"],
        ),
        timeout_ms=10_000,
        sandbox=Sandbox.READ_ONLY,
        allows_parallel=True,
        replay=Replay.SAFE,
    )

    def results(self, fields: JsonObject) -> tuple[str, Callable[[Workspace, Place, int, Stop], Iterator[JsonValue]]]:
        try:
            glob = PathGlob(_pattern(fields).removeprefix("./"))
        except BadGlob as error:
            raise ToolFailure(f"invalid glob: {error}") from error
        return "paths", lambda workspace, base, _, stop: (
            _shown(path) for path in self.files(workspace, base, stop) if glob.matches(path)
        )


class GrepSearch(_Search):
    """Finds lines by regular expression."""

    descriptor = ToolDescriptor(
        name="grep_search",
        description=(
            "Find lines in text files of the workspace that match a regular expression. `(?i)` at the start ignores "
            f"case; look-around and back-references are not supported everywhere. {_SKIPS}"
        ),
        schema=closed(
            {"pattern": string("A regular expression, matched within single lines."), "base": _BASE, "limit": _LIMIT},
            required=["pattern"],
        ),
        timeout_ms=10_000,
        sandbox=Sandbox.READ_ONLY,
        allows_parallel=True,
        replay=Replay.SAFE,
    )

    def results(self, fields: JsonObject) -> tuple[str, Callable[[Workspace, Place, int, Stop], Iterator[JsonValue]]]:
        pattern = _pattern(fields)
        return "matches", lambda workspace, base, most, stop: map(
            _line, self.matches(workspace, base, pattern, most, stop)
        )


def _pattern(fields: JsonObject) -> str:
    pattern = text_of(fields, "pattern")
    if not pattern or "\0" in pattern or len(pattern.encode()) > MAX_PATTERN_BYTES:
        raise ToolFailure(f"`pattern` must hold 1 to {MAX_PATTERN_BYTES} bytes and no NUL")
    return pattern


def _shown(path: tuple[str, ...]) -> str:
    """A name that is not UTF-8 cannot be sent as it is."""
    return "/".join(path).encode(errors="surrogateescape").decode(errors="replace")


def _line(match: Match) -> JsonObject:
    shown: JsonObject = {"path": _shown(match.path), "line": match.line, "text": match.text[:MAX_TEXT_CHARS]}
    if len(match.text) > MAX_TEXT_CHARS:
        shown["text_truncated"] = True
    return shown
