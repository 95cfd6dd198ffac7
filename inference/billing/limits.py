"""How fast a key and its owner may go: token buckets in Redis, each full after a minute without a request.

A request takes one of the requests at once, and the most tokens that it can cost before they are held; what it does not
use comes back with its bill. One script does all of it: it is atomic, and Redis's clock is the only one.

Without Redis nothing is limited, and nothing is completed either: the engines are reached through it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from django.conf import settings
from redis.exceptions import RedisError

from contributors.models import ApiKey
from inference.openai import errors
from inference.openai.errors import ApiError
from inference.redis_client import client

REQUESTS, TOKENS = "requests", "tokens"

# KEYS: buckets. ARGV: for each what fits into it and refills it in a minute, and what to take; below 0 gives back.
# A bucket without a key is full. Returns whether all was taken (all or nothing), then each one's level, in thousandths.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local levels, enough = {}, 1
for i, key in ipairs(KEYS) do
  local size, cost = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local kept = redis.call('HMGET', key, 'level', 'at')
  local level, at = tonumber(kept[1]) or size, tonumber(kept[2]) or now
  levels[i] = math.min(size, level + math.max(0, now - at) * size / 60000)
  if cost > 0 and cost > levels[i] then enough = 0 end
end
local answer = {enough}
for i, key in ipairs(KEYS) do
  local size, cost = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  if enough == 1 and cost ~= 0 then
    levels[i] = math.min(size, levels[i] - cost)
    redis.call('HSET', key, 'level', string.format('%.6f', levels[i]), 'at', string.format('%.0f', now))
    redis.call('PEXPIRE', key, 120000)
  end
  answer[i + 1] = math.floor(levels[i] * 1000)
end
return answer
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """What one of key and owner may take of requests or tokens in a minute."""

    kind: str
    redis_key: str
    per_minute: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """A bucket and what is left in it."""

    bucket: Bucket
    remaining: float

    def seconds_until(self, amount: float) -> float:
        """How long until so much is there."""
        return max(0.0, amount - self.remaining) * 60 / self.bucket.per_minute


class Allowance:
    """What is left to a key and its owner in this minute, as of the last look."""

    def __init__(self, buckets: Sequence[Bucket]) -> None:
        self._buckets = tuple(buckets)
        self._levels: list[Level] = []

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        return cls([*_buckets_of_key(key), *_buckets_of_owner(key)])

    @property
    def headers(self) -> dict[str, str]:
        """OpenAI's, of the bucket that leaves least; none where there is no limit."""
        headers = {}
        for kind in (REQUESTS, TOKENS):
            levels = [level for level in self._levels if level.bucket.kind == kind]
            if levels:
                tightest = min(levels, key=lambda level: level.remaining)
                limit = tightest.bucket.per_minute
                headers[f"x-ratelimit-limit-{kind}"] = str(limit)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(tightest.remaining)))
                headers[f"x-ratelimit-reset-{kind}"] = write_duration(tightest.seconds_until(limit))
        return headers

    async def take_request(self) -> None:
        """Count the request.

        Raises: ApiError, 429.
        """
        await self._take(REQUESTS, 1)

    async def take_tokens(self, amount: int) -> None:
        """Set aside the most tokens that the request can cost.

        Raises: ApiError, 429.
        """
        for bucket in self._buckets:
            if bucket.kind == TOKENS and amount > bucket.per_minute:
                raise errors.never_within_limit(requested=amount, limit=bucket.per_minute)
        await self._take(TOKENS, amount)

    async def give_back_tokens(self, amount: int) -> None:
        """Return what the request did not use."""
        if amount > 0:
            await self._ask(TOKENS, -amount)

    async def _take(self, kind: str, amount: int) -> None:
        if not await self._ask(kind, amount):
            lacking = [level for level in self._levels if level.bucket.kind == kind and level.remaining < amount]
            tightest = max(lacking, key=lambda level: level.seconds_until(amount))
            raise _exceeded(tightest, amount)

    async def _ask(self, kind: str, amount: int) -> bool:
        """Whether all buckets of that kind had enough; where Redis is away, nobody knows, and all have."""
        if not self._buckets:
            return True
        costs = [amount if bucket.kind == kind else 0 for bucket in self._buckets]
        pairs = zip(self._buckets, costs, strict=True)
        arguments = [str(number) for bucket, cost in pairs for number in (bucket.per_minute, cost)]
        keys = [bucket.redis_key for bucket in self._buckets]
        try:
            enough, *levels = await client().eval(TAKE, len(keys), *keys, *arguments)
        except RedisError:
            self._levels = []
            return True
        self._levels = [
            Level(bucket=bucket, remaining=level / 1_000) for bucket, level in zip(self._buckets, levels, strict=True)
        ]
        return bool(enough)


def requests_per_minute(key: ApiKey) -> int:
    """Of the key; 0 sets no limit."""
    return settings.REQUESTS_PER_MINUTE if key.requests_per_minute is None else key.requests_per_minute


def tokens_per_minute(key: ApiKey) -> int:
    """Of the key; 0 sets no limit."""
    return settings.TOKENS_PER_MINUTE if key.tokens_per_minute is None else key.tokens_per_minute


def write_duration(seconds: float) -> str:
    """As OpenAI writes it: 120ms, 6s, 1m0s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1_000)}ms"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _buckets_of_key(key: ApiKey) -> list[Bucket]:
    name = f"key:{key.root_id}"
    return _buckets(name, requests=requests_per_minute(key), tokens=tokens_per_minute(key))


def _buckets_of_owner(key: ApiKey) -> list[Bucket]:
    name = f"owner:{key.contributor_id}"
    return _buckets(name, requests=settings.OWNER_REQUESTS_PER_MINUTE, tokens=settings.OWNER_TOKENS_PER_MINUTE)


def _buckets(name: str, *, requests: int, tokens: int) -> list[Bucket]:
    return [
        Bucket(kind=kind, redis_key=f"fai:limit:{name}:{kind}", per_minute=per_minute)
        for kind, per_minute in ((REQUESTS, requests), (TOKENS, tokens))
        if per_minute
    ]


def _exceeded(level: Level, amount: int) -> ApiError:
    return errors.rate_limited(
        kind=level.bucket.kind,
        limit=level.bucket.per_minute,
        remaining=math.floor(level.remaining),
        requested=amount,
        retry_after_seconds=math.ceil(level.seconds_until(amount)),
    )
