"""Token buckets on a real Redis. Each size is small, so that nothing worth a token comes back while a test runs."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from contributors import api_keys
from contributors.models import ApiKey
from fai_project.redis_server import RedisServer
from inference.billing.limits import Allowance, write_duration
from inference.openai.errors import ApiError
from tests.contributors.make import NOW, make_contributor, make_key

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _redis(redis_settings: RedisServer, settings: Any) -> Iterator[None]:
    settings.REQUESTS_PER_MINUTE, settings.TOKENS_PER_MINUTE = 5, 0
    settings.OWNER_REQUESTS_PER_MINUTE = settings.OWNER_TOKENS_PER_MINUTE = 0
    with Redis.from_url(redis_settings.url) as redis:
        for key in redis.scan_iter("fai:limit:*"):
            redis.delete(key)
        yield


async def make_limited_key(**limits: Any) -> ApiKey:
    def make() -> ApiKey:
        key, _ = make_key(make_contributor())
        ApiKey.objects.update(**limits)
        return ApiKey.objects.select_related("contributor").get(pk=key.pk)

    return await asyncio.to_thread(make)


async def count_taken(key: ApiKey, *, tries: int) -> int:
    """How many of so many requests at once are let in."""

    async def is_taken() -> bool:
        try:
            await Allowance.of(key).take_request()
        except ApiError:
            return False
        return True

    return sum(await asyncio.gather(*(is_taken() for _ in range(tries))))


async def test_no_more_requests_pass_at_once_than_fit_into_a_minute() -> None:
    assert await count_taken(await make_limited_key(), tries=40) == 5


async def test_a_refusal_says_when_to_come_back_and_takes_nothing() -> None:
    key = await make_limited_key(tokens_per_minute=10)
    allowance = Allowance.of(key)
    await allowance.take_tokens(8)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            await Allowance.of(key).take_tokens(5)
    error = refused.value
    assert (error.status, error.code, error.kind) == (429, "rate_limit_exceeded", "tokens")
    assert 0 < int(error.headers["Retry-After"]) <= 18
    await Allowance.of(key).take_tokens(2)


async def test_more_than_a_whole_minute_holds_is_refused_for_good() -> None:
    with pytest.raises(ApiError) as refused:
        await Allowance.of(await make_limited_key(tokens_per_minute=10)).take_tokens(11)
    assert refused.value.headers == {"x-should-retry": "false"}


async def test_what_was_not_used_comes_back_and_no_more() -> None:
    key = await make_limited_key(tokens_per_minute=10)
    allowance = Allowance.of(key)
    await allowance.take_tokens(10)
    await allowance.give_back_tokens(6)
    assert allowance.headers["x-ratelimit-remaining-tokens"] == "6"
    await allowance.give_back_tokens(60)
    assert allowance.headers["x-ratelimit-remaining-tokens"] == "10"
    assert allowance.headers["x-ratelimit-reset-tokens"] == "0ms"


async def test_the_headers_tell_of_whoever_has_less_left(settings: Any) -> None:
    settings.OWNER_REQUESTS_PER_MINUTE = 3
    allowance = Allowance.of(await make_limited_key(requests_per_minute=4))
    await allowance.take_request()
    assert allowance.headers["x-ratelimit-limit-requests"] == "3"
    assert allowance.headers["x-ratelimit-remaining-requests"] == "2"
    assert "x-ratelimit-limit-tokens" not in allowance.headers


async def test_all_keys_of_an_owner_go_at_one_rate(settings: Any) -> None:
    settings.OWNER_REQUESTS_PER_MINUTE = 6
    first = await make_limited_key()
    second, _ = await asyncio.to_thread(make_key, first.contributor)
    assert await count_taken(first, tries=9) == 5
    assert await count_taken(second, tries=9) == 1


async def test_a_key_and_its_successor_go_at_one_rate() -> None:
    key = await make_limited_key()
    successor, _ = await asyncio.to_thread(api_keys.rotate, key=key, overlap=timedelta(days=1), now=NOW)
    assert await count_taken(key, tries=3) == 3
    assert await count_taken(successor, tries=9) == 2


async def test_zero_is_no_limit_and_needs_no_redis(settings: Any) -> None:
    settings.REQUESTS_PER_MINUTE = 0
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    key = await make_limited_key()
    assert await count_taken(key, tries=9) == 9
    assert Allowance.of(key).headers == {}


async def test_without_redis_nothing_is_limited(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert await count_taken(await make_limited_key(), tries=9) == 9


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0ms"), (0.12, "120ms"), (6, "6s"), (59.01, "1m0s"), (61, "1m1s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert write_duration(seconds) == written
