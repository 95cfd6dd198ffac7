"""Public pages: what a volunteer or a passer-by sees, without signing in and without scripts."""

from collections.abc import Callable, Sequence
from functools import wraps
from urllib.parse import urlsplit

from django.conf import settings
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.http import require_safe

from training import merge_statistics, statistics
from training.models import Experiment

CONTRIBUTORS_PER_PAGE = 100
ROWS_PER_TABLE = 50
"""Of an experiment's tables, until all rows are asked for."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

View = Callable[..., HttpResponse]


def public(view: View) -> View:
    """A page that anyone may read, and that can run or load nothing but our own style sheet and images."""

    @require_safe
    @wraps(view)
    def guarded(request: HttpRequest, **parameters: str) -> HttpResponse:
        response = view(request, **parameters)
        response["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        return response

    return guarded


@public
def experiments(request: HttpRequest) -> HttpResponse:
    """All experiments, running ones first."""
    now = timezone.now()
    summaries = statistics.summarize_experiments(statistics.published(), now=now)
    return render(request, "training/experiments.html", {"summaries": summaries, "now": now})


@public
def experiment(request: HttpRequest, slug: str) -> HttpResponse:
    """One experiment: loss curve, rounds, who gave what, checkpoints, configuration, who is at work."""
    now = timezone.now()
    row = get_object_or_404(statistics.published(), slug=slug)
    checkpoints = row.checkpoints.filter(published_at__isnull=False).select_related("blob").order_by("-number")
    rounds, contributions = merge_statistics.summarize_rounds(row), statistics.contributions(row)
    newest_merge = next((summary.round for summary in rounds if summary.round.result), None)
    tables: dict[str, Sequence[object]] = {
        "rounds": rounds,
        "merged": merge_statistics.merged_deltas(newest_merge) if newest_merge else [],
        "contributions": contributions,
        "checkpoints": list(checkpoints),
        "live": statistics.live_devices(now=now, experiment=row),
    }
    limit = None if "all" in request.GET else ROWS_PER_TABLE
    context = {
        "now": now,
        "experiment": row,
        "chart": statistics.loss_chart(row),
        "current": next(iter(rounds), None),
        "newest_merge": newest_merge,
        "traffic": statistics.traffic(row, contributions),
        "num_live": len(tables["live"]),
        **{name: rows[:limit] for name, rows in tables.items()},
        "has_more": any(len(rows) > ROWS_PER_TABLE for rows in tables.values()) and limit is not None,
        "wants_devices": row.state != Experiment.State.FINISHED,
        "join_url": server_url(request),
    }
    return render(request, "training/experiment.html", context)


@public
def contributors(request: HttpRequest) -> HttpResponse:
    """Who gave how much, in all and lately."""
    now = timezone.now()
    page = Paginator(statistics.ranking(now=now), CONTRIBUTORS_PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "training/contributors.html", {"page": page, "now": now, "recent": statistics.RECENT})


@public
def join(request: HttpRequest) -> HttpResponse:
    """How to give a machine's time, in three commands."""
    context = {"join_url": server_url(request), "requirement": settings.VOLUNTEER_REQUIREMENT}
    return render(request, "training/join.html", context)


def server_url(request: HttpRequest) -> str:
    """This coordinator as the reader reached it, for commands to copy."""
    parts = urlsplit(request.build_absolute_uri("/"))
    return f"{parts.scheme}://{parts.netloc}"
