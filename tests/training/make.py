"""Rows of the training app, each with defaults that make sense together."""

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from contributors import api_keys
from contributors.models import Contributor, Device, Scope
from ml import protocol
from ml.codec import DeltaLabel, Floats, delta_size_bytes, encode
from ml.config import PRESETS, InnerConfig, OuterConfig
from ml.protocol import Report
from tests.ml.make_deltas import MODEL, make_tensors, make_weights_file
from training import blobs, rounds
from training.models import Attempt, Blob, Checkpoint, Enrollment, Experiment, Job, Round, Shard

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
BATCH = InnerConfig().batch_tokens
"""Tokens of one step, unless an experiment is made with another number."""
_numbers = itertools.count(1)


def make_contributor(**fields: Any) -> Contributor:
    defaults = {"nickname": f"person-{next(_numbers)}", "created_at": NOW - timedelta(days=30)}
    return Contributor.objects.create(**{**defaults, **fields})


def make_api_key(*, contributor: Contributor, scopes: Iterable[Scope] = (Scope.VOLUNTEER,)) -> str:
    """The secret of a new key."""
    return api_keys.create(contributor=contributor, name="test", scopes=scopes, now=NOW)[1]


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


def make_open_round(*, target: int = 1_000 * BATCH, **fields: Any) -> Round:
    """A round with a shard, whose jobs last 100 seconds."""
    experiment = make_experiment(round_tokens=target, job_seconds=100, **fields)
    make_shard(experiment=experiment)
    return make_round(experiment=experiment)


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


def make_merged() -> dict[str, Blob]:
    """What a merge leaves in storage, as `rounds.finish_merge` takes it; there are no files."""
    return {name: make_blob() for name in ("model", "outer_state", "step", "manifest")}


def finish_merge(round_: Round, now: datetime) -> Checkpoint:
    return rounds.finish_merge(round_=round_, kept={}, now=now, **make_merged())


def make_attempt_in(state: str, *, job: Job | None = None, device: Device | None = None, **fields: Any) -> Attempt:
    """An attempt in any state, with the times and the delta that belong to it."""
    job = job or make_job(round_=make_round(experiment=make_experiment()))
    states = Attempt.State
    carried: dict[str, Any] = {"state": state}
    if state != states.OFFERED:
        carried |= {"claimed_at": NOW}
    if state in (states.SUBMITTED, states.VALIDATING, states.ACCEPTED, states.MERGED, states.REJECTED, states.LATE):
        delta = fields.pop("delta", None) or make_blob(kind=Blob.Kind.DELTA)
        carried |= {
            "submitted_at": NOW,
            "report": protocol.encode(make_report(tokens=job.token_budget)),
            "delta": delta,
        }
    if state in (states.ACCEPTED, states.MERGED):
        carried |= {"verified_tokens": job.token_budget, "earned_credits": 0, "delta_norm": 1.0}
    if state not in Attempt.LIVE_STATES:
        carried |= {"next_transition_at": None, "ended_at": NOW}
    return make_attempt(job=job, device=device, **{**carried, **fields})


def make_report(**fields: Any) -> Report:
    report = Report(
        tokens=100_000,
        num_steps=25,
        seconds=90.0,
        first_loss=7.6,
        last_loss=5.1,
        tokens_per_second=1_100.0,
        partial=False,
    )
    return replace(report, **fields)


def make_stored(path: Path, *, kind: Blob.Kind) -> Blob:
    """The file at `path` in storage."""
    return blobs.put(path=path, kind=kind, now=NOW)


def make_small_round(folder: Path, *, codec: str = "int8", **fields: Any) -> Round:
    """An open round of a model small enough for real files, on a base that is in storage."""
    experiment = make_experiment(
        model=MODEL.to_dict(),
        inner=InnerConfig(batch_tokens=64).to_dict(),
        codec=codec,
        round_tokens=6_400,
        round_min_tokens=640,
        max_delta_bytes=delta_size_bytes(MODEL, codec),
        credits_per_teraflop=10**6,
        **fields,
    )
    path = make_weights_file(folder / "base", make_tensors(scale=0.02))
    base = make_stored(path, kind=Blob.Kind.CHECKPOINT)
    make_shard(experiment=experiment)
    return make_round(experiment=experiment, base=make_checkpoint(experiment=experiment, blob=base))


def make_delta_file(
    path: Path, *, attempt: Attempt, tensors: Mapping[str, Floats] | None = None, tokens: int, **label: Any
) -> str:
    """Write what the attempt's device would upload, or something else where `label` says so; its SHA-256."""
    round_ = attempt.job.round
    right = DeltaLabel(
        experiment=round_.experiment.slug,
        round_number=round_.number,
        base_sha256=round_.base.blob_id,
        codec=round_.experiment.codec,
        attempt_id=attempt.pk,
    )
    tensors = tensors or make_tensors(seed=attempt.pk)
    return encode(tensors, label=replace(right, **label), tokens=tokens, path=path)


def make_submitted_attempt(
    folder: Path, *, round_: Round, tokens: int = 640, report_tokens: int | None = None, **options: Any
) -> Attempt:
    """A submitted attempt whose delta is a real file in storage."""
    job = make_job(round_=round_, token_budget=640)
    attempt = make_attempt(job=job, state=Attempt.State.SUBMITTED, claimed_at=NOW, submitted_at=NOW)
    path = folder / f"delta-{attempt.pk}"
    make_delta_file(path, attempt=attempt, tokens=tokens, **options)
    store_delta(attempt, path, tokens=tokens if report_tokens is None else report_tokens)
    return attempt


def store_delta(attempt: Attempt, path: Path, *, tokens: int) -> None:
    """Put the file into storage as the attempt's delta, reported with `tokens`."""
    attempt.delta = make_stored(path, kind=Blob.Kind.DELTA)
    attempt.delta_sha256, attempt.delta_size_bytes = attempt.delta.sha256, attempt.delta.size_bytes
    attempt.report = protocol.encode(make_report(tokens=tokens, num_steps=tokens // 64))
    attempt.save()


def make_corpus(folder: Path, *, num_documents: int = 12) -> Path:
    """A folder of documents with enough words for a vocabulary of a few hundred tokens."""
    folder.mkdir()
    words = [f"{first}{second}" for first in ("widget", "state", "stream", "future") for second in ("s", "less", "ful")]
    for number in range(num_documents):
        text = " ".join(words[(number * 7 + place * place) % len(words)] for place in range(300))
        (folder / f"{number:02d}.md").write_text(f"# Document {number}\n\n{text}\n", encoding="utf-8")
    return folder
