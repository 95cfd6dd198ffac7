import asyncio
from collections.abc import AsyncGenerator

import pytest

from inference.completions.patience import Patience


async def give(num_events: int) -> AsyncGenerator[int]:
    with Patience(0.2) as patience:
        for number in range(num_events):
            patience.begin()
            yield number
            patience.end()


async def take(events: AsyncGenerator[int], *, pause_seconds: float) -> int:
    try:
        return sum([1 async for _ in events if await asyncio.sleep(pause_seconds, True)])
    finally:
        await events.aclose()


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(take(give(2), pause_seconds=3_600))


async def test_a_slow_client_is_waited_for_however_long_all_of_it_takes() -> None:
    assert await take(give(8), pause_seconds=0.05) == 8
