"""The chain of outer steps that leads to a round's base."""

from datetime import datetime
from typing import Any

import pytest

from ml.protocol import StepRef
from tests.training.make import make_attempt_in, make_blob, make_checkpoint, make_experiment, make_job, make_round
from training import jobs, rounds, steps
from training.models import Attempt, Blob, Checkpoint, Experiment, Round

pytestmark = pytest.mark.django_db

BASE_BYTES = 1_000


def make_chain(experiment: Experiment, *sizes: int | None) -> list[Checkpoint]:
    """The untrained checkpoint and one after each round, whose step has so many bytes; None: no step."""
    chain = [make_stepped(experiment, 0)]
    for number, size_bytes in enumerate(sizes, start=1):
        result = make_stepped(experiment, number, size_bytes=size_bytes)
        make_round(experiment=experiment, number=number, base=chain[-1], state=Round.State.CLOSED, result=result)
        chain.append(result)
    return chain


def make_stepped(experiment: Experiment, number: int, *, size_bytes: int | None = None, **fields: Any) -> Checkpoint:
    step = make_blob(kind=Blob.Kind.STEP, size_bytes=size_bytes) if size_bytes else None
    return make_checkpoint(
        experiment=experiment, number=number, blob=make_blob(size_bytes=BASE_BYTES), step=step, **fields
    )


def spans(chain: list[StepRef], checkpoints: list[Checkpoint]) -> list[tuple[int, int]]:
    """From which checkpoint's number to which each step leads."""
    numbers = {checkpoint.blob_id: checkpoint.number for checkpoint in checkpoints}
    return [(numbers[step.base_sha256], numbers[step.result_sha256]) for step in chain]


def test_the_untrained_checkpoint_has_no_step_before_it() -> None:
    (untrained,) = make_chain(make_experiment())
    assert steps.chain(untrained) == []


def test_steps_lead_to_the_base_oldest_first() -> None:
    checkpoints = make_chain(make_experiment(), 100, 200, 300)
    chain = steps.chain(checkpoints[3])
    assert spans(chain, checkpoints) == [(0, 1), (1, 2), (2, 3)]
    assert [step.size_bytes for step in chain] == [100, 200, 300]
    assert [step.sha256 for step in chain] == [checkpoint.step_id for checkpoint in checkpoints[1:]]
    assert spans(steps.chain(checkpoints[2]), checkpoints) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((400, 400, 400), [(1, 2), (2, 3)]),
        ((400, 500, 500), [(2, 3)]),
        ((400, 499, 500), [(1, 2), (2, 3)]),
        ((1, 1, BASE_BYTES), []),
    ],
)
def test_steps_have_fewer_bytes_than_the_checkpoint(sizes: tuple[int, ...], expected: list[tuple[int, int]]) -> None:
    checkpoints = make_chain(make_experiment(), *sizes)
    assert spans(steps.chain(checkpoints[-1]), checkpoints) == expected


def test_no_chain_is_longer_than_eight() -> None:
    checkpoints = make_chain(make_experiment(), *([1] * 11))
    assert spans(steps.chain(checkpoints[11]), checkpoints) == [(number, number + 1) for number in range(3, 11)]


def test_a_merge_that_left_no_step_breaks_the_chain() -> None:
    checkpoints = make_chain(make_experiment(), 10, None, 10)
    assert spans(steps.chain(checkpoints[3]), checkpoints) == [(2, 3)]
    assert steps.chain(checkpoints[2]) == []


def test_the_step_after_an_abandoned_round_begins_at_its_own_base() -> None:
    experiment = make_experiment()
    checkpoints = make_chain(experiment, 10)
    diverged = make_stepped(experiment, 2, size_bytes=10, published_at=None)
    make_round(experiment=experiment, number=2, base=checkpoints[1], state=Round.State.ABANDONED, result=diverged)
    after = make_stepped(experiment, 3, size_bytes=10)
    make_round(experiment=experiment, number=3, base=checkpoints[1], state=Round.State.CLOSED, result=after)
    assert spans(steps.chain(after), [*checkpoints, after]) == [(0, 1), (1, 3)]


def test_a_chain_is_its_own_experiments() -> None:
    checkpoints = make_chain(make_experiment(), 10, 10)
    make_chain(make_experiment(), 10, 10, 10)
    assert spans(steps.chain(checkpoints[2]), checkpoints) == [(0, 1), (1, 2)]


def test_a_chain_costs_one_query(django_assert_num_queries: Any) -> None:
    checkpoints = make_chain(make_experiment(), *([1] * 8))
    newest = Checkpoint.objects.select_related("blob").get(pk=checkpoints[-1].pk)
    with django_assert_num_queries(1):
        assert len(steps.chain(newest)) == 8


def test_a_claim_tells_the_steps_of_its_round_and_asks_for_none(now: datetime, django_assert_num_queries: Any) -> None:
    experiment = make_experiment(job_seconds=600, round_seconds=3_600)
    checkpoints = make_chain(experiment, 100, 200)
    round_ = rounds.open_next(experiment=experiment, now=now)
    assert round_ is not None
    attempt = make_attempt_in(Attempt.State.OFFERED, job=make_job(round_=round_))
    mine = jobs.find_with_job(attempt_id=attempt.pk, contributor=attempt.device.contributor)
    with django_assert_num_queries(1):
        spec = jobs.claim(attempt=mine, nonce=mine.nonce, now=now)
    assert spec.steps == tuple(steps.chain(checkpoints[2]))
    assert spec.steps[-1].result_sha256 == spec.base.sha256


@pytest.mark.parametrize(("job_seconds", "train_seconds"), [(600, 900), (5, 8), (3_000, 3_600)])
def test_a_jobs_time_box_is_half_as_long_again_and_no_longer_than_a_round(job_seconds: int, train_seconds: int) -> None:
    assert make_experiment(job_seconds=job_seconds, round_seconds=3_600).train_seconds == train_seconds
