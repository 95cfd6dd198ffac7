"""The web process's side of Redis: hand a request to the engines, read what comes back, notice when nobody is there."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from inference import catalogue, wire
from inference.billing.charges import REQUEST_DURATION
from inference.completions import cancellation, waiting
from inference.monitoring.observation import Observed
from inference.redis_client import client
from inference.status import EngineStatus
from inference.wire import Event, Failed, GenerationRequest, Started

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.02
"""What a small model generates meanwhile is read, and sent, at once: each reading costs as much as some tokens do."""
POLL_MS = 1_000
"""How long to wait for events before asking whether the engine still lives."""
REDIS_PATIENCE_SECONDS = 30.0
"""How long Redis may be away in mid-stream."""
LOST_POLLS = 5
"""A request that was taken from the queue but not started after so many polls was lost with its engine."""
GONE_POLLS = 2
"""So many polls after the heartbeat of the request's engine was missing first, the engine counts as dead."""
LOAD_SECONDS = 10.0
"""How long a request waits for the older checkpoint that it names to be loaded."""
LOAD_POLL_SECONDS = 0.2
MAX_WANTED = 64
"""Names of older checkpoints that are remembered."""

ENQUEUE = """
if redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[1])
return 1
"""


class EngineUnavailable(Exception):
    """No engine serves the model, or Redis cannot be reached."""


class EngineGone(Exception):
    """The engine died, gave the request up, or took too long."""


