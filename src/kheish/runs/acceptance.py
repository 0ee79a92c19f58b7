"""From a request to an `InputAccepted` entry: everything that can be refused is refused here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import Generation
from kheish.core.problems import BadRequest, Problem
from kheish.engine.entries import InputAccepted, OnInDoubt, RouteRef
from kheish.providers.routes import RouteInventory
from kheish.runs.models import AssetReference, BoardReference, CompletionRequirement, InlineAsset, SubmitInput, TextItem
from kheish.runs.views import text_preview
from kheish.sessions.generation import UNSET, merge, to_generation
from kheish.sessions.replies import handles
from kheish.sessions.service import SessionRecord

Item = TextItem | AssetReference | InlineAsset | BoardReference


class AssetsUnavailable(Problem):
    """This daemon has no asset store yet: send text only."""

    domain, code, status = "assets", "assets_unavailable", 400


def accept(session: SessionRecord, request: SubmitInput, *, routes: RouteInventory, max_turns: int) -> InputAccepted:
    """Build the entry that makes a run exist.

    Raises:
        BadRequest: the payload is empty, mixed or blank, or a requirement's path leaves the workspace.
        AssetsUnavailable: it holds attachments.
        Problem: the route is unknown, not ready, or refuses the model.
    """
    items = _items(request)
    for item in (*items, *request.attachments):
        _check_item(item)
    requirements = tuple(_requirement(one) for one in request.completion_requirements or ())
    if request.attachments or any(not isinstance(item, TextItem) for item in items):
        raise AssetsUnavailable
    route, generation = pin(session, request, routes)
    targets = _targets(session, request)
    text = "\n".join(item.text for item in items if isinstance(item, TextItem)) or request.content
    summary: JsonObject = {
        "source_plugin": request.source_plugin or "daemon",
        "source_kind": request.source_kind or "api",
        "actor_id": request.actor_id or "user",
        "text_preview": text_preview(text),
    }
    return InputAccepted(
        agent_id=session.agent_id,
        kind="input",
        envelope=_envelope(session, request, summary, items, requirements, targets),
        text=text,
        route=route,
        generation=generation,
        summary=summary,
        requirements=requirements,
        max_turns=max_turns,
        reply_targets=targets,
        on_restart=request.on_restart,
        on_in_doubt=request.on_in_doubt or OnInDoubt.REPORT,
    )


def pin(session: SessionRecord, request: SubmitInput, routes: RouteInventory) -> tuple[RouteRef, Generation]:
    """Choose the route and model for good: the run's own, then the session's policy, then the daemon's default."""
    policy = session.route_policy
    base = UNSET
    provider = request.provider
    if policy is not None:
        base = to_generation(policy.generation)
        if provider is not None and provider != policy.provider:
            # The policy's model belongs to the policy's route.
            base = replace(base, model=None, fallback_model=None)
        provider = provider if provider is not None else policy.provider
    generation = merge(base, to_generation(request.generation))
    resolved = routes.resolve(provider, generation.model)
    if generation.fallback_model is not None:
        routes.resolve(resolved.route_id, generation.fallback_model)
    routes.require_ready(resolved.route_id)
    route = RouteRef(
        route_id=resolved.route_id,
        driver=resolved.provider,
        model=resolved.model,
        context_window_tokens=resolved.context_window_tokens,
    )
    return route, generation


def _items(request: SubmitInput) -> Sequence[Item]:
    if request.input_items:
        if request.content or request.attachments:
            raise BadRequest("input_items excludes content and attachments.")
        if not any(not isinstance(item, TextItem) or item.text.strip() for item in request.input_items):
            raise BadRequest("The input is empty: give a non-blank text or an attachment.")
        return request.input_items
    if not request.content.strip() and not request.attachments:
        raise BadRequest("The input is empty: give content, input_items or attachments.")
    return ()


def _check_item(item: Item) -> None:
    match item:
        case TextItem():
            return
        case AssetReference(asset_id=asset_id):
            _not_blank("asset_id", asset_id)
        case BoardReference(board_id=board_id, revision_id=revision_id):
            _not_blank("board_id", board_id)
            _not_blank("revision_id", revision_id)
        case InlineAsset(file_name=file_name, content_base64=content):
            _not_blank("file_name", file_name)
            _not_blank("content_base64", content)


def _not_blank(name: str, value: str | None) -> None:
    if value is not None and not value.strip():
        raise BadRequest(f"{name} is blank.")


def _requirement(requirement: CompletionRequirement) -> JsonObject:
    if requirement.path is None:
        return {"type": requirement.type}
    path = PurePosixPath(requirement.path.strip())
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in requirement.path:
        raise BadRequest(f"The completion requirement's path {requirement.path!r} is not a workspace-relative path.")
    return {"type": requirement.type, "path": str(path)}


def _targets(session: SessionRecord, request: SubmitInput) -> tuple[JsonObject, ...]:
    if (request.reply_plugin is None) != (request.reply_address is None):
        raise BadRequest("reply_plugin and reply_address go together.")
    explicit = list(handles(request.reply_targets))
    if request.reply_plugin is not None:
        explicit.append({"plugin": request.reply_plugin, "address": request.reply_address})
    unique = tuple(target for index, target in enumerate(explicit) if target not in explicit[:index])
    return unique or session.reply_targets or ()


def _envelope(
    session: SessionRecord,
    request: SubmitInput,
    summary: JsonObject,
    items: Sequence[Item],
    requirements: tuple[JsonObject, ...],
    targets: tuple[JsonObject, ...],
) -> JsonObject:
    texts: list[JsonValue] = [{"type": "text", "text": item.text} for item in items if isinstance(item, TextItem)]
    rendered = "\n".join(item.text for item in items if isinstance(item, TextItem))
    envelope: JsonObject = {
        "source": {"plugin": summary["source_plugin"], "kind": summary["source_kind"]},
        "conversation": {"session_id": session.session_id, "thread_id": session.thread_id},
        "actor": {"id": summary["actor_id"], "display_name": None},
        "payload": {"type": "rich", "rendered_content": rendered, "items": texts}
        if texts
        else {"type": "text", "content": request.content},
        "attachments": [],
        "metadata": _metadata(request.metadata, requirements),
    }
    if targets:
        envelope["reply_targets"] = list(targets)
        envelope["reply"] = targets[0]
    return envelope


def _metadata(metadata: JsonValue, requirements: tuple[JsonObject, ...]) -> JsonValue:
    if not requirements:
        return metadata
    own: JsonObject = metadata if isinstance(metadata, dict) else {}
    if metadata is not None and not isinstance(metadata, dict):
        own = {"user_metadata": metadata}
    return {**own, "completion_requirements": list(requirements)}
