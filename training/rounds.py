"""A round's life: opened on a base checkpoint, filled by jobs, merged, evaluated, closed."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Sum
from django.db.models.functions import Coalesce

from ml.protocol import Reason
from training import leases
from training.models import Attempt, Blob, Checkpoint, Experiment, Round
from training.transitions import move

State = Round.State


class NothingToMerge(Exception):
    """No accepted attempt is fresh enough for this round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allocation:
    """How a round's target is spoken for, in tokens."""

    target_tokens: int
    accepted_tokens: int
    live_tokens: int

    @property
    def remaining_tokens(self) -> int:
        return max(0, self.target_tokens - self.accepted_tokens - self.live_tokens)


def open_next(*, experiment: Experiment, now: datetime) -> Round | None:
    """Open the round after the newest one on the newest published checkpoint; None once the experiment has had all."""
    newest = experiment.rounds.order_by("-number").first()
    number = newest.number + 1 if newest else 1
    if number > experiment.num_rounds:
        return None
    return Round.objects.create(
        experiment=experiment,
        number=number,
        base=experiment.checkpoints.filter(published_at__isnull=False).latest("number"),
        target_tokens=experiment.round_tokens,
        min_tokens=experiment.round_min_tokens,
        credit_budget=experiment.credits_for(experiment.round_tokens),
        opened_at=now,
        next_transition_at=now + timedelta(seconds=experiment.round_seconds),
    )


def allocation(round_: Round) -> Allocation:
    """Tokens accepted for the round's merge and under way, late ones of earlier rounds included."""
    attempts = Attempt.objects.filter(job__round__experiment_id=round_.experiment_id)
    return Allocation(
        target_tokens=round_.target_tokens,
        accepted_tokens=attempts.unmerged().aggregate(tokens=Coalesce(Sum("verified_tokens"), 0))["tokens"],
        live_tokens=attempts.live().aggregate(tokens=Coalesce(Sum("token_budget"), 0))["tokens"],
    )


def is_full(round_: Round, *, now: datetime) -> bool:
    """Whether an open round may be merged: its target is reached, or its deadline is past and the minimum is there.

    A rest smaller than one optimizer step cannot become a job, so the target counts as reached without it.
    """
    tokens = allocation(round_)
    if not tokens.accepted_tokens:
        return False
    if now >= round_.next_transition_at:
        return tokens.accepted_tokens >= round_.min_tokens
    least_job = round_.experiment.inner_config.batch_tokens
    return tokens.accepted_tokens >= tokens.target_tokens or (
        not tokens.live_tokens and tokens.remaining_tokens < least_job
    )


@transaction.atomic
def begin_merge(*, round_: Round, now: datetime) -> list[Attempt]:
    """Close the round to further deltas and fix which attempts it merges, with their weights.

    Raises: TransitionLost, NothingToMerge.
    """
    _move(round_, State.MERGING, now=now, next_transition_at=leases.until(now))
    waiting = Attempt.objects.unmerged().filter(job__round__experiment=round_.experiment)
    waiting.update(merged_into=round_)
    merged = list(round_.merged_attempts.select_related("job__round", "delta").order_by("pk"))
    if not merged:
        raise NothingToMerge(f"{round_} has no delta to merge")
    for attempt in merged:
        staleness = round_.number - attempt.job.round.number
        attempt.weight = (attempt.verified_tokens or 0) * (round_.experiment.staleness_percent / 100) ** staleness
    Attempt.objects.bulk_update(merged, ["weight"], batch_size=500)
    return merged


def retire_stale(*, round_: Round, now: datetime) -> int:
    """End accepted attempts that are too many rounds late for `round_`; they stay paid. Returns how many."""
    oldest = round_.number - round_.experiment.max_staleness
    stale = Attempt.objects.unmerged().filter(job__round__experiment=round_.experiment, job__round__number__lt=oldest)
    return stale.update(state=Attempt.State.LATE, reason=Reason.TOO_LATE, ended_at=now)


@transaction.atomic
def reopen(*, round_: Round, now: datetime) -> None:
    """Undo begin_merge after its worker died, so that the round can be merged again.

    Raises: TransitionLost.
    """
    _move(round_, State.OPEN, now=now, next_transition_at=now)
    round_.merged_attempts.update(merged_into=None, weight=None)


@transaction.atomic
def finish_merge(*, round_: Round, model: Blob, outer_state: Blob, manifest: Blob, now: datetime) -> Checkpoint:
    """Record the merge's result as a checkpoint that awaits its evaluation.

    Raises: TransitionLost when the round was given to another merge worker meanwhile.
    """
    checkpoint = Checkpoint.objects.create(
        experiment_id=round_.experiment_id, number=round_.number, blob=model, outer_state=outer_state, created_at=now
    )
    _move(
        round_,
        State.EVALUATING,
        now=now,
        result=checkpoint,
        manifest=manifest,
        next_transition_at=leases.until(now),
    )
    merged = round_.merged_attempts.filter(state=Attempt.State.ACCEPTED)
    merged.update(state=Attempt.State.MERGED, ended_at=now)
    return checkpoint


@transaction.atomic
def finish_evaluation(*, round_: Round, validation_loss: float, now: datetime) -> None:
    """Publish the round's checkpoint; a model whose loss is not finite is abandoned instead.

    Raises: TransitionLost.
    """
    healthy = math.isfinite(validation_loss)
    _move(round_, State.CLOSED if healthy else State.ABANDONED, now=now, closed_at=now)
    if healthy:
        Checkpoint.objects.filter(round=round_).update(validation_loss=validation_loss, published_at=now)


def abandon(*, round_: Round, now: datetime) -> None:
    """Give up an open round, as when its experiment is finished early.

    Raises: TransitionLost.
    """
    _move(round_, State.ABANDONED, now=now, closed_at=now)


def _move(round_: Round, to: Round.State, *, now: datetime, **fields: object) -> None:
    fields.setdefault("next_transition_at", now)
    move(round_, to, guard={"epoch": round_.epoch}, epoch=round_.epoch + 1, **fields)
