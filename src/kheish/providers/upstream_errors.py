"""From what a provider says went wrong to a `ProviderError` that is safe to show."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.providers.protocol import ErrorKind, ProviderError
from kheish.providers.wire import as_list, as_object, as_str

MAX_RETRY_AFTER_MS = 60_000
"""A provider that wishes for more is asked again after this; the run's own limits decide the rest."""
REPAIR_MARGIN_TOKENS = 1_000
REPAIR_FLOOR_TOKENS = 3_000

# Order matters: the first row with a phrase in the text, or with the status, names the kind.
_KINDS: tuple[tuple[ErrorKind, tuple[str, ...], tuple[int, ...]], ...] = (
    (
        ErrorKind.CONTEXT_WINDOW_EXCEEDED,
        (
            "context_length_exceeded", "context_window_exceeded", "maximum context length", "prompt is too long",
            "too many tokens", "exceed context limit", "exceeds the context window", "context window exceeded",
            "context length exceeded", "maximum number of tokens allowed", "exceeds the model's maximum context",
            "exceed_context_size", "exceeds the available context size", "maximum prompt length", "input is too long",
        ),
        (),
    ),
    (ErrorKind.RATE_LIMITED, ("rate limit", "rate_limit", "too many requests"), (429,)),
    (
        ErrorKind.AUTH,
        ("invalid api key", "api key not valid", "api_key_invalid", "authentication", "unauthorized", "forbidden"),
        (401, 403),
    ),
    (ErrorKind.SERVER_OVERLOADED, ("overloaded", "temporarily unavailable"), (503, 529)),
    (
        ErrorKind.TRANSPORT,
        ("timeout", "timed out", "inactive", "transport", "connection", "network"),
        (408, 504),
    ),
    (ErrorKind.INVALID_REQUEST, ("invalid_request_error", "invalid request", "bad request"), (400,)),
)  # fmt: skip
_ABOUT_MEDIA = ("attachment", "image", "pdf", "media")
_OVERFLOW = re.compile(r"input length and `?max_tokens`? exceed context limit:\s*(\d+)\s*\+\s*(\d+)\s*>\s*(\d+)", re.I)
_SAFE_TOKEN = re.compile(r"[A-Za-z]{1,30}([_.][A-Za-z]{1,30}){0,7}([_.]?\d{1,4})?\Z")
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_NEVER_RETRIED = frozenset({ErrorKind.CONTEXT_WINDOW_EXCEEDED, ErrorKind.AUTH, ErrorKind.INVALID_REQUEST})


def classify(text: str, status: int | None) -> ErrorKind:
    """Name the kind of an error from the provider's words and the HTTP status."""
    lowered = text.lower()
    if status == 413 and not any(word in lowered for word in _ABOUT_MEDIA):
        return ErrorKind.CONTEXT_WINDOW_EXCEEDED
    for kind, phrases, statuses in _KINDS:
        if status in statuses or any(phrase in lowered for phrase in phrases):
            return kind
    return ErrorKind.UNKNOWN


def upstream_error(
    provider: str,
    phase: str,
    payload: JsonValue,
    *,
    status: int | None = None,
    retry_after_ms: int | None = None,
) -> ProviderError:
    """Turn an error the provider sent into ours.

    ``payload`` is the body or event, JSON or text. Of its words only the type, the code and the numbers of a context
    overflow survive, and those only when they look like what they should be.
    """
    text = payload if isinstance(payload, str) else encode(payload).decode()
    body = as_object(payload[0] if isinstance(payload, list) and payload else payload)
    error = as_object(body.get("error")) or body
    code = error.get("code")
    known = status if status is not None else _status_in(code)
    kind = classify(text, known)
    facts = [f"HTTP {known}"] if known is not None else []
    named = (("type", error.get("type")), ("code", code if isinstance(code, str) else error.get("status")))
    facts += [f"{name}={safe}" for name, value in named if (safe := _safe(value))]
    if kind is ErrorKind.CONTEXT_WINDOW_EXCEEDED:
        facts.append(f"kind={kind}")
    ceiling = None
    overflow = _OVERFLOW.search(text)
    if overflow is not None:
        used, asked, limit = (int(number[:12]) for number in overflow.groups())
        facts.append(f"input length and max_tokens exceed context limit: {used} + {asked} > {limit}")
        room = limit - used - REPAIR_MARGIN_TOKENS
        ceiling = room if room >= REPAIR_FLOOR_TOKENS else None
    return ProviderError(
        f"{provider} {phase} failed" + (": " + ", ".join(facts) if facts else ""),
        kind=kind,
        retryable=ceiling is not None or _retryable(kind, known),
        status=known,
        retry_after_ms=_wish_in(error) if retry_after_ms is None else retry_after_ms,
        retry_max_output_tokens=ceiling,
        lost_continuation=known in (400, 404) and "previous_response" in text,
    )


def transport_error(provider: str, phase: str, reason: str) -> ProviderError:
    """Make the retryable error of a connection that failed; ``reason`` must be our own words."""
    return ProviderError(f"{provider} {phase} failed: {reason}", kind=ErrorKind.TRANSPORT, retryable=True)


def local_error(provider: str, reason: str) -> ProviderError:
    """Make the error of a request that is refused before anything is sent."""
    return ProviderError(f"{provider} request refused: {reason}", kind=ErrorKind.INVALID_REQUEST, retryable=False)


def unsendable(provider: str) -> ProviderError:
    """Make the error of a request that cannot be put on the wire; what is wrong with it may be a secret."""
    return local_error(provider, "its body, headers or address cannot be sent")


def retry_after_ms(header: str | None, *, now_ms: int) -> int | None:
    """Read `Retry-After`, seconds or an HTTP date, as milliseconds from now, at most `MAX_RETRY_AFTER_MS`."""
    if header is None:
        return None
    text = header.strip()
    try:
        wanted = float(text) * 1000
    except ValueError:
        try:
            wanted = parsedate_to_datetime(text).timestamp() * 1000 - now_ms
        except (ValueError, OverflowError):
            return None
    if wanted != wanted:
        return None
    return int(min(max(wanted, 0), MAX_RETRY_AFTER_MS))


def _wish_in(error: JsonObject) -> int | None:
    """Read when to ask again from the error's details: a delay such as `34s`, or `34.5s`."""
    for detail in map(as_object, as_list(error.get("details"))):
        delay = as_str(detail.get("retryDelay"))
        if delay.endswith("s"):
            return retry_after_ms(delay.removesuffix("s"), now_ms=0)
    return None


def _retryable(kind: ErrorKind, status: int | None) -> bool:
    if kind in _NEVER_RETRIED:
        return False
    return status is None or status >= 500 or status in _RETRYABLE_STATUS


def _status_in(code: JsonValue) -> int | None:
    """Some servers send the HTTP status as the code of an error inside a stream."""
    return code if isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599 else None


def _safe(value: JsonValue) -> str | None:
    if isinstance(value, str) and len(value) <= 64 and _SAFE_TOKEN.match(value):
        return value
    return None
