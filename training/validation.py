"""Decides whether a submitted delta counts. Nothing a device sent is read as a tensor before its header is checked."""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Max

from contributors import ledger
from ml import delta_file, protocol
from ml.codec import DeltaLabel
from ml.delta_file import DeltaFacts, DeltaInvalid
from ml.protocol import Reason, Report
from training import blobs, earnings, leases
from training.models import Attempt, Experiment, Round
from training.transitions import move

State = Attempt.State


class DeltaLost(Exception):
    """Storage no longer has the delta, though it has the round's base."""


def begin(*, attempt: Attempt, now: datetime) -> None:
    """Take up a submitted attempt.

    Raises: transitions.EdgeRefused, TransitionLost.
    """
    move(attempt, State.VALIDATING, next_transition_at=leases.until(now))


def check(attempt: Attempt) -> DeltaFacts:
    """Read the delta as a stranger's file.

    Raises: DeltaInvalid with the reason that the volunteer will read; DeltaLost; blobs.BlobUnavailable.
    """
    round_ = attempt.job.round
    experiment = round_.experiment
    report = protocol.decode(Report, attempt.report)
    if report.tokens > attempt.token_budget:
        raise DeltaInvalid(
            Reason.TOO_MANY_TOKENS, f"{report.tokens} tokens reported, {attempt.token_budget} were offered"
        )
    if report.tokens < 1:
        raise DeltaInvalid(Reason.NO_TOKENS, "no token was trained on")
    if attempt.delta is None:
        raise DeltaInvalid(Reason.WRONG_SIZE, "no delta was uploaded")
    if not blobs.is_stored(attempt.delta) and blobs.is_stored(round_.base.blob):
        raise DeltaLost(f"{attempt.delta} is no longer in storage")
    model, inner = experiment.model_config, experiment.inner_config
    with blobs.local_path(attempt.delta) as path:
        return delta_file.check(
            path,
            model=model,
            label=DeltaLabel(
                experiment=experiment.slug,
                round_number=round_.number,
                base_sha256=round_.base.blob_id,
                codec=experiment.codec,
                attempt_id=attempt.pk,
            ),
            token_budget=report.tokens,
            max_norm=delta_file.norm_bound(model=model, inner=inner, codec=experiment.codec, tokens=report.tokens),
        )


def accept(*, attempt: Attempt, facts: DeltaFacts, now: datetime) -> None:
    """Count the delta and book its earning in one transaction.

    One that is rounds too late, or that comes after its round's budget is spent, ends LATE and unpaid.

    Raises: TransitionLost.
    """
    round_ = attempt.job.round
    experiment = round_.experiment
    newest = experiment.rounds.aggregate(number=Max("number"))["number"]
    if newest - round_.number > experiment.max_staleness:
        detail = f"round {newest} is open; this delta belongs to round {round_.number}"
        _end(attempt, State.LATE, reason=Reason.TOO_LATE, detail=detail, now=now)
        return
    credits_ = experiment.credits_for(facts.tokens)
    with transaction.atomic():
        # Locked, so that two validators cannot both see the last of the budget.
        Round.objects.select_for_update().get(pk=round_.pk)
        is_spent = earnings.minted(round_) + credits_ > round_.credit_budget
        if not is_spent:
            _pay(attempt, facts, credits_, now=now)
    if is_spent:
        detail = f"round {round_.number} has paid out its {round_.credit_budget} credits"
        _end(attempt, State.LATE, reason=Reason.ROUND_SPENT, detail=detail, now=now)


def _pay(attempt: Attempt, facts: DeltaFacts, credits_: int, *, now: datetime) -> None:
    move(
        attempt,
        State.ACCEPTED,
        verified_tokens=facts.tokens,
        earned_credits=credits_,
        delta_norm=facts.norm,
        next_transition_at=None,
    )
    if credits_:
        ledger.earn(
            contributor=attempt.device.contributor,
            amount=credits_,
            source=earnings.source_of(attempt),
            release_at=_release_at(attempt, attempt.job.round.experiment, now=now),
            now=now,
        )


def reject(*, attempt: Attempt, reason: Reason, detail: str, now: datetime) -> None:
    """Refuse the delta for a reason that reaches the volunteer; the job is offered again.

    Raises: TransitionLost.
    """
    _end(attempt, State.REJECTED, reason=reason, detail=detail, now=now)


def lose(*, attempt: Attempt, detail: str, now: datetime) -> None:
    """End an attempt whose delta the coordinator itself has lost: no fault of the device's, and nothing to pay for.

    Raises: TransitionLost.
    """
    _end(attempt, State.LATE, reason=Reason.DELTA_LOST, detail=detail, now=now)


def _end(attempt: Attempt, to: Attempt.State, *, reason: Reason, detail: str, now: datetime) -> None:
    delta = attempt.delta
    move(attempt, to, reason=reason, detail=detail[:300], ended_at=now, next_transition_at=None, delta=None)
    if delta is not None:
        blobs.discard(delta)


def _release_at(attempt: Attempt, experiment: Experiment, *, now: datetime) -> datetime | None:
    """When the earning leaves escrow, if it rests there: a contributor's first escrow_seconds do."""
    release_at = attempt.device.contributor.created_at + timedelta(seconds=experiment.escrow_seconds)
    return release_at if release_at > now else None
