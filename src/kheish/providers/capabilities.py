"""What a route can do beyond text: the capability matrix, version 2."""

from __future__ import annotations

from dataclasses import fields

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class

MATRIX_VERSION = 2


@value_class(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """One row of the matrix; the field names are the keys of the routes file and of the wire."""

    multimodal_input: bool = False
    native_web_search: bool = False
    image_generation: bool = False
    image_edit: bool = False
    audio_generation: bool = False
    transcription: bool = False

    def to_wire(self) -> JsonObject:
        flags: JsonObject = {name: getattr(self, name) for name in FLAGS}
        return {"matrix_version": MATRIX_VERSION, **flags}


FLAGS: tuple[str, ...] = tuple(field.name for field in fields(Capabilities))
