"""The id of an HTTP request: from the client or made here; in the answer, and in every line logged meanwhile."""

import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from inference.monitoring import metrics

HEADER = "x-request-id"
GIVEN_ID = re.compile(r"[\w.:+/=-]{1,100}", re.ASCII)
"""What may stand in a log: no spaces, no line ends."""

logger = logging.getLogger(__name__)
_current: ContextVar[str] = ContextVar("request_id", default="")
Handler = Callable[[HttpRequest], HttpResponseBase] | Callable[[HttpRequest], Awaitable[HttpResponseBase]]


def current() -> str:
    """The id of the request that is being answered; empty outside of one."""
    return _current.get()


@sync_and_async_middleware
def trace_requests(get_response: Handler) -> Handler:
    """Middleware: gives each request its id, counts it, and logs those of /v1."""
    if iscoroutinefunction(get_response):

        async def trace_async(request: HttpRequest) -> HttpResponseBase:
            started_at = _begin(request)
            return _end(request, await get_response(request), started_at=started_at)

        return trace_async

    def trace(request: HttpRequest) -> HttpResponseBase:
        started_at = _begin(request)
        response = get_response(request)
        assert isinstance(response, HttpResponseBase)
        return _end(request, response, started_at=started_at)

    return trace


class RequestIds(logging.Filter):
    """Gives every record a `request_id`: its own, else that of the request that is being answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = current()
        return True


def _begin(request: HttpRequest) -> float:
    given = request.headers.get(HEADER, "")
    _current.set(given if GIVEN_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}")
    return time.monotonic()


def _end(request: HttpRequest, response: HttpResponseBase, *, started_at: float) -> HttpResponseBase:
    """Of a stream, this is its beginning."""
    seconds = time.monotonic() - started_at
    response.headers[HEADER] = current()
    route = request.resolver_match.route if request.resolver_match else ""
    metrics.HTTP_REQUESTS.labels(request.method, route, response.status_code).inc()
    metrics.HTTP_SECONDS.labels(route).observe(seconds)
    if request.path.startswith("/v1/"):
        logger.info(
            "answered",
            extra={
                "method": request.method,
                "path": request.path,
                "status": response.status_code,
                "key": getattr(getattr(request, "auth", None), "prefix", None),
                "seconds": round(seconds, 4),
            },
        )
    return response
