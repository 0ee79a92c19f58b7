"""The tools every agent has."""

from __future__ import annotations

from collections.abc import Mapping

from kheish.tools.file_locks import FileLocks
from kheish.tools.files_read import ReadFile
from kheish.tools.files_write import EditFile, WriteFile
from kheish.tools.output import EmitOutput
from kheish.tools.patch import ApplyPatch
from kheish.tools.planning import TodoWrite
from kheish.tools.protocol import QuestionTool, Tool
from kheish.tools.questions import AskUserQuestion
from kheish.tools.search import GlobSearch, GrepSearch, ListFiles
from kheish.tools.search_engine import search_engine
from kheish.tools.shell import Bash


def builtin_tools(environment: Mapping[str, str]) -> tuple[Tool | QuestionTool, ...]:
    """The built-in tools; ``environment`` is all that commands see of the daemon's own."""
    locks = FileLocks()
    engine = search_engine()
    return (
        ReadFile(),
        ListFiles(engine),
        GlobSearch(engine),
        GrepSearch(engine),
        WriteFile(locks),
        EditFile(locks),
        ApplyPatch(locks),
        Bash(environment),
        TodoWrite(),
        EmitOutput(),
        AskUserQuestion(),
    )
