"""The `scripted` driver: a model that answers from a file, decided by the request's messages alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from itertools import takewhile

from kheish.core.jsonvalue import encode
from kheish.core.messages import (
    FinishReason,
    Message,
    OpaquePart,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError, TextDelta
from kheish.providers.script import Reply, ResultTest, Script, ScriptedCall, ScriptedText, ScriptedThought, When
from kheish.providers.script_template import Scene, TemplateFault, ToolOutcome, fill

_CHARS_PER_TOKEN = 4  # a plausible figure for the estimate; nothing is billed


class ScriptedProvider:
    """Answers every request from one script. Holds no state: the same request gets the same answer."""

    driver = "scripted"

    def __init__(self, script: Script) -> None:
        self._script = script

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the texts of the first rule that holds in pieces, then the reply.

        Raises:
            ProviderError: the rule says so, no rule holds and there is no fallback, or a quote is not there.
        """
        label, reply, scene = _choose(self._script, request)
        parts = self._parts(reply, scene, label)
        await asyncio.sleep(reply.delay_ms / 1000)
        texts = [part.text for part in parts if isinstance(part, TextPart)]
        for number, text in enumerate(texts):
            for start in range(0, len(text), reply.chunk_chars):
                await asyncio.sleep(reply.chunk_delay_ms / 1000)
                yield TextDelta(text=text[start : start + reply.chunk_chars], part=number)
        if reply.hang:
            await asyncio.Event().wait()
        if reply.error is not None:
            raise _failure(reply)
        yield ModelReply(
            parts=parts,
            finish_reason=reply.finish_reason or _natural_finish(parts),
            usage=reply.usage or _estimate(request, parts),
        )

    def _parts(self, reply: Reply, scene: Scene, label: str) -> tuple[Part, ...]:
        parts: list[Part] = []
        try:
            for number, part in enumerate(reply.parts, start=1):
                match part:
                    case ScriptedText():
                        text = part.text.text(scene)
                        parts.extend([TextPart(text=text)] if text else [])
                    case ScriptedThought():
                        parts.append(OpaquePart(driver=self.driver, data={"thought": part.text.text(scene)}))
                    case ScriptedCall():
                        parts.append(_call(part, scene, number))
        except TemplateFault as fault:
            raise _broken(f"{self._script.source}: {label}: {fault}") from fault
        return tuple(parts)


def _call(call: ScriptedCall, scene: Scene, number: int) -> ToolCallPart:
    provider_id = f"scripted_{scene.turn}_{number}" if call.id is None else call.id
    if call.invalid_arguments is not None:
        return ToolCallPart(
            call_id="",
            name=call.tool,
            input={},
            provider_call_id=provider_id,
            invalid_input="the arguments are not a JSON object",
        )
    arguments = {key: fill(value, scene) for key, value in call.input.items()}
    return ToolCallPart(call_id="", name=call.tool, input=arguments, provider_call_id=provider_id)


def _choose(script: Script, request: ModelRequest) -> tuple[str, Reply, Scene]:
    conversation = _Conversation(request)
    for rule in script.rules:
        groups = conversation.meets(rule.when)
        if groups is not None:
            return rule.label, rule.reply, conversation.scene(groups)
    if script.fallback is not None:
        return "fallback", script.fallback, conversation.scene({})
    raise _broken(
        f"{script.source}: no rule holds for turn {conversation.turn} of user message {len(conversation.users)}, "
        "and there is no fallback"
    )


