"""Errors of /v1 with OpenAI's bodies: all four of message, type, param and code, always."""

from collections.abc import Mapping

from django.http import JsonResponse

INVALID_REQUEST = "invalid_request_error"
IDEMPOTENCY_HEADER = "Idempotency-Key"
RETRY_SECONDS = 5
"""When to ask again where something that answers need is away."""


class ApiError(Exception):
    """What a view under /v1 answers instead of its result."""

    def __init__(
        self,
        status: int,
        code: str | None,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JsonResponse:
        return JsonResponse(self.body, status=self.status, headers=self.headers)


def bad_parameter(param: str, code: str, message: str) -> ApiError:
    return ApiError(400, code, message, param=param)


def invalid_key(message: str) -> ApiError:
    return ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": 'Bearer realm="FAI"'})


def insufficient_quota(message: str) -> ApiError:
    """Nothing changes by asking again, so the header keeps OpenAI's clients from doing that."""
    return ApiError(429, "insufficient_quota", message, kind="insufficient_quota", headers={"x-should-retry": "false"})


def queue_full(*, retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"Too many requests are waiting for this model: try again in {retry_after_seconds} seconds.",
        kind="requests",
        headers={"Retry-After": str(retry_after_seconds)},
    )


def rate_limited(*, kind: str, limit: int, remaining: int, requested: int, retry_after_seconds: int) -> ApiError:
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"Rate limit reached for {kind} per minute: limit {limit}, left {remaining}, requested {requested}. "
        f"Try again in {retry_after_seconds} seconds.",
        kind=kind,
        headers={"Retry-After": str(retry_after_seconds)},
    )


def never_within_limit(*, requested: int, limit: int) -> ApiError:
    return ApiError(
        429,
        "rate_limit_exceeded",
        f"Request too large: it may take {requested} tokens, and {limit} tokens per minute are the limit. "
        "Ask for fewer tokens or choices.",
        kind="tokens",
        headers={"x-should-retry": "false"},
    )


def in_progress(message: str) -> ApiError:
    return ApiError(
        409, "idempotency_key_in_use", message, param=IDEMPOTENCY_HEADER,
        headers={"Retry-After": "1", "x-should-retry": "true"},
    )  # fmt: skip


def key_reused(message: str) -> ApiError:
    return ApiError(422, "idempotency_key_reused", message, param=IDEMPOTENCY_HEADER)


def answer_not_kept(message: str) -> ApiError:
    return ApiError(422, "idempotency_answer_too_large", message, param=IDEMPOTENCY_HEADER)


def unknown_url(method: str, path: str) -> ApiError:
    return ApiError(404, "unknown_url", f"Unknown request URL: {method} {path}.")


def wrong_method(method: str, path: str) -> ApiError:
    return ApiError(405, "method_not_supported", f"Not allowed to {method} on {path}.")


def too_large(max_bytes: int) -> ApiError:
    return ApiError(413, "request_too_large", f"A request body may have at most {max_bytes} bytes.")


def unavailable(message: str) -> ApiError:
    return ApiError(
        503, "service_unavailable", message, kind="server_error", headers={"Retry-After": str(RETRY_SECONDS)}
    )
