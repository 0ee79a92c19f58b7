"""Reply targets: every written form becomes one `{plugin, address}` handle."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.jsonvalue import JsonObject, encode
from kheish.sessions.models import RawTarget, ReplyTarget


def handles(targets: Iterable[ReplyTarget]) -> tuple[JsonObject, ...]:
    """Normalised handles, repeated ones once."""
    found: list[JsonObject] = []
    for target in targets:
        handle = _handle(target)
        if handle not in found:
            found.append(handle)
    return tuple(found)


def _handle(target: ReplyTarget) -> JsonObject:
    if isinstance(target, RawTarget):
        return {"plugin": target.plugin, "address": target.address}
    address = target.model_dump(mode="json", exclude={"type"}, exclude_none=True)
    return {"plugin": target.type, "address": encode(address).decode()}
