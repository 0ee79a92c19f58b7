"""Lists: a bare array by default, an envelope with a cursor when paging is asked for."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

from pydantic import WithJsonSchema

from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.http.arguments import Query

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
_TRUE = frozenset({"true", "1", "yes", "on"})


class InvalidLimit(Problem):
    """limit must be a positive integer."""

    domain, code, status = "pagination", "invalid_limit", 400


class InvalidCursor(Problem):
    """The cursor is not one this daemon gave out."""

    domain, code, status = "pagination", "invalid_cursor", 400


class InvalidOrder(Problem):
    """order must be asc or desc."""

    domain, code, status = "pagination", "invalid_order", 400


@value_class(frozen=True, kw_only=True, slots=True)
class Paging:
    """What the caller asked for; `limit` is None when it named none."""

    paged: bool
    limit: int | None
    cursor: str | None
    """The sort key of the last item the caller has seen."""
    descending: bool = False

    @property
    def page_limit(self) -> int:
        return DEFAULT_LIMIT if self.limit is None else self.limit


_BOOLEAN = WithJsonSchema({"type": "boolean"})
_LIMIT = WithJsonSchema({"type": "integer", "minimum": 1})


def paging(
    page: Annotated[str | None, _BOOLEAN, Query(description="true: answer with an envelope")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before; implies `page`")] = None,
    limit: Annotated[str | None, _LIMIT, Query(description=f"default {DEFAULT_LIMIT}, at most {MAX_LIMIT}")] = None,
) -> Paging:
    """Read `page`, `cursor` and `limit`.

    Raises:
        InvalidLimit: `limit` is not a positive integer.
        InvalidCursor: `cursor` is not one of ours.
    """
    return Paging(
        paged=cursor is not None or is_true(page),
        limit=None if limit is None else _limit(limit),
        cursor=None if cursor is None else _sort_key(cursor),
    )


def is_true(value: str | None) -> bool:
    """How a boolean query parameter is read."""
    return value is not None and value.strip().lower() in _TRUE


def envelope(
    rows: Sequence[Mapping[str, object]],
    *,
    paging: Paging,
    total: int,
    order: str,
    key: Callable[[Mapping[str, object]], str],
) -> dict[str, object]:
    """The page; ``rows`` holds one item more than the limit when another page follows."""
    limit = paging.page_limit
    has_more = len(rows) > limit
    last = key(rows[limit - 1]) if has_more else None
    return {
        "items": rows[:limit],
        "pagination": {
            "limit": limit,
            "total_count": total,
            "has_more": has_more,
            "next_cursor": None if last is None else encode_cursor(last),
            "order": order,
        },
    }


def encode_cursor(sort_key: str) -> str:
    """Unpadded base64url of a sort key."""
    return base64.urlsafe_b64encode(sort_key.encode()).rstrip(b"=").decode()


def _sort_key(cursor: str) -> str:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        key = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error) as error:
        raise InvalidCursor from error
    if not key:
        raise InvalidCursor
    return key


def _limit(text: str) -> int:
    stripped = text.strip()
    if not stripped.isascii() or not stripped.isdecimal() or int(stripped[:10]) == 0:
        raise InvalidLimit
    return min(int(stripped[:10]), MAX_LIMIT)


def sliced(
    rows: Sequence[Mapping[str, object]], *, paging: Paging, order: str, key: Callable[[Mapping[str, object]], str]
) -> object:
    """A small list that is in memory as a whole, in key order: bare or as a page."""
    ordered = sorted(rows, key=key)
    if not paging.paged:
        return ordered if paging.limit is None else ordered[: paging.limit]
    seen = paging.cursor
    rest = ordered if seen is None else [row for row in ordered if key(row) > seen]
    return envelope(rest, paging=paging, total=len(rows), order=order, key=key)
