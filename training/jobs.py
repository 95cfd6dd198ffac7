"""An attempt's life from offer to submission. Validation and merging take it from there."""

import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from contributors.models import Contributor, Device
from ml import protocol
from ml.protocol import JobSpec, Reason, Receipt, Report
from training import doorbell
from training.models import Attempt, Experiment, Job
from training.transitions import EdgeRefused, TransitionLost, move

State = Attempt.State
SUBMITTED_SECONDS = 30
"""How long a submitted attempt waits before validation is asked for again."""
SPEC_FIELDS = (
    "job__seed",
    *(f"job__shard__{name}" for name in ("num_tokens", "dtype", "blob__size_bytes")),
    *(f"job__round__{name}" for name in ("number", "steps", "base__blob__size_bytes")),
    *(
        f"job__round__experiment__{name}"
        for name in ("slug", "model", "inner", "codec", "num_rounds", "max_delta_bytes", "job_seconds", "round_seconds")
    ),
)
"""What a job spec says of the job. The tables have five times as many columns, which would cost as much again."""


class AttemptNotFound(Exception):
    """No such attempt among the contributor's own, or the nonce is another's."""


class AttemptNotYours(Exception):
    """The attempt has moved on: `reason` and `ended` say where to."""

    def __init__(self, attempt: Attempt) -> None:
        super().__init__(f"attempt {attempt.pk} is {attempt.state}")
        self.reason = attempt.reason or attempt.state
        self.ended = attempt.state not in (State.OFFERED, *Attempt.LIVE_STATES)


class DeltaMissing(Exception):
    """Submitted before the whole delta was uploaded."""


class DeviceBusy(Exception):
    """The device has an attempt under way."""


def offer(*, job: Job, device: Device, token_budget: int, now: datetime) -> Attempt:
    """Offer `job` to `device` and ring it once the transaction commits.

    Raises: DeviceBusy.
    """
    attempt = Attempt(
        job=job,
        device=device,
        nonce=secrets.token_hex(16),
        token_budget=token_budget,
        quoted_credits=job.round.experiment.credits_for(token_budget),
        next_transition_at=now + timedelta(seconds=settings.OFFER_SECONDS),
        offered_at=now,
    )
    try:
        with transaction.atomic():
            attempt.save(force_insert=True)
    except IntegrityError as error:
        raise DeviceBusy(f"{device} has an attempt under way") from error
    transaction.on_commit(lambda: doorbell.ring_device(device_id=device.pk, attempt_id=attempt.pk, nonce=attempt.nonce))
    return attempt


def find(*, attempt_id: int, contributor: Contributor) -> Attempt:
    """One of the contributor's attempts.

    Raises: AttemptNotFound.
    """
    return _find(Attempt.objects.all(), attempt_id=attempt_id, contributor=contributor)


def find_with_job(*, attempt_id: int, contributor: Contributor) -> Attempt:
    """One of the contributor's attempts, with what a job spec needs.

    Raises: AttemptNotFound.
    """
    rows = Attempt.objects.select_related("job__shard__blob", "job__round__experiment", "job__round__base__blob")
    fields = ("state", "reason", "nonce", "token_budget", "quoted_credits", "next_transition_at", *SPEC_FIELDS)
    return _find(rows.only(*fields), attempt_id=attempt_id, contributor=contributor)


def _find(rows: QuerySet[Attempt], *, attempt_id: int, contributor: Contributor) -> Attempt:
    try:
        return rows.get(pk=attempt_id, device__contributor=contributor)
    except Attempt.DoesNotExist as error:
        raise AttemptNotFound(f"no attempt {attempt_id} of yours") from error


def claim(*, attempt: Attempt, nonce: str, now: datetime) -> JobSpec:
    """Take the offer and its lease.

    Raises: AttemptNotFound on a wrong nonce; AttemptNotYours when it was taken, withdrawn or is out of time.
    """
    if not secrets.compare_digest(attempt.nonce.encode(), nonce.encode()):
        raise AttemptNotFound(f"no attempt {attempt.pk} with that nonce")
    if attempt.state == State.OFFERED and attempt.next_transition_at is not None and attempt.next_transition_at <= now:
        expire(attempt, now=now)
        raise AttemptNotYours(attempt)
    _move(
        attempt,
        State.RUNNING,
        guard={"next_transition_at__gt": now},
        claimed_at=now,
        next_transition_at=now + timedelta(seconds=settings.LEASE_SECONDS),
    )
    return _job_spec(attempt)


def extend_lease(
    *, attempt_id: int, device: Device, progress_tokens: int | None, progress_loss: float | None, now: datetime
) -> Reason | None:
    """Keep a running attempt alive; None, or why it is no longer the device's."""
    mine = Attempt.objects.filter(pk=attempt_id, device=device)
    kept = mine.filter(state=State.RUNNING).update(
        next_transition_at=now + timedelta(seconds=settings.LEASE_SECONDS),
        progress_tokens=progress_tokens or 0,
        progress_loss=progress_loss,
    )
    if kept:
        return None
    attempt = mine.select_related("job__round__experiment").first()
    if attempt is None:
        return Reason.CANCELLED
    try:
        resume(attempt=attempt, now=now)
    except AttemptNotYours:
        return Reason.LEASE_EXPIRED
    ended = attempt.state not in (*Attempt.LIVE_STATES, State.ACCEPTED, State.MERGED)
    return Reason(attempt.reason or Reason.CANCELLED) if ended else None


