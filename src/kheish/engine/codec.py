"""Entries ↔ JSON rows. Old versions are upgraded here and nowhere else; golden files guard the mapping."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum
from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue, decode_object, encode
from kheish.core.messages import (
    FinishReason,
    Generation,
    OpaquePart,
    Part,
    Reasoning,
    ReasoningEffort,
    ResponseFormat,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    Usage,
)
from kheish.engine import entries as e
from kheish.engine.entries import CredentialUse, Decision, Entry, OnInDoubt, OnRestart, RouteRef, Ruling, RunStatus

VERSION = 1

_TYPES: dict[str, type[Entry]] = {
    "input_accepted": e.InputAccepted,
    "run_started": e.RunStarted,
    "model_replied": e.ModelReplied,
    "model_failed": e.ModelFailed,
    "calls_decided": e.CallsDecided,
    "in_doubt_asked": e.InDoubtAsked,
    "approvals_resolved": e.ApprovalsResolved,
    "question_requested": e.QuestionRequested,
    "question_resolved": e.QuestionResolved,
    "tool_intended": e.ToolIntended,
    "tool_finished": e.ToolFinished,
    "followed_up": e.FollowedUp,
    "microcompacted": e.Microcompacted,
    "snipped": e.Snipped,
    "compacted": e.Compacted,
    "woken": e.Woken,
    "resumed": e.Resumed,
    "stop_requested": e.StopRequested,
    "run_ended": e.RunEnded,
    "session_ended": e.SessionEnded,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_PART_TYPES: dict[str, type[Part]] = {
    "text": TextPart,
    "tool_call": ToolCallPart,
    "tool_result": ToolResultPart,
    "opaque": OpaquePart,
}
_PART_NAMES = {kind: name for name, kind in _PART_TYPES.items()}


def type_name(entry: Entry) -> str:
    """The entry's stable name in the journal."""
    return _NAMES[type(entry)]


def encode_entry(entry: Entry) -> bytes:
    """The entry's fields as compact JSON; fields at their default are left out."""
    return encode(_fields(entry))


def decode_entry(name: str, version: int, body: bytes | str) -> Entry:
    """Rebuild an entry from its row.

    Raises:
        ValueError: the type or version is unknown, or the body is damaged.
    """
    kind = _TYPES.get(name)
    if kind is None or version > VERSION:
        raise ValueError(f"journal entry type {name!r} version {version} is not known to this release")
    fields = decode_object(body)
    try:
        return _build(kind, fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"journal entry of type {name!r} is damaged") from error


def _plain(value: object) -> JsonValue:
    kind = type(value)
    if kind is tuple:
        return [item if type(item) in _PLAIN else _plain(item) for item in cast("tuple[JsonValue, ...]", value)]
    if kind in _PART_NAMES:
        return {"type": _PART_NAMES[kind], **_fields(value)}
    if isinstance(value, Enum):
        return cast("str", value.value)
    return _fields(value) if kind in _DEFAULTS or dataclasses.is_dataclass(kind) else cast("JsonValue", value)


_PLAIN = frozenset({str, int, float, bool, dict, list, type(None)})


def _fields(value: object) -> JsonObject:
    found: JsonObject = {}
    for name, default in _defaults(type(value)):
        field = getattr(value, name)
        if field is default or (default is not _NO_DEFAULT and field == default):
            continue
        found[name] = field if type(field) in _PLAIN else _plain(field)
    return found


_NO_DEFAULT = object()
_DEFAULTS: dict[type, tuple[tuple[str, object], ...]] = {}


def _defaults(kind: type) -> tuple[tuple[str, object], ...]:
    known = _DEFAULTS.get(kind)
    if known is None:
        known = tuple((field.name, _default(field)) for field in dataclasses.fields(kind))
        _DEFAULTS[kind] = known
    return known


def _default(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return _NO_DEFAULT


def _build(kind: type[Entry], fields: JsonObject) -> Entry:
    known = {name for name, _ in _defaults(kind)}
    values: dict[str, object] = {}
    for name, value in fields.items():
        # Unknown fields come from a newer minor change that this release can do without.
        if name in known:
            convert = _CONVERT.get((kind, name)) or _CONVERT_ANY.get(name)
            values[name] = convert(value) if convert is not None else value
    return kind(**values)  # type: ignore[arg-type]  # field names and converters are checked by the golden files


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(cast("list[object]", value))


def _object(value: object) -> JsonObject:
    return cast("JsonObject", value)


def _route(value: object) -> RouteRef:
    return RouteRef(**cast("dict[str, str]", value))  # type: ignore[arg-type]  # written by _fields of the same class


def _usage(value: object) -> Usage:
    return Usage(**cast("dict[str, int]", value))


def _access(value: object) -> CredentialUse:
    return CredentialUse(**cast("dict[str, str]", value))  # type: ignore[arg-type]  # written by _fields of the same class


def _tool_choice(value: object) -> ToolChoice:
    return ToolChoice(**cast("dict[str, str]", value))


def _reasoning(value: object) -> Reasoning:
    fields = dict(cast("dict[str, object]", value))
    if isinstance(fields.get("effort"), str):
        fields["effort"] = ReasoningEffort(cast("str", fields["effort"]))
    return Reasoning(**fields)  # type: ignore[arg-type]  # written by _fields of the same class


def _generation(value: object) -> Generation:
    fields = dict(cast("dict[str, object]", value))
    if "tool_choice" in fields:
        fields["tool_choice"] = _tool_choice(fields["tool_choice"])
    if "response_format" in fields:
        fields["response_format"] = ResponseFormat(**cast("dict[str, str]", fields["response_format"]))  # type: ignore[arg-type]  # written by _fields of the same class
    if fields.get("reasoning") is not None:
        fields["reasoning"] = _reasoning(fields["reasoning"])
    return Generation(**fields)  # type: ignore[arg-type]  # written by _fields of the same class


def _part(value: object) -> Part:
    fields = dict(_object(value))
    kind = _PART_TYPES[str(fields.pop("type"))]
    return kind(**fields)  # type: ignore[arg-type]  # written by _plain of the same class


def _decision(value: object) -> Decision:
    fields = dict(cast("dict[str, object]", value))
    fields["ruling"] = Ruling(cast("str", fields["ruling"]))
    return Decision(**fields)  # type: ignore[arg-type]  # written by _fields of the same class


_CONVERT_ANY: dict[str, Callable[[object], object]] = {
    "route": _route,
    "generation": _generation,
    "usage": _usage,
    "access": _access,
    "tool_choice": _tool_choice,
    "finish_reason": lambda value: FinishReason(cast("str", value)),
    "status": lambda value: RunStatus(cast("str", value)),
    "on_restart": lambda value: OnRestart(cast("str", value)),
    "on_in_doubt": lambda value: OnInDoubt(cast("str", value)),
    "requirements": _tuple,
    "requests": _tuple,
    "reply_targets": _tuple,
    "resolutions": _tuple,
    "context_updates": _tuple,
    "effects": _tuple,
    "reused_call_ids": _tuple,
    "in_doubt_call_ids": _tuple,
    "cleared_tool_ids": _tuple,
}
_CONVERT: dict[tuple[type[Entry], str], Callable[[object], object]] = {
    (e.ModelReplied, "parts"): lambda value: tuple(_part(part) for part in cast("list[object]", value)),
    (e.CallsDecided, "decisions"): lambda value: tuple(_decision(item) for item in cast("list[object]", value)),
}
