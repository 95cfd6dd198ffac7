"""Rows of the training app, each with defaults that make sense together."""

import hashlib
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from contributors.models import Contributor, Device
from ml.config import PRESETS, InnerConfig, OuterConfig
from training.models import Attempt, Blob, Checkpoint, Enrollment, Experiment, Job, Round, Shard

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
_numbers = itertools.count(1)


def make_contributor(**fields: Any) -> Contributor:
    defaults = {"nickname": f"person-{next(_numbers)}", "created_at": NOW - timedelta(days=30)}
    return Contributor.objects.create(**{**defaults, **fields})


def make_device(*, contributor: Contributor | None = None, **fields: Any) -> Device:
    defaults = {
        "name": f"machine-{next(_numbers)}",
        "hardware": {"device": "cpu", "name": "AMD EPYC", "memory_bytes": 16 * 2**30, "cores": 8, "bf16": True},
        "protocol_version": 1,
        "created_at": NOW - timedelta(days=30),
        "last_seen_at": NOW,
    }
    return Device.objects.create(contributor=contributor or make_contributor(), **{**defaults, **fields})


def make_blob(*, kind: str = Blob.Kind.CHECKPOINT, **fields: Any) -> Blob:
    sha256 = hashlib.sha256(f"blob {next(_numbers)}".encode()).hexdigest()
    defaults = {"sha256": sha256, "size_bytes": 1_234_567, "created_at": NOW}
    return Blob.objects.create(kind=kind, **{**defaults, **fields})


def make_experiment(**fields: Any) -> Experiment:
    number = next(_numbers)
    defaults = {
        "slug": f"experiment-{number}",
        "title": f"Experiment {number}",
        "state": Experiment.State.RUNNING,
        "created_at": NOW - timedelta(days=2),
        "started_at": NOW - timedelta(days=1),
        "corpus_dir": "data/sample",
        "model": PRESETS["tiny"].to_dict(),
        "inner": InnerConfig().to_dict(),
        "outer": OuterConfig().to_dict(),
        "num_rounds": 8,
        "round_tokens": 400_000,
        "round_min_tokens": 100_000,
        "max_delta_bytes": 10_000_000,
    }
    return Experiment.objects.create(**{**defaults, **fields})


def make_shard(*, experiment: Experiment, **fields: Any) -> Shard:
    defaults = {
        "split": Shard.Split.TRAIN,
        "index": next(_numbers),
        "blob": fields.pop("blob", None) or make_blob(kind=Blob.Kind.SHARD),
        "num_tokens": 4_000_000,
        "dtype": "uint16",
    }
    return Shard.objects.create(experiment=experiment, **{**defaults, **fields})


def make_checkpoint(*, experiment: Experiment, number: int = 0, **fields: Any) -> Checkpoint:
    defaults = {
        "blob": fields.pop("blob", None) or make_blob(),
        "validation_loss": 7.6,
        "created_at": NOW,
        "published_at": NOW,
    }
    return Checkpoint.objects.create(experiment=experiment, number=number, **{**defaults, **fields})


def make_round(*, experiment: Experiment, number: int = 1, **fields: Any) -> Round:
    """A round on the checkpoint before it, which is made where the experiment has none of that number."""
    base = fields.pop("base", None) or experiment.checkpoints.filter(number=number - 1).first()
    defaults = {
        "base": base or make_checkpoint(experiment=experiment, number=number - 1),
        "target_tokens": experiment.round_tokens,
        "min_tokens": experiment.round_min_tokens,
        "credit_budget": experiment.credits_for(experiment.round_tokens),
        "opened_at": NOW,
        "next_transition_at": NOW + timedelta(seconds=experiment.round_seconds),
    }
    return Round.objects.create(experiment=experiment, number=number, **{**defaults, **fields})


def make_job(*, round_: Round, **fields: Any) -> Job:
    shard = fields.pop("shard", None) or round_.experiment.shards.first() or make_shard(experiment=round_.experiment)
    defaults = {"shard": shard, "index": round_.jobs.count(), "seed": 7, "token_budget": 100_000}
    return Job.objects.create(round=round_, **{**defaults, **fields})


def make_enrollment(*, device: Device, experiment: Experiment, **fields: Any) -> Enrollment:
    defaults = {"tokens_per_second": 1_000.0, "updated_at": device.last_seen_at or NOW}
    return Enrollment.objects.create(device=device, experiment=experiment, **{**defaults, **fields})


def make_attempt(*, job: Job, device: Device | None = None, **fields: Any) -> Attempt:
    defaults = {
        "nonce": f"{next(_numbers):032d}",
        "token_budget": job.token_budget,
        "quoted_credits": job.round.experiment.credits_for(job.token_budget),
        "next_transition_at": NOW + timedelta(seconds=90),
        "offered_at": NOW,
    }
    return Attempt.objects.create(job=job, device=device or make_device(), **{**defaults, **fields})


def make_accepted_attempt(*, job: Job, device: Device | None = None, **fields: Any) -> Attempt:
    """An attempt whose whole budget was verified and paid."""
    tokens = fields.get("verified_tokens", job.token_budget)
    defaults = {
        "state": Attempt.State.ACCEPTED,
        "claimed_at": NOW,
        "submitted_at": NOW,
        "next_transition_at": None,
        "delta": fields.pop("delta", None) or make_blob(kind=Blob.Kind.DELTA),
        "verified_tokens": tokens,
        "earned_credits": job.round.experiment.credits_for(tokens),
        "delta_norm": 1.5,
    }
    return make_attempt(job=job, device=device, **{**defaults, **fields})


def make_closed_round(*, experiment: Experiment, number: int, validation_loss: float, **fields: Any) -> Round:
    """A closed round with its published result."""
    result = make_checkpoint(experiment=experiment, number=number, validation_loss=validation_loss)
    defaults = {"state": Round.State.CLOSED, "result": result, "closed_at": NOW}
    return make_round(experiment=experiment, number=number, **{**defaults, **fields})
