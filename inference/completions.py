"""One completion request from its hold to its bill, whatever the shape in which it is sent."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Self

from django.utils import timezone
from tokenizers import Tokenizer

from contributors import ledger
from contributors.models import ApiKey
from inference import billing, cancellation, catalogue, database, errors, prompts, provider
from inference.choices import Choices, Piece
from inference.models import Completion
from inference.parameters import Parameters
from inference.provider import EngineGone, EngineUnavailable, QueueFull
from inference.shapes import Answer, Head, Usage
from inference.wire import ChoiceTokens, GenerationRequest, Started
from training.models import Checkpoint

RETRY_AFTER_SECONDS = 5
# A top_p of 0 means the likeliest token alone; the sampler wants a share above 0.
SMALLEST_TOP_P = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A request that is known to be possible: model, tokens and context are right."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer
    request: GenerationRequest
    stop: tuple[str, ...]


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
    is_chat = bool(parameters.messages)
    sha256 = experiment.tokenizer_id
    block_size = experiment.model_config.block_size
    tokens = (
        (prompts.encode_chat(parameters.messages, sha256=sha256, block_size=block_size),)
        if is_chat
        else prompts.encode_prompts(parameters.prompts, sha256=sha256, block_size=block_size)
    )
    max_tokens = prompts.check_context(
        tokens,
        max_tokens=parameters.max_tokens,
        block_size=block_size,
        param="messages" if is_chat else "prompt",
    )
    request = GenerationRequest(
        request_id=f"{'chatcmpl' if is_chat else 'cmpl'}-{secrets.token_hex(12)}",
        model=experiment.slug,
        prompts=tokens,
        n=parameters.n,
        max_tokens=max_tokens,
        stop_tokens=prompts.stop_tokens(sha256=sha256, is_chat=is_chat),
        seed=parameters.seed,
        temperature=parameters.temperature,
        top_p=max(parameters.top_p, SMALLEST_TOP_P),
        top_k=parameters.top_k,
        min_p=parameters.min_p,
        repetition_penalty=parameters.repetition_penalty,
    )
    return Order(checkpoint=checkpoint, tokenizer=prompts.load_tokenizer(sha256), request=request, stop=parameters.stop)


class Session:
    """A request under way: opened with a hold, closed with a bill, once."""

    def __init__(self, order: Order) -> None:
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
        self._choices = Choices(order.request, order.tokenizer, stop=order.stop)
        self._events = provider.events(order.request)
        self._sent_tokens = [0] * order.request.num_choices
        self._completion: Completion | None = None
        self._checkpoint_id: int | None = None
        self._state = Completion.State.DISCONNECTED

    @classmethod
    async def open(cls, order: Order, *, api_key: ApiKey) -> Self:
        """Hold the credits, queue the request, and wait until an engine has begun it.

        Raises: ApiError, 429 or 503; the hold is then released.
        """
        session = cls(order)
        try:
            await session._start(api_key)
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
                if not isinstance(event, ChoiceTokens):
                    continue
                piece = self._choices.take(event)
                if piece is not None:
                    if piece.finish_reason is not None and event.finish_reason is None:
                        await provider.cancel(self._request, [piece.index])
                    yield piece
                if not self._choices.unfinished:
                    break
        except EngineGone:
            self._state = Completion.State.FAILED
            raise
        self._state = Completion.State.DONE

    async def answers(self) -> list[Answer]:
        """All choices, whole, and counted as sent.

        Raises: EngineGone.
        """
        texts = [""] * self.num_choices
        last: dict[int, Piece] = {}
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                texts[piece.index] += piece.text
                last[piece.index] = piece
        for piece in last.values():
            self.note_sent(piece)
        return [
            Answer(index=index, text=text, finish_reason=last[index].finish_reason or "length")
            for index, text in enumerate(texts)
        ]

    async def close(self) -> None:
        """Settle the bill and stop the engine where it still works on the request; nothing to do a second time."""
        completion, self._completion = self._completion, None
        if completion is not None:
            await cancellation.complete(self._settle(completion))

    async def _start(self, api_key: ApiKey) -> None:
        try:
            await provider.require_engine(self._request.model)
            await cancellation.complete(self._hold(api_key))
            await provider.submit(self._request)
            started = await anext(self._events)
        except ledger.InsufficientCredits as error:
            raise errors.insufficient_quota(f"You have too few credits: {error}. Earn some by training.") from error
        except QueueFull as error:
            self._state = Completion.State.FAILED
            raise errors.queue_full(retry_after_seconds=RETRY_AFTER_SECONDS) from error
        except (EngineUnavailable, EngineGone) as error:
            self._state = Completion.State.FAILED
            raise errors.unavailable(str(error)) from error
        if not isinstance(started, Started):
            raise TypeError(f"the engine began with {started}")
        self._checkpoint_id = started.checkpoint_id
        self.head = replace(self.head, checkpoint_sha256=started.checkpoint_sha256)

    async def _hold(self, api_key: ApiKey) -> None:
        self._completion = await database.call(
            billing.open_bill,
            request_id=self._request.request_id,
            api_key=api_key,
            checkpoint=self._order.checkpoint,
            prompt_tokens=self._request.prompt_tokens,
            max_completion_tokens=self._request.max_completion_tokens,
            now=timezone.now(),
        )

    async def _settle(self, completion: Completion) -> None:
        await database.call(
            billing.settle,
            completion=completion,
            state=self._state,
            completion_tokens=self.usage.completion_tokens,
            checkpoint_id=self._checkpoint_id,
            now=timezone.now(),
        )
        await self._events.aclose()
        await provider.cancel(self._request, self._choices.unfinished)
        await provider.forget(self._request)
