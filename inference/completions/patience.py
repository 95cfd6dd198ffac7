"""Clients that take nothing: what is written to one waits, and with it a hold, a connection and a place in memory."""

import asyncio
from types import TracebackType
from typing import Self

SECONDS = 60.0
"""So long a client may take none of a stream."""


class Patience:
    """Cancels the task that it is entered in where the client takes nothing for `seconds`.

    A context of a whole stream, which calls `begin` before it hands something out and `end` after that was taken. One
    timer, however many events there are.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
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
        self._waiting_since = None

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        left = since + self._seconds - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        elif self._task is not None:
            self._task.cancel()
