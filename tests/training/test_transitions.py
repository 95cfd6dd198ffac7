"""Every edge of the three state machines is taken by one caller, and no other edge by anyone."""

import contextlib
import itertools
from collections.abc import Callable
from datetime import datetime

import pytest

from ml.delta_file import DeltaFacts
from ml.protocol import Reason
from tests.training.make import (
    finish_merge,
    make_attempt_in,
    make_blob,
    make_experiment,
    make_job,
    make_report,
    make_round,
)
from training import experiments, jobs, reaper, rounds, validation
from training.experiments import Prepared
from training.models import Attempt, Blob, Edges, Experiment, Round
from training.transitions import EdgeRefused, TransitionLost, move

pytestmark = pytest.mark.django_db

A, R, E = Attempt.State, Round.State, Experiment.State
LONG_AGO = datetime.fromisoformat("2026-01-01T00:00:00Z")
FACTS = DeltaFacts(tokens=1_000, norm=1.0, size_bytes=10)
REFUSALS = (EdgeRefused, TransitionLost, jobs.AttemptNotYours, jobs.DeltaMissing, rounds.NothingToMerge)


def edges(machine: Edges) -> set[tuple[str, str]]:
    return {(start, end) for start, ends in machine.items() for end in ends}


def non_edges(machine: Edges, states: type[A | R | E]) -> list[tuple[str, str]]:
    return sorted(set(itertools.product(states, states)) - edges(machine))


def state_of(row: Experiment | Round | Attempt) -> str:
    return str(type(row)._default_manager.values_list("state", flat=True).get(pk=row.pk))


# Attempts


def claim(attempt: Attempt, now: datetime) -> None:
    jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)


def submit(attempt: Attempt, now: datetime) -> None:
    jobs.submit(attempt=attempt, report=make_report(), now=now)


def release(attempt: Attempt, now: datetime) -> None:
    jobs.release(attempt=attempt, reason=Reason.RELEASED, detail="", now=now)


def fail(attempt: Attempt, now: datetime) -> None:
    jobs.release(attempt=attempt, reason=Reason.CLIENT_ERROR, detail="", now=now)


def cancel(attempt: Attempt, now: datetime) -> None:
    jobs.end(attempt, A.CANCELLED, reason=Reason.CANCELLED, now=now)


def expire(attempt: Attempt, now: datetime) -> None:
    Attempt.objects.filter(pk=attempt.pk).exclude(next_transition_at=None).update(next_transition_at=now)
    jobs.expire(attempt, now=now)


def begin_validation(attempt: Attempt, now: datetime) -> None:
    validation.begin(attempt=attempt, now=now)


def lose_validator(attempt: Attempt, now: datetime) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(next_transition_at=LONG_AGO)
    reaper.reap(now=now)


def accept(attempt: Attempt, now: datetime) -> None:
    validation.accept(attempt=attempt, facts=FACTS, now=now)


def reject(attempt: Attempt, now: datetime) -> None:
    validation.reject(attempt=attempt, reason=Reason.NOT_FINITE, detail="", now=now)


def accept_too_late(attempt: Attempt, now: datetime) -> None:
    grow_old(attempt)
    accept(attempt, now)


def merge(attempt: Attempt, now: datetime) -> None:
    round_ = attempt.job.round
    rounds.begin_merge(round_=round_, now=now)
    finish_merge(round_, now)


def retire(attempt: Attempt, now: datetime) -> None:
    rounds.retire_stale(round_=grow_old(attempt), now=now)


def grow_old(attempt: Attempt) -> Round:
    """The open round for which the attempt's delta is one round too late."""
    experiment = attempt.job.round.experiment
    too_late = attempt.job.round.number + experiment.max_staleness + 1
    newest = experiment.rounds.filter(number=too_late).first()
    if newest is None:
        experiment.rounds.update(state=R.CLOSED)
        newest = make_round(experiment=experiment, number=too_late)
    return newest


def resume(attempt: Attempt, now: datetime) -> None:
    jobs.resume(attempt=attempt, now=now)


ATTEMPT_CHANGES: dict[tuple[str, str], Callable[[Attempt, datetime], None]] = {
    (A.OFFERED, A.RUNNING): claim,
    (A.OFFERED, A.OFFER_EXPIRED): expire,
    (A.OFFERED, A.CANCELLED): cancel,
    (A.OFFERED, A.RELEASED): release,
    (A.RUNNING, A.SUBMITTED): submit,
    (A.RUNNING, A.LEASE_EXPIRED): expire,
    (A.RUNNING, A.RELEASED): release,
    (A.RUNNING, A.FAILED): fail,
    (A.RUNNING, A.CANCELLED): cancel,
    (A.SUBMITTED, A.VALIDATING): begin_validation,
    (A.VALIDATING, A.SUBMITTED): lose_validator,
    (A.VALIDATING, A.ACCEPTED): accept,
    (A.VALIDATING, A.REJECTED): reject,
    (A.VALIDATING, A.LATE): accept_too_late,
    (A.ACCEPTED, A.MERGED): merge,
    (A.ACCEPTED, A.LATE): retire,
    (A.LEASE_EXPIRED, A.RUNNING): resume,
}


