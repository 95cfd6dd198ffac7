"""What many workers at once do to attempts and rounds, on a real PostgreSQL with real threads."""

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from contributors.models import Txn
from tests.training.make import (
    BATCH,
    make_accepted_attempt,
    make_attempt_in,
    make_blob,
    make_checkpoint,
    make_closed_round,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_merged,
    make_open_round,
    make_report,
    make_round,
    make_small_round,
    make_stored,
    make_submitted_attempt,
)
from training import blobs, dispatch, earnings, experiments, jobs, reaper, rounds, tasks, uploads
from training.models import Attempt, Blob, Experiment, Job, Round
from training.transitions import EdgeRefused, TransitionLost

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("wide_pool")]

_numbers = itertools.count()
State = Attempt.State
NUM_THREADS = 20
LOSSES = (
    EdgeRefused,
    TransitionLost,
    jobs.AttemptNotYours,
    jobs.DeltaMissing,
    rounds.NothingToMerge,
    uploads.OffsetMismatch,
)


def at_once(call: Callable[[], Any], *, num_threads: int = NUM_THREADS) -> list[Any]:
    """What each of many threads got from the same call, let loose at one moment: an answer or a loss."""
    start = threading.Barrier(num_threads)

    def work() -> Any:
        try:
            start.wait()
            return call()
        except LOSSES as loss:
            return loss
        finally:
            connections.close_all()

    with ThreadPoolExecutor(num_threads) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(num_threads)]]


def winners(results: list[Any]) -> list[Any]:
    return [result for result in results if not isinstance(result, LOSSES)]


def soon() -> Any:
    return timezone.now() + timedelta(minutes=5)


def test_one_of_twenty_claims_wins() -> None:
    attempt = make_attempt_in(State.OFFERED, next_transition_at=soon())

    def claim() -> object:
        mine = Attempt.objects.get(pk=attempt.pk)
        return jobs.claim(attempt=mine, nonce=mine.nonce, now=timezone.now())

    results = at_once(claim)
    assert len(winners(results)) == 1
    assert all(not loss.ended for loss in results if isinstance(loss, jobs.AttemptNotYours))


def test_a_claim_and_an_expiry_never_both_win() -> None:
    for _ in range(10):
        now = timezone.now()
        attempt = make_attempt_in(State.OFFERED, next_transition_at=now)
        turns = iter([True, False] * 5)

        def race(attempt: Attempt = attempt, turns: Iterator[bool] = turns, now: Any = now) -> bool:
            mine, claims = Attempt.objects.get(pk=attempt.pk), next(turns)
            if claims:
                jobs.claim(attempt=mine, nonce=mine.nonce, now=now - timedelta(microseconds=1))
            else:
                jobs.expire(mine, now=now)
            return claims

        (claim_won,) = winners(at_once(race, num_threads=10))
        attempt.refresh_from_db()
        assert attempt.state == (State.RUNNING if claim_won else State.OFFER_EXPIRED)


def test_twenty_submissions_of_one_attempt_get_one_answer() -> None:
    attempt = make_attempt_in(State.RUNNING, delta=make_blob(kind=Blob.Kind.DELTA), next_transition_at=soon())

    def submit() -> object:
        return jobs.submit(attempt=Attempt.objects.get(pk=attempt.pk), report=make_report(), now=timezone.now())

    results = at_once(submit)
    assert len(winners(results)) == NUM_THREADS
    assert len(set(results)) == 1


def test_twenty_validators_of_one_attempt_book_one_earning(tmp_path: Path) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=make_small_round(tmp_path))
    at_once(lambda: tasks.validate(attempt.pk))
    attempt.refresh_from_db()
    assert attempt.state == State.ACCEPTED
    assert Txn.objects.filter(source=earnings.source_of(attempt)).count() == 1
    assert not earnings.audit(now=timezone.now()).violations


def test_validators_of_many_attempts_never_pay_beyond_the_rounds_budget(tmp_path: Path) -> None:
    round_ = make_small_round(tmp_path)
    Round.objects.update(credit_budget=3 * round_.experiment.credits_for(640))
    waiting = iter([make_submitted_attempt(tmp_path, round_=round_).pk for _ in range(10)])
    lock = threading.Lock()

    def validate() -> None:
        with lock:
            pk = next(waiting)
        tasks.validate(pk)

    at_once(validate, num_threads=10)
    assert Attempt.objects.filter(state=State.ACCEPTED).count() == 3
    assert Attempt.objects.filter(state=State.LATE).count() == 7
    assert not earnings.audit(now=timezone.now()).violations


