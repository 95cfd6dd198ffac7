"""A session as server-sent events."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse

from inference.completions import Session
from inference.errors import ApiError
from inference.provider import EngineGone
from inference.shapes import Json, Shape


class EventStream(StreamingHttpResponse):
    """Server-sent events whose generator is closed with the response, so that a client's leaving is noticed at once.

    Django's own iterator leaves the generator to the garbage collector.
    """

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(events, content_type="text/event-stream; charset=utf-8")
        self._events = events
        self.headers["Cache-Control"] = "no-cache"
        self.headers["X-Accel-Buffering"] = "no"

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._events


async def stream(session: Session, shape: Shape, *, includes_usage: bool) -> AsyncGenerator[bytes]:
    """The session's events; a piece counts as sent once the server has taken it and asks for the next one."""
    no_usage: dict[str, Any] = {"usage": None} if includes_usage else {}
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


def _event(data: Json) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
