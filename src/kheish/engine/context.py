"""The conversation a model call sees: a projection of the session's journal, extended entry by entry. Pure."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import Message, Role, ToolCallPart, ToolResultPart, user_text
from kheish.engine import entries as e
from kheish.engine.entries import Recorded

_STOPPED_OUTPUT: JsonObject = {"error": "The run was stopped before this call finished.", "interrupted": True}


class Transcript:
    """Messages in order. Queued inputs join when their run starts; calls left open by a stopped run are closed."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._inputs: dict[str, str] = {}
        self._open: dict[str, ToolCallPart] = {}
        self._speaker: str | None = None
        """The run whose calls are open: the one that holds the slot."""

    def extend(self, recorded: Recorded) -> None:
        """Take in one more entry of the session."""
        entry = recorded.entry
        match entry:
            case e.InputAccepted(text=text):
                self._inputs[recorded.run_id or ""] = text
            case e.RunStarted():
                self._messages.append(user_text(self._inputs.pop(recorded.run_id or "", "")))
                self._speaker = recorded.run_id
            case e.ModelReplied():
                message = Message(role=Role.ASSISTANT, parts=entry.parts)
                if message.parts:
                    self._messages.append(message)
                self._open = {call.call_id: call for call in message.tool_calls}
            case e.ToolFinished():
                self._answer(entry)
            case e.FollowedUp(text=text):
                self._messages.append(user_text(text))
            case e.RunEnded():
                self._inputs.pop(recorded.run_id or "", None)
                # A queued run that is cancelled has said nothing, and the active one goes on.
                if recorded.run_id == self._speaker:
                    self._close()
            case _:
                pass

    def messages(self) -> tuple[Message, ...]:
        """What to send; results of one assistant message stand together, in call order."""
        return tuple(self._messages)

    def _answer(self, entry: e.ToolFinished) -> None:
        call = self._open.pop(entry.call_id, None)
        result = ToolResultPart(
            call_id=entry.call_id,
            name=entry.name,
            output=entry.output,
            is_error=entry.is_error,
            provider_call_id=None if call is None else call.provider_call_id,
        )
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role is Role.TOOL:
            self._messages[-1] = Message(role=Role.TOOL, parts=(*last.parts, result))
        else:
            self._messages.append(Message(role=Role.TOOL, parts=(result,)))

    def _close(self) -> None:
        for call in tuple(self._open.values()):
            self._answer(e.ToolFinished(call_id=call.call_id, name=call.name, output=_STOPPED_OUTPUT, is_error=True))
        self._open = {}
