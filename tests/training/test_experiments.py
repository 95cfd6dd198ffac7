"""An experiment: what may be started, what preparation leaves, and what finishing means for work under way."""

from datetime import datetime
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from ml.config import PRESETS
from ml.protocol import Reason
from tests.training.make import (
    make_accepted_attempt,
    make_attempt_in,
    make_blob,
    make_checkpoint,
    make_closed_round,
    make_experiment,
    make_job,
    make_round,
)
from training import experiments, leases
from training.experiments import Prepared
from training.models import Attempt, Blob, Experiment, Round, Shard
from training.transitions import TransitionLost

pytestmark = pytest.mark.django_db

State = Experiment.State


def make_prepared(experiment: Experiment) -> Prepared:
    shard = Shard(
        experiment=experiment,
        split=Shard.Split.TRAIN,
        index=0,
        blob=make_blob(kind=Blob.Kind.SHARD),
        num_tokens=1_000,
        dtype="uint16",
    )
    return Prepared(
        tokenizer=make_blob(kind=Blob.Kind.TOKENIZER),
        shards=[shard],
        checkpoint=make_blob(),
        validation_loss=7.6,
        max_delta_bytes=12_345,
    )


def test_a_sound_draft_is_started(now: datetime) -> None:
    experiment = make_experiment(state=State.DRAFT, problem="no corpus", started_at=None)
    experiments.start(experiment=experiment, now=now)
    experiment.refresh_from_db()
    assert (experiment.state, experiment.problem, experiment.started_at) == (State.PREPARING, "", now)
    assert experiment.next_transition_at == leases.until(now)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", {"vocab_size": 10}),
        ("model", {**PRESETS["tiny"].to_dict(), "n_embd": 3}),
        ("model", {**PRESETS["tiny"].to_dict(), "layers": 3}),
        ("inner", {"learning_rate": 0}),
        ("inner", {"batch_tokens": 64}),
        ("outer", {"momentum": 1}),
        ("codec", "zip"),
        ("round_tokens", 1_000),
        ("round_min_tokens", 0),
        ("round_min_tokens", 400_001),
        ("num_rounds", 0),
        ("job_seconds", 0),
        ("job_seconds", 3_601),
        ("shard_tokens", 100),
        ("staleness_percent", 0),
        ("staleness_percent", 101),
    ],
)
def test_a_draft_that_cannot_be_trained_is_refused_at_the_field(field: str, value: Any, now: datetime) -> None:
    experiment = make_experiment(state=State.DRAFT, **{field: value})
    with pytest.raises(ValidationError) as refusal:
        experiments.start(experiment=experiment, now=now)
    assert field in refusal.value.message_dict
    assert Experiment.objects.get(pk=experiment.pk).state == State.DRAFT


def test_what_was_prepared_is_published_and_the_first_round_opens(now: datetime) -> None:
    experiment = make_experiment(state=State.PREPARING, max_delta_bytes=0)
    prepared = make_prepared(experiment)
    round_ = experiments.finish_preparation(experiment=experiment, prepared=prepared, now=now)
    experiment.refresh_from_db()
    assert (experiment.state, experiment.max_delta_bytes) == (State.RUNNING, 12_345)
    assert experiment.tokenizer == prepared.tokenizer
    assert experiment.shards.get().blob == prepared.shards[0].blob
    checkpoint = experiment.checkpoints.get()
    assert (checkpoint.number, checkpoint.validation_loss, checkpoint.published_at) == (0, 7.6, now)
    assert round_ is not None
    assert (round_.number, round_.base) == (1, checkpoint)


def test_of_two_preparations_the_second_leaves_nothing(now: datetime) -> None:
    experiment = make_experiment(state=State.PREPARING)
    copy = Experiment.objects.get(pk=experiment.pk)
    experiments.finish_preparation(experiment=experiment, prepared=make_prepared(experiment), now=now)
    with pytest.raises(TransitionLost):
        experiments.finish_preparation(experiment=copy, prepared=make_prepared(copy), now=now)
    assert (experiment.shards.count(), experiment.checkpoints.count(), experiment.rounds.count()) == (1, 1, 1)