def make_changeable_attempt(state: str) -> Attempt:
    delta = make_blob(kind=Blob.Kind.DELTA) if state == A.RUNNING else None
    return make_attempt_in(state, **({"delta": delta} if delta else {}))


def test_every_edge_of_an_attempt_has_a_function() -> None:
    assert set(ATTEMPT_CHANGES) == edges(Attempt.EDGES)


@pytest.mark.parametrize(("start", "end"), sorted(ATTEMPT_CHANGES))
def test_an_attempt_takes_an_allowed_edge(start: str, end: str, now: datetime) -> None:
    attempt = make_changeable_attempt(start)
    ATTEMPT_CHANGES[start, end](attempt, now)
    assert state_of(attempt) == end


@pytest.mark.parametrize(("start", "end"), non_edges(Attempt.EDGES, A))
def test_an_attempt_refuses_every_other_edge(start: str, end: str, now: datetime) -> None:
    attempt = make_changeable_attempt(start)
    with pytest.raises(EdgeRefused):
        move(attempt, end)
    for change in {change for (_, to), change in ATTEMPT_CHANGES.items() if to == end}:
        with contextlib.suppress(*REFUSALS):
            change(Attempt.objects.get(pk=attempt.pk), now)
        assert state_of(attempt) != end or start == end


@pytest.mark.parametrize(("start", "end"), sorted(ATTEMPT_CHANGES))
def test_of_two_copies_of_an_attempt_one_takes_the_edge(start: str, end: str, now: datetime) -> None:
    attempt = make_changeable_attempt(start)
    copies = [Attempt.objects.get(pk=attempt.pk) for _ in range(2)]
    move(copies[0], end)
    with pytest.raises(TransitionLost):
        move(copies[1], end)


def test_a_second_claim_is_told_that_the_attempt_runs(now: datetime) -> None:
    attempt = make_attempt_in(A.OFFERED)
    copy = Attempt.objects.get(pk=attempt.pk)
    claim(attempt, now)
    with pytest.raises(jobs.AttemptNotYours, match="is running") as lost:
        claim(copy, now)
    assert (lost.value.reason, lost.value.ended) == ("running", False)


# Rounds


def begin_merge(round_: Round, now: datetime) -> None:
    rounds.begin_merge(round_=round_, now=now)


def reopen(round_: Round, now: datetime) -> None:
    Round.objects.filter(pk=round_.pk).update(next_transition_at=LONG_AGO)
    rounds.reopen(round_=round_, now=now)


def publish(round_: Round, now: datetime) -> None:
    rounds.finish_evaluation(round_=round_, validation_loss=5.0, now=now)


def evaluate_as_broken(round_: Round, now: datetime) -> None:
    rounds.finish_evaluation(round_=round_, validation_loss=float("nan"), now=now)


def abandon(round_: Round, now: datetime) -> None:
    rounds.abandon(round_=round_, now=now)


ROUND_CHANGES: dict[tuple[str, str], Callable[[Round, datetime], None]] = {
    (R.OPEN, R.MERGING): begin_merge,
    (R.OPEN, R.ABANDONED): abandon,
    (R.MERGING, R.EVALUATING): finish_merge,
    (R.MERGING, R.OPEN): reopen,
    (R.EVALUATING, R.CLOSED): publish,
    (R.EVALUATING, R.ABANDONED): evaluate_as_broken,
}


def make_changeable_round(state: str) -> Round:
    round_ = make_round(experiment=make_experiment(), state=state)
    make_attempt_in(A.ACCEPTED, job=make_job(round_=round_))
    return round_


def test_every_edge_of_a_round_has_a_function() -> None:
    assert set(ROUND_CHANGES) == edges(Round.EDGES)


@pytest.mark.parametrize(("start", "end"), sorted(ROUND_CHANGES))
def test_a_round_takes_an_allowed_edge_and_a_new_epoch(start: str, end: str, now: datetime) -> None:
    round_ = make_changeable_round(start)
    ROUND_CHANGES[start, end](round_, now)
    round_.refresh_from_db()
    assert (round_.state, round_.epoch) == (end, 1)


@pytest.mark.parametrize(("start", "end"), non_edges(Round.EDGES, R))
def test_a_round_refuses_every_other_edge(start: str, end: str, now: datetime) -> None:
    round_ = make_changeable_round(start)
    with pytest.raises(EdgeRefused):
        move(round_, end)
    for (_, to), change in ROUND_CHANGES.items():
        if to == end and change is not evaluate_as_broken and change is not abandon:
            with pytest.raises(REFUSALS):
                change(round_, now)
    assert state_of(round_) == start


