"""The web process's side of Redis: hand a request to the engines, read what comes back, notice when nobody is there."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from inference import cancellation, wire
from inference.billing import REQUEST_DURATION
from inference.wire import Event, Failed, GenerationRequest, Started

POLL_MS = 1_000
"""How long to wait for events before asking whether the engine still lives."""
MAX_CONNECTIONS = 4_096
"""Each stream under way waits on a connection of its own."""
REDIS_PATIENCE_SECONDS = 30.0
"""How long Redis may be away in mid-stream."""
LOST_POLLS = 5
"""A request that was taken from the queue but not started after so many polls was lost with its engine."""
CANCEL_SECONDS = 900

ENQUEUE = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[1])
return 1
"""

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Redis] = WeakKeyDictionary()


class EngineUnavailable(Exception):
    """No engine serves the model, or Redis cannot be reached."""


class EngineGone(Exception):
    """The engine died, gave the request up, or took too long."""


class QueueFull(Exception):
    """As many requests as may wait for the model are waiting."""


def client() -> Redis:
    """The Redis client of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = Redis.from_url(
            settings.REDIS_URL,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=10,
            max_connections=MAX_CONNECTIONS,
        )
    return _clients[loop]


async def served_models() -> set[str]:
    """Models that some living engine serves.

    Raises: redis.exceptions.RedisError.
    """
    redis = client()
    engine_ids = sorted(map(str, await redis.smembers(wire.ENGINES_KEY)))
    if not engine_ids:
        return set()
    answers = await redis.mget([wire.alive_key(engine_id) for engine_id in engine_ids])
    dead = [engine_id for engine_id, answer in zip(engine_ids, answers, strict=True) if answer is None]
    if dead:
        await redis.srem(wire.ENGINES_KEY, *dead)
    return {model for answer in answers if answer is not None for model in json.loads(answer)}


async def require_engine(model: str) -> None:
    """Raises: EngineUnavailable."""
    try:
        is_served = model in await served_models()
    except RedisError as error:
        raise EngineUnavailable("The engines cannot be reached at the moment: try again later.") from error
    if not is_served:
        raise EngineUnavailable(f"No engine serves the model {model!r} at the moment: try again later.")


async def submit(request: GenerationRequest) -> None:
    """Queue the request.

    Raises: QueueFull, EngineUnavailable.
    """
    try:
        is_queued = await client().eval(
            ENQUEUE, 1, wire.queue_key(request.model), request.encode(), str(wire.MAX_QUEUED_REQUESTS)
        )
    except RedisError as error:
        raise EngineUnavailable("The engines cannot be reached at the moment: try again later.") from error
    if not is_queued:
        raise QueueFull


async def cancel(request: GenerationRequest, choices: Iterable[int]) -> None:
    """Tell the engine that nobody reads these choices any more; where Redis is away, it finds out by max_tokens."""
    indexes = list(choices)
    if not indexes:
        return
    pipeline = client().pipeline(transaction=False)
    pipeline.lrem(wire.queue_key(request.model), 0, request.encode())
    pipeline.sadd(wire.cancel_key(request.request_id), *indexes)
    pipeline.expire(wire.cancel_key(request.request_id), CANCEL_SECONDS)
    await _try(pipeline.execute())


async def forget(request: GenerationRequest) -> None:
    """Remove the events of a request that is over."""
    await _try(client().delete(wire.stream_key(request.request_id)))


async def events(request: GenerationRequest) -> AsyncGenerator[Event]:
    """Events of a submitted request as they come; the reader stops when every choice is finished.

    Raises: EngineGone.
    """
    watch = _Watch(request)
    last_id = "0"
    key = wire.stream_key(request.request_id)
    while True:
        cancellation.check()
        watch.check_deadline()
        try:
            reply: Any = await client().xread({key: last_id}, block=POLL_MS)
            if not reply:
                await watch.check()
        except (RedisConnectionError, RedisTimeoutError) as error:
            await watch.endure(error)
            continue
        watch.last_answer_at = time.monotonic()
        for entry_id, fields in reply[0][1] if reply else ():
            last_id = entry_id
            for event in wire.decode_events(fields[wire.EVENT_FIELD]):
                watch.note(event)
                yield event


class _Watch:
    """Whether somebody still works on a request."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request = request
        self._engine_id: str | None = None
        self._num_polls_lost = 0
        self._deadline = time.monotonic() + REQUEST_DURATION.total_seconds()
        self.last_answer_at = time.monotonic()

    def note(self, event: Event) -> None:
        if isinstance(event, Started):
            self._engine_id = event.engine_id
        elif isinstance(event, Failed):
            raise EngineGone(event.message)

    def check_deadline(self) -> None:
        """Raises: EngineGone."""
        if time.monotonic() > self._deadline:
            raise EngineGone("The request took too long.")

    async def check(self) -> None:
        """After a poll without events. Raises: EngineGone."""
        if self._engine_id is not None:
            if not await client().exists(wire.alive_key(self._engine_id)):
                raise EngineGone("The engine stopped working on this request.")
            return
        is_queued = await client().lpos(wire.queue_key(self._request.model), self._request.encode()) is not None
        self._num_polls_lost = 0 if is_queued else self._num_polls_lost + 1
        if self._num_polls_lost >= LOST_POLLS:
            raise EngineGone("The engine stopped before it began this request.")
        if is_queued and self._request.model not in await served_models():
            raise EngineGone("The engine stopped before it began this request.")

    async def endure(self, error: Exception) -> None:
        """While Redis is away. Raises: EngineGone once that lasts too long."""
        if time.monotonic() - self.last_answer_at > REDIS_PATIENCE_SECONDS:
            raise EngineGone("The engines cannot be reached any more.") from error
        await asyncio.sleep(0.2)


async def _try(command: Awaitable[object]) -> None:
    """Await a command whose failure changes nothing for the client."""
    try:
        await command
    except RedisError:
        return
