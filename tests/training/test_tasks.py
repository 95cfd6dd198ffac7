"""The control plane's tasks: a whole experiment goes through them, and running one twice does no harm."""

import errno
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.files.storage import default_storage
from django.utils import timezone

from ml.config import ModelConfig
from ml.layout import parameter_shapes
from ml.protocol import Reason
from tests import s3
from tests.ml.make_deltas import MODEL
from tests.training.conftest import Heard
from tests.training.make import (
    make_attempt_in,
    make_corpus,
    make_delta_file,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_report,
    make_round,
    make_small_round,
    make_submitted_attempt,
    store_delta,
)
from training import blobs, dispatch, earnings, experiments, jobs, leases, rounds, tasks
from training.models import Attempt, Blob, Experiment, Round

pytestmark = pytest.mark.django_db

CONFIG = MODEL.replace(vocab_size=300)


def make_started_experiment(folder: Path, **fields: Any) -> Experiment:
    experiment = make_experiment(
        state=Experiment.State.DRAFT,
        corpus_dir=str(make_corpus(folder / "corpus")),
        model=CONFIG.to_dict(),
        inner={"batch_tokens": 64},
        credits_per_teraflop=10**6,
        round_tokens=1_280,
        round_min_tokens=64,
        **fields,
    )
    experiments.start(experiment=experiment, now=timezone.now())
    return experiment


def random_delta(config: ModelConfig, *, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, dtype=np.float32) * np.float32(1e-3)
        for name, shape in parameter_shapes(config).items()
    }


def work(attempt: Attempt, folder: Path) -> None:
    """What the attempt's device does, from the claim to the submission."""
    now = timezone.now()
    jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)
    path = folder / f"delta-{attempt.pk}"
    make_delta_file(path, attempt=attempt, tensors=random_delta(CONFIG, seed=attempt.pk), tokens=attempt.token_budget)
    store_delta(attempt, path, tokens=attempt.token_budget)
    jobs.submit(attempt=attempt, report=make_report(tokens=attempt.token_budget), now=now)


def test_an_experiment_goes_from_its_corpus_through_its_rounds_to_its_end(tmp_path: Path, heard: Heard) -> None:
    experiment = make_started_experiment(tmp_path, num_rounds=2)
    tasks.prepare(experiment.pk)
    devices = [make_device(last_seen_at=timezone.now()) for _ in range(4)]
    for device in devices:
        make_enrollment(device=device, experiment=experiment, tokens_per_second=5.0)
    for number in (1, 2):
        round_ = experiment.rounds.get(number=number)
        offers = dispatch.dispatch(now=timezone.now())
        assert sum(attempt.token_budget for attempt in offers) == 1_280
        for attempt in offers:
            work(attempt, tmp_path)
            tasks.validate(attempt.pk)
        tasks.reap()
        assert heard("merge") == [[round_.pk]]
        tasks.merge(round_.pk)
        assert heard("evaluate") == [[round_.pk]]
        tasks.evaluate(round_.pk)
        round_.refresh_from_db()
        assert (round_.state, round_.merged_attempts.count()) == (Round.State.CLOSED, 4)
    experiment.refresh_from_db()
    assert experiment.state == Experiment.State.FINISHED
    losses = experiment.checkpoints.order_by("number").values_list("validation_loss", flat=True)
    assert len(losses) == 3
    assert all(loss is not None and 0 < loss < 10 for loss in losses)
    assert set(Attempt.objects.values_list("state", flat=True)) == {Attempt.State.MERGED}
    assert not earnings.audit(now=timezone.now()).violations


def test_a_preparation_that_fails_goes_back_to_the_operator(tmp_path: Path) -> None:
    experiment = make_started_experiment(tmp_path)
    for path in (tmp_path / "corpus").iterdir():
        path.unlink()
    tasks.prepare(experiment.pk)
    experiment.refresh_from_db()
    assert experiment.state == Experiment.State.DRAFT
    assert "holds no text" in experiment.problem


def test_a_preparation_without_room_tells_the_operator_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_started_experiment(tmp_path)

    def fail(**arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blobs, "put", fail)
    tasks.prepare(experiment.pk)
    experiment.refresh_from_db()
    assert experiment.state == Experiment.State.DRAFT
    assert experiment.problem.startswith("[Errno 28] No space left on device: free some space")


