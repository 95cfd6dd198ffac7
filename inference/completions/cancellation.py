"""Clients that leave: Django cancels the task of their request, once, and waits for it to end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def complete(coroutine: Coroutine[Any, Any, T]) -> T:
    """What `coroutine` returns, run to its end even where the client leaves meanwhile; only then is that raised.

    Raises: asyncio.CancelledError.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def check() -> None:
    """Notice a cancellation that a library swallowed: asyncio.wait_for may before Python 3.12, and redis-py uses it.

    Raises: asyncio.CancelledError.
    """
    if has_left(asyncio.current_task()):
        raise asyncio.CancelledError


def has_left(client: asyncio.Task[Any] | None) -> bool:
    """Whether the client whose request the task answers has left, even where the task goes on to a clean end."""
    return client is not None and client.cancelling() > 0
