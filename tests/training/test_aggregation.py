"""Merging a round's accepted deltas, and measuring what comes out of it."""

import shutil
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ml import checkpoint, data, manifest
from ml.config import OuterConfig
from ml.model import initial_model
from ml.tensor_file import read_header, read_values
from tests.ml.make_deltas import MODEL, make_tensors
from tests.training.make import make_checkpoint, make_shard, make_small_round, make_stored, make_submitted_attempt
from training import aggregation, blobs, rounds, tasks
from training.aggregation import Merged
from training.models import Attempt, Blob, Round, Shard

pytestmark = pytest.mark.django_db


def make_mergeable_round(folder: Path, *, num_deltas: int = 3, outer: OuterConfig | None = None) -> Round:
    round_ = make_small_round(folder)
    round_.experiment.outer = (outer or OuterConfig()).to_dict()
    round_.experiment.save()
    for _ in range(num_deltas):
        tasks.validate(make_submitted_attempt(folder, round_=round_).pk)
    return round_


def merge(round_: Round, now: datetime, *, in_reverse: bool = False) -> Merged:
    attempts = list(round_.merged_attempts.all()) or rounds.begin_merge(round_=round_, now=now)
    return aggregation.merge(round_=round_, attempts=attempts[::-1] if in_reverse else attempts, now=now)


def test_merging_twice_and_in_any_order_gives_the_same_bytes(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    first = merge(round_, now)
    contents = [(storage / blob.path).read_bytes() for blob in (first.model, first.outer_state, first.manifest)]
    for blob in (first.model, first.outer_state, first.manifest):
        (storage / blob.path).unlink()
    assert merge(round_, now, in_reverse=True) == first
    assert [(storage / b.path).read_bytes() for b in (first.model, first.outer_state, first.manifest)] == contents


def test_one_delta_under_plain_averaging_lands_on_the_devices_weights(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(
        tmp_path, num_deltas=1, outer=OuterConfig(learning_rate=1.0, momentum=0.0, nesterov=False)
    )
    merged = merge(round_, now)
    attempt = Attempt.objects.get()
    base, delta = make_tensors(scale=0.02), make_tensors(seed=attempt.pk)
    with blobs.local_path(merged.model) as path, path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        for name, entry in header.entries.items():
            values = read_values(file, header=header, entry=entry, start=0, stop=entry.num_values)
            # int8 keeps half a step of the largest value in 127 steps.
            step = np.abs(delta[name]).max() / 127
            expected = (base[name] - delta[name]).reshape(-1)
            np.testing.assert_allclose(values, expected, atol=float(step) * 0.51)


def test_the_manifest_lets_anyone_merge_again(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    merged = merge(round_, now)
    with blobs.local_path(merged.manifest) as path:
        record = manifest.read(path)
    assert (record.experiment, record.round_number) == (round_.experiment.slug, 1)
    assert (record.result_sha256, record.result_state_sha256) == (merged.model.sha256, merged.outer_state.sha256)
    assert {delta.attempt_id for delta in record.deltas} == set(round_.merged_attempts.values_list("pk", flat=True))
    copies = tmp_path / "copies"
    shutil.copytree(storage, copies)
    again = manifest.remerge(record, fetch=lambda sha256: copies / Blob(sha256=sha256).path)
    assert again.equal, again.problems


def test_the_next_merge_goes_on_from_the_outer_state(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    first = merge(round_, now)
    result = rounds.finish_merge(
        round_=round_, model=first.model, outer_state=first.outer_state, manifest=first.manifest, now=now
    )
    rounds.finish_evaluation(round_=round_, validation_loss=5.0, now=now)
    following = rounds.open_next(experiment=round_.experiment, now=now)
    assert following is not None
    assert following.base == result
    tasks.validate(make_submitted_attempt(tmp_path, round_=following).pk)
    second = merge(following, now)
    with blobs.local_path(second.manifest) as path:
        assert manifest.read(path).outer_state_sha256 == first.outer_state.sha256


def test_a_delta_that_was_damaged_in_storage_is_never_merged(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    attempt = Attempt.objects.earliest("pk")
    assert attempt.delta is not None
    (storage / attempt.delta.path).write_bytes(b"damaged")
    with pytest.raises(aggregation.DeltasLost) as caught:
        merge(round_, now)
    assert list(caught.value.attempts) == [attempt]
    assert not Blob.objects.filter(kind=Blob.Kind.OUTER_STATE).exists()


# Evaluation


def test_a_merged_checkpoint_is_measured_on_the_validation_shard(tmp_path: Path, now: datetime) -> None:
    round_ = make_small_round(tmp_path)
    path = tmp_path / "validation"
    tokens = (np.arange(400) % MODEL.vocab_size).astype(np.uint16)
    data.write_shard(tokens, path)
    shard = make_stored(path, kind=Blob.Kind.SHARD)
    make_shard(experiment=round_.experiment, split=Shard.Split.VALIDATION, blob=shard, num_tokens=400)
    model = initial_model(MODEL, seed=0)
    checkpoint.save_model(model, tmp_path / "model")
    round_.result = make_checkpoint(
        experiment=round_.experiment, number=1, blob=make_stored(tmp_path / "model", kind=Blob.Kind.CHECKPOINT)
    )
    assert aggregation.evaluate(round_=round_) == aggregation.validation_loss(model, tokens)


def test_what_was_not_merged_cannot_be_measured(tmp_path: Path) -> None:
    with pytest.raises(aggregation.NothingToEvaluate):
        aggregation.evaluate(round_=make_small_round(tmp_path))