@pytest.mark.parametrize(("start", "end"), sorted(ROUND_CHANGES))
def test_of_two_copies_of_a_round_one_takes_the_edge(start: str, end: str, now: datetime) -> None:
    round_ = make_changeable_round(start)
    copy = Round.objects.select_related("experiment").get(pk=round_.pk)
    ROUND_CHANGES[start, end](round_, now)
    with pytest.raises(TransitionLost):
        ROUND_CHANGES[start, end](copy, now)


# Experiments


def start(experiment: Experiment, now: datetime) -> None:
    experiments.start(experiment=experiment, now=now)


def finish_preparation(experiment: Experiment, now: datetime) -> None:
    prepared = Prepared(
        tokenizer=make_blob(kind=Blob.Kind.TOKENIZER),
        shards=[],
        checkpoint=make_blob(),
        validation_loss=7.6,
        max_delta_bytes=1_000,
    )
    experiments.finish_preparation(experiment=experiment, prepared=prepared, now=now)


def fail_preparation(experiment: Experiment, now: datetime) -> None:
    experiments.fail_preparation(experiment=experiment, problem="no corpus")


def pause(experiment: Experiment, now: datetime) -> None:
    experiments.pause(experiment=experiment)


def resume(experiment: Experiment, now: datetime) -> None:
    experiments.resume(experiment=experiment)


def finish(experiment: Experiment, now: datetime) -> None:
    experiments.finish(experiment=experiment, now=now)


EXPERIMENT_CHANGES: dict[tuple[str, str], Callable[[Experiment, datetime], None]] = {
    (E.DRAFT, E.PREPARING): start,
    (E.PREPARING, E.RUNNING): finish_preparation,
    (E.PREPARING, E.DRAFT): fail_preparation,
    (E.RUNNING, E.PAUSED): pause,
    (E.RUNNING, E.FINISHED): finish,
    (E.PAUSED, E.RUNNING): resume,
    (E.PAUSED, E.FINISHED): finish,
}


def test_every_edge_of_an_experiment_has_a_function() -> None:
    assert set(EXPERIMENT_CHANGES) == edges(Experiment.EDGES)


@pytest.mark.parametrize(("begin", "end"), sorted(EXPERIMENT_CHANGES))
def test_an_experiment_takes_an_allowed_edge(begin: str, end: str, now: datetime) -> None:
    experiment = make_experiment(state=begin)
    EXPERIMENT_CHANGES[begin, end](experiment, now)
    assert state_of(experiment) == end


@pytest.mark.parametrize(("begin", "end"), non_edges(Experiment.EDGES, E))
def test_an_experiment_refuses_every_other_edge(begin: str, end: str, now: datetime) -> None:
    experiment = make_experiment(state=begin)
    with pytest.raises(EdgeRefused):
        move(experiment, end)
    by_another = {(E.PAUSED, E.RUNNING), (E.PREPARING, E.RUNNING)}
    for edge, change in EXPERIMENT_CHANGES.items():
        if edge[1] == end and edge not in by_another:
            with pytest.raises(REFUSALS):
                change(experiment, now)
    assert state_of(experiment) == begin


@pytest.mark.parametrize(("begin", "end"), sorted(EXPERIMENT_CHANGES))
def test_of_two_copies_of_an_experiment_one_takes_the_edge(begin: str, end: str, now: datetime) -> None:
    experiment = make_experiment(state=begin)
    copy = Experiment.objects.get(pk=experiment.pk)
    EXPERIMENT_CHANGES[begin, end](experiment, now)
    with pytest.raises(TransitionLost):
        EXPERIMENT_CHANGES[begin, end](copy, now)


# The change itself


def test_a_refused_change_leaves_the_copy_in_memory_as_it_was() -> None:
    attempt = make_attempt_in(A.OFFERED)
    Attempt.objects.filter(pk=attempt.pk).update(state=A.CANCELLED)
    with pytest.raises(TransitionLost):
        move(attempt, A.RUNNING, detail="mine")
    assert (attempt.state, attempt.detail) == (A.OFFERED, "")


def test_a_guard_that_does_not_hold_loses_the_change() -> None:
    round_ = make_round(experiment=make_experiment())
    with pytest.raises(TransitionLost):
        move(round_, R.MERGING, guard={"epoch": 1})
    assert state_of(round_) == R.OPEN


def test_a_lost_change_costs_one_query(django_assert_num_queries: Callable[[int], object]) -> None:
    attempt = make_attempt_in(A.OFFERED)
    Attempt.objects.filter(pk=attempt.pk).update(state=A.CANCELLED)
    with django_assert_num_queries(1), pytest.raises(TransitionLost):  # type: ignore[attr-defined]
        move(attempt, A.RUNNING)
