"""A session as server-sent events."""

import asyncio
import contextvars
import json
import weakref
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse

from inference.completions import Session
from inference.errors import ApiError
from inference.provider import EngineGone
from inference.shapes import Json, Shape

_closing: set[asyncio.Task[None]] = set()
"""The event loop alone would forget them."""


class EventStream(StreamingHttpResponse):
    """A session as server-sent events, closed as soon as the client leaves, whenever that is.

    Django's own iterator leaves the generator to the garbage collector; `__aiter__` hands out the generator itself. A
    client that leaves before the first event has the response dropped, and nothing calls its close(): there the end of
    the object closes the session.
    """

    def __init__(self, session: Session, shape: Shape, *, includes_usage: bool) -> None:
        events = stream(session, shape, includes_usage=includes_usage)
        super().__init__(events, content_type="text/event-stream; charset=utf-8")
        self._events = events
        weakref.finalize(self, _abandon, asyncio.get_running_loop(), session).atexit = False
        self.headers["Cache-Control"] = "no-cache"
        self.headers["X-Accel-Buffering"] = "no"

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._events


async def stream(session: Session, shape: Shape, *, includes_usage: bool) -> AsyncGenerator[bytes]:
    """The session's events; a piece counts as sent once the server has taken it and asks for the next one."""
    no_usage: dict[str, Any] = {"usage": None} if includes_usage else {}
    session.is_streaming = True
    try:
        for chunk in shape.opening(session.head, session.num_choices):
            yield _event({**chunk, **no_usage})
        async with aclosing(session.pieces()) as pieces:
            async for piece in pieces:
                yield _event({**shape.chunk(session.head, piece), **no_usage})
                session.note_sent(piece)
        # The bill is settled before the client sees the end, which may then look at its balance.
        await session.close()
        if includes_usage:
            yield _event(shape.closing(session.head, session.usage))
        yield b"data: [DONE]\n\n"
    except EngineGone as error:
        yield _event(ApiError(500, "engine_failed", str(error), kind="server_error").body)
    finally:
        await session.close()


def _abandon(loop: asyncio.AbstractEventLoop, session: Session) -> None:
    """Close a session whose stream never began; its request, and with it the thread for its queries, is gone."""
    if session.is_open and not session.is_streaming and not loop.is_closed():
        loop.call_soon_threadsafe(_close_soon, loop, session, context=contextvars.Context())


def _close_soon(loop: asyncio.AbstractEventLoop, session: Session) -> None:
    task = loop.create_task(session.close())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _event(data: Json) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
