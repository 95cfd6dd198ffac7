"""A round's life: opened on a base checkpoint, filled by jobs, merged, evaluated, closed."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q, Sum
from django.db.models.functions import Coalesce

from ml import protocol
from ml.protocol import Reason
from training import leases, steps
from training.models import Attempt, AttemptQuerySet, Blob, Checkpoint, Experiment, Round
from training.transitions import move

State = Round.State
CREDIT_HEADROOM = 2
"""A round may mint so many times its target: devices that come back after an outage find their jobs given out again."""


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
    base = experiment.checkpoints.filter(published_at__isnull=False).select_related("blob").latest("number")
    return Round.objects.create(
        experiment=experiment,
        number=number,
        base=base,
        # Every claim of the round repeats them; none has to look for them again.
        steps=[protocol.encode(step) for step in steps.chain(base)],
        target_tokens=experiment.round_tokens,
        min_tokens=experiment.round_min_tokens,
        credit_budget=CREDIT_HEADROOM * experiment.credits_for(experiment.round_tokens),
        opened_at=now,
        next_transition_at=now + timedelta(seconds=experiment.round_seconds),
    )


def allocation(round_: Round) -> Allocation:
    """Tokens accepted for the round's merge and under way, late ones of earlier rounds included."""
    accepted, live = Attempt.State.ACCEPTED, Attempt.LIVE_STATES
    attempts = Attempt.objects.filter(
        job__round__experiment_id=round_.experiment_id, state__in=[accepted, *live], merged_into=None
    )
    # One statement: between two, an attempt could be accepted and so be counted by neither.
    tokens = attempts.aggregate(
        accepted=Coalesce(Sum("verified_tokens", filter=Q(state=accepted)), 0),
        live=Coalesce(Sum("token_budget", filter=Q(state__in=live)), 0),
    )
    return Allocation(
        target_tokens=round_.target_tokens, accepted_tokens=tokens["accepted"], live_tokens=tokens["live"]
    )


def is_full(round_: Round, *, now: datetime) -> bool:
    """Whether an open round may be merged: its target is reached, or its deadline is past and the minimum is there.

    A rest smaller than one optimizer step cannot become a job, so the target counts as reached without it.
    """
    tokens = allocation(round_)
    if not tokens.accepted_tokens:
        return False
    needed_tokens = round_.min_tokens if now >= round_.next_transition_at else round_.target_tokens
    least_job = round_.experiment.inner_config.batch_tokens
    return tokens.accepted_tokens >= needed_tokens or (not tokens.live_tokens and tokens.remaining_tokens < least_job)


def begin_grace(round_: Round, *, now: datetime) -> bool:
    """Bring an open round's deadline nearer once its least tokens are there: devices at work get grace_seconds more.

    False where there is no such deadline, the tokens are not there yet, or the deadline is as near already: calling it
    again gives no new grace.
    """
    grace_seconds = round_.experiment.grace_seconds
    if grace_seconds is None:
        return False
    deadline = now + timedelta(seconds=grace_seconds)
    if round_.next_transition_at <= deadline or allocation(round_).accepted_tokens < round_.min_tokens:
        return False
    # Guarded by the old deadline too: of two at once, the one that came first has set the nearer one.
    open_round = Round.objects.filter(pk=round_.pk, state=State.OPEN, epoch=round_.epoch)
    if not open_round.filter(next_transition_at__gt=deadline).update(next_transition_at=deadline):
        return False
    round_.next_transition_at = deadline
    return True


@transaction.atomic
def begin_merge(*, round_: Round, now: datetime) -> list[Attempt]:
    """Close the round to further deltas and fix which attempts it merges, with their weights.

    Raises: TransitionLost, NothingToMerge.
    """
    _move(round_, State.MERGING, now=now, next_transition_at=leases.until(now))
    _unmerged(round_).update(merged_into=round_)
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
    stale = _unmerged(round_, job__round__number__lt=oldest)
    return stale.update(state=Attempt.State.LATE, reason=Reason.TOO_LATE, ended_at=now)


def _unmerged(round_: Round, **filters: object) -> AttemptQuerySet:
    """Accepted attempts of the round's experiment, chosen by primary key.

    An UPDATE over a join would test their state in a subquery alone, which PostgreSQL does not repeat on a row that
    another transaction changed meanwhile.
    """
    found = Attempt.objects.unmerged().filter(job__round__experiment_id=round_.experiment_id, **filters)
    return Attempt.objects.unmerged().filter(pk__in=list(found.values_list("pk", flat=True)))


@transaction.atomic
def reopen(*, round_: Round, now: datetime) -> None:
    """Undo begin_merge after its worker died, so that the round can be merged again.

    Raises: TransitionLost, also where the worker lives and has renewed its lease.
    """
    _move(round_, State.OPEN, now=now, guard={"next_transition_at__lte": now})
    round_.merged_attempts.update(merged_into=None, weight=None)


@transaction.atomic
def drop(*, round_: Round, attempts: Collection[Attempt], now: datetime) -> None:
    """Open a merging round again without attempts whose deltas are lost: they end LATE and stay paid.

    Raises: TransitionLost when the round was given to another merge worker meanwhile.
    """
    _move(round_, State.OPEN, now=now)
    round_.merged_attempts.update(merged_into=None, weight=None)
    lost = Attempt.objects.unmerged().filter(pk__in=[attempt.pk for attempt in attempts])
    lost.update(state=Attempt.State.LATE, reason=Reason.DELTA_LOST, ended_at=now)


@transaction.atomic
def finish_merge(
    *,
    round_: Round,
    model: Blob,
    outer_state: Blob,
    step: Blob | None,
    manifest: Blob,
    kept: Mapping[int, float],
    now: datetime,
) -> Checkpoint:
    """Record the merge's result as a checkpoint that awaits its evaluation.

    `kept` says what the merge's rule left of each attempt's share, by primary key.

    Raises: TransitionLost when the round was given to another merge worker meanwhile.
    """
    _move(round_, State.EVALUATING, now=now, manifest=manifest, next_transition_at=leases.until(now))
    checkpoint = Checkpoint.objects.create(
        experiment_id=round_.experiment_id,
        number=round_.number,
        blob=model,
        outer_state=outer_state,
        step=step,
        created_at=now,
    )
    round_.result = checkpoint
    round_.save(update_fields=["result"])
    merged = round_.merged_attempts.filter(state=Attempt.State.ACCEPTED)
    attempts = [Attempt(pk=pk, kept=kept.get(pk)) for pk in merged.values_list("pk", flat=True)]
    Attempt.objects.bulk_update(attempts, ["kept"], batch_size=500)
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


def _move(
    round_: Round, to: Round.State, *, now: datetime, guard: dict[str, object] | None = None, **fields: object
) -> None:
    fields.setdefault("next_transition_at", now)
    move(round_, to, guard={"epoch": round_.epoch, **(guard or {})}, epoch=round_.epoch + 1, **fields)
