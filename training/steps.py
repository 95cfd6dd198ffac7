"""Which outer steps lead a device from a checkpoint that it may have to a round's base."""

from ml.protocol import StepRef
from training.models import Checkpoint

MAX_STEPS = 8
"""A device that was away for more rounds than this downloads the whole checkpoint."""


def chain(checkpoint: Checkpoint) -> list[StepRef]:
    """Steps that lead to the checkpoint, oldest first: at most MAX_STEPS, together smaller than the checkpoint itself.

    One query. A step begins at its round's base, which is not the checkpoint before it where that was never published.
    """
    published = Checkpoint.objects.filter(experiment_id=checkpoint.experiment_id, published_at__isnull=False)
    rows = published.filter(number__lte=checkpoint.number).select_related("blob", "step", "round__base")
    refs: list[StepRef] = []
    result_pk, room_bytes = checkpoint.pk, checkpoint.blob.size_bytes
    for row in rows.order_by("-number")[:MAX_STEPS]:
        if row.pk != result_pk or row.step is None or row.step.size_bytes >= room_bytes:
            break
        base = row.round.base
        refs.append(
            StepRef(
                base_sha256=base.blob_id,
                result_sha256=row.blob_id,
                sha256=row.step.sha256,
                size_bytes=row.step.size_bytes,
            )
        )
        result_pk, room_bytes = base.pk, room_bytes - row.step.size_bytes
    return refs[::-1]
