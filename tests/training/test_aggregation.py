"""Merging a round's accepted deltas, and measuring what comes out of it."""

import math
import shutil
import statistics
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from django.core.files.storage import default_storage

from ml import checkpoint, data, manifest
from ml.config import CODECS, RULES, InnerConfig, OuterConfig
from ml.model import initial_model
from ml.protocol import StepRef
from ml.step_file import apply_step
from ml.tensor_file import read_header, read_values
from tests.ml.make_deltas import MODEL, make_tensors
from tests.training.make import make_checkpoint, make_shard, make_small_round, make_stored, make_submitted_attempt
from training import aggregation, blobs, rounds, tasks
from training.aggregation import Merged
from training.models import Attempt, Blob, Round, Shard

pytestmark = pytest.mark.django_db


def make_mergeable_round(
    folder: Path, *, num_deltas: int = 3, outer: OuterConfig | None = None, codec: str = "int8"
) -> Round:
    round_ = make_small_round(folder, codec=codec)
    round_.experiment.outer = (outer or OuterConfig()).to_dict()
    round_.experiment.save()
    add_deltas(folder, round_, num_deltas)
    return round_


def add_deltas(folder: Path, round_: Round, num_deltas: int) -> None:
    for _ in range(num_deltas):
        tasks.validate(make_submitted_attempt(folder, round_=round_).pk)


def follow(round_: Round, merged: Merged, now: datetime, *, loss: float = 5.0) -> Round:
    """Publish what was merged, if its loss lets it; the next round."""
    files = {"model": merged.model, "outer_state": merged.outer_state, "step": merged.step, "manifest": merged.manifest}
    rounds.finish_merge(round_=round_, kept=merged.kept, now=now, **files)
    rounds.finish_evaluation(round_=round_, validation_loss=loss, now=now)
    following = rounds.open_next(experiment=round_.experiment, now=now)
    assert following is not None
    return following


def read_manifest(merged: Merged) -> manifest.Manifest:
    with blobs.local_path(merged.manifest) as path:
        return manifest.read(path)


def fetch(sha256: str) -> Path:
    return Path(default_storage.path(Blob(sha256=sha256).path))


def merge(round_: Round, now: datetime, *, in_reverse: bool = False) -> Merged:
    attempts = list(round_.merged_attempts.all()) or rounds.begin_merge(round_=round_, now=now)
    return aggregation.merge(round_=round_, attempts=attempts[::-1] if in_reverse else attempts, now=now)


