"""One completion request from its hold to its bill, whatever the shape in which it is sent."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

from django.utils import timezone
from tokenizers import Tokenizer

from inference import catalogue
from inference.billing.bills import Bill, Outcome
from inference.completions import cancellation, prompts, provider
from inference.completions.choices import Choices, Wish
from inference.completions.provider import EngineGone, EngineRefused, EngineUnavailable, QueueFull
from inference.models import Completion
from inference.monitoring import observation, tracing
from inference.monitoring.observation import Observed
from inference.openai import errors
from inference.openai.fields import MAX_LOGPROBS
from inference.openai.parameters import Parameters
from inference.openai.shapes import Answer, Head, Piece, Usage
from inference.wire import ChoicePiece, ChoiceTokens, Event, GenerationRequest, Started
from training.models import Checkpoint, Experiment

# A top_p of 0 means the likeliest token alone; the sampler wants a share above 0.
SMALLEST_TOP_P = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A request that is known to be possible: model, tokens and context are right."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    request: GenerationRequest
    wish: Wish
    num_answers: int
    """Choices of each prompt that are answered, the best of those that the engine generates."""


def prepare(parameters: Parameters) -> Order:
    """Find the model and turn texts into tokens.

    Raises: ApiError, 404, 503 or 400.
    """
    try:
        checkpoint = catalogue.find(parameters.model)
    except catalogue.ModelNotFound as error:
        raise errors.ApiError(404, "model_not_found", str(error), param="model") from error
    except catalogue.ModelNotReady as error:
        raise errors.unavailable(str(error)) from error
    experiment = checkpoint.experiment
    if experiment.tokenizer_id is None:
        raise errors.unavailable(f"The model {parameters.model!r} has no tokenizer.")
    sha256 = experiment.tokenizer_id
    tokens = _encode(parameters, sha256=sha256, block_size=experiment.model_config.block_size)
    prompts.check_biases(parameters.logit_bias, sha256=sha256)
    request = _request(parameters, tokens, experiment=experiment, sha256=sha256)
    _check_logprobs(parameters, request)
    tokenizer = prompts.load_tokenizer(sha256)
    observation.log_prompts(request, tokenizer)
    return Order(
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        request=request,
        wish=Wish(
            stop=parameters.stop,
            is_echo=parameters.is_echo,
            is_prompt_only=parameters.max_tokens == 0,
            has_logprobs=parameters.num_logprobs is not None,
        ),
        num_answers=parameters.n,
    )


def _encode(parameters: Parameters, *, sha256: str, block_size: int) -> tuple[tuple[int, ...], ...]:
    if parameters.messages:
        return (prompts.encode_chat(parameters.messages, sha256=sha256, block_size=block_size),)
    return prompts.encode_prompts(parameters.prompts, sha256=sha256, block_size=block_size)


def _request(
    parameters: Parameters, tokens: tuple[tuple[int, ...], ...], *, experiment: Experiment, sha256: str
) -> GenerationRequest:
    """What the engine is asked for; a prompt that is only scored goes on by one token, which is left out."""
    is_chat = bool(parameters.messages)
    num_logprobs = parameters.num_logprobs
    if num_logprobs is None and parameters.best_of > parameters.n:
        num_logprobs = 0
    return GenerationRequest(
        request_id=f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
        model=parameters.model,
        prompts=tokens,
        n=parameters.best_of,
        max_tokens=prompts.check_context(
            tokens,
            max_tokens=None if parameters.max_tokens is None else max(1, parameters.max_tokens),
            block_size=experiment.model_config.block_size,
            param="messages" if is_chat else "prompt",
        ),
        stop_tokens=prompts.stop_tokens(sha256=sha256, is_chat=is_chat),
        seed=parameters.seed,
        temperature=parameters.temperature,
        top_p=max(parameters.top_p, SMALLEST_TOP_P),
        top_k=parameters.top_k,
        min_p=parameters.min_p,
        repetition_penalty=parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
        presence_penalty=parameters.presence_penalty,
        logit_bias=parameters.logit_bias,
        num_logprobs=num_logprobs,
        has_prompt_logprobs=parameters.is_echo and parameters.num_logprobs is not None,
        queued_at=time.time(),
        trace=tracing.current(),
    )


def _check_logprobs(parameters: Parameters, request: GenerationRequest) -> None:
    """Raises: ApiError where more log-probabilities are asked for than an answer may hold."""
    if parameters.num_logprobs is None:
        return
    num_tokens = request.max_completion_tokens
    if request.has_prompt_logprobs:
        num_tokens += request.n * request.prompt_tokens
    num_logprobs = num_tokens * (1 + parameters.num_logprobs)
    if num_logprobs > MAX_LOGPROBS:
        name = "top_logprobs" if parameters.messages and parameters.num_logprobs else "logprobs"
        raise errors.bad_parameter(
            name,
            "invalid_value",
            f"Invalid '{name}': an answer has at most {MAX_LOGPROBS} log-probabilities, this one could have "
            f"{num_logprobs} ({num_tokens} tokens in all choices, {1 + parameters.num_logprobs} for each): ask for "
            "fewer choices, tokens or likeliest tokens.",
        )


class Session:
    """A request under way: opened with a hold, closed with a bill, once."""

    def __init__(self, order: Order, *, bill: Bill) -> None:
        self.bill = bill
        self.head = Head(
            request_id=order.request.request_id,
            created=int(timezone.now().timestamp()),
            model=order.request.model,
            checkpoint_sha256=order.checkpoint.blob_id,
        )
        self.is_streaming = False
        """Whether a stream closes the session in its own time."""
        self._order = order
        self._request = order.request
        self._choices = Choices(order.request, order.tokenizer, wish=order.wish)
        self._observed = Observed(order.request)
        self._events = provider.events(order.request, self._observed)
        self._sent_tokens = [0] * order.request.num_choices
        self._completion: Completion | None = None
        self._checkpoint_id: int | None = None
        self._state = Completion.State.DISCONNECTED
        self._client = asyncio.current_task()

    @classmethod
    async def open(cls, order: Order, *, bill: Bill) -> Self:
        """Hold the credits, queue the request, and wait until an engine has begun it.

        Raises: ApiError, 409, 429 or 503; the hold is then released.
        """
        session = cls(order, bill=bill)
        try:
            await session._start()
        except BaseException:
            await session.close()
            raise
        return session

    @property
    def is_open(self) -> bool:
        """Whether credits are held."""
        return self._completion is not None

    @property
    def num_choices(self) -> int:
        return self._request.num_choices

    @property
    def usage(self) -> Usage:
        return Usage(prompt_tokens=self._request.prompt_tokens, completion_tokens=sum(self._sent_tokens))

    def note_sent(self, piece: Piece) -> None:
        """The piece has reached the client."""
        self._sent_tokens[piece.index] = piece.num_tokens

    async def pieces(self) -> AsyncGenerator[Piece]:
        """Text as it comes, until every choice is finished.

        Raises: EngineGone.
        """
        try:
            async for event in self._events:
                if isinstance(event, Started):
                    self._note_started(event)
                for piece in self._choices.take(event):
                    if piece.finish_reason is not None and not _is_last(event):
                        await provider.cancel(self._request, [piece.index])
                    yield piece
                if not self._choices.unfinished:
                    break
        except EngineGone:
            self._state = Completion.State.FAILED
            raise
        self._state = Completion.State.DONE

    async def answers(self) -> list[Answer]:
        """The best choices, whole, all that were generated counted as sent.

        Raises: EngineGone.
        """
        parts: list[list[Piece]] = [[] for _ in range(self.num_choices)]
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                parts[piece.index].append(piece)
        for part in parts:
            self.note_sent(part[-1])
        chosen = self._choices.best(self._order.num_answers) if self._is_best_of else range(self.num_choices)
        return [_answer(index, parts[choice]) for index, choice in enumerate(chosen)]

    async def close(self) -> None:
        """Settle the bill and stop the engine where it still works on the request; nothing to do a second time."""
        completion, self._completion = self._completion, None
        if completion is not None:
            await cancellation.complete(self._settle(completion))

    @property
    def _is_best_of(self) -> bool:
        return self._request.n > self._order.num_answers

    async def _start(self) -> None:
        try:
            await provider.require_engine(self._request.model)
            await cancellation.complete(self._hold())
            await provider.submit(self._request)
            started = await anext(self._events)
        except QueueFull as error:
            self._state = Completion.State.FAILED
            raise errors.queue_full(retry_after_seconds=error.retry_after_seconds) from error
        except EngineRefused as error:
            self._state = Completion.State.FAILED
            raise errors.bad_parameter(error.param, "unsupported_parameter", str(error)) from error
        except (EngineUnavailable, EngineGone) as error:
            self._state = Completion.State.FAILED
            raise errors.unavailable(str(error)) from error
        if not isinstance(started, Started):
            raise TypeError(f"the engine began with {started}")
        self._note_started(started)

    def _note_started(self, started: Started) -> None:
        """A second time where the first engine was lost before it told anything."""
        self._checkpoint_id = started.checkpoint_id
        self.head = replace(self.head, checkpoint_sha256=started.checkpoint_sha256)

    async def _hold(self) -> None:
        self._completion = await self.bill.open(self._request, checkpoint=self._order.checkpoint)

    async def _settle(self, completion: Completion) -> None:
        # First the engine: a bill may have to wait for the database.
        await self._events.aclose()
        await provider.cancel(self._request, self._choices.unfinished)
        outcome = await self.bill.settle(completion, self._outcome)
        self._observed.end(
            state=outcome.state,
            completion_tokens=outcome.usage.completion_tokens,
            key_prefix=self.bill.key_prefix,
        )
        await provider.forget(self._request)

    def _outcome(self) -> Outcome:
        """As it is at the moment: of an answer that is sent whole, a client that leaves before has seen nothing."""
        state, usage = self._state, self.usage
        is_unseen = not self.is_streaming and not self.bill.keeps_answer and cancellation.has_left(self._client)
        if is_unseen and state == Completion.State.DONE:
            state, usage = Completion.State.DISCONNECTED, replace(usage, completion_tokens=0)
        return Outcome(state=state, usage=usage, checkpoint_id=self._checkpoint_id)


def _is_last(event: Event) -> bool:
    """Whether the engine itself ended a choice with the event."""
    return isinstance(event, ChoiceTokens | ChoicePiece) and event.finish_reason is not None


def _answer(index: int, parts: Sequence[Piece]) -> Answer:
    logprobs = [part.logprobs for part in parts if part.logprobs is not None]
    return Answer(
        index=index,
        text="".join(part.text for part in parts),
        finish_reason=parts[-1].finish_reason or "length",
        logprobs=tuple(chain.from_iterable(logprobs)) if logprobs else None,
    )
