from __future__ import annotations

import pytest

from kheish.core.jsonvalue import JsonValue
from kheish.providers.protocol import ErrorKind
from kheish.providers.upstream_errors import classify, retry_after_ms, upstream_error

OVERFLOW = "input length and `max_tokens` exceed context limit: {} + {} > {}, decrease it, dear sk-SECRET"


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("code: Context_Length_Exceeded, rate limit", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("This model's maximum context length is 8 tokens", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("prompt is too long: 9 tokens > 8", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("the request exceeds the available context size", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("maximum prompt length is 131072", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("Input is too long for requested model.", 400, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("too large", 413, ErrorKind.CONTEXT_WINDOW_EXCEEDED),
        ("the image is too large", 413, ErrorKind.UNKNOWN),
        ("Too Many Requests", None, ErrorKind.RATE_LIMITED),
        ("", 429, ErrorKind.RATE_LIMITED),
        ("rate_limit and unauthorized", 401, ErrorKind.RATE_LIMITED),
        ("invalid api key", 400, ErrorKind.AUTH),
        ("API key not valid. Please pass a valid API key.", 400, ErrorKind.AUTH),
        ("", 401, ErrorKind.AUTH),
        ("", 403, ErrorKind.AUTH),
        ("Overloaded", None, ErrorKind.SERVER_OVERLOADED),
        ("", 529, ErrorKind.SERVER_OVERLOADED),
        ("", 503, ErrorKind.SERVER_OVERLOADED),
        ("upstream connection error", 502, ErrorKind.TRANSPORT),
        ("", 504, ErrorKind.TRANSPORT),
        ("invalid_request_error", None, ErrorKind.INVALID_REQUEST),
        ("", 400, ErrorKind.INVALID_REQUEST),
        ("", 500, ErrorKind.UNKNOWN),
        ("", 404, ErrorKind.UNKNOWN),
    ],
)
def test_errors_are_classified_in_the_order_of_the_contract(text: str, status: int | None, kind: ErrorKind) -> None:
    assert classify(text, status) is kind


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (400, False),
        (401, False),
        (404, False),
        (408, True),
        (413, False),
        (429, True),
        (500, True),
        (503, True),
        (529, True),
    ],
)
def test_only_what_may_pass_is_retryable(status: int, retryable: bool) -> None:
    assert upstream_error("p", "request", {}, status=status).retryable is retryable


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (
            {"error": {"type": "rate_limit_error", "message": "sk-SECRET"}},
            "p request failed: HTTP 418, type=rate_limit_error",
        ),
        (
            {"error": {"type": "invalid_request_error", "code": "model_not_found", "param": "sk-SECRET"}},
            "p request failed: HTTP 418, type=invalid_request_error, code=model_not_found",
        ),
        ({"error": {"type": "sk-SECRET", "code": "skSECRET0123456789"}}, "p request failed: HTTP 418"),
        ({"error": {"code": "sk_SECRET 1"}}, "p request failed: HTTP 418"),
        ({"error": "sk-SECRET"}, "p request failed: HTTP 418"),
        ({"type": "api_error", "message": "sk-SECRET"}, "p request failed: HTTP 418, type=api_error"),
        ("<html>sk-SECRET</html>", "p request failed: HTTP 418"),
        (["sk-SECRET"], "p request failed: HTTP 418"),
        (None, "p request failed: HTTP 418"),
        (
            {"error": {"code": "context_length_exceeded", "message": "sk-SECRET"}},
            "p request failed: HTTP 418, code=context_length_exceeded, kind=context_window_exceeded",
        ),
    ],
)
def test_of_the_providers_words_only_type_and_code_survive(payload: JsonValue, message: str) -> None:
    assert upstream_error("p", "request", payload, status=418).message == message


def test_googles_errors_name_their_status_word_and_their_delay() -> None:
    details: list[JsonValue] = [
        {"@type": "type.googleapis.com/google.rpc.Help", "links": []},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"},
    ]
    payload: JsonValue = {
        "error": {"code": 429, "message": "sk-SECRET", "status": "RESOURCE_EXHAUSTED", "details": details}
    }

    for body in (payload, [payload]):  # a request that asks for no stream of events is refused with a list
        error = upstream_error("google", "request", body, status=429)

        assert error.message == "google request failed: HTTP 429, code=RESOURCE_EXHAUSTED"
        assert (error.kind, error.retry_after_ms) == (ErrorKind.RATE_LIMITED, 34_500)
    assert upstream_error("google", "request", payload, status=429, retry_after_ms=1).retry_after_ms == 1


def test_a_status_inside_a_stream_counts_as_one() -> None:
    error = upstream_error("p", "stream", {"error": {"code": 502, "message": "x"}})

    assert (error.status, error.retryable, error.message) == (502, True, "p stream failed: HTTP 502")


@pytest.mark.parametrize(
    ("numbers", "status", "ceiling", "retryable"),
    [
        ((200_000, 8_000, 204_000), 400, 3_000, True),
        ((200_001, 8_000, 204_000), 400, None, False),
        ((200_001, 8_000, 204_000), 529, None, False),
        ((1_000, 64_000, 60_000), 400, 58_000, True),
    ],
)
def test_a_context_overflow_names_the_ceiling_that_would_fit(
    numbers: tuple[int, int, int], status: int, ceiling: int | None, retryable: bool
) -> None:
    """providers-and-routes case 14, what the adapter contributes."""
    error = upstream_error("p", "request", {"error": {"message": OVERFLOW.format(*numbers)}}, status=status)

    assert error.retry_max_output_tokens == ceiling
    assert error.retryable is retryable
    assert error.kind is ErrorKind.CONTEXT_WINDOW_EXCEEDED
    assert "exceed context limit: {} + {} > {}".format(*numbers) in error.message
    assert "SECRET" not in error.message


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        (None, None),
        ("2", 2_000),
        ("0.25", 250),
        (" 3 ", 3_000),
        ("-1", 0),
        ("9999", 60_000),
        ("inf", 60_000),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Thu, 01 Jan 1970 00:01:50 GMT", 10_000),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 02 Jan 1970 00:00:00 GMT", 60_000),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_capped(header: str | None, wait: int | None) -> None:
    assert retry_after_ms(header, now_ms=100_000) == wait
