"""The engines as an operator sees them: which live, what they serve, what waits for them."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from inference import wire
from inference.status import EngineStatus
from inference.wire import GenerationRequest

TIMEOUT_SECONDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Queue:
    """What waits for one model."""

    model: str
    num_requests: int
    wait_seconds: float
    """Of the request that is taken next."""


def engines() -> list[EngineStatus]:
    """The living ones, by id.

    Raises: redis.exceptions.RedisError.
    """
    with _redis() as redis:
        members: Any = redis.smembers(wire.ENGINES_KEY)
        keys = [wire.alive_key(engine_id.decode()) for engine_id in sorted(members)]
        answers: Any = redis.mget(keys) if keys else []
    return [EngineStatus.decode(answer) for answer in answers if answer is not None]


def queues(engines: Iterable[EngineStatus]) -> list[Queue]:
    """Those of the models that the engines serve.

    Raises: redis.exceptions.RedisError.
    """
    models = sorted({name for engine in engines for name in engine.model_names})
    with _redis() as redis:
        pipeline = redis.pipeline(transaction=False)
        for model in models:
            pipeline.llen(wire.queue_key(model))
            pipeline.lindex(wire.queue_key(model), -1)
        answers = pipeline.execute()
    return [
        Queue(model=model, num_requests=num, wait_seconds=_wait_seconds(following))
        for model, num, following in zip(models, answers[::2], answers[1::2], strict=True)
    ]


def _wait_seconds(following: bytes | None) -> float:
    queued_at = GenerationRequest.decode(following).queued_at if following else 0.0
    return max(0.0, time.time() - queued_at) if queued_at else 0.0


def _redis() -> Redis:
    return Redis.from_url(settings.REDIS_URL, retry=Retry(NoBackoff(), 0), socket_timeout=TIMEOUT_SECONDS)
