"""Splits an open round into jobs, as many as the idle devices need, each sized by its device's measured speed."""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from contributors.models import Device
from ml.protocol import DeviceState
from ml.seeds import job_seed
from training import jobs, rounds
from training.models import Attempt, Enrollment, Experiment, Job, Round, Shard

MAX_ATTEMPTS_PER_JOB = 6
MAX_FAILED_PER_JOB = 3
MAX_REJECTED_PER_JOB = 2
MAX_FAULTS_PER_DEVICE = 3
UNPROVEN_SHARE = 4
"""A device whose work has never been accepted is given at most this part of a round, whatever speed it claims."""
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
    open_rounds = locked.filter(state=Round.State.OPEN, experiment__state=Experiment.State.RUNNING)
    round_ = open_rounds.filter(pk=round_pk).first()
    if round_ is None:
        return []
    shares = split(
        remaining_tokens=rounds.allocation(round_).remaining_tokens,
        enrollments=idle_enrollments(experiment=round_.experiment, now=now).order_by("pk"),
        job_seconds=round_.experiment.job_seconds,
        batch_tokens=round_.experiment.inner_config.batch_tokens,
        unproven_tokens=round_.target_tokens // UNPROVEN_SHARE,
    )
    orphans = list(orphan_jobs(round_).order_by("index")) if shares else []
    budgets = [share.num_tokens for share in shares[len(orphans) :]]
    fresh = _new_jobs(round_, budgets) if budgets else []
    offered = []
    for share, job in zip(shares, [*orphans, *fresh], strict=False):
        try:
            offered.append(jobs.offer(job=job, device=share.device, token_budget=share.num_tokens, now=now))
        except jobs.DeviceBusy:
            continue
    return offered


def split(
    *,
    remaining_tokens: int,
    enrollments: Iterable[Any],
    job_seconds: int,
    batch_tokens: int,
    unproven_tokens: int,
) -> list[Share]:
    """Give each device what it trains in job_seconds, all scaled down alike where less is left, in whole steps.

    One that is not `is_proven`, by the annotation of `idle_enrollments`, gets `unproven_tokens` at most.
    """
    wanted = []
    for enrollment in enrollments:
        tokens = (enrollment.tokens_per_second or 0) * job_seconds
        most_tokens = tokens if enrollment.is_proven else min(tokens, unproven_tokens)
        wanted.append((enrollment.device, max(batch_tokens, most_tokens)))
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
    """Live, idle, measured devices that chose the experiment last and are not resting after faults.

    Each with `is_proven`: whether work of the device's has ever been accepted.
    """
    under_way = Attempt.objects.filter(device=OuterRef("device"), state__in=[State.OFFERED, State.RUNNING])
    faults = recent_faults(now=now).filter(device=OuterRef("device")).order_by().values("device")
    accepted = Attempt.objects.filter(device=OuterRef("device"), verified_tokens__gt=0)
    chose_another = Enrollment.objects.filter(device=OuterRef("device"), updated_at__gt=OuterRef("updated_at"))
    return (
        Enrollment.objects.select_related("device")
        .filter(experiment=experiment, tokens_per_second__gt=0, updated_at__gt=silent_since(now))
        .filter(device__state=DeviceState.IDLE, device__contributor__banned_at=None)
        .filter(~Exists(under_way), ~Exists(chose_another))
        .annotate(num_faults=Coalesce(Subquery(faults.annotate(num=Count("pk")).values("num")), 0))
        .filter(num_faults__lt=MAX_FAULTS_PER_DEVICE)
        .annotate(is_proven=Exists(accepted))
    )


def recent_faults(*, now: datetime) -> QuerySet[Attempt]:
    """Attempts that their devices themselves spoilt within REST."""
    return Attempt.objects.filter(state__in=[State.FAILED, State.REJECTED], ended_at__gt=now - REST)


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


def _new_jobs(round_: Round, budgets: Sequence[int]) -> list[Job]:
    """New jobs, each on the shard that the experiment has given out least."""
    shards = Shard.objects.filter(experiment_id=round_.experiment_id, split=Shard.Split.TRAIN)
    # (times given out, index, primary key): the tuple's order is the order of choice.
    waiting = [
        (shard.num_jobs, shard.index, shard.pk) for shard in shards.annotate(num_jobs=Count("jobs")).order_by("index")
    ]
    if not waiting:
        return []
    heapq.heapify(waiting)
    rows = []
    for index, num_tokens in enumerate(budgets, start=round_.jobs.count()):
        num_jobs, shard_index, shard_pk = waiting[0]
        heapq.heapreplace(waiting, (num_jobs + 1, shard_index, shard_pk))
        rows.append(
            Job(
                round=round_,
                index=index,
                shard_id=shard_pk,
                seed=job_seed(round_.experiment.slug, round_number=round_.number, index=index),
                token_budget=num_tokens,
            )
        )
    return Job.objects.bulk_create(rows)