class _Conversation:
    """A request, read once for all the rules."""

    def __init__(self, request: ModelRequest) -> None:
        self._request = request
        messages = request.messages
        self.users = [message.text for message in messages if message.role is Role.USER]
        since_user = list(takewhile(lambda message: message.role is not Role.USER, reversed(messages)))
        self.turn = sum(message.role is Role.ASSISTANT for message in since_user)
        self._last_results = _outcomes(
            [*takewhile(lambda message: message.role is not Role.ASSISTANT, reversed(messages))][::-1]
        )
        self._results = _outcomes(messages)
        self._system = "\n\n".join(request.system)
        self._tools = [tool.name for tool in request.tools]
        self._assistant = next((message.text for message in reversed(messages) if message.role is Role.ASSISTANT), "")

    def scene(self, groups: Mapping[str, str]) -> Scene:
        return Scene(
            users=self.users,
            results=self._results,
            system=self._system,
            model=self._request.model,
            turn=self.turn,
            tools=self._tools,
            match=groups,
        )

    def meets(self, when: When) -> Mapping[str, str] | None:
        """Return the match groups when every condition holds, else None."""
        if not (self._counts_hold(when) and self._tools_hold(when) and self._results_hold(when)):
            return None
        others = (when.assistant, self._assistant), (when.system, self._system), (when.model, self._request.model)
        if any(test is not None and test.search(text) is None for test, text in others):
            return None
        groups: dict[str, str] = {}
        if when.any_user is not None:
            found = next((hit for text in self.users if (hit := when.any_user.search(text)) is not None), None)
            if found is None:
                return None
            groups.update(found)
        if when.user is not None:
            found = when.user.search(self.users[-1] if self.users else "")
            if found is None:
                return None
            groups.update(found)
        return groups

    def _counts_hold(self, when: When) -> bool:
        ceiling = self._request.generation.max_output_tokens
        return (
            (when.turn is None or when.turn.holds(self.turn))
            and (when.user_turn is None or when.user_turn.holds(len(self.users)))
            and (when.max_output_tokens is None or (ceiling is not None and when.max_output_tokens.holds(ceiling)))
        )

    def _tools_hold(self, when: When) -> bool:
        offered = set(self._tools)
        return offered.issuperset(when.tools) and offered.isdisjoint(when.without_tools)

    def _results_hold(self, when: When) -> bool:
        return (
            all(_any_holds(test, self._last_results) for test in when.results)
            and all(_any_holds(test, self._results) for test in when.any_results)
            and not any(_any_holds(test, self._results) for test in when.no_results)
        )


def _any_holds(test: ResultTest, outcomes: Sequence[ToolOutcome]) -> bool:
    return any(test.holds(outcome.tool, outcome.output, outcome.is_error) for outcome in outcomes)


def _outcomes(messages: Sequence[Message]) -> list[ToolOutcome]:
    return [
        ToolOutcome(tool=part.name, output=part.output, is_error=part.is_error)
        for message in messages
        for part in message.parts
        if isinstance(part, ToolResultPart)
    ]


def _natural_finish(parts: Sequence[Part]) -> FinishReason:
    called = any(isinstance(part, ToolCallPart) for part in parts)
    return FinishReason.TOOL_CALLS if called else FinishReason.COMPLETED


def _estimate(request: ModelRequest, parts: Sequence[Part]) -> Usage:
    messages = request.messages
    sent = sum(map(len, request.system)) + sum(_size(part) for message in messages for part in message.parts)
    received = sum(_size(part) for part in parts)
    return Usage(input_tokens=-(-sent // _CHARS_PER_TOKEN), output_tokens=-(-received // _CHARS_PER_TOKEN))


def _size(part: Part) -> int:
    match part:
        case TextPart():
            return len(part.text)
        case ToolCallPart():
            return len(part.name) + len(encode(part.input))
        case ToolResultPart():
            return len(encode(part.output))
        case OpaquePart():
            return len(encode(part.data))


def _failure(reply: Reply) -> ProviderError:
    error = reply.error
    assert error is not None
    status = "" if error.status is None else f"HTTP {error.status}, "
    return ProviderError(
        f"scripted request failed: {status}kind={error.kind}",
        kind=error.kind,
        retryable=error.retryable,
        status=error.status,
        retry_after_ms=error.retry_after_ms,
        retry_max_output_tokens=error.retry_max_output_tokens,
    )


def _broken(message: str) -> ProviderError:
    return ProviderError(message, kind=ErrorKind.INVALID_REQUEST, retryable=False)
