"""The endpoints of sessions, runs and the runtime, as calls. One function, one row of the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from kheish.sdk import types as t
from kheish.sdk.decoding import as_list, as_object
from kheish.sdk.errors import InvalidArgument
from kheish.sdk.jsonvalue import JsonObject, JsonValue
from kheish.sdk.values import GenerationOptions, OnInDoubt, OnRestart, ReplyTarget, Route
from kheish.sdk.wire import Call, query, run_path, session_path

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """One page of a list."""

    items: tuple[T, ...]
    next_cursor: str | None


PageCall: TypeAlias = "Callable[[str | None, int], Call[Page[T]]]"
"""The call for one page, by cursor and size."""


def read_page(read: Callable[[JsonValue], T]) -> Callable[[JsonValue], Page[T]]:
    """A reader of the page envelope."""

    def whole(value: JsonValue) -> Page[T]:
        envelope = as_object(value)
        pagination = t.Pagination.from_json(envelope.get("pagination"))
        items = tuple(map(read, as_list(envelope.get("items"))))
        return Page(items=items, next_cursor=pagination.next_cursor if pagination.has_more else None)

    return whole


def read_list(read: Callable[[JsonValue], T]) -> Callable[[JsonValue], tuple[T, ...]]:
    """A reader of a bare array."""
    return lambda value: tuple(map(read, as_list(value)))


def getting(path: str, read: Callable[[JsonValue], T], **params: str | int | bool | None) -> Call[T]:
    """A GET; parameters that are None are left out."""
    return Call(method="GET", path=path, read=read, params=query(params), repeatable=True)


def paged(path: str, read: Callable[[JsonValue], T], **params: str | None) -> PageCall[T]:
    """The pages of a list."""

    def page(cursor: str | None, limit: int) -> Call[Page[T]]:
        return getting(path, read_page(read), page=True, cursor=cursor, limit=limit, **params)

    return page


def present(fields: Mapping[str, JsonValue]) -> JsonObject:
    """The fields that were given."""
    return {name: value for name, value in fields.items() if value is not None}


# Sessions


def create_session(session_id: str | None, thread_id: str | None, persona_id: str | None) -> Call[t.SessionView]:
    body = present({"session_id": session_id, "thread_id": thread_id, "persona_id": persona_id})
    # Opening a named session twice opens it once; an unnamed one would be two.
    named = session_id is not None
    return Call(method="POST", path="/v1/sessions", read=t.SessionView.from_json, body=body, repeatable=named)


def get_session(session_id: str) -> Call[t.SessionView]:
    return getting(session_path(session_id), t.SessionView.from_json)


def list_sessions(persona_id: str | None) -> PageCall[t.SessionViewSummary]:
    return paged("/v1/sessions", t.SessionViewSummary.from_json, persona_id=persona_id)


def session_events(session_id: str) -> Call[t.SessionEvents]:
    return getting(session_path(session_id, "events"), t.SessionEvents.from_json)


def interrupt_session(session_id: str) -> Call[t.InterruptView]:
    return Call(method="POST", path=session_path(session_id, "interrupt"), read=t.InterruptView.from_json)


def end_session(session_id: str, reason: str | None) -> Call[t.SessionView]:
    body = present({"reason": reason})
    return Call(method="POST", path=session_path(session_id, "end"), read=t.SessionView.from_json, body=body)


def set_route_policy(
    session_id: str, route: Route | str | None, generation: GenerationOptions | None
) -> Call[t.SessionView]:
    route_id, options = chosen(route, generation)
    body: JsonObject = {"route_policy": present({"provider": route_id, "generation": options})}
    path = session_path(session_id, "route-policy")
    return Call(method="PUT", path=path, read=t.SessionView.from_json, body=body, repeatable=True)


def clear_route_policy(session_id: str) -> Call[t.SessionView]:
    path = session_path(session_id, "route-policy")
    return Call(method="DELETE", path=path, read=t.SessionView.from_json, repeatable=True)


def get_reply_targets(session_id: str) -> Call[t.ReplyTargetsView]:
    return getting(session_path(session_id, "reply-targets"), t.ReplyTargetsView.from_json)


def set_reply_targets(session_id: str, targets: Sequence[ReplyTarget]) -> Call[t.SessionView]:
    body: JsonObject = {"reply_targets": [target.fields for target in targets]}
    path = session_path(session_id, "reply-targets")
    return Call(method="PUT", path=path, read=t.SessionView.from_json, body=body, repeatable=True)


def clear_reply_targets(session_id: str) -> Call[t.SessionView]:
    path = session_path(session_id, "reply-targets")
    return Call(method="DELETE", path=path, read=t.SessionView.from_json, repeatable=True)


# Input


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What a session shall work on."""

    prompt: str
    route: Route | str | None = None
    generation: GenerationOptions | None = None
    metadata: JsonValue = None
    reply_targets: Sequence[ReplyTarget] = ()
    completion_requirements: Sequence[JsonObject] = ()
    binding_keys: Sequence[str] = ()
    source_plugin: str | None = None
    source_kind: str | None = None
    actor_id: str | None = None
    on_restart: OnRestart | None = None
    on_in_doubt: OnInDoubt | None = None

    def to_json(self) -> JsonObject:
        """The wire form."""
        route_id, options = chosen(self.route, self.generation)
        return present(
            {
                "content": self.prompt,
                "provider": route_id,
                "generation": options,
                "metadata": self.metadata,
                "reply_targets": [target.fields for target in self.reply_targets] or None,
                "completion_requirements": list(self.completion_requirements) or None,
                "binding_keys": list(self.binding_keys) or None,
                "source_plugin": self.source_plugin,
                "source_kind": self.source_kind,
                "actor_id": self.actor_id,
                "on_restart": self.on_restart,
                "on_in_doubt": self.on_in_doubt,
            }
        )