@pytest.mark.parametrize("state", sorted(set(Experiment.State) - {Experiment.State.PREPARING}))
def test_only_what_is_preparing_is_prepared(state: str) -> None:
    experiment = make_experiment(state=state, corpus_dir="/nowhere")
    tasks.prepare(experiment.pk)
    experiment.refresh_from_db()
    assert (experiment.state, experiment.problem) == (state, "")


def test_preparing_again_after_it_is_done_does_nothing(tmp_path: Path) -> None:
    experiment = make_started_experiment(tmp_path)
    tasks.prepare(experiment.pk)
    tasks.prepare(experiment.pk)
    assert (experiment.rounds.count(), experiment.checkpoints.count()) == (1, 1)


def test_a_preparation_that_was_overtaken_leaves_the_winners_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_started_experiment(tmp_path)
    finish = experiments.finish_preparation

    def finish_after_another(**arguments: Any) -> Any:
        monkeypatch.undo()
        Experiment.objects.filter(pk=experiment.pk).update(state=Experiment.State.RUNNING)
        return finish(**arguments)

    monkeypatch.setattr(experiments, "finish_preparation", finish_after_another)
    tasks.prepare(experiment.pk)
    assert (experiment.rounds.count(), experiment.shards.count()) == (0, 0)


@pytest.mark.parametrize("state", sorted(set(Attempt.State) - {Attempt.State.SUBMITTED}))
def test_only_what_is_submitted_is_validated(state: str) -> None:
    attempt = make_attempt_in(state)
    tasks.validate(attempt.pk)
    attempt.refresh_from_db()
    assert attempt.state == state


def test_merging_again_after_it_is_done_does_nothing(tmp_path: Path, heard: Heard) -> None:
    round_ = make_small_round(tmp_path)
    tasks.validate(make_submitted_attempt(tmp_path, round_=round_).pk)
    tasks.merge(round_.pk)
    result = Round.objects.get(pk=round_.pk).result
    tasks.merge(round_.pk)
    assert Round.objects.get(pk=round_.pk).result == result
    assert heard("evaluate") == [[round_.pk]]


def test_merging_a_round_without_deltas_leaves_it_open(tmp_path: Path) -> None:
    round_ = make_small_round(tmp_path)
    tasks.merge(round_.pk)
    assert Round.objects.get(pk=round_.pk).state == Round.State.OPEN


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"damaged")], ids=["lost", "damaged"])
def test_a_delta_that_storage_lost_is_left_out_of_the_merge_and_stays_paid(
    damage: Callable[[Path], object], tmp_path: Path, heard: Heard
) -> None:
    round_ = make_small_round(tmp_path)
    lost, kept = (make_submitted_attempt(tmp_path, round_=round_) for _ in range(2))
    for attempt in (lost, kept):
        tasks.validate(attempt.pk)
    assert lost.delta is not None
    damage(Path(default_storage.path(lost.delta.path)))
    tasks.merge(round_.pk)
    lost.refresh_from_db()
    assert (lost.state, lost.reason) == (Attempt.State.LATE, Reason.DELTA_LOST)
    assert lost.merged_into_id is None
    assert lost.earned_credits
    assert heard("evaluate") == []
    tasks.merge(round_.pk)
    kept.refresh_from_db()
    assert kept.state == Attempt.State.MERGED
    assert not earnings.audit(now=timezone.now()).violations


def test_while_storage_is_away_a_merge_fails_and_drops_nothing(tmp_path: Path) -> None:
    round_ = make_small_round(tmp_path)
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    tasks.validate(attempt.pk)
    Path(default_storage.path("blobs")).rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        tasks.merge(round_.pk)
    attempt.refresh_from_db()
    assert attempt.state == Attempt.State.ACCEPTED


def test_while_s3_is_away_nothing_is_given_up(tmp_path: Path, settings: Any) -> None:
    local = settings.STORAGES
    round_ = make_small_round(tmp_path)
    accepted, submitted = (make_submitted_attempt(tmp_path, round_=round_) for _ in range(2))
    tasks.validate(accepted.pk)
    experiment = make_started_experiment(tmp_path)
    settings.STORAGES = s3.storages(settings)
    for task, row in ((tasks.validate, submitted), (tasks.merge, round_), (tasks.prepare, experiment)):
        with pytest.raises(blobs.BlobUnavailable):
            task(row.pk)
    accepted.refresh_from_db()
    submitted.refresh_from_db()
    experiment.refresh_from_db()
    assert (accepted.state, submitted.state) == (Attempt.State.ACCEPTED, Attempt.State.VALIDATING)
    assert (experiment.state, experiment.problem) == (Experiment.State.PREPARING, "")
    settings.STORAGES = local
    tasks.prepare(experiment.pk)
    experiment.refresh_from_db()
    assert experiment.state == Experiment.State.RUNNING


