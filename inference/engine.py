"""The engine's loop: take requests, decode one token for all of them, publish, look who is still listening, repeat."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from queue import SimpleQueue

from redis.exceptions import RedisError

from inference.mailbox import Mail, Mailbox
from inference.runner import Choice, Generated, Runner
from inference.wire import Event, Failed, GenerationRequest, Started
from ml.sampling import SamplingParams

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""How long an idle engine waits for a request before it looks for a new model or a stop."""
REDIS_PAUSE_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""What running requests get to finish when the engine is told to stop."""


class Engine:
    """Serves the runners that `installed` brings, each under its model's name, until `stop` is set.

    A runner that is replaced finishes what it has begun.
    """

    def __init__(self, mailbox: Mailbox, *, engine_id: str, stop: threading.Event) -> None:
        self.installed: SimpleQueue[tuple[str, Runner]] = SimpleQueue()
        self.models: tuple[str, ...] = ()
        self.last_step_at = time.monotonic()
        self._mailbox = mailbox
        self._engine_id = engine_id
        self._stop = stop
        self._current: dict[str, Runner] = {}
        self._runners: list[Runner] = []
        self._unfinished: dict[str, set[int]] = {}
        self._outbox: defaultdict[str, list[Event]] = defaultdict(list)
        self._num_exchanges = 0

    def run(self) -> None:
        """Work until told to stop; then finish what runs, for at most GRACE_SECONDS, and fail the rest."""
        while not self._stop.is_set():
            self._install()
            if self._unfinished or self._outbox:
                self._turn()
            else:
                self._wait()
            self.last_step_at = time.monotonic()
        deadline = time.monotonic() + GRACE_SECONDS
        while self._unfinished and time.monotonic() < deadline:
            self._turn()
        for request_id in self._unfinished:
            self._outbox[request_id].append(Failed(message="The engine was stopped."))
        self._exchange()

    def _install(self) -> None:
        while not self.installed.empty():
            model, runner = self.installed.get()
            self._current[model] = runner
            self._runners.append(runner)
            logger.info("serving %s from checkpoint %s", model, runner.sha256[:12])
        self._runners = [runner for runner in self._runners if runner in self._current.values() or not runner.is_idle]
        self.models = tuple(self._current)

    def _turn(self) -> None:
        for runner in self._runners:
            if not runner.is_idle:
                self._publish(runner.step())
        mail = self._exchange()
        self._drop(mail.cancelled)
        self._accept(mail.requests)

    def _wait(self) -> None:
        if not self.models:
            self._stop.wait(IDLE_SECONDS)
            return
        try:
            self._accept(self._mailbox.wait(models=self.models, seconds=IDLE_SECONDS))
        except RedisError as error:
            self._pause(error)

    def _exchange(self) -> Mail:
        """Exchange with Redis, as often as it takes; while Redis is away, the engine stands still."""
        queue, num_wanted = self._next_queue()
        while True:
            try:
                mail = self._mailbox.exchange(
                    events=self._outbox, running=list(self._unfinished), queue=queue, num_wanted=num_wanted
                )
            except RedisError as error:
                self._pause(error)
                if self._stop.is_set():
                    return Mail()
            else:
                self._outbox.clear()
                return mail

    def _pause(self, error: RedisError) -> None:
        logger.warning("Redis is away, the engine waits: %s", error)
        self.last_step_at = time.monotonic()
        self._stop.wait(REDIS_PAUSE_SECONDS)

    def _next_queue(self) -> tuple[str | None, int]:
        """A model whose queue is looked at in this turn, each in its turn, and how many of its requests fit."""
        if self._stop.is_set() or not self.models:
            return None, 0
        self._num_exchanges += 1
        model = self.models[self._num_exchanges % len(self.models)]
        return model, self._current[model].num_free

    def _accept(self, requests: Iterable[GenerationRequest]) -> None:
        for request in requests:
            runner = self._current[request.model]
            try:
                runner.add([choice_of(request, index) for index in range(request.num_choices)])
            except ValueError as error:
                self._outbox[request.request_id].append(Failed(message=f"The engine refused the request: {error}."))
                continue
            self._unfinished[request.request_id] = set(range(request.num_choices))
            self._outbox[request.request_id].append(
                Started(
                    engine_id=self._engine_id,
                    checkpoint_id=runner.checkpoint_id,
                    checkpoint_sha256=runner.sha256,
                )
            )

    def _publish(self, generated: Iterable[Generated]) -> None:
        for step in generated:
            self._outbox[step.choice.request_id].append(step.event)
            if step.event.finish_reason is not None:
                self._finish(step.choice.request_id, {step.choice.index})

    def _drop(self, cancelled: dict[str, set[int]]) -> None:
        if not cancelled:
            return
        for runner in self._runners:
            runner.drop(lambda choice: choice.index in cancelled.get(choice.request_id, ()))
        for request_id, indexes in cancelled.items():
            self._finish(request_id, indexes)

    def _finish(self, request_id: str, indexes: set[int]) -> None:
        unfinished = self._unfinished.get(request_id, set())
        unfinished -= indexes
        if not unfinished:
            self._unfinished.pop(request_id, None)


def choice_of(request: GenerationRequest, index: int) -> Choice:
    """Choice `index` of a request, with a seed of its own."""
    return Choice(
        request_id=request.request_id,
        index=index,
        text=list(request.prompts[index // request.n]),
        params=SamplingParams(
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            seed=request.seed + index,
            max_tokens=request.max_tokens,
        ),
        stop_tokens=frozenset(request.stop_tokens),
    )
