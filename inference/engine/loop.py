"""The engine's loop: take requests, decode one token for all of them, publish, look who is still listening, repeat."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from queue import SimpleQueue

from redis.exceptions import RedisError

from inference.engine import metrics
from inference.engine.mailbox import Mail, Mailbox
from inference.engine.presence import STUCK_SECONDS
from inference.engine.runner import Choice, Generated, Runner
from inference.engine.underway import UnderWay
from inference.status import ServedModel
from inference.wire import ChoiceTokens, Event, Failed, GenerationRequest, Started
from ml.sampling import SamplingParams

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS = 0.01
"""Steps that are shorter are told together: an exchange costs as much as some of a small model's."""
IDLE_SECONDS = 1.0
"""How long an idle engine waits for a request before it looks for a new model or a stop."""
REDIS_PAUSE_SECONDS = 0.5


class Engine:
    """Serves the runners that `installed` brings, each under its model's name, until `stop` is set.

    None for a runner takes the model away. A runner that is replaced, or taken away, finishes what it has begun;
    what runs when `stop` is set has grace_seconds to finish.
    """

    def __init__(self, mailbox: Mailbox, *, engine_id: str, stop: threading.Event, grace_seconds: float) -> None:
        self.installed: SimpleQueue[tuple[str, Runner | None]] = SimpleQueue()
        self.models: tuple[str, ...] = ()
        self.underway = UnderWay()
        self._last_step_at = time.monotonic()
        self._mailbox = mailbox
        self._engine_id = engine_id
        self._stop = stop
        self._grace_seconds = grace_seconds
        self._current: dict[str, Runner] = {}
        self._runners: list[Runner] = []
        self._outbox: defaultdict[str, list[Event]] = defaultdict(list)
        self._num_exchanges = 0
        self._last_exchange_at = 0.0
        self._is_news = False
        """Whether the outbox holds a choice's first tokens, or its end."""

    @property
    def is_stuck(self) -> bool:
        return time.monotonic() - self._last_step_at > STUCK_SECONDS

    @property
    def served(self) -> tuple[ServedModel, ...]:
        """What takes requests; nothing once the engine was told to stop."""
        if self._stop.is_set():
            return ()
        current = dict(self._current)
        return tuple(
            ServedModel(
                name=name,
                checkpoint_id=runner.checkpoint_id,
                sha256=runner.sha256,
                num_running=self.underway.num_running(name),
            )
            for name, runner in current.items()
        )

    def run(self) -> None:
        """Work until told to stop; then finish what runs while the grace lasts, and leave the rest to others."""
        while not self._stop.is_set():
            self._install()
            if self.underway or self._outbox:
                self._turn()
            else:
                self._wait()
            self._last_step_at = time.monotonic()
        deadline = time.monotonic() + self._grace_seconds
        while self.underway and time.monotonic() < deadline:
            self._turn()
            self._last_step_at = time.monotonic()
        self._give_up()

    def _install(self) -> None:
        while not self.installed.empty():
            model, runner = self.installed.get()
            # A new dict: others read the old one meanwhile.
            others = {name: serving for name, serving in self._current.items() if name != model}
            if runner is None:
                self._current = others
                logger.info("no longer serving %s", model)
                continue
            self._current = {**others, model: runner}
            if runner not in self._runners:
                self._runners.append(runner)
            logger.info("serving %s from checkpoint %s", model, runner.sha256[:12])
        self._runners = [runner for runner in self._runners if runner in self._current.values() or not runner.is_idle]
        self.models = tuple(self._current)

    def _turn(self) -> None:
        for model, runner in self._named_runners():
            if not runner.is_idle:
                with metrics.STEP_SECONDS.labels(model).time():
                    generated = runner.step()
                _count_step(model, runner, generated)
                self._publish(generated)
        if not self._is_exchange_due():
            return
        mail = self._exchange()
        self._drop(mail.cancelled)
        self._accept(mail.requests)

    def _is_exchange_due(self) -> bool:
        """Always after EXCHANGE_SECONDS; before, where there is something that somebody waits for."""
        if self._is_news or time.monotonic() - self._last_exchange_at >= EXCHANGE_SECONDS:
            return True
        try:
            return self._mailbox.has_cancelled(self.underway.request_ids)
        except RedisError:
            return True

    def _named_runners(self) -> list[tuple[str, Runner]]:
        """Every runner once, under one of its names; one that was replaced is "replaced"."""
        names = {id(runner): name for name, runner in self._current.items()}
        return [(names.get(id(runner), "replaced"), runner) for runner in self._runners]

    def _wait(self) -> None:
        if not self.models:
            self._stop.wait(IDLE_SECONDS)
            return
        try:
            self._accept(self._mailbox.wait(models=self.models, seconds=IDLE_SECONDS))
        except RedisError as error:
            self._pause(error)

    def _exchange(self, *, takes_requests: bool = True) -> Mail:
        """Exchange with Redis, as often as it takes; while Redis is away, the engine stands still."""
        queue, num_wanted = self._next_queue() if takes_requests else (None, 0)
        while True:
            try:
                mail = self._mailbox.exchange(
                    events=self._outbox, running=self.underway.request_ids, queue=queue, num_wanted=num_wanted
                )
            except RedisError as error:
                self._pause(error)
                if self._stop.is_set():
                    return Mail()
            else:
                self._outbox.clear()
                self._is_news = False
                self._last_exchange_at = time.monotonic()
                return mail

    def _pause(self, error: RedisError) -> None:
        logger.warning("Redis is away, the engine waits: %s", error)
        self._last_step_at = time.monotonic()
        self._stop.wait(REDIS_PAUSE_SECONDS)

    def _next_queue(self) -> tuple[str | None, int]:
        """A model whose queue is looked at in this turn, each in its turn, and how many of its requests fit."""
        if self._stop.is_set() or not self.models:
            return None, 0
        self._num_exchanges += 1
        model = self.models[self._num_exchanges % len(self.models)]
        return model, self._current[model].num_free

    def _accept(self, requests: Iterable[GenerationRequest]) -> None:
        """Begin the requests, and say so before their first step: until then their reader takes them for lost."""
        accepted = [request for request in requests if self._begin(request)]
        if accepted:
            self._drop(self._exchange(takes_requests=False).cancelled)

    def _begin(self, request: GenerationRequest) -> bool:
        runner = self._current[request.model]
        try:
            runner.add([choice_of(request, index) for index in range(request.num_choices)])
        except ValueError as error:
            self._outbox[request.request_id].append(Failed(message=f"The engine refused the request: {error}."))
            metrics.REQUESTS.labels(request.model, "refused").inc()
            return False
        self.underway.begin(request)
        self._outbox[request.request_id].append(
            Started(
                engine_id=self._engine_id,
                checkpoint_id=runner.checkpoint_id,
                checkpoint_sha256=runner.sha256,
            )
        )
        return True

    def _publish(self, generated: Iterable[Generated]) -> None:
        for step in generated:
            request_id, event = step.choice.request_id, step.event
            self._outbox[request_id].append(event)
            if not isinstance(event, ChoiceTokens):
                continue
            self._is_news |= event.offset == 0 or event.finish_reason is not None
            self.underway.note_tokens(request_id, len(event.tokens))
            if event.finish_reason is not None:
                self.underway.finish(request_id, {event.index}, outcome="done")

    def _drop(self, cancelled: dict[str, set[int]]) -> None:
        if not cancelled:
            return
        for runner in self._runners:
            runner.drop(lambda choice: choice.index in cancelled.get(choice.request_id, ()))
        for request_id, indexes in cancelled.items():
            self.underway.finish(request_id, indexes, outcome="cancelled")

    def _give_up(self) -> None:
        """Put back what has no tokens yet, for another engine, and fail the rest."""
        unbegun, begun = self.underway.end_all(outcome="stopped")
        for request in begun:
            self._outbox[request.request_id].append(Failed(message="The engine was stopped."))
        self._exchange()
        if unbegun:
            self._give_back(unbegun)

    def _give_back(self, requests: list[GenerationRequest]) -> None:
        try:
            self._mailbox.give_back(requests)
        except RedisError as error:
            logger.warning("requests were left behind: %s", error)


def _count_step(model: str, runner: Runner, generated: Iterable[Generated]) -> None:
    num_texts = sum(isinstance(step.event, ChoiceTokens) for step in generated)
    metrics.BATCH_TEXTS.labels(model).observe(num_texts)
    num_reused, runner.num_reused_tokens = runner.num_reused_tokens, 0
    metrics.PREFIX_TOKENS.labels(model).inc(num_reused)


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
            frequency_penalty=request.frequency_penalty,
            presence_penalty=request.presence_penalty,
            logit_bias=request.logit_bias,
            seed=request.seed + index,
            max_tokens=request.max_tokens,
        ),
        stop_tokens=frozenset(request.stop_tokens),
        prompt=index // request.n,
        num_logprobs=request.num_logprobs,
        # Once for each prompt, by its first choice.
        has_prompt_logprobs=request.has_prompt_logprobs and index % request.n == 0,
    )
