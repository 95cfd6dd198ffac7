import asyncio

import pytest

from inference.completions import cancellation


async def swallow_one_cancellation() -> None:
    """What asyncio.wait_for does before Python 3.12 when its result and the cancellation come together."""
    try:
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        return


async def test_a_swallowed_cancellation_is_noticed() -> None:
    async def run() -> str:
        cancellation.check()
        await swallow_one_cancellation()
        cancellation.check()
        return "went on"

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_must_complete_does_and_the_cancellation_is_raised_after_it() -> None:
    done = []

    async def settle() -> None:
        await asyncio.sleep(0.05)
        done.append("settled")

    task = asyncio.create_task(cancellation.complete(settle()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["settled"]


async def test_without_a_cancellation_the_result_is_returned() -> None:
    async def answer() -> int:
        cancellation.check()
        return 5

    assert await cancellation.complete(answer()) == 5
