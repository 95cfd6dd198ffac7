"""The numbers on the admin's first page, each with where to read on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, F, Sum
from django.db.models.functions import Abs, Coalesce
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from contributors.models import Account, Posting
from training import devices, statistics
from training.models import Attempt, Experiment
from training.templatetags.figures import compact, grouped

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MAX_LIVE_DEVICES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One key number."""

    title: Promise
    number: str
    note: str
    href: str


def add_figures(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """unfold's DASHBOARD_CALLBACK: the context of the admin's first page."""
    now = timezone.now()
    newest = Experiment.objects.exclude(state=Experiment.State.DRAFT).order_by(F("started_at").desc(nulls_last=True))
    experiment = newest.first()
    live = statistics.live_devices(now=now, experiment=experiment) if experiment else []
    return {
        **context,
        "now": now,
        "tiles": tiles(now=now),
        "experiment": experiment,
        "chart": statistics.loss_chart(experiment) if experiment else None,
        "live": live[:MAX_LIVE_DEVICES],
        "num_more_live": max(0, len(live) - MAX_LIVE_DEVICES),
        "outcomes": outcomes(now=now),
    }


def tiles(*, now: datetime) -> list[Tile]:
    """The key numbers."""
    counts = dict(Experiment.objects.values_list("state").annotate(Count("pk")).order_by())
    lately = statistics.counted().filter(submitted_at__gt=now - HOUR)
    tokens = lately.aggregate(tokens=Coalesce(Sum("verified_tokens"), 0))["tokens"]
    return [
        Tile(
            title=_("Running experiments"),
            number=grouped(counts.get(Experiment.State.RUNNING, 0)),
            note=gettext("paused: %(paused)s, drafts: %(drafts)s")
            % {"paused": counts.get(Experiment.State.PAUSED, 0), "drafts": counts.get(Experiment.State.DRAFT, 0)},
            href=reverse("admin:training_experiment_changelist"),
        ),
        Tile(
            title=_("Live devices"),
            number=grouped(devices.live(now=now).count()),
            note=gettext("heard from within three heartbeats"),
            href=reverse("admin:training_enrollment_changelist") + "?live=yes",
        ),
        Tile(
            title=_("Tokens accepted"),
            number=compact(tokens),
            note=gettext("in the last hour"),
            href=reverse("admin:training_attempt_changelist"),
        ),
        _credits_tile(_("Credits minted"), Account.Kind.MINT, now=now),
        _credits_tile(_("Credits spent"), Account.Kind.USAGE, now=now),
    ]


def _credits_tile(title: Promise, kind: Account.Kind, *, now: datetime) -> Tile:
    """What went through one of the system's accounts."""
    postings = Posting.objects.filter(account__kind=kind, account__contributor=None)
    total = Coalesce(Abs(Sum("amount")), 0)
    recent = postings.filter(txn__created_at__gt=now - DAY).aggregate(total=total)["total"]
    in_all = postings.aggregate(total=total)["total"]
    return Tile(
        title=title,
        number=compact(recent),
        note=gettext("in 24 hours; %(all)s in all") % {"all": compact(in_all)},
        href=reverse("admin:contributors_txn_changelist"),
    )


def outcomes(*, now: datetime) -> Sequence[Mapping[str, Any]]:
    """Attempts offered in the last day, by state and reason, most first."""
    rows = Attempt.objects.filter(offered_at__gt=now - DAY).values("state", "reason")
    return list(rows.annotate(num=Count("pk")).order_by("-num", "state", "reason"))
