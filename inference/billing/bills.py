"""What one request sets aside before its first token and settles after its last: credits, rate, Idempotency-Key."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from django.db import OperationalError
from django.utils import timezone

from contributors import ledger
from contributors.models import ApiKey
from inference import database
from inference.billing import charges, idempotency, leases, spending
from inference.billing.idempotency import Claim
from inference.billing.limits import Allowance
from inference.models import Completion
from inference.openai import errors, sse
from inference.openai.shapes import Usage
from inference.wire import GenerationRequest
from training.models import Checkpoint

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 40.0
"""How long the database may be away at the end of a request, which is then billed all the same; less than a lease."""
RETRY_SECONDS = 1.0
INTERRUPTED = errors.ApiError(
    500, "stream_interrupted", "The first answer was interrupted here by its client; it was paid.", kind="server_error"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a request ended, and which checkpoint answered it; None where none did."""

    state: Completion.State
    usage: Usage
    checkpoint_id: int | None = None

    @property
    def used_tokens(self) -> int:
        """What counts for the rate: nothing where nothing is paid."""
        if charges.is_free(self.state, completion_tokens=self.usage.completion_tokens):
            return 0
        return self.usage.prompt_tokens + self.usage.completion_tokens


class Bill:
    """The bill of one request of a key; `open` and `settle` are called once each, in this order."""

    def __init__(self, api_key: ApiKey, *, allowance: Allowance, claim: Claim | None = None) -> None:
        self._api_key = api_key
        self._allowance = allowance
        self._claim = claim
        self._set_aside_tokens = 0
        self._sent: list[bytes] = []
        self._num_sent_bytes = 0

    @property
    def key_prefix(self) -> str:
        return self._api_key.prefix

    @property
    def keeps_answer(self) -> bool:
        """Whether the client can ask for what was sent again."""
        return bool(self._sent)

    async def open(self, request: GenerationRequest, *, checkpoint: Checkpoint) -> Completion:
        """Set aside what the request can cost at most.

        Raises: ApiError, 429 or 409; nothing is then set aside.
        """
        most = request.prompt_tokens + request.max_completion_tokens
        await self._allowance.take_tokens(most)
        self._set_aside_tokens = most
        try:
            completion = await database.call(self._open, request, checkpoint=checkpoint)
        except BaseException:
            await self._allowance.give_back_tokens(most)
            raise
        leases.keep(completion)
        return completion

    def note(self, data: bytes) -> None:
        """Keep what is sent, where the client asked for that and it is not too large."""
        if self._claim is None:
            return
        self._num_sent_bytes += len(data)
        if self._num_sent_bytes <= idempotency.MAX_KEPT_BYTES:
            self._sent.append(data)
        else:
            self._sent.clear()

    async def settle(self, completion: Completion, look: Callable[[], Outcome]) -> Outcome:
        """End the request as `look` finds it once the database answers: the client may leave before.

        Raises: django.db.OperationalError where the database is away for longer than that can wait.
        """
        used_tokens = 0
        try:
            outcome = await self._settle(completion, look)
            used_tokens = outcome.used_tokens
        finally:
            leases.drop(completion)
            await self._allowance.give_back_tokens(self._set_aside_tokens - used_tokens)
        return outcome

    def _open(self, request: GenerationRequest, *, checkpoint: Checkpoint) -> Completion:
        try:
            return charges.open_bill(
                request_id=request.request_id,
                api_key=self._api_key,
                checkpoint=checkpoint,
                prompt_tokens=request.prompt_tokens,
                max_completion_tokens=request.max_completion_tokens,
                claim=self._claim,
                now=timezone.now(),
            )
        except ledger.InsufficientCredits as error:
            raise errors.insufficient_quota(f"You have too few credits: {error}. Earn some by training.") from error
        except spending.CapReached as error:
            raise errors.insufficient_quota(f"This API key may not spend so much: {error}.") from error
        except idempotency.InProgress as error:
            raise errors.in_progress(str(error)) from error

    async def _settle(self, completion: Completion, look: Callable[[], Outcome]) -> Outcome:
        """Once: the first try may have succeeded although its answer was lost."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            outcome = look()
            try:
                await database.call(
                    charges.settle,
                    completion=completion,
                    state=outcome.state,
                    completion_tokens=outcome.usage.completion_tokens,
                    checkpoint_id=outcome.checkpoint_id,
                    answer=self._answer(outcome.state),
                    now=timezone.now(),
                )
            except OperationalError as error:
                if time.monotonic() > deadline:
                    raise
                logger.warning("a bill waits for the database: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return outcome

    def _answer(self, state: Completion.State) -> bytes | None:
        if self._num_sent_bytes > idempotency.MAX_KEPT_BYTES:
            return idempotency.TOO_LARGE
        if not self._sent:
            return None
        ending = [sse.event(INTERRUPTED.body)] if state == Completion.State.DISCONNECTED else []
        return b"".join([*self._sent, *ending])