def chosen(route: Route | str | None, generation: GenerationOptions | None) -> tuple[str | None, JsonObject | None]:
    """Route id and generation settings; a route's model is a generation setting on the wire.

    Raises:
        InvalidArgument: route and generation name different models.
    """
    options: JsonObject = {}
    for name, value in (generation or {}).items():
        options[name] = value  # type: ignore[assignment]  # the items of a TypedDict are typed object
    if not isinstance(route, Route):
        return route, options or None
    if route.model is not None and options.setdefault("model", route.model) != route.model:
        raise InvalidArgument("route and generation name different models")
    return route.route_id, options or None


def submit_run(session_id: str, given: Input, key: str) -> Call[t.RunView]:
    return Call(
        method="POST",
        path=session_path(session_id, "runs"),
        read=t.RunView.from_json,
        body=given.to_json(),
        idempotency_key=key,
        repeatable=True,
    )


def run_input(session_id: str, given: Input, timeout_seconds: float | None) -> Call[t.SessionView]:
    return Call(
        method="POST",
        path=session_path(session_id, "input"),
        read=t.SessionView.from_json,
        body=given.to_json(),
        timeout_seconds=timeout_seconds,
    )


# Runs


def get_run(run_id: str) -> Call[t.RunView]:
    return getting(run_path(run_id), t.RunView.from_json)


def list_runs(session_id: str | None, order: str) -> PageCall[t.RunView]:
    return paged("/v1/runs", t.RunView.from_json, session_id=session_id, order=order)


def newest_runs(limit: int, session_id: str | None, priority_active: bool) -> Call[tuple[t.RunView, ...]]:
    read = read_list(t.RunView.from_json)
    first = True if priority_active else None
    return getting("/v1/runs", read, limit=limit, session_id=session_id, priority_active=first)


def external_actions(run_id: str) -> Call[tuple[t.ExternalAction, ...]]:
    return getting(run_path(run_id, "external-actions"), read_list(t.ExternalAction.from_json))


def run_events(run_id: str) -> Call[tuple[t.RunEventEntry, ...]]:
    return getting(run_path(run_id, "events"), read_list(t.RunEventEntry.from_json))


def cancel_run(run_id: str) -> Call[t.RunView]:
    # Cancelling a cancelled run changes nothing.
    return Call(method="POST", path=run_path(run_id, "cancel"), read=t.RunView.from_json, repeatable=True)


# Runtime


def get_status() -> Call[JsonObject]:
    return getting("/v1/status", as_object)


def get_capabilities() -> Call[JsonObject]:
    return getting("/v1/capabilities", as_object)


def get_runtime() -> Call[t.RuntimeView]:
    return getting("/v1/runtime", t.RuntimeView.from_json)


def set_model(model: str, route_id: str | None, expected_revision: int | None) -> Call[t.RuntimeView]:
    body = present({"model": model, "provider": route_id, "expected_revision": expected_revision})
    return Call(method="POST", path="/v1/runtime/model", read=t.RuntimeView.from_json, body=body)


def set_permission_mode(mode: str, expected_revision: int | None) -> Call[t.RuntimeView]:
    body = present({"mode": mode, "expected_revision": expected_revision})
    return Call(method="POST", path="/v1/runtime/permission-mode", read=t.RuntimeView.from_json, body=body)


def check_permission(
    tool_name: str, tool_input: JsonValue, session_id: str | None, tool_call_id: str | None, mode: str | None
) -> Call[t.Explanation]:
    fields: JsonObject = {
        "tool_name": tool_name,
        "input": tool_input,
        "session_id": session_id,
        "tool_call_id": tool_call_id,
        "mode_override": mode,
    }
    path = "/v1/runtime/permissions/check"
    return Call(method="POST", path=path, read=t.Explanation.from_json, body=present(fields), repeatable=True)


def get_tool_limits() -> Call[t.ToolLimits]:
    return getting("/v1/runtime/tool-limits", t.ToolLimits.from_json)


def set_tool_limits(limits: JsonObject, expected_revision: int | None) -> Call[t.RuntimeView]:
    body = present({"limits": limits, "expected_revision": expected_revision})
    return Call(method="POST", path="/v1/runtime/tool-limits", read=t.RuntimeView.from_json, body=body)
