"""Which models there are: every experiment's newest published checkpoint, under the experiment's slug.

`slug@N` names the checkpoint of round N for good, as long as the experiment is served.
"""

from django.db.models import OuterRef, QuerySet, Subquery

from ml.protocol import SLUG
from training.models import Checkpoint, Experiment

SERVED_STATES = (Experiment.State.RUNNING, Experiment.State.PAUSED, Experiment.State.FINISHED)
MAX_ROUND = 10**9
"""Above it, a number is no round's, and might be too large for the database."""


class ModelNotFound(Exception):
    """No experiment of that name is public, or it has no such checkpoint."""


class ModelNotReady(Exception):
    """The experiment has published no checkpoint yet."""


def served() -> QuerySet[Checkpoint]:
    """The checkpoint behind each model, the newest started experiment first."""
    newest = Checkpoint.objects.filter(experiment=OuterRef("experiment"), published_at__isnull=False)
    return (
        _checkpoints()
        .filter(pk=Subquery(newest.order_by("-number").values("pk")[:1]))
        .order_by("-experiment__started_at", "-experiment_id")
    )


def published(slug: str) -> QuerySet[Checkpoint]:
    """Every checkpoint of the experiment that may be asked, the newest first."""
    return _checkpoints().filter(experiment__slug=slug).order_by("-number")


def find(model: str) -> Checkpoint:
    """The checkpoint behind a model: the newest one under a slug, that of a round under slug@round.

    Raises: ModelNotFound, ModelNotReady.
    """
    slug, at, number = model.partition("@")
    unknown = ModelNotFound(f"The model {model!r} does not exist: GET /v1/models lists those that do.")
    # A database may choke on what is no slug.
    if not SLUG.fullmatch(slug) or (at and not _is_round(number)):
        raise unknown
    checkpoints = published(slug).filter(number=int(number)) if at else served().filter(experiment__slug=slug)
    checkpoint = checkpoints.first()
    if checkpoint is not None:
        return checkpoint
    if not at and Experiment.objects.filter(slug=slug).exclude(state=Experiment.State.DRAFT).exists():
        raise ModelNotReady(f"The model {model!r} has published no checkpoint yet: try again later.")
    raise unknown


def is_pinned(model: str) -> bool:
    """Whether the name is of a round's checkpoint: engines load those when they are asked for."""
    return "@" in model


def _checkpoints() -> QuerySet[Checkpoint]:
    return Checkpoint.objects.filter(published_at__isnull=False, experiment__state__in=SERVED_STATES).select_related(
        "experiment__tokenizer", "blob"
    )


def _is_round(number: str) -> bool:
    """One spelling for each round: a queue has the name as it was given."""
    return number.isdecimal() and number.isascii() and str(int(number[:10])) == number and int(number) <= MAX_ROUND
