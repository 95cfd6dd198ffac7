"""What pages and the dashboard count. Statistics, not money: the ledger alone says what anyone may spend."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, F, Max, OuterRef, Prefetch, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce

from contributors.models import Contributor
from ml.protocol import DeviceState
from training import charts, devices
from training.models import Attempt, Checkpoint, Enrollment, Experiment, Round

RECENT = timedelta(days=7)
UNDER_WAY = (Attempt.State.OFFERED, Attempt.State.RUNNING)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExperimentSummary:
    experiment: Experiment
    round_number: int
    loss: float | None
    untrained_loss: float | None
    num_live: int
    sparkline: charts.Sparkline | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What an experiment's devices have uploaded, beside what training in lockstep would have cost them."""

    uploaded_bytes: int
    gradient_bytes: int
    """A float32 gradient after each optimizer step on the same tokens."""

    @property
    def times_less(self) -> int | None:
        return self.gradient_bytes // self.uploaded_bytes if self.uploaded_bytes else None


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveDevice:
    """A device that works, or waits to work, on an experiment."""

    enrollment: Enrollment
    attempt: Attempt | None
    """The one under way."""

    @property
    def reason(self) -> str:
        """Why the device is idle; empty where it works."""
        device = self.enrollment.device
        return device.idle_reason if device.state == DeviceState.IDLE and self.attempt is None else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one device gave to one experiment."""

    nickname: str
    device_name: str
    num_deltas: int
    tokens: int
    uploaded_bytes: int
    credits: int
    last_at: datetime


def published() -> QuerySet[Experiment]:
    """Experiments that pages show: all but drafts, running ones first, then the newest."""
    return Experiment.objects.exclude(state=Experiment.State.DRAFT).order_by(
        F("finished_at").desc(nulls_first=True), "-created_at", "-pk"
    )


def annotate_progress(experiments: QuerySet[Experiment], *, now: datetime) -> QuerySet[Experiment]:
    """Each with round_number, newest_loss and num_live."""
    newest_round = Round.objects.filter(experiment=OuterRef("pk")).order_by("-number").values("number")
    newest_loss = measured().filter(experiment=OuterRef("pk")).order_by("-number").values("validation_loss")
    live = working(now=now).filter(experiment=OuterRef("pk")).order_by().values("experiment")
    return experiments.annotate(
        round_number=Coalesce(Subquery(newest_round[:1]), 0),
        newest_loss=Subquery(newest_loss[:1]),
        num_live=Coalesce(Subquery(live.annotate(num=Count("pk")).values("num")), 0),
    )


def summarize_experiments(experiments: QuerySet[Experiment], *, now: datetime) -> list[ExperimentSummary]:
    """One summary per experiment; the number of queries does not depend on how many there are."""
    in_order = Prefetch("checkpoints", queryset=measured().order_by("number"), to_attr="measured")
    return [_summarize(row) for row in annotate_progress(experiments, now=now).prefetch_related(in_order)]


def _summarize(row: Any) -> ExperimentSummary:
    losses = [checkpoint.validation_loss for checkpoint in row.measured]
    return ExperimentSummary(
        experiment=row,
        round_number=row.round_number,
        loss=row.newest_loss,
        untrained_loss=losses[0] if losses and row.measured[0].number == 0 else None,
        num_live=row.num_live,
        sparkline=charts.sparkline(losses),
    )


def measured() -> QuerySet[Checkpoint]:
    """Published checkpoints whose loss is known."""
    return Checkpoint.objects.filter(published_at__isnull=False, validation_loss__isnull=False)


def loss_chart(experiment: Experiment) -> charts.LossChart | None:
    """The curve of the experiment's published checkpoints."""
    rows = measured().filter(experiment=experiment).order_by("number").values_list("number", "validation_loss")
    return charts.loss_chart([(number, loss) for number, loss in rows if loss is not None])


def traffic(experiment: Experiment, contributions: Iterable[Contribution]) -> Traffic:
    """Of all that was found good, by the sums that `contributions` has made."""
    rows = list(contributions)
    num_steps = sum(row.tokens for row in rows) // experiment.inner_config.batch_tokens
    return Traffic(
        uploaded_bytes=sum(row.uploaded_bytes for row in rows),
        gradient_bytes=num_steps * 4 * experiment.model_config.num_parameters,
    )


def contributions(experiment: Experiment) -> list[Contribution]:
    """What each device gave, most tokens first."""
    groups = (
        counted()
        .filter(job__round__experiment=experiment)
        .values(nickname=F("device__contributor__nickname"), device_name=F("device__name"))
        .annotate(
            num_deltas=Count("pk"),
            tokens=Sum("verified_tokens"),
            uploaded_bytes=Coalesce(Sum("delta_size_bytes"), 0),
            credits=Coalesce(Sum("earned_credits"), 0),
            last_at=Max("submitted_at"),
        )
        .order_by("-tokens", "device_id")
    )
    return [Contribution(**group) for group in groups]


def counted() -> QuerySet[Attempt]:
    """Attempts whose delta was found good, whether or not it is merged yet."""
    return Attempt.objects.filter(verified_tokens__gt=0)


def working(*, now: datetime) -> QuerySet[Enrollment]:
    """Enrollments of live devices in what each of them chose last."""
    chose_another = Enrollment.objects.filter(device=OuterRef("device"), updated_at__gt=OuterRef("updated_at"))
    return Enrollment.objects.filter(~Exists(chose_another), device__in=devices.live(now=now))


def live_devices(*, now: datetime, experiment: Experiment) -> list[LiveDevice]:
    """The experiment's live devices, fastest first, each with what it does."""
    rows = list(
        working(now=now)
        .filter(experiment=experiment)
        .select_related("device__contributor")
        .order_by(F("tokens_per_second").desc(nulls_last=True), "pk")
    )
    attempts = Attempt.objects.filter(device__in=[row.device_id for row in rows], state__in=UNDER_WAY)
    by_device = {attempt.device_id: attempt for attempt in attempts.select_related("job__round")}
    return [LiveDevice(enrollment=row, attempt=by_device.get(row.device_id)) for row in rows]


def ranking(*, now: datetime) -> QuerySet[Contributor]:
    """Contributors by credits earned in all, with what they gave in all and within RECENT; banned ones are left out."""
    good = Q(devices__attempts__verified_tokens__gt=0)
    recent = good & Q(devices__attempts__submitted_at__gt=now - RECENT)
    return (
        Contributor.objects.filter(banned_at=None)
        .annotate(
            credits=Coalesce(Sum("devices__attempts__earned_credits", filter=good), 0),
            tokens=Coalesce(Sum("devices__attempts__verified_tokens", filter=good), 0),
            recent_credits=Coalesce(Sum("devices__attempts__earned_credits", filter=recent), 0),
            recent_tokens=Coalesce(Sum("devices__attempts__verified_tokens", filter=recent), 0),
            num_devices=Count("devices", distinct=True),
            last_active_at=Max("devices__last_seen_at"),
        )
        .filter(num_devices__gt=0)
        .order_by("-credits", "-tokens", "created_at", "pk")
    )