def resume(*, attempt: Attempt, now: datetime) -> None:
    """Let the device go on with an attempt whose lease ran out, as when the coordinator was away; else do nothing.

    Another device may have been given the job meanwhile; then both count, within the round's credit budget.

    Raises: AttemptNotYours when the device has another attempt under way by now, or the experiment is over.
    """
    if attempt.state != State.LEASE_EXPIRED:
        return
    if attempt.job.round.experiment.state not in (Experiment.State.RUNNING, Experiment.State.PAUSED):
        raise AttemptNotYours(attempt)
    lease = now + timedelta(seconds=settings.LEASE_SECONDS)
    try:
        with transaction.atomic():
            _move(attempt, State.RUNNING, reason="", ended_at=None, next_transition_at=lease)
    except IntegrityError as error:
        raise AttemptNotYours(attempt) from error


def submit(*, attempt: Attempt, report: Report, now: datetime) -> Receipt:
    """Hand in a finished, or partly finished, job whose delta is uploaded; the second call returns the first answer.

    Raises: DeltaMissing, AttemptNotYours.
    """
    if attempt.submitted_at is not None:
        return receipt(attempt)
    if attempt.delta_id is None and attempt.state == State.RUNNING:
        raise DeltaMissing(f"upload the delta of attempt {attempt.pk} before you submit it")
    try:
        _move(
            attempt,
            State.SUBMITTED,
            guard={"delta": attempt.delta_id},
            submitted_at=now,
            report=protocol.encode(report),
            next_transition_at=now + timedelta(seconds=SUBMITTED_SECONDS),
        )
    except AttemptNotYours:
        attempt.refresh_from_db()
        if attempt.submitted_at is None:
            raise
    return receipt(attempt)


def release(*, attempt: Attempt, reason: Reason, detail: str, now: datetime) -> Receipt:
    """Give an attempt back: RELEASED at the owner's wish, FAILED for a fault; giving back twice is one.

    Raises: AttemptNotYours when it has been submitted already.
    """
    to = State.FAILED if reason == Reason.CLIENT_ERROR and attempt.state == State.RUNNING else State.RELEASED
    try:
        end(attempt, to, reason=reason, detail=detail, now=now)
    except AttemptNotYours:
        attempt.refresh_from_db()
        if attempt.state not in (State.RELEASED, State.FAILED):
            raise
    return receipt(attempt)


def end(attempt: Attempt, to: Attempt.State, *, reason: Reason, detail: str = "", now: datetime) -> None:
    """Move an attempt to one of its ends.

    Raises: AttemptNotYours.
    """
    _move(attempt, to, reason=reason, detail=detail[:300], ended_at=now, next_transition_at=None)


def expire(attempt: Attempt, *, now: datetime) -> None:
    """End an attempt whose offer or lease has run out.

    Raises: AttemptNotYours when a claim or a heartbeat came first.
    """
    offered = attempt.state == State.OFFERED
    _move(
        attempt,
        State.OFFER_EXPIRED if offered else State.LEASE_EXPIRED,
        guard={"next_transition_at__lte": now},
        reason=Reason.OFFER_EXPIRED if offered else Reason.LEASE_EXPIRED,
        ended_at=now,
        next_transition_at=None,
    )


def receipt(attempt: Attempt) -> Receipt:
    """Where the attempt stands, for its owner."""
    return Receipt(
        attempt_id=attempt.pk,
        state=attempt.state,
        reason=attempt.reason or None,
        detail=attempt.detail,
        verified_tokens=attempt.verified_tokens,
        earned_credits=attempt.earned_credits,
    )


def _move(attempt: Attempt, to: Attempt.State, *, guard: dict[str, Any] | None = None, **fields: Any) -> None:
    try:
        move(attempt, to, guard=guard, **fields)
    except (EdgeRefused, TransitionLost) as error:
        attempt.refresh_from_db(fields=["state", "reason"])
        raise AttemptNotYours(attempt) from error


def _job_spec(attempt: Attempt) -> JobSpec:
    round_, shard = attempt.job.round, attempt.job.shard
    experiment = round_.experiment
    return JobSpec(
        attempt_id=attempt.pk,
        experiment=experiment.slug,
        round_number=round_.number,
        model=experiment.model_config,
        inner=experiment.inner_config,
        codec=experiment.codec,
        base=protocol.BlobRef(sha256=round_.base.blob_id, size_bytes=round_.base.blob.size_bytes),
        steps=tuple(protocol.StepRef(**step) for step in round_.steps),
        shard=protocol.ShardRef(
            sha256=shard.blob_id, size_bytes=shard.blob.size_bytes, num_tokens=shard.num_tokens, dtype=shard.dtype
        ),
        token_budget=attempt.token_budget,
        train_seconds=experiment.train_seconds,
        seed=attempt.job.seed,
        progress_start=min(1.0, (round_.number - 1) / experiment.num_rounds),
        progress_end=min(1.0, round_.number / experiment.num_rounds),
        quoted_credits=attempt.quoted_credits,
        max_delta_bytes=experiment.max_delta_bytes,
        lease_seconds=settings.LEASE_SECONDS,
        heartbeat_seconds=settings.HEARTBEAT_SECONDS,
    )
