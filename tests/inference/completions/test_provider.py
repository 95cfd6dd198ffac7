"""Requests whose engine is gone, against a real Redis: what another engine may take, it gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from fai_project.redis_server import RedisServer
from inference import redis_client, wire
from inference.completions import provider
from inference.completions.provider import EngineGone, EngineRefused, EngineUnavailable, QueueFull
from inference.status import Problem
from inference.wire import ChoiceTokens, Event, Failed, GenerationRequest, Started
from tests.inference.engines import make_status
from tests.inference.make import make_request

TOKENS = ChoiceTokens(index=0, offset=0, tokens=(70,), finish_reason="length")


@pytest.fixture
async def redis(redis_settings: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Polls are short, so that who is gone is noticed soon."""
    monkeypatch.setattr(provider, "POLL_MS", 20)
    monkeypatch.setattr(provider, "LOAD_SECONDS", 0.3)
    client = redis_client.client()
    async for key in client.scan_iter("fai:engine:*"):
        await client.delete(key)
    yield client
    await client.aclose()


async def live(redis: Any, engine_id: str, *models: str, **changes: Any) -> None:
    served = [replace(make_status().models[0], name=model) for model in models]
    status = replace(make_status(), engine_id=engine_id, models=tuple(served), **changes)
    await redis.sadd(wire.ENGINES_KEY, engine_id)
    await redis.set(wire.alive_key(engine_id), status.encode())


async def die(redis: Any, engine_id: str) -> None:
    await redis.delete(wire.alive_key(engine_id))


async def take(redis: Any, request: GenerationRequest) -> GenerationRequest:
    popped = await redis.brpop(wire.queue_key(request.model), timeout=5)
    return GenerationRequest.decode(popped[1])


async def tell(redis: Any, request: GenerationRequest, *events: Event) -> None:
    await redis.xadd(wire.stream_key(request.request_id), {wire.EVENT_FIELD: wire.encode_events(list(events))})


def started(engine_id: str) -> Started:
    return Started(engine_id=engine_id, checkpoint_id=1, checkpoint_sha256="ab")


async def read(request: GenerationRequest) -> list[Event]:
    async with aclosing(provider.events(request)) as events:
        found = []
        async for event in events:
            found.append(event)
            if event == TOKENS:
                return found
    return found


