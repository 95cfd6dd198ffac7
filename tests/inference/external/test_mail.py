"""The numbers of a stream's entries, on a real Redis."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from fai_project.redis_server import RedisServer
from inference import wire
from inference.external.mail import ExternalMail
from inference.wire import Event, Started
from tests.inference.make import make_request

EVENT = Started(engine_id="bridge", checkpoint_id=1, checkpoint_sha256="0" * 64)
KEY = wire.stream_key("one")


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    connection = Redis.from_url(redis_server.url)
    await connection.delete(KEY)
    yield connection
    await connection.aclose()


async def publish(redis_server: RedisServer, *events: Event) -> None:
    mail = ExternalMail(redis_server.url, engine_id="bridge")
    mail.begin(make_request("one").request_id)
    for event in events:
        await mail.publish("one", event)
    await mail.close()


async def test_events_come_behind_those_of_an_engine_that_gave_the_request_back(
    redis: Redis, redis_server: RedisServer
) -> None:
    await redis.xadd(KEY, {wire.EVENT_FIELD: wire.encode_events([EVENT])})
    await publish(redis_server, EVENT, EVENT)
    assert await redis.xlen(KEY) == 3


async def test_events_come_behind_those_of_a_bridge_that_gave_the_request_back(
    redis: Redis, redis_server: RedisServer
) -> None:
    await publish(redis_server, EVENT, EVENT)
    await publish(redis_server, EVENT)
    assert await redis.xlen(KEY) == 3
