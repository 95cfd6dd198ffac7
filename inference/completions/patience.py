"""Clients that take nothing: what is written to one waits, and with it a hold, a connection and a place in memory."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")

SECONDS = 60.0
"""So long a client may take none of a stream."""
TOTAL_SECONDS = 300.0
"""So long it may keep a stream waiting altogether, one event after the other."""


async def hand_out(events: AsyncGenerator[T], *, seconds: float, total_seconds: float) -> AsyncGenerator[T]:
    """The events; the task that takes them is cancelled where it takes none for so long, or all of them too slowly.

    A client that is given up is thus one that left. Closing what this returns closes the events.
    """
    async with aclosing(events):
        with _Patience(seconds, total_seconds) as patience:
            async for event in events:
                patience.begin()
                yield event
                patience.end()


class _Patience:
    """A context of a whole stream. One timer, however many events there are."""

    def __init__(self, seconds: float, total_seconds: float) -> None:
        self._seconds = seconds
        self._left_seconds = total_seconds
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._waiting_since: float | None = None

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()

    def begin(self) -> None:
        self._waiting_since = self._loop.time()

    def end(self) -> None:
        if self._waiting_since is not None:
            self._left_seconds -= self._loop.time() - self._waiting_since
        self._waiting_since = None
        if self._left_seconds <= 0:
            self._give_up()

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        left = since + self._seconds - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._give_up()

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
