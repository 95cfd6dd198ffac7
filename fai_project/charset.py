"""Bodies are UTF-8, whatever charset a client names: some of Python's decoders take time by the square of a length."""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

Answer = HttpResponseBase | Awaitable[HttpResponseBase]
Handler = Callable[[HttpRequest], Answer]


@sync_and_async_middleware
def read_as_utf8(get_response: Handler) -> Handler:
    def read(request: HttpRequest) -> Answer:
        request.encoding = "utf-8"
        return get_response(request)

    return markcoroutinefunction(read) if iscoroutinefunction(get_response) else read
