"""From the events of a Gemini stream to one reply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, OpaquePart, Part, TextPart, ToolCallPart, Usage
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelReply, TextDelta
from kheish.providers.upstream_errors import upstream_error
from kheish.providers.wire import as_int, as_list, as_object, as_str, call_part

_DRIVER = Driver.GOOGLE.value
_PROMPT_BLOCKED = "PROMPT_BLOCKED"
_FINISH = {
    "STOP": FinishReason.COMPLETED,
    "MAX_TOKENS": FinishReason.MAX_TOKENS,
    **dict.fromkeys(
        (
            _PROMPT_BLOCKED, "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII",
            "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR",
        ),
        FinishReason.BLOCKED,
    ),
}  # fmt: skip
# The model said something that is no reply: nothing of it can be used, and asking again usually helps.
_BROKEN = frozenset({"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"})


@dataclass(slots=True)
class _Piece:
    """One part of the reply; the texts of unsigned neighbours of the same kind are one part."""

    fields: JsonObject
    texts: list[str] = field(default_factory=list)

    @property
    def call(self) -> JsonObject | None:
        call = self.fields.get("functionCall")
        return call if isinstance(call, dict) else None

    @property
    def is_text(self) -> bool:
        return "text" in self.fields and self.call is None

    @property
    def thought(self) -> bool:
        return self.fields.get("thought") is True

    @property
    def signed(self) -> bool:
        return bool(self.fields.get("thoughtSignature"))

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def visible(self) -> bool:
        return self.is_text and not self.thought and any(self.texts)

    def continues(self, last: _Piece) -> bool:
        """A signature covers its own part only, so a signed text stays alone."""
        both_text = self.is_text and last.is_text and self.thought == last.thought
        return both_text and not self.signed and not last.signed

    def parts(self) -> Iterable[Part]:
        """Yield what the conversation keeps; a visible part's signature stands before it."""
        call = self.call
        if call is None and not self.visible:
            yield OpaquePart(driver=_DRIVER, data={**self.fields, "text": self.text} if self.is_text else self.fields)
            return
        if self.signed:
            yield OpaquePart(driver=_DRIVER, data={"thoughtSignature": self.fields["thoughtSignature"]})
        if call is not None:
            name, call_id = as_str(call.get("name")), as_str(call.get("id"))
            yield call_part(name=name, arguments=call.get("args"), provider_call_id=call_id)
        else:
            yield TextPart(text=self.text)


@dataclass(slots=True)
class GeminiDecoder:
    """Puts one reply together from the chunks of a Gemini stream. Only the first candidate counts."""

    provider: str = _DRIVER
    _pieces: list[_Piece] = field(default_factory=list)
    _finish: str | None = None
    _usage: JsonObject = field(default_factory=dict)
    _response_id: str | None = None

    @property
    def complete(self) -> bool:
        return self._finish is not None

    @property
    def finished(self) -> bool:
        return False  # no event is the last one by name; the stream's end is

    def event(self, event: JsonObject) -> list[TextDelta]:
        if event.get("error"):
            raise upstream_error(self.provider, "stream", event)
        self._response_id = as_str(event.get("responseId")) or self._response_id
        self._usage = as_object(event.get("usageMetadata")) or self._usage
        if as_object(event.get("promptFeedback")).get("blockReason"):
            self._finish = _PROMPT_BLOCKED
        deltas: list[TextDelta] = []
        for candidate in map(as_object, as_list(event.get("candidates"))):
            if as_int(candidate.get("index")) == 0:
                deltas += self._candidate(candidate)
        return deltas

    def _candidate(self, candidate: JsonObject) -> list[TextDelta]:
        parts = map(as_object, as_list(as_object(candidate.get("content")).get("parts")))
        deltas = [delta for part in parts if (delta := self._part(part)) is not None]
        reason = as_str(candidate.get("finishReason"))
        if reason in _BROKEN:
            raise upstream_error(self.provider, "stream", {"code": reason})
        self._finish = reason or self._finish
        return deltas

    def _part(self, part: JsonObject) -> TextDelta | None:
        text = as_str(part.get("text"))
        if set(part) <= {"text", "thought", "thoughtSignature"}:
            part = {**part, "text": ""}
        piece = _Piece(fields=part, texts=[text])
        if piece.is_text and not text and not piece.signed:
            return None
        if self._pieces and piece.continues(self._pieces[-1]):
            self._pieces[-1].texts.append(text)
        else:
            self._pieces.append(piece)
        if not piece.visible:
            return None
        return TextDelta(text=text, part=sum(known.visible for known in self._pieces) - 1)

    def reply(self) -> ModelReply:
        parts = tuple(part for piece in self._pieces for part in piece.parts())
        return ModelReply(
            parts=parts, finish_reason=self._reason(parts), usage=_usage(self._usage), response_id=self._response_id
        )

    def _reason(self, parts: tuple[Part, ...]) -> FinishReason:
        reason = _FINISH.get(self._finish or "", FinishReason.UNKNOWN)
        called = any(isinstance(part, ToolCallPart) for part in parts)
        return FinishReason.TOOL_CALLS if called and reason is FinishReason.COMPLETED else reason

    def whole(self, document: JsonObject) -> ModelReply | None:
        self.event(document)
        return self.reply() if self.complete else None


def _usage(usage: JsonObject) -> Usage:
    """Count what is paid for: what its own tools read is input, what it thought is output."""
    return Usage(
        input_tokens=as_int(usage.get("promptTokenCount")) + as_int(usage.get("toolUsePromptTokenCount")),
        output_tokens=as_int(usage.get("candidatesTokenCount")) + as_int(usage.get("thoughtsTokenCount")),
        cached_input_tokens=as_int(usage.get("cachedContentTokenCount")),
    )
