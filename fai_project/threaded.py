"""Answers short requests whole, each in one of a few threads that are kept.

Django's own ASGI handler starts a thread for every request, and crosses between it and the event loop at each
middleware: a third of what a request of the volunteers' API costs, whose views wait for nothing but the database.
docs/experiments.md has the figures.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import IO, cast

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest, HttpResponseBase
from django.urls import set_script_prefix

from fai_project.body_limit import App, Receive, Scope, Send

MAX_THREADS = 32
"""One is started only while all others are busy: an upload that goes on to S3 may keep one for many seconds."""


class ThreadedHandler(ASGIHandler):
    """ASGI outside; inside, a request's middleware, view and clean-up run in one thread. It serves no streams."""

    def __init__(self) -> None:
        super().__init__()
        self.load_middleware(is_async=False)
        self._threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        response = await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, scope, body)
        await self.send_response(response, send)

    def _answer(self, scope: Scope, body: IO[bytes]) -> HttpResponseBase:
        set_script_prefix("/")
        signals.request_started.send(sender=type(self), scope=scope)
        request, refusal = self.create_request(scope, body)
        response = refusal if refusal is not None else self.get_response(cast(HttpRequest, request))
        # Sends request_finished, and so gives the thread's database connection back.
        response.close()
        body.close()
        return response


def choose(*, short: App, other: App) -> App:
    """The volunteers' API goes to `short`, but for the files that it streams; all else goes to `other`."""

    async def chosen(scope: Scope, receive: Receive, send: Send) -> None:
        app = short if scope["type"] == "http" and is_short(scope["path"]) else other
        await app(scope, receive, send)

    return chosen


def is_short(path: str) -> bool:
    return path.startswith("/api/v1/") and not path.startswith("/api/v1/blobs/")
