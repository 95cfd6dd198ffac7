"""Splits an open round into jobs, as many as the idle devices need, each sized by its device's measured speed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet

from contributors.models import Device
from ml.protocol import DeviceState
from training import jobs, rounds
from training.models import Attempt, Enrollment, Experiment, Job, Round, Shard

MAX_ATTEMPTS_PER_JOB = 6
MAX_FAILED_PER_JOB = 3
MAX_REJECTED_PER_JOB = 2
MAX_FAULTS_PER_DEVICE = 3
REST = timedelta(minutes=30)
"""How long a device with too many faults of its own is offered nothing."""

State = Attempt.State


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What one idle device is to be offered."""

    device: Device
    num_tokens: int


def dispatch(*, now: datetime) -> list[Attempt]:
    """Offer work to every idle device of every running experiment."""
    open_rounds = Round.objects.filter(state=Round.State.OPEN, experiment__state=Experiment.State.RUNNING)
    return [attempt for pk in open_rounds.values_list("pk", flat=True) for attempt in fill(round_pk=pk, now=now)]


@transaction.atomic
def fill(*, round_pk: int, now: datetime) -> list[Attempt]:
    """Offer what is left of one round; the row lock keeps two dispatchers from giving out the same tokens twice."""
    locked = Round.objects.select_for_update(of=("self",)).select_related("experiment")
    round_ = locked.filter(pk=round_pk, state=Round.State.OPEN).first()
    if round_ is None:
        return []
    shares = split(
        remaining_tokens=rounds.allocation(round_).remaining_tokens,
        enrollments=idle_enrollments(experiment=round_.experiment, now=now).order_by("pk"),
        job_seconds=round_.experiment.job_seconds,
        batch_tokens=round_.experiment.inner_config.batch_tokens,
    )
    orphans = list(orphan_jobs(round_).order_by("index"))
    offered = []
    for share in shares:
        job = orphans.pop(0) if orphans else _next_job(round_, share.num_tokens)
        try:
            offered.append(jobs.offer(job=job, device=share.device, token_budget=share.num_tokens, now=now))
        except jobs.DeviceBusy:
            continue
    return offered


def split(
    *,
    remaining_tokens: int,
    enrollments: Sequence[Enrollment] | QuerySet[Enrollment],
    job_seconds: int,
    batch_tokens: int,
) -> list[Share]:
    """Give each device what it trains in job_seconds, all scaled down alike where less is left, in whole steps."""
    wanted = [
        (enrollment.device, max(batch_tokens, (enrollment.tokens_per_second or 0) * job_seconds))
        for enrollment in enrollments
    ]
    total = sum(tokens for _, tokens in wanted)
    scale = min(1.0, remaining_tokens / total) if total else 0.0
    shares = []
    for device, tokens in wanted:
        num_tokens = max(batch_tokens, int(tokens * scale) // batch_tokens * batch_tokens)
        if num_tokens <= remaining_tokens:
            remaining_tokens -= num_tokens
            shares.append(Share(device=device, num_tokens=num_tokens))
    return shares


def silent_since(now: datetime) -> datetime:
    """A device that was not heard of since then counts as gone: three heartbeats were missed."""
    return now - timedelta(seconds=3 * settings.HEARTBEAT_SECONDS)


def idle_enrollments(*, experiment: Experiment, now: datetime) -> QuerySet[Enrollment]:
    """Live, idle, measured devices that chose the experiment last and are not resting after faults."""
    under_way = Attempt.objects.filter(device=OuterRef("device"), state__in=[State.OFFERED, State.RUNNING])
    chose_another = Enrollment.objects.filter(device=OuterRef("device"), updated_at__gt=OuterRef("updated_at"))
    return (
        Enrollment.objects.select_related("device")
        .filter(experiment=experiment, tokens_per_second__gt=0, updated_at__gt=silent_since(now))
        .filter(device__state=DeviceState.IDLE, device__contributor__banned_at=None)
        .filter(~Exists(under_way), ~Exists(chose_another))
        .annotate(num_faults=Count("device__attempts", filter=_recent_fault("device__attempts__", now=now)))
        .filter(num_faults__lt=MAX_FAULTS_PER_DEVICE)
    )


def recent_faults(device: Device, *, now: datetime) -> int:
    """Attempts that the device itself spoilt within REST."""
    return Attempt.objects.filter(_recent_fault("", now=now), device=device).count()


def _recent_fault(prefix: str, *, now: datetime) -> Q:
    spoilt = [State.FAILED, State.REJECTED]
    return Q(**{f"{prefix}state__in": spoilt, f"{prefix}ended_at__gt": now - REST})


def orphan_jobs(round_: Round) -> QuerySet[Job]:
    """Jobs that nobody works on and nobody has done, tried too seldom to be given up."""
    done_or_live = round_.jobs.filter(
        attempts__state__in=[*Attempt.LIVE_STATES, State.ACCEPTED, State.MERGED, State.LATE]
    )
    return (
        round_.jobs.exclude(pk__in=done_or_live.values("pk"))
        .annotate(
            num_attempts=Count("attempts"),
            num_failed=Count("attempts", filter=Q(attempts__state=State.FAILED)),
            num_rejected=Count("attempts", filter=Q(attempts__state=State.REJECTED)),
        )
        .filter(num_attempts__lt=MAX_ATTEMPTS_PER_JOB)
        .filter(num_failed__lt=MAX_FAILED_PER_JOB, num_rejected__lt=MAX_REJECTED_PER_JOB)
    )


def _next_job(round_: Round, num_tokens: int) -> Job:
    """A new job on the shard that the experiment has given out least."""
    index = round_.jobs.count()
    shards = Shard.objects.filter(experiment_id=round_.experiment_id, split=Shard.Split.TRAIN)
    shard = shards.annotate(num_jobs=Count("jobs")).order_by(F("num_jobs"), F("index")).first()
    if shard is None:
        raise Shard.DoesNotExist(f"{round_.experiment} has no training shard")
    digest = hashlib.sha256(f"{round_.experiment.slug}:{round_.number}:{index}".encode()).digest()
    return Job.objects.create(
        round=round_, index=index, shard=shard, seed=int.from_bytes(digest[:7]), token_budget=num_tokens
    )