def test_dispatchers_at_once_give_out_no_token_twice() -> None:
    round_ = make_open_round(target=100 * BATCH)
    for _ in range(12):
        device = make_device(last_seen_at=timezone.now())
        make_enrollment(device=device, experiment=round_.experiment, tokens_per_second=BATCH / 7)
    offers = [attempt for offered in at_once(lambda: dispatch.dispatch(now=timezone.now())) for attempt in offered]
    allocation = rounds.allocation(round_)
    assert sum(attempt.token_budget for attempt in offers) == allocation.live_tokens <= 100 * BATCH
    assert len({attempt.device_id for attempt in offers}) == len(offers)
    assert Job.objects.count() == len(offers) == len({attempt.job_id for attempt in offers})


def test_dispatching_while_deltas_are_accepted_never_exceeds_the_target() -> None:
    round_ = make_open_round(target=100 * BATCH)
    judged = [
        make_attempt_in(
            State.VALIDATING, job=make_job(round_=round_, token_budget=8 * BATCH), next_transition_at=soon()
        )
        for _ in range(10)
    ]
    for _ in range(10):
        device = make_device(last_seen_at=timezone.now())
        make_enrollment(device=device, experiment=round_.experiment, tokens_per_second=float(BATCH))
    waiting = iter([*judged, *[None] * 10])
    lock = threading.Lock()

    def accept_or_dispatch() -> None:
        with lock:
            attempt = next(waiting)
        if attempt is None:
            dispatch.dispatch(now=timezone.now())
        else:
            Attempt.objects.filter(pk=attempt.pk).update(state=State.ACCEPTED, verified_tokens=8 * BATCH)

    at_once(accept_or_dispatch)
    allocation = rounds.allocation(round_)
    assert allocation.accepted_tokens == 80 * BATCH
    assert allocation.accepted_tokens + allocation.live_tokens <= allocation.target_tokens


def test_one_of_twenty_merges_begins() -> None:
    round_ = make_round(experiment=make_experiment())
    attempts = {make_accepted_attempt(job=make_job(round_=round_)).pk for _ in range(3)}

    def begin() -> list[Attempt]:
        mine = Round.objects.select_related("experiment").get(pk=round_.pk)
        return rounds.begin_merge(round_=mine, now=timezone.now())

    (taken,) = winners(at_once(begin))
    assert {attempt.pk for attempt in taken} == attempts
    round_.refresh_from_db()
    assert (round_.state, round_.epoch) == (Round.State.MERGING, 1)


def test_a_delta_is_either_merged_or_retired() -> None:
    experiment = make_experiment(max_staleness=0)
    old = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    for number in range(2, 8):
        stale = [make_accepted_attempt(job=make_job(round_=old)) for _ in range(5)]
        round_ = make_round(experiment=experiment, number=number, base=old.result)
        make_accepted_attempt(job=make_job(round_=round_))
        turns = iter([True, False] * 4)

        def race(turns: Iterator[bool] = turns, round_pk: int = round_.pk) -> None:
            mine, merges = Round.objects.select_related("experiment").get(pk=round_pk), next(turns)
            if merges:
                rounds.begin_merge(round_=mine, now=timezone.now())
            else:
                rounds.retire_stale(round_=mine, now=timezone.now())

        at_once(race, num_threads=8)
        for attempt in Attempt.objects.filter(pk__in=[attempt.pk for attempt in stale]):
            assert (attempt.state == State.LATE) is (attempt.merged_into_id is None)
        Round.objects.filter(pk=round_.pk).update(state=Round.State.CLOSED)
        Attempt.objects.filter(merged_into=round_).update(state=State.MERGED)


def test_deltas_accepted_at_once_begin_one_grace() -> None:
    for _ in range(5):
        now = timezone.now()
        experiment = make_experiment(round_tokens=100 * BATCH, round_min_tokens=10 * BATCH, grace_seconds=60)
        round_ = make_round(experiment=experiment, opened_at=now, next_transition_at=now + timedelta(hours=1))
        # None alone has the least tokens, and none sees what the others have not yet committed.
        judged = [
            make_attempt_in(
                State.VALIDATING, job=make_job(round_=round_, token_budget=BATCH), next_transition_at=soon()
            )
            for _ in range(10)
        ]
        waiting = iter([attempt.pk for attempt in judged] + [None] * 10)
        lock = threading.Lock()

        def accept_or_reap(
            waiting: Iterator[int | None] = waiting, lock: Any = lock, pk: int = round_.pk, now: Any = now
        ) -> bool:
            with lock:
                accepted = next(waiting)
            if accepted is None:
                mine = Round.objects.select_related("experiment").get(pk=pk)
                return rounds.begin_grace(mine, now=now)
            Attempt.objects.filter(pk=accepted).update(state=State.ACCEPTED, verified_tokens=BATCH)
            return False

        begun = at_once(accept_or_reap)
        reaper.reap(now=now)
        round_.refresh_from_db()
        assert sum(begun) <= 1
        assert round_.next_transition_at == now + timedelta(seconds=60)
        Round.objects.filter(pk=round_.pk).update(state=Round.State.CLOSED)


