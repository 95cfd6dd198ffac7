"""What a completion costs: prompt and generated tokens at the model's price. Held first, paid for what was sent."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from contributors import ledger
from contributors.models import ApiKey
from inference.billing import idempotency, spending
from inference.billing.idempotency import Claim
from inference.models import Completion
from training.models import Checkpoint

logger = logging.getLogger(__name__)

State = Completion.State
REQUEST_DURATION = timedelta(minutes=15)
"""The longest that engines may take for a request."""
HOLD_DURATION = REQUEST_DURATION + timedelta(minutes=10)
"""Longer than engines, a client that reads slowly and a database that is away can take together."""
LEASE_DURATION = timedelta(seconds=50)
"""A request that its web process has not vouched for so long is given up: `leases` does that every ten seconds."""


@transaction.atomic
def open_bill(
    *,
    request_id: str,
    api_key: ApiKey,
    checkpoint: Checkpoint,
    prompt_tokens: int,
    max_completion_tokens: int,
    claim: Claim | None = None,
    now: datetime,
) -> Completion:
    """Hold what the request can cost at most, and take its Idempotency-Key.

    Raises: ledger.InsufficientCredits, spending.CapReached, idempotency.InProgress; nothing is then stored.
    """
    price = checkpoint.experiment.credits_per_completion_token
    most = (prompt_tokens + max_completion_tokens) * price
    hold = None
    if most:
        if api_key.credit_cap is not None:
            spending.require(api_key, most, now=now)
        hold = ledger.hold(
            contributor=api_key.contributor,
            amount=most,
            source=f"completion:{request_id}",
            expires_at=now + HOLD_DURATION,
            now=now,
        )
    completion = Completion.objects.create(
        request_id=request_id,
        api_key=api_key,
        checkpoint=checkpoint,
        hold=hold,
        credits_per_token=price,
        prompt_tokens=prompt_tokens,
        created_at=now,
        lease_expires_at=now + LEASE_DURATION,
    )
    if claim is not None:
        idempotency.take(claim, completion=completion, api_key=api_key, now=now)
    return completion


def renew(completion_ids: Iterable[int], *, now: datetime) -> None:
    """Say that the process which answers these requests lives."""
    rows = Completion.objects.filter(pk__in=list(completion_ids), state=State.RUNNING)
    rows.update(lease_expires_at=now + LEASE_DURATION)


@transaction.atomic
def settle(
    *,
    completion: Completion,
    state: State,
    completion_tokens: int,
    checkpoint_id: int | None = None,
    answer: bytes | None = None,
    now: datetime,
) -> None:
    """End the request, once: pay for what was sent and give the rest of the hold back.

    `answer` is what was sent, where the client asked for it to be kept: what was free keeps nothing, so that it can be
    tried again with the same key.
    """
    rows = Completion.objects.filter(pk=completion.pk, state=State.RUNNING)
    fields = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    if not rows.update(state=state, completion_tokens=completion_tokens, finished_at=now, **fields):
        return
    is_unpaid = is_free(state, completion_tokens=completion_tokens)
    idempotency.end(completion=completion, answer=None if is_unpaid else answer, now=now)
    if completion.hold is None:
        return
    if is_unpaid:
        ledger.release(hold=completion.hold, now=now)
        return
    owed = (completion.prompt_tokens + completion_tokens) * completion.credits_per_token
    try:
        ledger.capture(hold=completion.hold, amount=owed, now=now)
    except ledger.HoldResolved:
        logger.warning("%s was delivered after its hold had expired: it is not paid", completion)


def is_free(state: State, *, completion_tokens: int) -> bool:
    """A failure is, and so is a request that was dropped before anything was sent."""
    return state == State.FAILED or (state == State.DISCONNECTED and completion_tokens == 0)


def reap(*, now: datetime) -> list[str]:
    """Ids of requests that were given up, since the web process that had them died: they are free."""
    abandoned = Q(lease_expires_at__lte=now) | Q(lease_expires_at=None, created_at__lte=now - HOLD_DURATION)
    overdue = Completion.objects.filter(abandoned, state=State.RUNNING)
    lost = list(overdue.select_related("hold__account").order_by("pk")[:1_000])
    for completion in lost:
        settle(completion=completion, state=State.FAILED, completion_tokens=0, now=now)
    return [completion.request_id for completion in lost]


def credits_paid(completion: Completion) -> int:
    """Credits that were captured for the request."""
    return completion.hold.captured_amount if completion.hold is not None else 0