async def test_a_request_whose_engine_told_nothing_is_given_to_another(redis: Any) -> None:
    request = make_request()
    await live(redis, "first", "study")
    await live(redis, "second", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    taken = await take(redis, request)
    await tell(redis, taken, started("first"))
    await die(redis, "first")
    again = await take(redis, request)
    await tell(redis, taken, replace(TOKENS, tokens=(99,)))
    await tell(redis, again, started("second"), TOKENS)
    assert await reading == [started("first"), started("second"), TOKENS]
    assert replace(again, request_id=taken.request_id) == taken


async def test_an_engine_that_was_only_slow_is_told_that_nobody_reads_its_try(redis: Any) -> None:
    request = make_request(n=2)
    await live(redis, "second", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    slow = await take(redis, request)
    again = await take(redis, request)
    assert await redis.smembers(wire.cancel_key(slow.request_id)) == {"0", "1"}
    assert 0 < await redis.ttl(wire.cancel_key(slow.request_id)) <= wire.CANCEL_SECONDS
    await tell(redis, again, started("second"), TOKENS)
    assert await reading == [started("second"), TOKENS]
    assert not await redis.exists(wire.cancel_key(again.request_id))


async def test_a_request_that_was_lost_on_its_way_is_given_to_another(redis: Any) -> None:
    request = make_request()
    await live(redis, "second", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    await take(redis, request)
    again = await take(redis, request)
    await tell(redis, again, started("second"), TOKENS)
    assert await reading == [started("second"), TOKENS]


async def test_a_request_whose_engine_has_told_something_fails(redis: Any) -> None:
    request = make_request()
    await live(redis, "first", "study")
    await live(redis, "second", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    taken = await take(redis, request)
    await tell(redis, taken, started("first"), replace(TOKENS, finish_reason=None))
    await die(redis, "first")
    with pytest.raises(EngineGone, match="stopped working"):
        await reading
    assert await redis.llen(wire.queue_key("study")) == 0


async def test_a_request_fails_where_no_other_engine_lives(redis: Any) -> None:
    request = make_request()
    await live(redis, "first", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    await tell(redis, await take(redis, request), started("first"))
    await die(redis, "first")
    with pytest.raises(EngineGone, match="before it began"):
        await reading


async def test_engines_that_die_one_after_the_other_are_not_fed_for_ever(redis: Any) -> None:
    request = make_request()
    await live(redis, "living", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    for _ in range(wire.MAX_TRIES):
        await take(redis, request)
    with pytest.raises(EngineGone, match="Several engines"):
        await reading


async def test_what_a_slow_reader_takes_is_not_the_engines_time(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "REQUEST_DURATION", timedelta(seconds=1))
    request = make_request()
    await live(redis, "first", "study")
    await provider.submit(request)
    first = replace(TOKENS, finish_reason=None)
    await tell(redis, request, started("first"), first)
    async with aclosing(provider.events(request)) as events:
        assert [await anext(events), await anext(events)] == [started("first"), first]
        await asyncio.sleep(1.3)
        await tell(redis, request, replace(TOKENS, offset=1))
        assert await anext(events) == replace(TOKENS, offset=1)
        with pytest.raises(EngineGone, match="too long"):
            await anext(events)


async def test_a_request_that_was_given_back_waits_for_another_engine(redis: Any) -> None:
    request = make_request()
    await live(redis, "first", "study")
    await live(redis, "second", "study")
    await provider.submit(request)
    reading = asyncio.create_task(read(request))
    taken = await take(redis, request)
    await tell(redis, taken, started("first"))
    await redis.rpush(wire.queue_key("study"), taken.encode())
    await die(redis, "first")
    await asyncio.sleep(0.3)
    again = await take(redis, request)
    assert again == taken
    await tell(redis, again, started("second"), TOKENS)
    assert await reading == [started("first"), started("second"), TOKENS]


async def test_cancelling_and_forgetting_reach_every_try(redis: Any) -> None:
    request = make_request()
    again = provider._tries(request)[1]
    await redis.lpush(wire.queue_key("study"), again.encode())
    await provider.cancel(request, [0])
    assert await redis.llen(wire.queue_key("study")) == 0
    assert await redis.smembers(wire.cancel_key(again.request_id)) == {"0"}
    await tell(redis, again, TOKENS)
    await provider.forget(request)
    assert not await redis.exists(wire.stream_key(again.request_id))


async def test_what_the_engine_cannot_do_is_named(redis: Any) -> None:
    request = make_request()
    await live(redis, "first", "study")
    await provider.submit(request)
    await tell(redis, request, Failed(message="cannot", param="logprobs"))
    with pytest.raises(EngineRefused) as caught:
        await read(request)
    assert caught.value.param == "logprobs"


async def test_a_full_queue_says_when_to_come_back(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_QUEUED_REQUESTS", 40)
    await live(redis, "first", "study", requests_per_second=2.0)
    for number in range(40):
        await provider.submit(make_request(f"r{number}"))
    with pytest.raises(QueueFull) as caught:
        await provider.submit(make_request("late"))
    assert caught.value.retry_after_seconds == 10


async def test_an_older_checkpoint_is_waited_for_and_noted_as_wanted(redis: Any) -> None:
    await live(redis, "first", "study")
    waiting = asyncio.create_task(provider.require_engine("study@3"))
    while not await redis.zscore(wire.WANTED_KEY, "study@3"):
        await asyncio.sleep(0.01)
    await live(redis, "first", "study", "study@3")
    await waiting


async def test_an_older_checkpoint_that_nobody_loads_is_unavailable(redis: Any) -> None:
    await live(redis, "first", "study")
    with pytest.raises(EngineUnavailable, match="study@3"):
        await provider.require_engine("study@3")


async def test_an_older_checkpoint_that_is_damaged_is_not_waited_for(
    redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "LOAD_SECONDS", 3_600)
    await live(redis, "first", "study", problems=(Problem(subject="study@3", message="damaged", at=0.0),))
    with pytest.raises(EngineUnavailable, match="cannot be loaded"):
        await provider.require_engine("study@3")


async def test_only_so_many_wishes_are_remembered(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "MAX_WANTED", 3)
    for number in range(5):
        await provider._want(f"study@{number}")
    assert await redis.zcard(wire.WANTED_KEY) == 3
