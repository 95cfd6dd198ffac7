"""Which models the playground offers, and from which of their checkpoints one may choose."""

from collections.abc import Sequence
from typing import Any

from django.db.models import Prefetch

from inference.catalogue import SERVED_STATES
from training.models import Checkpoint, Experiment

MAX_CHECKPOINTS = 60
"""Of one experiment; of more, a selection from the untrained model to the newest."""


def offered_models() -> list[dict[str, Any]]:
    """Every experiment that can answer, the newest started first, as the page's scripts read it."""
    published = Checkpoint.objects.filter(published_at__isnull=False).order_by("-number")
    experiments = (
        Experiment.objects.filter(state__in=SERVED_STATES, tokenizer__isnull=False)
        .prefetch_related(Prefetch("checkpoints", queryset=published, to_attr="published"))
        .order_by("-started_at", "-pk")
    )
    return [_model(experiment) for experiment in experiments if experiment.published]


def _model(experiment: Experiment) -> dict[str, Any]:
    published: Sequence[Checkpoint] = experiment.published  # type: ignore[attr-defined]
    return {
        "slug": experiment.slug,
        "title": experiment.title,
        "price": experiment.credits_per_completion_token,
        "context": experiment.model_config.block_size,
        "checkpoints": [{"number": row.number, "loss": row.validation_loss} for row in _spread(published)],
    }


def _spread(rows: Sequence[Checkpoint]) -> list[Checkpoint]:
    """The first, the last, and rows at even distances between; all of them where they are few."""
    if len(rows) <= MAX_CHECKPOINTS:
        return list(rows)
    step = (len(rows) - 1) / (MAX_CHECKPOINTS - 1)
    return [rows[round(index * step)] for index in range(MAX_CHECKPOINTS)]
