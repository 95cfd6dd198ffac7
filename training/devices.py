"""What a heartbeat means: the device is alive, its lease goes on, and it is told what to do or why there is nothing."""

import contextlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from contributors import ledger
from contributors.models import Contributor, Device
from ml.protocol import DeviceState, Directives, Heartbeat, Reason
from training import dispatch, doorbell, jobs, rounds
from training.models import Attempt, Enrollment, Experiment, Round

State = Experiment.State
WAITING: dict[str, Reason] = {
    State.DRAFT: Reason.EXPERIMENT_PREPARING,
    State.PREPARING: Reason.EXPERIMENT_PREPARING,
    State.PAUSED: Reason.EXPERIMENT_PAUSED,
    State.FINISHED: Reason.EXPERIMENT_FINISHED,
}
"""Why an experiment that is not running has no work."""
PENDING_STATES = (Attempt.State.RUNNING, Attempt.State.SUBMITTED, Attempt.State.VALIDATING)
RING_AGAIN = timedelta(seconds=15)
"""An idle device with an offer so old has not heard the doorbell; its next heartbeat rings again."""


class DeviceNotFound(Exception):
    """No such device among the contributor's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A contributor's credits and what is under way."""

    balance: ledger.Balance
    pending_credits: int


def find(*, device_id: int, contributor: Contributor) -> Device:
    """One of the contributor's devices.

    Raises: DeviceNotFound.
    """
    try:
        device = Device.objects.only("contributor").get(pk=device_id, contributor=contributor)
    except Device.DoesNotExist as error:
        raise DeviceNotFound(f"no device {device_id} of yours") from error
    device.contributor = contributor
    return device


def beat(*, device: Device, heartbeat: Heartbeat, now: datetime) -> Directives:
    """Record a sign of life and answer it."""
    lost = None
    if heartbeat.attempt_id is not None:
        lost = jobs.extend_lease(
            attempt_id=heartbeat.attempt_id,
            device=device,
            progress_tokens=heartbeat.progress_tokens,
            progress_loss=heartbeat.progress_loss,
            now=now,
        )
    # One attempt at a time: a device at work has no offer, and says again what it wants once it is idle.
    is_at_work = heartbeat.attempt_id is not None and lost is None
    experiment = None if is_at_work else wanted_experiment(heartbeat.experiment)
    offer = None if is_at_work else waiting_offer(device, now=now)
    if experiment is not None:
        enroll(device=device, experiment=experiment, tokens_per_second=heartbeat.tokens_per_second, now=now)
    reason = lost
    if heartbeat.attempt_id is None and heartbeat.state == DeviceState.IDLE:
        reason = Reason.OFFER_PENDING if offer else idle_reason(device, experiment, now=now)
    Device.objects.filter(pk=device.pk).update(last_seen_at=now, state=heartbeat.state, idle_reason=reason or "")
    if offer and heartbeat.state == DeviceState.LEAVING:
        take_back(offer, now=now)
    elif offer and heartbeat.state == DeviceState.IDLE and offer.offered_at <= now - RING_AGAIN:
        doorbell.ring_device(device_id=device.pk, attempt_id=offer.pk, nonce=offer.nonce)
    contributor_standing = standing(device.contributor)
    return Directives(
        experiment=experiment.slug if experiment else None,
        offer_pending=offer is not None,
        cancel_attempt=lost is not None,
        reason=reason,
        available_credits=contributor_standing.balance.available,
        escrow_credits=contributor_standing.balance.escrow,
        pending_credits=contributor_standing.pending_credits,
    )


def wanted_experiment(slug: str | None) -> Experiment | None:
    """The experiment that a device named, else the newest that runs."""
    experiments = Experiment.objects.only("slug", "state", "inner")
    if slug is not None:
        return experiments.filter(slug=slug).first()
    return experiments.filter(state=State.RUNNING).order_by("-started_at", "-pk").first()


def waiting_offer(device: Device, *, now: datetime) -> Attempt | None:
    """What the device was offered and has not claimed."""
    offers = Attempt.objects.claimable(now).filter(device=device)
    return offers.only("nonce", "offered_at", "state", "reason").first()


def enroll(*, device: Device, experiment: Experiment, tokens_per_second: float | None, now: datetime) -> None:
    """Note that the device works on the experiment, at that speed if it has been measured."""
    measured = {} if tokens_per_second is None else {"tokens_per_second": tokens_per_second}
    rows = Enrollment.objects.filter(device=device, experiment=experiment)
    if not rows.update(updated_at=now, **measured):
        Enrollment.objects.get_or_create(device=device, experiment=experiment, defaults={"updated_at": now, **measured})


def idle_reason(device: Device, experiment: Experiment | None, *, now: datetime) -> Reason | None:
    """Why an idle device has no offer; None where the next dispatch will make one."""
    if experiment is None:
        return Reason.NO_EXPERIMENT
    if experiment.state != State.RUNNING:
        return WAITING[experiment.state]
    enrollment = Enrollment.objects.filter(device=device, experiment=experiment).first()
    if enrollment is None or not enrollment.tokens_per_second:
        return Reason.SPEED_UNKNOWN
    if dispatch.recent_faults(now=now).filter(device=device).count() >= dispatch.MAX_FAULTS_PER_DEVICE:
        return Reason.TOO_MANY_FAULTS
    round_ = experiment.rounds.filter(state=Round.State.OPEN).first()
    if round_ is None:
        return Reason.ROUND_CLOSING
    least_job = experiment.inner_config.batch_tokens
    return None if rounds.allocation(round_).remaining_tokens >= least_job else Reason.ROUND_FULL


def standing(contributor: Contributor) -> Standing:
    """Credits, and what is quoted on attempts under way or being validated."""
    under_way = Attempt.objects.filter(device__contributor=contributor, state__in=PENDING_STATES)
    return Standing(
        balance=ledger.balance(contributor),
        # A contributor has few of them, and grouping in the database takes longer to put into words than to do.
        pending_credits=sum(under_way.values_list("quoted_credits", flat=True)),
    )


def live(*, now: datetime) -> QuerySet[Device]:
    """Devices heard of within three heartbeats."""
    seen = Device.objects.filter(last_seen_at__gt=dispatch.silent_since(now))
    return seen.exclude(state=DeviceState.LEAVING)


def take_back(offer: Attempt, *, now: datetime) -> None:
    """Free what was offered to a device that leaves, so that another gets it at once."""
    with contextlib.suppress(jobs.AttemptNotYours):
        jobs.release(attempt=offer, reason=Reason.RELEASED, detail="the device left", now=now)
