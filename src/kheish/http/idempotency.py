"""Idempotency keys: a header, a body field, or both when they agree."""

from __future__ import annotations

import hashlib
from typing import Annotated

from starlette.requests import Request

from kheish.core.problems import Problem
from kheish.http.arguments import Header

HEADER = "Idempotency-Key"


class InvalidIdempotencyKey(Problem):
    """The idempotency key is not usable."""

    domain, code, status = "idempotency", "invalid_idempotency_key", 400


def header_key(
    request: Request,
    idempotency_key: Annotated[
        str | None, Header(name="idempotency-key", description="A repeated request returns the first one's run")
    ] = None,
) -> str | None:
    """The header as sent.

    Raises:
        InvalidIdempotencyKey: it is sent twice or is not ASCII.
    """
    if idempotency_key is None:
        return None
    if len(request.headers.getlist(HEADER)) > 1:
        raise InvalidIdempotencyKey("Send the Idempotency-Key header once.")
    if not idempotency_key.isascii():
        raise InvalidIdempotencyKey("The Idempotency-Key header must be ASCII.")
    return idempotency_key


def agreed_key(header: str | None, body: str | None) -> str | None:
    """The key both sides agree on, trimmed; None when neither is given.

    Raises:
        InvalidIdempotencyKey: a key is blank, or header and body differ.
    """
    given = [key.strip() for key in (header, body) if key is not None]
    if not given:
        return None
    if not all(given):
        raise InvalidIdempotencyKey("The idempotency key is empty.")
    if given[0] != given[-1]:
        raise InvalidIdempotencyKey("The Idempotency-Key header and idempotency_key in the body differ.")
    return given[0]


def key_hash(key: str) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
