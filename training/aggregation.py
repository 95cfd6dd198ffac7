"""Merges a round's deltas into its next checkpoint, and measures that checkpoint."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from ml import checkpoint, data, evaluation, hardware, manifest, merging
from ml.config import OuterConfig
from ml.merging import Weighing, WeightedDelta
from ml.model import GPT
from ml.tensor_file import TensorFileInvalid
from training import blobs
from training.models import Attempt, Blob, Round, Shard

MAX_VALIDATION_TOKENS = 131_072


class NothingToEvaluate(Exception):
    """The round has not been merged."""


class DeltasLost(Exception):
    """Storage no longer has the bytes of these attempts' deltas, though it has the round's base."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        names = ", ".join(f"{attempt} ({attempt.delta_sha256})" for attempt in attempts)
        super().__init__(f"storage has lost the deltas of {names}")
        self.attempts = attempts


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Files that a merge left in storage."""

    model: Blob
    outer_state: Blob
    step: Blob | None
    """What leads from the base to the model; None where the experiment sends whole checkpoints."""
    manifest: Blob
    kept: Mapping[int, float]
    """What the rule left of each attempt's share, by primary key."""


def merge(*, round_: Round, attempts: Sequence[Attempt], now: datetime) -> Merged:
    """One outer step from the round's base over its attempts' deltas.

    Raises: DeltasLost; ml.merging.MergeInvalid, ml.tensor_file.TensorFileInvalid, blobs.BlobCorrupt, BlobUnavailable,
    OSError.
    """
    outer = round_.experiment.outer_config
    try:
        try:
            return _merge(round_=round_, attempts=attempts, outer=outer, now=now)
        except merging.StepNotFinite:
            # The evaluation abandons such a model; a merge that fails would be tried again for ever.
            outer = dataclasses.replace(outer, step_codec="none")
            return _merge(round_=round_, attempts=attempts, outer=outer, now=now)
    except (merging.MergeInvalid, TensorFileInvalid, blobs.BlobCorrupt, OSError) as error:
        lost = [attempt for attempt in attempts if attempt.delta is None or not blobs.is_intact(attempt.delta)]
        # A storage that is away as a whole has lost nothing.
        if lost and blobs.is_intact(round_.base.blob):
            raise DeltasLost(lost) from error
        raise


def _merge(*, round_: Round, attempts: Sequence[Attempt], outer: OuterConfig, now: datetime) -> Merged:
    base = round_.base
    progress = min(1.0, (round_.number - 1) / round_.experiment.num_rounds)
    with ExitStack() as stack:
        deltas = [_weighted(attempt, stack) for attempt in attempts]
        folder = stack.enter_context(blobs.scratch_dir())
        result = merging.merge(
            base_path=stack.enter_context(blobs.verified_path(base.blob)),
            base_sha256=base.blob_id,
            deltas=deltas,
            outer=outer,
            progress=progress,
            outer_state_path=stack.enter_context(blobs.local_path(base.outer_state)) if base.outer_state else None,
            result_path=folder / "model",
            result_state_path=folder / "state",
            step_path=folder / "step" if outer.step_codec != "none" else None,
        )
        record = manifest.describe(
            experiment=round_.experiment.slug,
            round_number=round_.number,
            base_sha256=base.blob_id,
            outer_state_sha256=base.outer_state_id,
            outer=outer,
            progress=progress,
            deltas=deltas,
            result=result,
        )
        manifest.write(record, folder / "manifest")

        def put(name: str, kind: Blob.Kind, sha256: str) -> Blob:
            return blobs.put(path=folder / name, kind=kind, sha256=sha256, now=now)

        return Merged(
            model=put("model", Blob.Kind.CHECKPOINT, result.sha256),
            outer_state=put("state", Blob.Kind.OUTER_STATE, result.state_sha256),
            step=put("step", Blob.Kind.STEP, result.step_sha256) if result.step_sha256 else None,
            manifest=blobs.put(path=folder / "manifest", kind=Blob.Kind.MANIFEST, now=now),
            kept=_kept(deltas, result.weighing),
        )


def _kept(deltas: Sequence[WeightedDelta], weighing: Weighing) -> dict[int, float]:
    total = math.fsum(delta.weight for delta in deltas)
    factors = zip(merging.in_order(deltas), weighing.factors, strict=True)
    return {delta.attempt_id: factor * total / delta.weight for delta, factor in factors}


def evaluate(*, round_: Round) -> float:
    """Validation loss of the round's merged checkpoint, in nats per token.

    Raises: blobs.BlobCorrupt, BlobUnavailable, ml.checkpoint.CheckpointInvalid.
    """
    if round_.result is None:
        raise NothingToEvaluate(f"{round_} has no merged checkpoint")
    with blobs.local_path(round_.result.blob) as path:
        model = checkpoint.load_model(path)
    shard = round_.experiment.shards.select_related("blob").get(split=Shard.Split.VALIDATION)
    with blobs.local_path(shard.blob) as path:
        return validation_loss(model, data.open_shard(path, shard.dtype))


def validation_loss(model: GPT, held_out: data.Tokens) -> float:
    """Loss on held-out documents, on the best device of this machine."""
    return evaluation.validation_loss(
        model.to(hardware.detect().device),
        held_out,
        block_size=model.config.block_size,
        max_tokens=MAX_VALIDATION_TOKENS,
    )


def _weighted(attempt: Attempt, stack: ExitStack) -> WeightedDelta:
    tokens, weight, norm = attempt.verified_tokens, attempt.weight, attempt.delta_norm
    if attempt.delta is None or tokens is None or weight is None or norm is None:
        raise merging.MergeInvalid(f"{attempt} was accepted without a delta, tokens, a weight or a norm")
    return WeightedDelta(
        attempt_id=attempt.pk,
        sender=attempt.device_id,
        path=stack.enter_context(blobs.local_path(attempt.delta)),
        sha256=attempt.delta.sha256,
        tokens=tokens,
        weight=weight,
        norm=norm,
    )
