"""An engine that needs no model: it speaks the real wire over the real Redis, and answers every choice to its end."""

import threading
import time
from types import TracebackType
from typing import Self

from redis import Redis

from inference import wire
from inference.status import EngineStatus, ServedModel
from inference.wire import ChoiceTokens, GenerationRequest, Started
from training.models import Checkpoint

TOKEN = 72


def make_status(model: str = "study", *, checkpoint_id: int = 1, sha256: str = "0" * 64) -> EngineStatus:
    served = ServedModel(name=model, checkpoint_id=checkpoint_id, sha256=sha256, num_running=0)
    now = time.time()
    return EngineStatus(engine_id="pretended", kind="cpu", started_at=now, beat_at=now, num_slots=8, models=(served,))


def say_that_it_lives(redis: Redis, status: EngineStatus) -> None:
    redis.sadd(wire.ENGINES_KEY, status.engine_id)
    redis.set(wire.alive_key(status.engine_id), status.encode(), ex=60)


class AnsweringEngine:
    """Takes the requests for a checkpoint's model; each choice becomes `max_tokens` times TOKEN.

    While `is_held` is set, it has begun a request and says no more of it.
    """

    def __init__(self, redis: Redis, checkpoint: Checkpoint) -> None:
        self.is_held = threading.Event()
        self.has_begun = threading.Event()
        self.requests: list[GenerationRequest] = []
        self._redis = redis
        self._checkpoint = checkpoint
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        status = make_status(
            self._checkpoint.experiment.slug, checkpoint_id=self._checkpoint.pk, sha256=self._checkpoint.blob_id
        )
        say_that_it_lives(self._redis, status)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _serve(self) -> None:
        queue = wire.queue_key(self._checkpoint.experiment.slug)
        while not self._is_over.is_set():
            popped = self._redis.brpop([queue], timeout=0.1)
            if popped:
                self._answer(GenerationRequest.decode(popped[1]))

    def _answer(self, request: GenerationRequest) -> None:
        self.requests.append(request)
        started = Started(
            engine_id="pretended", checkpoint_id=self._checkpoint.pk, checkpoint_sha256=self._checkpoint.blob_id
        )
        self._publish(request, [started])
        self.has_begun.set()
        while self.is_held.is_set() and not self._is_over.is_set():
            time.sleep(0.01)
        tokens = (TOKEN,) * request.max_tokens
        choices = range(request.num_choices)
        self._publish(
            request, [ChoiceTokens(index=i, offset=0, tokens=tokens, finish_reason="length") for i in choices]
        )

    def _publish(self, request: GenerationRequest, events: list[wire.Event]) -> None:
        self._redis.xadd(wire.stream_key(request.request_id), {wire.EVENT_FIELD: wire.encode_events(events)})
