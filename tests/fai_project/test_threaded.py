"""Short requests: answered whole in one kept thread, and told from what must stay asynchronous."""

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.signals import request_finished, request_started

from fai_project.body_limit import Message, Receive, Scope, Send
from fai_project.threaded import ThreadedHandler, choose, is_short

BODY: Message = {"type": "http.request", "body": b"", "more_body": False}


def ask(path: str, *messages: Message, times: int = 1) -> list[Message]:
    """What the handler sent in answer to the same request, one time after the other."""
    sent: list[Message] = []
    handler = ThreadedHandler()

    async def send(message: Message) -> None:
        sent.append(message)

    async def run() -> None:
        for _ in range(times):
            received = iter(messages or (BODY,))

            async def receive(received: Iterator[Message] = received) -> Message:
                return next(received)

            await handler(make_scope(path), receive, send)

    asyncio.run(run())
    return sent


def make_scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 40_000),
        "scheme": "http",
    }


def test_an_answer_is_the_views() -> None:
    start, body = ask("/api/v1/")
    assert start["status"] == 200
    assert (b"Content-Type", b"application/json") in start["headers"]
    assert json.loads(body["body"])["service"] == "fai"


def test_an_unknown_address_is_not_found() -> None:
    assert ask("/api/v1/nothing")[0]["status"] == 404


def test_a_request_begins_and_ends_in_one_thread_which_is_kept() -> None:
    threads = []

    def note(**_: object) -> None:
        threads.append(threading.get_ident())

    request_started.connect(note)
    request_finished.connect(note)
    try:
        ask("/api/v1/", times=3)
    finally:
        request_started.disconnect(note)
        request_finished.disconnect(note)
    begun, ended = threads[::2], threads[1::2]
    assert len(begun) == 3
    assert begun == ended
    # A thread that has just answered may not count as idle yet: then there is a second one.
    assert set(threads) <= {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}


def test_a_client_that_leaves_before_its_body_is_whole_is_not_answered() -> None:
    assert ask("/api/v1/", {**BODY, "more_body": True}, {"type": "http.disconnect"}) == []


@pytest.mark.parametrize("path", ["/api/v1/", "/api/v1/attempts/7/claim", "/api/v1/me"])
def test_the_volunteers_api_is_short(path: str) -> None:
    assert is_short(path)
    assert chosen({"type": "http", "path": path}) == ["short"]


@pytest.mark.parametrize("path", ["/", "/admin/", "/v1/chat/completions", "/api/schema/", f"/api/v1/blobs/{'0' * 64}"])
def test_pages_and_streams_are_not(path: str) -> None:
    assert not is_short(path)
    assert chosen({"type": "http", "path": path}) == ["other"]


def test_what_is_no_request_is_left_to_django() -> None:
    assert chosen({"type": "lifespan"}) == ["other"]


def chosen(scope: Scope) -> list[str]:
    """Who was asked."""
    asked: list[str] = []

    def app(name: str) -> Any:
        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            asked.append(name)

        return answer

    asyncio.run(choose(short=app("short"), other=app("other"))(scope, None, None))  # type: ignore[arg-type]
    return asked