class EngineRefused(EngineGone):
    """The engine cannot do what a field of the request asks for."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class QueueFull(Exception):
    """As many requests as may wait for the model are waiting."""

    def __init__(self, *, retry_after_seconds: int) -> None:
        super().__init__(f"Too many requests are waiting: try again in {retry_after_seconds} seconds.")
        self.retry_after_seconds = retry_after_seconds


class _Lost(EngineGone):
    """Nobody works on the request, and nothing of it was told yet: another engine may."""


async def engines() -> list[EngineStatus]:
    """The living engines.

    Raises: redis.exceptions.RedisError.
    """
    redis = client()
    engine_ids = sorted(map(str, await redis.smembers(wire.ENGINES_KEY)))
    if not engine_ids:
        return []
    answers = await redis.mget([wire.alive_key(engine_id) for engine_id in engine_ids])
    dead = [engine_id for engine_id, answer in zip(engine_ids, answers, strict=True) if answer is None]
    if dead:
        await redis.srem(wire.ENGINES_KEY, *dead)
    return [EngineStatus.decode(answer) for answer in answers if answer is not None]


async def served_models() -> set[str]:
    """Models that some living engine serves.

    Raises: redis.exceptions.RedisError.
    """
    return {name for engine in await engines() for name in engine.model_names}


async def require_engine(model: str) -> None:
    """Wait for an engine that serves the model: for seconds where it is an older checkpoint, which has to be loaded.

    Raises: EngineUnavailable.
    """
    try:
        await _require_engine(model)
    except RedisError as error:
        raise EngineUnavailable("The engines cannot be reached at the moment: try again later.") from error


async def _require_engine(model: str) -> None:
    deadline = time.monotonic()
    if catalogue.is_pinned(model):
        deadline += LOAD_SECONDS
        await _want(model)
    while True:
        living = await engines()
        if any(model in engine.model_names for engine in living):
            return
        _raise_if_broken(model, living)
        if not living or time.monotonic() >= deadline:
            raise EngineUnavailable(f"No engine serves the model {model!r} at the moment: try again later.")
        await asyncio.sleep(LOAD_POLL_SECONDS)


async def _want(model: str) -> None:
    """Note that somebody asks for an older checkpoint; an engine with a place for it loads it."""
    pipeline = client().pipeline(transaction=False)
    pipeline.zadd(wire.WANTED_KEY, {model: time.time()})
    pipeline.zremrangebyrank(wire.WANTED_KEY, 0, -MAX_WANTED - 1)
    await pipeline.execute()


def _raise_if_broken(model: str, living: Iterable[EngineStatus]) -> None:
    for engine in living:
        for problem in engine.problems:
            if problem.subject == model:
                raise EngineUnavailable(f"The model {model!r} cannot be loaded: its operator has been told.")


async def submit(request: GenerationRequest) -> None:
    """Queue the request.

    Raises: QueueFull, EngineUnavailable.
    """
    try:
        is_queued = await client().eval(
            ENQUEUE, 1, wire.queue_key(request.model), request.encode(), str(wire.MAX_QUEUED_REQUESTS)
        )
        if not is_queued:
            wait = waiting.estimate_seconds(request.model, wire.MAX_QUEUED_REQUESTS, await engines())
            raise QueueFull(retry_after_seconds=wait)
    except RedisError as error:
        raise EngineUnavailable("The engines cannot be reached at the moment: try again later.") from error


async def cancel(request: GenerationRequest, choices: Iterable[int]) -> None:
    """Tell the engine that nobody reads these choices any more; where Redis is away, it finds out by max_tokens."""
    indexes = list(choices)
    if not indexes:
        return
    pipeline = client().pipeline(transaction=False)
    for each_try in _tries(request):
        pipeline.lrem(wire.queue_key(request.model), 0, each_try.encode())
        _add_cancellation(pipeline, each_try, indexes)
    await _try(pipeline.execute())


async def forget(request: GenerationRequest) -> None:
    """Remove the events of a request that is over."""
    await _try(client().delete(*(wire.stream_key(each_try.request_id) for each_try in _tries(request))))


async def events(request: GenerationRequest, observed: Observed | None = None) -> AsyncGenerator[Event]:
    """Events of a submitted request as they come; the reader stops when every choice is finished.

    A request whose engine is gone before it told anything is given to another one: it then starts a second time.

    Raises: EngineGone, EngineRefused.
    """
    observed = observed or Observed(request)
    deadline = time.monotonic() + REQUEST_DURATION.total_seconds()
    lost: GenerationRequest | None = None
    for each_try in _tries(request):
        if lost is not None:
            await _hand_over(lost, each_try)
        async with aclosing(_read_or_lose(each_try, deadline)) as of_try:
            async for event in of_try:
                observed.note(event)
                yield event
        lost = each_try
    raise EngineGone("Several engines stopped before they began this request.")


def _tries(request: GenerationRequest) -> list[GenerationRequest]:
    """The request as it is given to one engine after the other."""
    return [replace(request, request_id=name) for name in wire.try_ids(request.request_id)]


async def _hand_over(lost: GenerationRequest, request: GenerationRequest) -> None:
    """Queue it before all others; an engine that was only slow stops the lost try.

    Raises: EngineGone where nobody is left.
    """
    logger.warning("an engine was lost, another one is asked: %s", request.request_id)
    try:
        if request.model not in await served_models():
            raise EngineGone("The engine stopped before it began this request.")
        pipeline = client().pipeline(transaction=False)
        _add_cancellation(pipeline, lost, range(lost.num_choices))
        pipeline.rpush(wire.queue_key(request.model), request.encode())
        await pipeline.execute()
    except RedisError as error:
        raise EngineGone("The engines cannot be reached any more.") from error


def _add_cancellation(pipeline: Pipeline, each_try: GenerationRequest, choices: Iterable[int]) -> None:
    pipeline.sadd(wire.cancel_key(each_try.request_id), *choices)
    pipeline.expire(wire.cancel_key(each_try.request_id), wire.CANCEL_SECONDS)


async def _read_or_lose(request: GenerationRequest, deadline: float) -> AsyncGenerator[Event]:
    """Events of one try; it ends without having told anything where its engine is lost."""
    async with aclosing(_read(request, deadline)) as of_try:
        try:
            async for event in of_try:
                yield event
        except _Lost:
            return


async def _read(request: GenerationRequest, deadline: float) -> AsyncGenerator[Event]:
    watch = _Watch(request, deadline)
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
        entries = reply[0][1] if reply else ()
        for event in wire.merge(
            event for _, fields in entries for event in wire.decode_events(fields[wire.EVENT_FIELD])
        ):
            watch.note(event)
            handed_out_at = time.monotonic()
            yield event
            # A client that reads slowly uses up its own time, not the engine's: what an engine fails at is free.
            watch.deadline += time.monotonic() - handed_out_at
        if entries:
            last_id = entries[-1][0]
            await asyncio.sleep(PAUSE_SECONDS if watch.has_told else 0)


class _Watch:
    """Whether somebody still works on a request."""

    def __init__(self, request: GenerationRequest, deadline: float) -> None:
        self._request = request
        self._engine_id: str | None = None
        self.has_told = False
        self._num_polls_lost = 0
        self.deadline = deadline
        self.last_answer_at = time.monotonic()

    def note(self, event: Event) -> None:
        """Raises: EngineGone, EngineRefused."""
        if isinstance(event, Started):
            self._engine_id = event.engine_id
            self._num_polls_lost = 0
        elif isinstance(event, Failed):
            if event.param is not None:
                raise EngineRefused(event.message, param=event.param)
            raise EngineGone(event.message)
        else:
            self.has_told = True

    def check_deadline(self) -> None:
        """Raises: EngineGone."""
        if time.monotonic() > self.deadline:
            raise EngineGone("The request took too long.")

    async def check(self) -> None:
        """After a poll without events. Raises: EngineGone, _Lost."""
        if self._engine_id is not None and await client().exists(wire.alive_key(self._engine_id)):
            self._num_polls_lost = 0
            return
        if not self.has_told and await self._is_queued():
            self._num_polls_lost = 0
            if self._request.model not in await served_models():
                raise EngineGone("The engine stopped before it began this request.")
            return
        self._num_polls_lost += 1
        if self._engine_id is not None and self._num_polls_lost >= GONE_POLLS:
            if self.has_told:
                raise EngineGone("The engine stopped working on this request.")
            raise _Lost
        if self._num_polls_lost >= LOST_POLLS:
            raise _Lost

    async def _is_queued(self) -> bool:
        return await client().lpos(wire.queue_key(self._request.model), self._request.encode()) is not None

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