def test_one_merge_worker_of_two_finishes() -> None:
    round_ = make_round(experiment=make_experiment())
    make_accepted_attempt(job=make_job(round_=round_))
    rounds.begin_merge(round_=round_, now=timezone.now())
    merged = make_merged()

    def finish() -> object:
        mine = Round.objects.get(pk=round_.pk)
        return rounds.finish_merge(round_=mine, kept={}, now=timezone.now(), **merged)

    assert len(winners(at_once(finish))) == 1
    assert round_.experiment.checkpoints.filter(number=1).count() == 1


def test_one_next_round_opens() -> None:
    experiment = make_experiment()
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)

    def advance() -> Round | None:
        return experiments.advance(experiment=Experiment.objects.get(pk=experiment.pk), now=timezone.now())

    opened = [round_ for round_ in at_once(advance) if round_ is not None]
    assert [round_.number for round_ in opened] == [2]


def test_no_round_opens_in_an_experiment_that_is_being_finished() -> None:
    for _ in range(5):
        experiment = make_experiment()
        make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
        turns = iter([True, False])

        def race(turns: Iterator[bool] = turns, pk: int = experiment.pk) -> None:
            mine = Experiment.objects.get(pk=pk)
            if next(turns):
                experiments.advance(experiment=mine, now=timezone.now())
            else:
                experiments.finish(experiment=mine, now=timezone.now())

        at_once(race, num_threads=2)
        experiment.refresh_from_db()
        assert experiment.state == Experiment.State.FINISHED
        assert not experiment.rounds.filter(state__in=Round.LIVE_STATES).exists()


def test_reapers_at_once_name_each_work_once() -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    submitted = [make_attempt_in(State.SUBMITTED, next_transition_at=long_ago).pk for _ in range(5)]
    experiment = make_experiment()
    evaluating = make_round(
        experiment=experiment,
        state=Round.State.EVALUATING,
        result=make_checkpoint(experiment=experiment, number=1, published_at=None),
        next_transition_at=long_ago,
    )
    dues = at_once(lambda: reaper.reap(now=timezone.now()), num_threads=8)
    assert sorted(pk for due in dues for pk in due.validate) == sorted(submitted)
    assert [pk for due in dues for pk in due.evaluate] == [evaluating.pk]


def test_the_same_piece_from_twenty_requests_is_stored_once(storage: Path) -> None:
    data = bytes(range(256)) * 64
    attempt = make_attempt_in(State.RUNNING, next_transition_at=soon())
    sha256 = hashlib.sha256(data).hexdigest()

    def upload() -> int:
        mine = Attempt.objects.get(pk=attempt.pk)
        uploads.announce(attempt=mine, size_bytes=len(data), sha256=sha256)
        return uploads.append(attempt=mine, offset=0, piece=data, now=timezone.now())

    assert set(winners(at_once(upload))) == {len(data)}
    attempt.refresh_from_db()
    assert attempt.delta is not None
    assert (storage / attempt.delta.path).read_bytes() == data
    assert list(storage.rglob("*.part")) == []


def test_a_delta_that_is_put_while_it_is_discarded_is_there_or_gone_whole(tmp_path: Path, storage: Path) -> None:
    for turn in range(10):
        content = f"delta {turn}".encode()
        old = make_copy(tmp_path, content)
        stored = make_stored(old, kind=Blob.Kind.DELTA)
        copies = iter([make_copy(tmp_path, content) for _ in range(5)])
        turns = iter([True, False] * 5)
        lock = threading.Lock()

        def race(turns: Iterator[bool] = turns, copies: Iterator[Path] = copies, lock: threading.Lock = lock) -> None:
            with lock:
                puts = next(turns)
                path = next(copies) if puts else None
            if path is None:
                blobs.discard(stored)  # noqa: B023 - each turn waits for its threads
            else:
                blobs.put(path=path, kind=Blob.Kind.DELTA, now=timezone.now())

        at_once(race, num_threads=10)
        assert Blob.objects.filter(pk=stored.pk).exists()
        assert (storage / stored.path).read_bytes() == content


def make_copy(folder: Path, content: bytes) -> Path:
    path = folder / f"copy-{next(_numbers)}"
    path.write_bytes(content)
    return path
