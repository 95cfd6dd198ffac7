import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

from inference import wire
from inference.billing import bills, charges
from inference.completions import patience


async def take(num_events: int, *, pause_seconds: float, total_seconds: float = 3_600.0) -> int:
    """How many of the events come."""
    closed = asyncio.Event()

    async def give() -> AsyncGenerator[int]:
        try:
            for number in range(num_events):
                yield number
                await asyncio.sleep(0)
        finally:
            closed.set()

    taken = 0
    events = patience.hand_out(give(), seconds=0.5, total_seconds=total_seconds)
    try:
        async for _ in events:
            taken += 1
            await asyncio.sleep(pause_seconds)
    except asyncio.CancelledError:
        await events.aclose()
    assert closed.is_set()
    return taken


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    assert await take(2, pause_seconds=3_600) == 1


async def test_a_slow_client_is_waited_for() -> None:
    assert await take(8, pause_seconds=0.05) == 8


async def test_a_client_that_is_slow_for_too_long_is_given_up() -> None:
    assert 1 < await take(100, pause_seconds=0.05, total_seconds=0.3) <= 7


async def test_the_time_in_which_there_is_nothing_to_take_is_not_the_clients() -> None:
    async def give() -> AsyncGenerator[int]:
        for number in range(4):
            await asyncio.sleep(0.3)
            yield number

    events = patience.hand_out(give(), seconds=0.25, total_seconds=0.25)
    assert [number async for number in events] == [0, 1, 2, 3]


def test_what_a_slow_client_waits_for_is_kept_and_held_longer_than_it_may_take() -> None:
    slowest = timedelta(seconds=patience.SECONDS + patience.TOTAL_SECONDS)
    assert slowest < timedelta(seconds=wire.STREAM_SECONDS)
    away = timedelta(seconds=bills.PATIENCE_SECONDS)
    assert charges.REQUEST_DURATION + slowest + away < charges.HOLD_DURATION