def test_a_failed_preparation_tells_the_operator_why() -> None:
    experiment = make_experiment(state=State.PREPARING)
    experiments.fail_preparation(experiment=experiment, problem="The corpus is empty: add files.")
    experiment.refresh_from_db()
    assert (experiment.state, experiment.problem) == (State.DRAFT, "The corpus is empty: add files.")


def test_finishing_abandons_the_round_cancels_what_is_under_way_and_keeps_what_is_handed_in(now: datetime) -> None:
    experiment = make_experiment()
    round_ = make_round(experiment=experiment)
    attempts = {state: make_attempt_in(state, job=make_job(round_=round_)) for state in Attempt.State}
    experiments.finish(experiment=experiment, now=now)
    round_.refresh_from_db()
    assert (round_.state, round_.closed_at) == (Round.State.ABANDONED, now)
    for state, attempt in attempts.items():
        attempt.refresh_from_db()
        under_way = state in (Attempt.State.OFFERED, Attempt.State.RUNNING)
        assert attempt.state == (Attempt.State.CANCELLED if under_way else state)
        assert (attempt.reason == Reason.EXPERIMENT_FINISHED) is under_way


@pytest.mark.parametrize("state", [Round.State.MERGING, Round.State.EVALUATING])
def test_finishing_lets_a_merge_come_to_its_end(state: str, now: datetime) -> None:
    experiment = make_experiment()
    round_ = make_round(experiment=experiment, state=state)
    experiments.finish(experiment=experiment, now=now)
    round_.refresh_from_db()
    assert round_.state == state


# Advancing


def test_a_running_experiment_without_a_live_round_gets_the_next(now: datetime) -> None:
    experiment = make_experiment()
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    round_ = experiments.advance(experiment=experiment, now=now)
    assert round_ is not None
    assert round_.number == 2
    assert experiments.advance(experiment=experiment, now=now) is None
    assert experiment.rounds.count() == 2


def test_an_experiment_is_finished_after_its_last_round(now: datetime) -> None:
    experiment = make_experiment(num_rounds=1)
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    assert experiments.advance(experiment=experiment, now=now) is None
    experiment.refresh_from_db()
    assert (experiment.state, experiment.finished_at) == (State.FINISHED, now)


def test_an_abandoned_round_is_followed_by_the_next(now: datetime) -> None:
    experiment = make_experiment()
    make_round(experiment=experiment, state=Round.State.ABANDONED)
    round_ = experiments.advance(experiment=experiment, now=now)
    assert round_ is not None
    assert (round_.number, round_.base.number) == (2, 0)


@pytest.mark.parametrize("state", [State.PAUSED, State.FINISHED])
def test_an_experiment_that_was_stopped_meanwhile_opens_no_round(state: str, now: datetime) -> None:
    experiment = make_experiment()
    make_checkpoint(experiment=experiment)
    Experiment.objects.filter(pk=experiment.pk).update(state=state)
    assert experiments.advance(experiment=experiment, now=now) is None
    assert not experiment.rounds.exists()


def test_credits_follow_tokens_flops_and_rate() -> None:
    experiment = make_experiment(credits_per_teraflop=1_000)
    flops = PRESETS["tiny"].training_flops_per_token
    assert experiment.credits_for(1_000_000) == 1_000_000 * flops * 1_000 // 10**12 > 0
    assert experiment.credits_for(0) == 0


def test_credits_of_parts_never_exceed_those_of_the_whole() -> None:
    experiment = make_experiment()
    whole = experiment.credits_for(experiment.round_tokens)
    assert 97 * experiment.credits_for(experiment.round_tokens // 97) <= whole


def test_a_late_attempt_of_a_finished_experiment_is_still_paid(now: datetime) -> None:
    experiment = make_experiment()
    attempt = make_accepted_attempt(job=make_job(round_=make_round(experiment=experiment)))
    experiments.finish(experiment=experiment, now=now)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.earned_credits) == (Attempt.State.ACCEPTED, experiment.credits_for(100_000))
