"""The dashboard's page of engines: which live, what they serve, what waits, what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe
from redis.exceptions import RedisError

from inference import catalogue
from inference.monitoring import living
from inference.status import EngineStatus, Problem, ServedModel
from training.models import Checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRow:
    """A model of an engine, beside what the catalogue says."""

    served: ServedModel
    checkpoint: Checkpoint | None
    is_behind: bool
    """A newer checkpoint is published, and not served here yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemRow:
    problem: Problem
    since: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRow:
    status: EngineStatus
    started_at: datetime
    models: list[ModelRow]
    problems: list[ProblemRow]


@require_safe
def show_engines(request: HttpRequest) -> HttpResponse:
    if not request.user.has_perm("inference.view_completion"):
        raise PermissionDenied
    try:
        statuses = living.engines()
        queues = living.queues(statuses)
        is_redis_away = False
    except RedisError:
        statuses, queues, is_redis_away = [], [], True
    context = {
        **admin.site.each_context(request),
        "engines": _rows(statuses),
        "queues": queues,
        "num_queued": sum(queue.num_requests for queue in queues),
        "num_running": sum(model.num_running for status in statuses for model in status.models),
        "tokens_per_second": sum(status.tokens_per_second for status in statuses),
        "unserved": [] if is_redis_away else _unserved(statuses),
        "is_redis_away": is_redis_away,
    }
    return render(request, "inference/admin/engines.html", context)


def _rows(statuses: Iterable[EngineStatus]) -> list[EngineRow]:
    statuses = list(statuses)
    ids = {model.checkpoint_id for status in statuses for model in status.models}
    checkpoints = Checkpoint.objects.select_related("experiment").in_bulk(ids)
    newest = {checkpoint.experiment.slug: checkpoint.blob_id for checkpoint in catalogue.served()}
    return [
        EngineRow(
            status=status,
            started_at=_time(status.started_at),
            models=[
                ModelRow(
                    served=model,
                    checkpoint=checkpoints.get(model.checkpoint_id),
                    is_behind=newest.get(model.name, model.sha256) != model.sha256,
                )
                for model in status.models
            ],
            problems=[ProblemRow(problem=problem, since=_time(problem.at)) for problem in status.problems],
        )
        for status in statuses
    ]


def _unserved(statuses: Iterable[EngineStatus]) -> list[str]:
    """Models that may be asked and that no engine has."""
    served = {name for status in statuses for name in status.model_names}
    return [slug for slug in catalogue.served().values_list("experiment__slug", flat=True) if slug not in served]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
