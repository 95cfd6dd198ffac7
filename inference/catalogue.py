"""Which models there are: every experiment's newest published checkpoint, under the experiment's slug."""

from django.db.models import OuterRef, QuerySet, Subquery

from ml.protocol import SLUG
from training.models import Checkpoint, Experiment

SERVED_STATES = (Experiment.State.RUNNING, Experiment.State.PAUSED, Experiment.State.FINISHED)


class ModelNotFound(Exception):
    """No experiment of that name is public."""


class ModelNotReady(Exception):
    """The experiment has published no checkpoint yet."""


def served() -> QuerySet[Checkpoint]:
    """The checkpoint behind each model, the newest started experiment first."""
    newest = Checkpoint.objects.filter(experiment=OuterRef("experiment"), published_at__isnull=False)
    return (
        Checkpoint.objects.filter(
            pk=Subquery(newest.order_by("-number").values("pk")[:1]), experiment__state__in=SERVED_STATES
        )
        .select_related("experiment__tokenizer", "blob")
        .order_by("-experiment__started_at", "-experiment_id")
    )


def find(model: str) -> Checkpoint:
    """The checkpoint behind one model.

    Raises: ModelNotFound, ModelNotReady.
    """
    unknown = ModelNotFound(f"The model {model!r} does not exist: GET /v1/models lists those that do.")
    # A database may choke on what is no slug.
    if not SLUG.fullmatch(model):
        raise unknown
    checkpoint = served().filter(experiment__slug=model).first()
    if checkpoint is not None:
        return checkpoint
    if Experiment.objects.filter(slug=model).exclude(state=Experiment.State.DRAFT).exists():
        raise ModelNotReady(f"The model {model!r} has published no checkpoint yet: try again later.")
    raise unknown
