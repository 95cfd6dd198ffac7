"""An attempt from offer to submission: who may claim it, keep it, hand it in and give it back."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction

from ml.protocol import Reason
from tests.training.conftest import Heard
from tests.training.make import (
    make_attempt,
    make_attempt_in,
    make_blob,
    make_contributor,
    make_device,
    make_experiment,
    make_job,
    make_report,
    make_round,
)
from training import jobs
from training.models import Attempt, Blob, Experiment, Job

pytestmark = pytest.mark.django_db

State = Attempt.State
LEASE = timedelta(seconds=settings.LEASE_SECONDS)
OFFER = timedelta(seconds=settings.OFFER_SECONDS)


@pytest.fixture
def job() -> Job:
    return make_job(round_=make_round(experiment=make_experiment()))


def make_running_attempt(**fields: Any) -> Attempt:
    return make_attempt_in(State.RUNNING, **fields)


def make_uploaded_attempt() -> Attempt:
    return make_running_attempt(delta=make_blob(kind=Blob.Kind.DELTA))


# Offers


def test_an_offer_quotes_its_credits_and_runs_out(job: Job, now: datetime) -> None:
    attempt = jobs.offer(job=job, device=make_device(), token_budget=8_192, now=now)
    attempt.refresh_from_db()
    assert attempt.state == State.OFFERED
    assert attempt.quoted_credits == job.round.experiment.credits_for(8_192) > 0
    assert attempt.next_transition_at == now + OFFER


def test_each_offer_has_a_nonce_of_its_own(job: Job, now: datetime) -> None:
    nonces = {jobs.offer(job=job, device=make_device(), token_budget=64, now=now).nonce for _ in range(3)}
    assert len(nonces) == 3
    assert {len(nonce) for nonce in nonces} == {32}


@pytest.mark.django_db(transaction=True)
def test_a_device_is_rung_once_the_offer_is_committed(job: Job, now: datetime, heard: Heard) -> None:
    device = make_device()
    with transaction.atomic():
        attempt = jobs.offer(job=job, device=device, token_budget=64, now=now)
        assert heard(f"w:{device.pk}:jobs") == []
    assert heard(f"w:{device.pk}:jobs") == [[attempt.pk, attempt.nonce]]


@pytest.mark.parametrize("state", [State.OFFERED, State.RUNNING])
def test_a_device_has_one_attempt_under_way(state: str, job: Job, now: datetime) -> None:
    device = make_device()
    make_attempt_in(state, job=job, device=device)
    with pytest.raises(jobs.DeviceBusy):
        jobs.offer(job=job, device=device, token_budget=64, now=now)


def test_a_device_may_be_offered_more_while_its_delta_is_judged(job: Job, now: datetime) -> None:
    device = make_device()
    make_attempt_in(State.SUBMITTED, job=job, device=device)
    assert jobs.offer(job=job, device=device, token_budget=64, now=now).state == State.OFFERED


# Finding


def test_an_attempt_is_found_by_its_contributor_alone(job: Job) -> None:
    attempt = make_attempt(job=job)
    assert jobs.find(attempt_id=attempt.pk, contributor=attempt.device.contributor) == attempt
    with pytest.raises(jobs.AttemptNotFound):
        jobs.find(attempt_id=attempt.pk, contributor=make_contributor())


# Claims


def test_a_claim_takes_the_lease_and_answers_with_the_whole_job(job: Job, now: datetime) -> None:
    attempt = make_attempt(job=job, token_budget=8_192)
    spec = jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.claimed_at, attempt.next_transition_at) == (State.RUNNING, now, now + LEASE)
    experiment = job.round.experiment
    assert (spec.attempt_id, spec.experiment, spec.round_number) == (attempt.pk, experiment.slug, 1)
    assert (spec.model, spec.inner, spec.codec) == (experiment.model_config, experiment.inner_config, "int8")
    assert (spec.base.sha256, spec.shard.sha256) == (job.round.base.blob_id, job.shard.blob_id)
    assert (spec.token_budget, spec.seed, spec.max_delta_bytes) == (8_192, job.seed, experiment.max_delta_bytes)
    assert spec.quoted_credits == attempt.quoted_credits


@pytest.mark.parametrize(("number", "start", "end"), [(1, 0.0, 0.125), (8, 0.875, 1.0)])
def test_a_claim_places_the_job_on_the_experiments_cosine(number: int, start: float, end: float, now: datetime) -> None:
    job = make_job(round_=make_round(experiment=make_experiment(num_rounds=8), number=number))
    attempt = make_attempt(job=job)
    spec = jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)
    assert (spec.progress_start, spec.progress_end) == (start, end)


@pytest.mark.parametrize("nonce", ["", "0" * 31, "wrong", "é", "가" * 32])
def test_a_wrong_nonce_finds_no_attempt(nonce: str, job: Job, now: datetime) -> None:
    attempt = make_attempt(job=job)
    with pytest.raises(jobs.AttemptNotFound):
        jobs.claim(attempt=attempt, nonce=nonce, now=now)
    attempt.refresh_from_db()
    assert attempt.state == State.OFFERED


def test_a_claim_in_the_last_moment_wins(job: Job, now: datetime) -> None:
    attempt = make_attempt(job=job, next_transition_at=now + timedelta(microseconds=1))
    assert jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now).attempt_id == attempt.pk


def test_a_claim_that_comes_too_late_expires_the_offer(job: Job, now: datetime) -> None:
    attempt = make_attempt(job=job, next_transition_at=now)
    with pytest.raises(jobs.AttemptNotYours) as lost:
        jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)
    assert (lost.value.reason, lost.value.ended) == (Reason.OFFER_EXPIRED, True)
    attempt.refresh_from_db()
    assert attempt.state == State.OFFER_EXPIRED


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        (State.RUNNING, False),
        (State.SUBMITTED, False),
        (State.VALIDATING, False),
        (State.ACCEPTED, True),
        (State.CANCELLED, True),
        (State.LEASE_EXPIRED, True),
    ],
)
def test_a_claim_of_what_was_taken_says_whether_it_has_ended(state: str, ended: bool, now: datetime) -> None:
    attempt = make_attempt_in(state)
    with pytest.raises(jobs.AttemptNotYours) as lost:
        jobs.claim(attempt=attempt, nonce=attempt.nonce, now=now)
    assert lost.value.ended is ended


# Leases


def extend(attempt: Attempt, now: datetime, **progress: Any) -> Reason | None:
    return jobs.extend_lease(
        attempt_id=attempt.pk,
        device=attempt.device,
        progress_tokens=progress.get("tokens"),
        progress_loss=progress.get("loss"),
        now=now,
    )


def test_a_heartbeat_extends_the_lease_and_keeps_the_progress(now: datetime) -> None:
    attempt = make_running_attempt()
    assert extend(attempt, now, tokens=2_048, loss=6.5) is None
    attempt.refresh_from_db()
    assert (attempt.next_transition_at, attempt.progress_tokens, attempt.progress_loss) == (now + LEASE, 2_048, 6.5)


def test_a_lease_past_its_end_that_nobody_reaped_can_still_be_extended(now: datetime) -> None:
    attempt = make_running_attempt(next_transition_at=now - timedelta(seconds=1))
    assert extend(attempt, now) is None
    with pytest.raises(jobs.AttemptNotYours):
        jobs.expire(attempt, now=now)


@pytest.mark.parametrize("state", [State.OFFERED, State.SUBMITTED, State.VALIDATING, State.ACCEPTED, State.MERGED])
def test_a_heartbeat_for_what_is_not_running_but_not_lost_changes_nothing(state: str, now: datetime) -> None:
    attempt = make_attempt_in(state)
    assert extend(attempt, now, tokens=5) is None
    assert Attempt.objects.get(pk=attempt.pk).next_transition_at == attempt.next_transition_at


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.CANCELLED, Reason.EXPERIMENT_FINISHED),
        (State.REJECTED, Reason.NOT_FINITE),
    ],
)
def test_a_heartbeat_for_a_lost_attempt_says_why(state: str, reason: Reason, now: datetime) -> None:
    assert extend(make_attempt_in(state, reason=reason), now) == reason


def test_a_heartbeat_after_an_outage_takes_the_expired_attempt_up_again(now: datetime) -> None:
    attempt = make_attempt_in(State.LEASE_EXPIRED, reason=Reason.LEASE_EXPIRED, ended_at=now)
    assert extend(attempt, now) is None
    attempt.refresh_from_db()
    assert (attempt.state, attempt.reason, attempt.ended_at) == (State.RUNNING, "", None)
    assert attempt.next_transition_at is not None
    assert attempt.next_transition_at > now


def test_an_expired_attempt_is_not_taken_up_beside_another_nor_after_the_experiment(now: datetime) -> None:
    attempt = make_attempt_in(State.LEASE_EXPIRED, reason=Reason.LEASE_EXPIRED)
    other = make_attempt(device=attempt.device, job=make_job(round_=attempt.job.round), state=State.RUNNING)
    assert extend(attempt, now) == Reason.LEASE_EXPIRED
    Attempt.objects.filter(pk=other.pk).update(state=State.CANCELLED)
    Experiment.objects.update(state=Experiment.State.FINISHED)
    assert extend(attempt, now) == Reason.LEASE_EXPIRED
    assert Attempt.objects.get(pk=attempt.pk).state == State.LEASE_EXPIRED


def test_a_heartbeat_cannot_extend_another_devices_lease(now: datetime) -> None:
    attempt = make_running_attempt()
    lost = jobs.extend_lease(
        attempt_id=attempt.pk, device=make_device(), progress_tokens=1, progress_loss=None, now=now
    )
    assert lost == Reason.CANCELLED
    assert Attempt.objects.get(pk=attempt.pk).next_transition_at == attempt.next_transition_at


# Submissions


def test_a_submission_keeps_the_report_and_waits_for_validation(now: datetime) -> None:
    attempt = make_uploaded_attempt()
    receipt = jobs.submit(attempt=attempt, report=make_report(tokens=512, partial=True), now=now)
    assert (receipt.state, receipt.reason, receipt.earned_credits) == (State.SUBMITTED, None, None)
    attempt.refresh_from_db()
    assert attempt.report["tokens"] == 512
    assert attempt.next_transition_at == now + timedelta(seconds=jobs.SUBMITTED_SECONDS)


def test_submitting_before_the_delta_is_there_is_refused(now: datetime) -> None:
    attempt = make_running_attempt()
    with pytest.raises(jobs.DeltaMissing):
        jobs.submit(attempt=attempt, report=make_report(), now=now)
    attempt.refresh_from_db()
    assert attempt.state == State.RUNNING


def test_submitting_twice_returns_the_first_answer(now: datetime) -> None:
    attempt = make_uploaded_attempt()
    first = jobs.submit(attempt=attempt, report=make_report(tokens=512), now=now)
    again = jobs.submit(attempt=Attempt.objects.get(pk=attempt.pk), report=make_report(tokens=1), now=now)
    assert again == first
    attempt.refresh_from_db()
    assert attempt.report["tokens"] == 512


def test_two_submissions_at_once_get_the_same_answer(now: datetime) -> None:
    attempt = make_uploaded_attempt()
    copy = Attempt.objects.get(pk=attempt.pk)
    first = jobs.submit(attempt=attempt, report=make_report(), now=now)
    assert jobs.submit(attempt=copy, report=make_report(), now=now) == first


def test_a_submission_loses_against_an_announcement_of_another_delta(now: datetime) -> None:
    attempt = make_uploaded_attempt()
    Attempt.objects.filter(pk=attempt.pk).update(delta=None)
    with pytest.raises(jobs.AttemptNotYours):
        jobs.submit(attempt=attempt, report=make_report(), now=now)
    assert Attempt.objects.get(pk=attempt.pk).state == State.RUNNING


def test_a_submission_after_the_lease_is_over_says_so(now: datetime) -> None:
    attempt = make_attempt_in(State.LEASE_EXPIRED, reason=Reason.LEASE_EXPIRED)
    with pytest.raises(jobs.AttemptNotYours) as lost:
        jobs.submit(attempt=attempt, report=make_report(), now=now)
    assert (lost.value.reason, lost.value.ended) == (Reason.LEASE_EXPIRED, True)


# Giving back


@pytest.mark.parametrize(
    ("state", "reason", "end"),
    [
        (State.OFFERED, Reason.RELEASED, State.RELEASED),
        (State.OFFERED, Reason.CLIENT_ERROR, State.RELEASED),
        (State.RUNNING, Reason.RELEASED, State.RELEASED),
        (State.RUNNING, Reason.CLIENT_ERROR, State.FAILED),
    ],
)
def test_only_a_fault_in_a_running_attempt_fails_it(state: str, reason: Reason, end: str, now: datetime) -> None:
    attempt = make_attempt_in(state)
    receipt = jobs.release(attempt=attempt, reason=reason, detail="x" * 400, now=now)
    assert (receipt.state, receipt.reason, receipt.detail) == (end, reason, "x" * 300)
    attempt.refresh_from_db()
    assert (attempt.ended_at, attempt.next_transition_at) == (now, None)


def test_releasing_twice_returns_the_first_answer(now: datetime) -> None:
    attempt = make_running_attempt()
    copy = Attempt.objects.get(pk=attempt.pk)
    first = jobs.release(attempt=attempt, reason=Reason.CLIENT_ERROR, detail="out of memory", now=now)
    for again in (attempt, copy, Attempt.objects.get(pk=attempt.pk)):
        assert jobs.release(attempt=again, reason=Reason.RELEASED, detail="", now=now) == first


@pytest.mark.parametrize("state", [State.SUBMITTED, State.ACCEPTED, State.LEASE_EXPIRED])
def test_what_is_handed_in_or_over_cannot_be_given_back(state: str, now: datetime) -> None:
    attempt = make_attempt_in(state)
    with pytest.raises(jobs.AttemptNotYours):
        jobs.release(attempt=attempt, reason=Reason.RELEASED, detail="", now=now)


# Expiry


@pytest.mark.parametrize("state", [State.OFFERED, State.RUNNING])
def test_nothing_expires_before_its_time(state: str, now: datetime) -> None:
    attempt = make_attempt_in(state, next_transition_at=now + timedelta(microseconds=1))
    with pytest.raises(jobs.AttemptNotYours):
        jobs.expire(attempt, now=now)
    assert Attempt.objects.get(pk=attempt.pk).state == state
