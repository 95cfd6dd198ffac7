"""Answers short requests whole in threads that are kept.

Django's own ASGI handler starts a thread for every request and crosses between it and the event loop at each middleware.
A view that waits for nothing but the database spends more on that than on its work: docs/experiments.md has the figures.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpResponseBase
from django.urls import set_script_prefix

from fai_project.body_limit import App, Message, Receive, Send

MAX_THREADS = 32
"""Made only while all others are busy: storing an upload on S3 may keep one for many seconds."""


class ThreadedHandler(ASGIHandler):
    """ASGI outside; inside, middleware, view and clean-up run in one thread. Answers must not be streams."""

    def __init__(self) -> None:
        self.load_middleware(is_async=False)
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="api")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        response = await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, scope, body)
        await self.send_response(response, send)

    def _answer(self, scope: Message, body) -> HttpResponseBase:
        set_script_prefix("/")
        signals.request_started.send(sender=type(self), scope=scope)
        request, refusal = self.create_request(scope, body)
        response = self.get_response(request) if request else refusal
        # Gives the database connection back.
        response.close()
        body.close()
        return response


def split(*, threaded: App, other: App, is_short: Callable[[str], bool]) -> App:
    """Requests whose path `is_short` go to `threaded`, the rest to `other`."""

    async def dispatch(scope: Message, receive: Receive, send: Send) -> None:
        chosen = threaded if scope["type"] == "http" and is_short(scope["path"]) else other
        await chosen(scope, receive, send)

    return dispatch
