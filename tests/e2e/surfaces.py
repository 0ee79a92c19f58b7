"""Every operation of the daemon's own OpenAPI document, called well and badly."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from tests.e2e.daemon_process import DEADLINE_S

Json = dict[str, Any]
_STREAM = "text/event-stream"
_FIRST_BYTES = 50_000_000


@dataclass(frozen=True, kw_only=True)
class Operation:
    id: str
    method: str
    path: str
    """With `{names}`."""
    body: Json | None
    """Its schema."""
    stream: bool

    def url(self, ids: Mapping[str, str]) -> str:
        """With an id that nobody has where none is given."""
        return re.sub(r"\{(\w+)\}", lambda found: quote(ids.get(found[1], "x"), safe=""), self.path)


def operations(document: Json) -> Iterator[Operation]:
    """All of them, destructive ones last."""
    found = []
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
            answers = described["responses"].get("200", {}).get("content", {})
            made = Operation(
                id=described["operationId"],
                method=method.upper(),
                path=path,
                body=content.get("schema"),
                stream=_STREAM in answers,
            )
            found.append(made)
    yield from sorted(found, key=lambda one: (one.method == "DELETE", one.method != "GET", one.path))


def example(schema: Json, document: Json) -> Any:
    """A small value that fits the schema: required fields only."""
    if "$ref" in schema:
        return example(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return example(schema[word][0], document)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type")
    if kind == "object":
        fields = schema.get("properties", {})
        return {name: example(fields[name], document) for name in schema.get("required", [])}
    if kind == "array":
        return [example(schema["items"], document)] * schema.get("minItems", 0)
    return {"string": "x", "integer": schema.get("minimum", 1), "number": 1.0, "boolean": True}.get(str(kind), {})


class Caller:
    """Calls operations with one token and keeps every byte that comes back."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._client = httpx2.Client(base_url=url, headers=headers, timeout=DEADLINE_S, trust_env=False)

    def send(self, method: str, path: str, *, body: object = None, raw: bytes | None = None, **headers: str) -> bytes:
        """The whole answer, its headers included."""
        content = raw if raw is not None else (None if body is None else json.dumps(body).encode())
        sent = {**({} if content is None else {"content-type": "application/json"}), **headers}
        return _whole(self._client.request(method, path, content=content, headers=sent))

    def beginning(self, path: str, until: bytes) -> bytes:
        """What a stream says until ``until`` has come by."""
        kept = b""
        with self._client.stream("GET", path) as response:
            if response.status_code != httpx2.codes.OK:
                response.read()
                return _whole(response)
            for chunk in response.iter_bytes():
                kept += chunk
                if until in kept or len(kept) > _FIRST_BYTES:
                    break
        return kept

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _whole(response: httpx2.Response) -> bytes:
    head = b"\n".join(b"%b: %b" % (name, value) for name, value in response.headers.raw)
    return b"%d\n%b\n\n%b\n" % (response.status_code, head, response.content)
