"""Takes requests from the queue, as an engine does, and has another engine's server continue them."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from redis.exceptions import RedisError
from tokenizers import Tokenizer

from inference.engine.presence import STUCK_SECONDS
from inference.engine.underway import UnderWay
from inference.external.dialects import Refused, count_tokens, settled
from inference.external.mail import ExternalMail
from inference.external.server import ExternalServer, ServerFailed
from inference.status import EngineStatus, Problem, ServedModel
from inference.wire import BEAT_SECONDS, ChoicePiece, ChoiceTokens, Event, Failed, GenerationRequest, Started
from training.models import Checkpoint

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
CANCEL_POLL_SECONDS = 0.1
WAIT_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeOptions:
    """What a bridge serves, and how."""

    engine_id: str
    checkpoint: Checkpoint
    """What the server has loaded, as the operator says."""
    tokenizer: Tokenizer
    num_slots: int
    grace_seconds: float

    @property
    def models(self) -> tuple[str, ...]:
        return self.checkpoint.experiment.slug, str(self.checkpoint)


class Bridge:
    """Serves until `stop` is set, whenever the server answers."""

    def __init__(self, server: ExternalServer, mail: ExternalMail, options: BridgeOptions) -> None:
        self.underway = UnderWay()
        self.is_up = False
        self._server = server
        self._mail = mail
        self._options = options
        self._stop = asyncio.Event()
        self._places = asyncio.Semaphore(options.num_slots)
        self._choices: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._problem: Problem | None = None
        self._started_at = time.time()
        self._last_turn_at = time.monotonic()

    def stop(self) -> None:
        """Take no more requests; `run` returns once those under way are over, or the grace is."""
        self._stop.set()

    async def run(self) -> None:
        helpers = [asyncio.create_task(self._pulse()), asyncio.create_task(self._watch_cancellations())]
        try:
            while not self._stop.is_set():
                await self._take()
            await self._finish()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            await self._mail.leave()

    @property
    def is_stuck(self) -> bool:
        return time.monotonic() - self._last_turn_at > STUCK_SECONDS

    def status(self) -> EngineStatus:
        checkpoint = self._options.checkpoint
        return EngineStatus(
            engine_id=self._options.engine_id,
            kind=self._server.url,
            started_at=self._started_at,
            beat_at=time.time(),
            num_slots=self._options.num_slots,
            models=tuple(
                ServedModel(
                    name=name,
                    checkpoint_id=checkpoint.pk,
                    sha256=checkpoint.blob_id,
                    num_running=self.underway.num_running(name),
                )
                for name in (self._options.models if self._is_serving else ())
            ),
            tokens_per_second=self.underway.tokens.per_second(),
            requests_per_second=self.underway.requests.per_second(),
            problems=(self._problem,) if self._problem else (),
        )

    @property
    def _is_serving(self) -> bool:
        return self.is_up and not self._stop.is_set()

    async def _take(self) -> None:
        """One request, if there is one and a place for it."""
        if not self.is_up or len(self._choices) >= self._options.num_slots:
            await asyncio.sleep(PAUSE_SECONDS if not self.is_up else CANCEL_POLL_SECONDS)
            return
        try:
            request = await self._mail.take(self._options.models, seconds=WAIT_SECONDS)
        except RedisError as error:
            logger.warning("Redis is away, the bridge waits: %s", error)
            await asyncio.sleep(PAUSE_SECONDS)
            return
        if request is not None:
            self._begin(request)

    def _begin(self, request: GenerationRequest) -> None:
        self.underway.begin(request)
        self._mail.begin(request.request_id)
        for index in range(request.num_choices):
            task = asyncio.create_task(self._continue(request, index))
            self._choices[request.request_id, index] = task
        task = asyncio.create_task(self._answer(request))
        self._requests[request.request_id] = task
        task.add_done_callback(lambda task: self._forget(request, task))

    def _forget(self, request: GenerationRequest, task: asyncio.Task[None]) -> None:
        self._requests.pop(request.request_id, None)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a request failed", exc_info=error, extra={"request_id": request.trace})

    async def _answer(self, request: GenerationRequest) -> None:
        """All choices to their end; where one fails, the request does."""
        ours = {index: self._choices[request.request_id, index] for index in range(request.num_choices)}
        try:
            await asyncio.wait(ours.values(), return_when=asyncio.FIRST_EXCEPTION)
            errors = [task.exception() for task in ours.values() if task.done() and not task.cancelled()]
            failed = next((error for error in errors if error is not None), None)
            if failed is not None:
                await self._fail(request, failed)
        finally:
            for index, task in ours.items():
                task.cancel()
                self._choices.pop((request.request_id, index), None)
            await asyncio.gather(*ours.values(), return_exceptions=True)
            self.underway.finish(request.request_id, ours, outcome="cancelled")
            self._mail.end(request.request_id)

    async def _fail(self, request: GenerationRequest, error: BaseException) -> None:
        outcome = "failed"
        if isinstance(error, Refused):
            outcome = "refused"
            failed = Failed(message=str(error), param=error.param)
        elif isinstance(error, ServerFailed):
            logger.error("the server failed: %s", error, extra={"request_id": request.trace})
            failed = Failed(message="The engine's server failed in mid-stream.")
        else:
            failed = Failed(message="The engine failed.")
        self.underway.finish(request.request_id, range(request.num_choices), outcome=outcome)
        await self._publish(request, failed)
        if not isinstance(error, Refused | ServerFailed):
            raise error

    async def _continue(self, request: GenerationRequest, index: int) -> None:
        body = self._server.dialect.body(request, index)
        if index == 0:
            await self._publish(request, self._started())
        async with self._places, aclosing(self._events(request, index, body)) as events:
            async for event, num_tokens in events:
                self.underway.note_tokens(request.request_id, num_tokens)
                await self._publish(request, event)
        self.underway.finish(request.request_id, {index}, outcome="done")

    def _started(self) -> Started:
        checkpoint = self._options.checkpoint
        return Started(
            engine_id=self._options.engine_id, checkpoint_id=checkpoint.pk, checkpoint_sha256=checkpoint.blob_id
        )

    async def _events(
        self, request: GenerationRequest, index: int, body: dict[str, object]
    ) -> AsyncGenerator[tuple[ChoiceTokens | ChoicePiece, int]]:
        """The choice's events, and how many tokens each adds."""
        text, offset = "", 0
        async with aclosing(self._server.stream(body)) as chunks:
            async for chunk in chunks:
                if chunk.tokens is not None:
                    tokens, reason = _cut(chunk.tokens, request, offset, chunk.finish_reason)
                    yield ChoiceTokens(index=index, offset=offset, tokens=tokens, finish_reason=reason), len(tokens)
                    offset += len(tokens)
                    if reason is not None:
                        return
                    continue
                text += chunk.text
                total = chunk.num_tokens
                if total is None:
                    counted = settled(text) if chunk.finish_reason is None else text
                    total = count_tokens(self._options.tokenizer, counted)
                # Never more than credits are held for: text that was not made of the likeliest merges counts as more
                # tokens than were generated, and a server may count wrongly.
                total = max(offset, min(total, request.max_tokens))
                piece = ChoicePiece(
                    index=index,
                    offset=offset,
                    text=chunk.text,
                    num_tokens=total - offset,
                    finish_reason=chunk.finish_reason,
                )
                yield piece, total - offset
                offset = total

    async def _publish(self, request: GenerationRequest, event: Event) -> None:
        await self._mail.publish(request.request_id, event)

    async def _watch_cancellations(self) -> None:
        while True:
            self._last_turn_at = time.monotonic()
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            try:
                cancelled = await self._mail.cancelled(self.underway.request_ids)
            except RedisError:
                continue
            for key in cancelled:
                task = self._choices.get(key)
                if task is not None and not task.done():
                    task.cancel()
                    self.underway.finish(key[0], {key[1]}, outcome="cancelled")

    async def _pulse(self) -> None:
        """Ask the server whether it answers, and say so."""
        while True:
            await self._probe()
            try:
                await self._mail.beat(self.status())
            except RedisError as error:
                logger.debug("no heartbeat: %s", error)
            await asyncio.sleep(BEAT_SECONDS)

    async def _probe(self) -> None:
        try:
            await self._server.probe()
        except ServerFailed as error:
            if self._problem is None:
                logger.error("the server does not answer: %s", error)  # noqa: TRY400 - the message is the cause
                self._problem = Problem(subject=self._server.url, message=str(error), at=time.time())
            self.is_up = False
        else:
            if not self.is_up:
                logger.info("serving %s by %s", self._options.checkpoint, self._server.url)
            self._problem = None
            self.is_up = True

    async def _finish(self) -> None:
        """What is under way gets the grace; then what has no tokens yet goes back, and the rest fails."""
        if self._requests:
            await asyncio.wait(self._requests.values(), timeout=self._options.grace_seconds)
        unbegun, begun = self.underway.end_all(outcome="stopped")
        tasks = list(self._requests.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for request in begun:
            await self._publish(request, Failed(message="The engine was stopped."))
        await self._mail.give_back(unbegun)


def _cut(
    tokens: tuple[int, ...], request: GenerationRequest, offset: int, reason: str | None
) -> tuple[tuple[int, ...], str | None]:
    """The tokens up to the first stop token or the limit, and why they end there."""
    tokens = tokens[: request.max_tokens - offset]
    for position, token in enumerate(tokens):
        if token in request.stop_tokens:
            return tokens[: position + 1], "stop"
    return tokens, reason
