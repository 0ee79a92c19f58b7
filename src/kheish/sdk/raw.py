"""Any request of the synchronous client. Apart from the rest, whose types take long to import."""

from __future__ import annotations

from collections.abc import Mapping

from kheish.sdk import repeating
from kheish.sdk.jsonvalue import JsonValue
from kheish.sdk.transport import Transport


class Resource:
    """A group of methods on one connection."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class Raw(Resource):
    """Endpoints that have no method of their own."""

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, JsonValue] | None = None,
        json: JsonValue = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> JsonValue:
        """Send a request and return its JSON (text when the answer is not JSON, None when it is empty).

        ``path`` begins with a slash and is sent as it is: encode ids yourself.
        """
        return self._transport.call(repeating.raw_call(method, path, params, json, idempotency_key, timeout))