def test_a_delta_that_storage_lost_before_its_validation_is_no_fault_of_the_device(tmp_path: Path) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=make_small_round(tmp_path))
    assert attempt.delta is not None
    default_storage.delete(attempt.delta.path)
    tasks.validate(attempt.pk)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.reason) == (Attempt.State.LATE, Reason.DELTA_LOST)
    assert attempt.delta_id is None
    assert not dispatch.recent_faults(now=timezone.now()).exists()


def test_a_merge_that_died_is_done_again_with_the_same_result(tmp_path: Path, heard: Heard) -> None:
    round_ = make_small_round(tmp_path)
    for _ in range(2):
        tasks.validate(make_submitted_attempt(tmp_path, round_=round_).pk)
    long_ago = timezone.now() - leases.WORK_LEASE - timedelta(seconds=1)
    rounds.begin_merge(round_=Round.objects.get(pk=round_.pk), now=long_ago)
    tasks.merge(round_.pk)
    assert Round.objects.get(pk=round_.pk).state == Round.State.MERGING
    # Opened again it counts as past its deadline, so the minimum is enough.
    Round.objects.update(min_tokens=64)
    tasks.reap()
    assert heard("merge") == [[round_.pk]]
    tasks.merge(round_.pk)
    round_.refresh_from_db()
    assert (round_.state, round_.merged_attempts.count()) == (Round.State.EVALUATING, 2)


def test_a_merge_worker_that_was_replaced_says_nothing(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    round_ = make_small_round(tmp_path)
    tasks.validate(make_submitted_attempt(tmp_path, round_=round_).pk)
    finish = rounds.finish_merge

    def finish_too_late(**arguments: Any) -> Any:
        Round.objects.update(epoch=7)
        return finish(**arguments)

    monkeypatch.setattr(rounds, "finish_merge", finish_too_late)
    tasks.merge(round_.pk)
    assert heard("evaluate") == []
    assert Round.objects.get(pk=round_.pk).state == Round.State.MERGING


def test_a_round_that_is_not_merged_is_not_evaluated(tmp_path: Path) -> None:
    round_ = make_small_round(tmp_path)
    tasks.evaluate(round_.pk)
    assert Round.objects.get(pk=round_.pk).state == Round.State.OPEN


def test_reaping_hands_each_work_to_its_queue(tmp_path: Path, heard: Heard) -> None:
    long_ago = timezone.now() - timedelta(days=1)
    submitted = make_attempt_in(Attempt.State.SUBMITTED, next_transition_at=long_ago)
    full = make_round(experiment=make_experiment(round_tokens=100_000))
    make_attempt_in(Attempt.State.ACCEPTED, job=make_job(round_=full, token_budget=100_000))
    evaluating = make_round(experiment=make_experiment(), state=Round.State.EVALUATING, next_transition_at=long_ago)
    preparing = make_experiment(state=Experiment.State.PREPARING, next_transition_at=long_ago)
    tasks.reap()
    assert heard("data") == [[submitted.pk], [preparing.pk]]
    assert heard("merge") == [[full.pk]]
    assert heard("evaluate") == [[evaluating.pk]]


def test_dispatching_offers_work() -> None:
    round_ = make_round(experiment=make_experiment())
    make_job(round_=round_)
    device = make_device(last_seen_at=timezone.now())
    make_enrollment(device=device, experiment=round_.experiment)
    tasks.dispatch()
    assert Attempt.objects.get().device == device


def test_sweeping_removes_what_nothing_reads(tmp_path: Path) -> None:
    path = tmp_path / "delta"
    path.write_bytes(b"x")
    blob = blobs.put(path=path, kind=Blob.Kind.DELTA, now=timezone.now() - timedelta(days=2))
    tasks.sweep()
    assert not Blob.objects.filter(pk=blob.pk).exists()
