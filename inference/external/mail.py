"""A bridge's side of Redis: as engine/mailbox.py, for many streams that each go at their own pace."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from inference import wire
from inference.status import EngineStatus
from inference.wire import Event, GenerationRequest

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
PAUSE_SECONDS = 0.5
ALREADY_THERE = "equal or smaller"
"""What Redis says of an entry whose number is not above the last one's."""


@dataclass(slots=True)
class _Stream:
    begins_at: int | None = None
    """The time that its entries have in their numbers: behind those of an engine that gave the request back."""
    num_entries: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class ExternalMail:
    def __init__(self, redis_url: str, *, engine_id: str) -> None:
        self._redis = Redis.from_url(
            redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=10, max_connections=4_096, decode_responses=True
        )
        self._engine_id = engine_id
        self._streams: dict[str, _Stream] = {}

    async def close(self) -> None:
        await self._redis.aclose()

    async def take(self, models: Sequence[str], *, seconds: float) -> GenerationRequest | None:
        """The next request for one of the models. Raises: redis.exceptions.RedisError."""
        popped: Any = await self._redis.brpop([wire.queue_key(model) for model in models], timeout=seconds)
        return GenerationRequest.decode(popped[1]) if popped else None

    async def publish(self, request_id: str, event: Event) -> None:
        """Exactly once, however often Redis goes away meanwhile: the entries of a stream that was begun are numbered.

        Raises: redis.exceptions.RedisError after PATIENCE_SECONDS.
        """
        stream = self._streams.get(request_id)
        if stream is None:
            await self._add(request_id, event, entry_id="*")
            return
        async with stream.lock:
            stream.num_entries += 1
            await self._add_once(request_id, event, stream)

    async def _add_once(self, request_id: str, event: Event, stream: _Stream) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while True:
            try:
                if stream.begins_at is None:
                    stream.begins_at = await self._last_time(request_id) + 1
                await self._add(request_id, event, entry_id=f"{stream.begins_at}-{stream.num_entries}")
            except ResponseError as error:
                if ALREADY_THERE not in str(error):
                    raise
                return
            except RedisError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                logger.warning("Redis is away, an event waits: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def _add(self, request_id: str, event: Event, *, entry_id: str) -> None:
        key = wire.stream_key(request_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xadd(key, {wire.EVENT_FIELD: wire.encode_events([event])}, id=entry_id)
        pipeline.expire(key, wire.STREAM_SECONDS)
        await pipeline.execute()

    async def _last_time(self, request_id: str) -> int:
        last: Any = await self._redis.xrevrange(wire.stream_key(request_id), count=1)
        return int(last[0][0].partition("-")[0]) if last else 0

    def begin(self, request_id: str) -> None:
        """Events of this request come."""
        self._streams[request_id] = _Stream()

    def end(self, request_id: str) -> None:
        """No more do, but for one that says that it failed."""
        self._streams.pop(request_id, None)

    async def cancelled(self, request_ids: Sequence[str]) -> list[tuple[str, int]]:
        """Choices of these requests that nobody reads any more. Raises: redis.exceptions.RedisError."""
        if not request_ids:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for request_id in request_ids:
            pipeline.smembers(wire.cancel_key(request_id))
        replies = await pipeline.execute()
        return [
            (request_id, int(index))
            for request_id, indexes in zip(request_ids, replies, strict=True)
            for index in indexes
        ]

    async def give_back(self, requests: Sequence[GenerationRequest]) -> None:
        """For another engine, before all others; where Redis is away, their readers notice."""
        try:
            for request in requests:
                await self._redis.rpush(wire.queue_key(request.model), request.encode())
        except RedisError as error:
            logger.warning("requests were left behind: %s", error)

    async def beat(self, status: EngineStatus) -> None:
        """Raises: redis.exceptions.RedisError."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(wire.alive_key(self._engine_id), status.encode(), ex=wire.ALIVE_SECONDS)
        pipeline.sadd(wire.ENGINES_KEY, self._engine_id)
        await pipeline.execute()

    async def leave(self) -> None:
        try:
            await self._redis.delete(wire.alive_key(self._engine_id))
            await self._redis.srem(wire.ENGINES_KEY, self._engine_id)
        except RedisError as error:
            logger.warning("left without saying so: %s", error)
