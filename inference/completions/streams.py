"""A session as server-sent events."""

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse

from inference.completions import cancellation, patience
from inference.completions.provider import EngineGone
from inference.completions.sessions import Session
from inference.openai import sse
from inference.openai.errors import ApiError
from inference.openai.shapes import Shape

START_SECONDS = 5.0
"""A stream that has not begun by then has lost its client."""
_closing: set[asyncio.Task[None]] = set()
"""The event loop alone would forget them."""


class EventStream(StreamingHttpResponse):
    """A session as server-sent events, closed soon after the client leaves, whenever that is.

    Django's own iterator leaves the generator to the garbage collector; `__aiter__` hands out the generator itself.
    Where a client leaves between the view and the first event, Django drops the response and closes nothing: there a
    timer closes the session.
    """

    def __init__(self, session: Session, shape: Shape, *, includes_usage: bool) -> None:
        self._events = patience.hand_out(
            stream(session, shape, includes_usage=includes_usage),
            seconds=patience.SECONDS,
            total_seconds=patience.TOTAL_SECONDS,
        )
        super().__init__(self._events, content_type=sse.CONTENT_TYPE)
        # A context of its own: the request's may be over by then, and its thread for queries with it.
        asyncio.get_running_loop().call_later(
            START_SECONDS, _close_unless_begun, session, context=contextvars.Context()
        )
        self.headers["Cache-Control"] = "no-cache"
        self.headers["X-Accel-Buffering"] = "no"

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._events


async def stream(session: Session, shape: Shape, *, includes_usage: bool) -> AsyncGenerator[bytes]:
    """The session's events; a piece counts as sent once the server has taken it and asks for the next one."""
    no_usage: dict[str, Any] = {"usage": None} if includes_usage else {}
    session.is_streaming = True
    if not session.is_open:
        yield _error("The server was too busy to begin this stream.")
        return
    try:
        cancellation.check()
        for chunk in shape.opening(session.head, session.num_choices):
            event = sse.event({**chunk, **no_usage})
            yield event
            session.bill.note(event)
        async with aclosing(session.pieces()) as pieces:
            async for piece in pieces:
                event = sse.event({**shape.chunk(session.head, piece), **no_usage})
                yield event
                session.bill.note(event)
                session.note_sent(piece)
                # Pieces that wait already come without a pause, in which the client's leaving could be noticed.
                await asyncio.sleep(0)
        ending = sse.event(shape.closing(session.head, session.usage)) if includes_usage else b""
        session.bill.note(ending + sse.DONE)
        # The bill is settled before the client sees the end, which may then look at its balance.
        await session.close()
        if ending:
            yield ending
        yield sse.DONE
    except EngineGone as error:
        yield _error(str(error))
    finally:
        await session.close()


def _close_unless_begun(session: Session) -> None:
    if session.is_open and not session.is_streaming:
        task = asyncio.ensure_future(session.close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


def _error(message: str) -> bytes:
    return sse.event(ApiError(500, "engine_failed", message, kind="server_error").body)