def test_merging_twice_and_in_any_order_gives_the_same_bytes(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    first = merge(round_, now)
    assert first.step is not None
    files = [storage / blob.path for blob in (first.model, first.outer_state, first.step, first.manifest)]
    contents = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert merge(round_, now, in_reverse=True) == first
    assert [file.read_bytes() for file in files] == contents


def test_one_delta_under_plain_averaging_lands_on_the_devices_weights(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(
        tmp_path,
        num_deltas=1,
        outer=OuterConfig(learning_rate=1.0, momentum=0.0, nesterov=False, step_codec="none"),
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
    record = read_manifest(merged)
    assert (record.experiment, record.round_number) == (round_.experiment.slug, 1)
    assert (record.result_sha256, record.result_state_sha256) == (merged.model.sha256, merged.outer_state.sha256)
    assert merged.step is not None
    assert record.step_sha256 == merged.step.sha256
    senders = dict(round_.merged_attempts.values_list("pk", "device_id"))
    assert {delta.attempt_id: delta.sender for delta in record.deltas} == senders
    copies = tmp_path / "copies"
    shutil.copytree(storage, copies)
    again = manifest.remerge(record, fetch=lambda sha256: copies / Blob(sha256=sha256).path)
    assert again.equal, again.problems


@pytest.mark.parametrize("rule", RULES)
def test_the_second_merge_of_every_rule_can_be_repeated(rule: str, tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path, outer=OuterConfig(rule=rule))
    following = follow(round_, merge(round_, now), now)
    add_deltas(tmp_path, following, 4)
    again = manifest.remerge(read_manifest(merge(following, now)), fetch=fetch)
    assert again.equal, again.problems


@pytest.mark.parametrize("codec", CODECS)
def test_the_merge_of_every_codec_can_be_repeated(codec: str, tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path, codec=codec)
    assert Attempt.objects.filter(state=Attempt.State.ACCEPTED).count() == 3
    again = manifest.remerge(read_manifest(merge(round_, now)), fetch=fetch)
    assert again.equal, again.problems


def test_the_next_merge_goes_on_from_the_outer_state(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    first = merge(round_, now)
    following = follow(round_, first, now)
    assert following.base == round_.result
    add_deltas(tmp_path, following, 1)
    assert read_manifest(merge(following, now)).outer_state_sha256 == first.outer_state.sha256


def test_a_merge_stands_on_the_schedule_where_its_round_does(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    first = merge(round_, now)
    following = follow(round_, first, now)
    add_deltas(tmp_path, following, 1)
    assert round_.experiment.num_rounds == 8
    assert [read_manifest(merged).progress for merged in (first, merge(following, now))] == [0.0, 1 / 8]


@pytest.mark.parametrize("step_codec", ["dense", "int8", "int4"])
def test_the_steps_of_a_round_lead_to_its_base_byte_for_byte(step_codec: str, tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path, outer=OuterConfig(step_codec=step_codec), num_deltas=1)
    third = follow(round_, merge(round_, now), now)
    add_deltas(tmp_path, third, 1)
    third = follow(third, merge(third, now), now)
    steps = [StepRef(**step) for step in third.steps]
    assert len(steps) == {"dense": 1, "int8": 2, "int4": 2}[step_codec]
    at = fetch(steps[0].base_sha256)
    for step in steps:
        result = tmp_path / step.sha256
        assert apply_step(base_path=at, step_path=fetch(step.sha256), result_path=result) == step.result_sha256
        at = result
    assert at.read_bytes() == fetch(third.base.blob_id).read_bytes()


def test_without_a_step_codec_no_step_is_stored(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path, outer=OuterConfig(step_codec="none"))
    merged = merge(round_, now)
    assert merged.step is None
    assert not Blob.objects.filter(kind=Blob.Kind.STEP).exists()
    assert follow(round_, merged, now).steps == []


def test_what_the_rule_left_of_each_delta_is_kept_with_its_attempt(tmp_path: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path, num_deltas=4)
    far = make_submitted_attempt(tmp_path, round_=round_, tensors=make_tensors(seed=9, scale=0.02))
    tasks.validate(far.pk)
    norms = dict(Attempt.objects.filter(state=Attempt.State.ACCEPTED).values_list("pk", "delta_norm"))
    follow(round_, merge(round_, now), now)
    kept = dict(Attempt.objects.filter(state=Attempt.State.MERGED).values_list("pk", "kept"))
    median = statistics.median(norm for norm in norms.values() if norm)
    assert kept.keys() == norms.keys()
    assert kept[far.pk] < 0.6
    for pk, norm in norms.items():
        assert kept[pk] == pytest.approx(min(1.0, median / norm), rel=1e-6)


def test_a_delta_that_was_damaged_in_storage_is_never_merged(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    attempt = Attempt.objects.earliest("pk")
    assert attempt.delta is not None
    (storage / attempt.delta.path).write_bytes(b"damaged")
    with pytest.raises(aggregation.DeltasLost) as caught:
        merge(round_, now)
    assert list(caught.value.attempts) == [attempt]
    assert not Blob.objects.filter(kind=Blob.Kind.OUTER_STATE).exists()


def test_from_a_base_damaged_in_storage_nothing_is_merged(tmp_path: Path, storage: Path, now: datetime) -> None:
    round_ = make_mergeable_round(tmp_path)
    path = storage / round_.base.blob.path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(blobs.BlobCorrupt):
        merge(round_, now)
    assert not Blob.objects.filter(kind=Blob.Kind.OUTER_STATE).exists()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_step_that_is_not_finite_does_not_stop_the_experiment(tmp_path: Path, now: datetime) -> None:
    round_ = make_small_round(tmp_path, codec="dense")
    # AdamW has no norm bound here, so that validation lets everything finite pass.
    round_.experiment.inner = InnerConfig(batch_tokens=64, beta1=0.99, beta2=0.9).to_dict()
    round_.experiment.save()
    huge = {name: np.full_like(values, 3e38) for name, values in make_tensors().items()}
    attempt = make_submitted_attempt(tmp_path, round_=round_, tensors=huge)
    tasks.validate(attempt.pk)
    merged = merge(round_, now)
    assert merged.step is None
    assert manifest.remerge(read_manifest(merged), fetch=fetch).equal
    following = follow(round_, merged, now, loss=math.nan)
    assert round_.state == Round.State.ABANDONED
    assert following.base == round_.base


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
