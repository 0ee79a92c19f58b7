"""Requests that wait for a human, as the lists of approvals and questions hold them."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.cli.daemon_client import as_object
from kheish.cli.failures import Failure
from kheish.cli.output import JsonObject


def request_of(row: JsonObject) -> str:
    """The request id of one row."""
    return str(as_object(row.get("request")).get("id"))


def only_match(rows: Iterable[JsonObject], request_id: str, *, hint: str) -> JsonObject:
    """The one row with this request id.

    Raises:
        Failure: there is none, or more than one; ``hint`` names the option that tells them apart.
    """
    found = [row for row in rows if request_of(row) == request_id]
    if not found:
        raise Failure(f"no request {request_id!r} waits for a human")
    if len(found) > 1:
        raise Failure(f"{len(found)} requests have the id {request_id!r}: add {hint}")
    return found[0]
