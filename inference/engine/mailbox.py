"""An engine's side of Redis: requests in, events out, cancellations seen, in one round trip per step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from inference import wire
from inference.status import EngineStatus
from inference.wire import Event, GenerationRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """What one exchange brought."""

    requests: list[GenerationRequest] = field(default_factory=list)
    cancelled: dict[str, set[int]] = field(default_factory=dict)
    """Choices by request id that nobody reads any more."""


class Mailbox:
    """Raises: redis.exceptions.ConnectionError or TimeoutError from every method while Redis is away."""

    def __init__(self, redis_url: str, *, engine_id: str) -> None:
        # No retry behind our back: the engine repeats a whole exchange, and stops when it is told to.
        self._redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=10)
        self._engine_id = engine_id

    def exchange(
        self,
        *,
        events: Mapping[str, Sequence[Event]],
        running: Sequence[str],
        queue: str | None,
        num_wanted: int,
    ) -> Mail:
        """Publish events by request id, learn what was cancelled among `running`, take up to num_wanted requests."""
        pipeline = self._redis.pipeline(transaction=False)
        for request_id, of_request in events.items():
            key = wire.stream_key(request_id)
            pipeline.xadd(key, {wire.EVENT_FIELD: wire.encode_events(wire.merge(of_request))})
            pipeline.expire(key, wire.STREAM_SECONDS)
        for request_id in running:
            pipeline.smembers(wire.cancel_key(request_id))
        if queue is not None and num_wanted:
            pipeline.rpop(wire.queue_key(queue), num_wanted)
        replies = pipeline.execute()
        popped = (replies.pop() or []) if queue is not None and num_wanted else []
        cancelled = replies[len(replies) - len(running) :]
        return Mail(
            requests=[GenerationRequest.decode(data) for data in popped],
            cancelled={
                request_id: {int(index) for index in indexes}
                for request_id, indexes in zip(running, cancelled, strict=True)
                if indexes
            },
        )

    def has_cancelled(self, running: Sequence[str]) -> bool:
        """Whether there is a cancellation among `running`, for much less than an exchange costs."""
        return bool(running) and bool(self._redis.exists(*map(wire.cancel_key, running)))

    def wait(self, *, models: Sequence[str], seconds: float) -> list[GenerationRequest]:
        """The next request for one of the models, or none when `seconds` are over."""
        popped = self._redis.brpop([wire.queue_key(model) for model in models], timeout=seconds)
        return [GenerationRequest.decode(popped[1])] if popped else []

    def give_back(self, requests: Sequence[GenerationRequest]) -> None:
        """Requests that were taken and not begun are the next ones to be taken, by another engine."""
        pipeline = self._redis.pipeline(transaction=False)
        for request in requests:
            pipeline.rpush(wire.queue_key(request.model), request.encode())
        pipeline.execute()

    def wanted(self, *, since: float) -> list[str]:
        """Older checkpoints that were asked for after `since`, seconds since 1970, the last asked for first."""
        names: Any = self._redis.zrevrangebyscore(wire.WANTED_KEY, "+inf", since)
        return [name.decode() for name in names]

    def num_queued(self, model: str) -> int:
        return int(self._redis.llen(wire.queue_key(model)))

    def ping(self) -> None:
        self._redis.ping()

    def beat(self, status: EngineStatus) -> None:
        """Say that the engine lives, and how it does."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(wire.alive_key(self._engine_id), status.encode(), ex=wire.ALIVE_SECONDS)
        pipeline.sadd(wire.ENGINES_KEY, self._engine_id)
        pipeline.execute()

    def leave(self) -> None:
        """Say that the engine is gone."""
        self._redis.delete(wire.alive_key(self._engine_id))
        self._redis.srem(wire.ENGINES_KEY, self._engine_id)
