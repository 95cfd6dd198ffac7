"""What a completion costs: prompt and generated tokens at the model's price. Held first, paid for what was sent."""

import logging
from datetime import datetime, timedelta

from django.db import transaction

from contributors import ledger
from contributors.models import ApiKey
from inference.models import Completion
from training.models import Checkpoint

logger = logging.getLogger(__name__)

State = Completion.State
REQUEST_DURATION = timedelta(minutes=15)
"""The longest that a request may take."""
HOLD_DURATION = REQUEST_DURATION + timedelta(minutes=5)


@transaction.atomic
def open_bill(
    *,
    request_id: str,
    api_key: ApiKey,
    checkpoint: Checkpoint,
    prompt_tokens: int,
    max_completion_tokens: int,
    now: datetime,
) -> Completion:
    """Hold what the request can cost at most.

    Raises: contributors.ledger.InsufficientCredits; nothing is then stored.
    """
    price = checkpoint.experiment.credits_per_completion_token
    most = (prompt_tokens + max_completion_tokens) * price
    hold = None
    if most:
        hold = ledger.hold(
            contributor=api_key.contributor,
            amount=most,
            source=f"completion:{request_id}",
            expires_at=now + HOLD_DURATION,
            now=now,
        )
    return Completion.objects.create(
        request_id=request_id,
        api_key=api_key,
        checkpoint=checkpoint,
        hold=hold,
        credits_per_token=price,
        prompt_tokens=prompt_tokens,
        created_at=now,
    )


@transaction.atomic
def settle(
    *, completion: Completion, state: State, completion_tokens: int, checkpoint_id: int | None = None, now: datetime
) -> None:
    """End the request, once: pay for what was sent and give the rest of the hold back.

    A failure is free, and so is a request that was dropped before anything was sent.
    """
    rows = Completion.objects.filter(pk=completion.pk, state=State.RUNNING)
    fields = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    if not rows.update(state=state, completion_tokens=completion_tokens, finished_at=now, **fields):
        return
    if completion.hold is None:
        return
    is_free = state == State.FAILED or (state == State.DISCONNECTED and completion_tokens == 0)
    if is_free:
        ledger.release(hold=completion.hold, now=now)
        return
    owed = (completion.prompt_tokens + completion_tokens) * completion.credits_per_token
    try:
        ledger.capture(hold=completion.hold, amount=owed, now=now)
    except ledger.HoldResolved:
        logger.warning("%s was delivered after its hold had expired: it is not paid", completion)


def reap(*, now: datetime) -> int:
    """Number of requests that were given up, since the web process that had them died: they are free."""
    overdue = Completion.objects.filter(state=State.RUNNING, created_at__lte=now - HOLD_DURATION)
    lost = list(overdue.select_related("hold__account").order_by("pk")[:1_000])
    for completion in lost:
        settle(completion=completion, state=State.FAILED, completion_tokens=0, now=now)
    return len(lost)


def credits_paid(completion: Completion) -> int:
    """Credits that were captured for the request."""
    return completion.hold.captured_amount if completion.hold is not None else 0
