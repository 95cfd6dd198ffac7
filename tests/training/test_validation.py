"""What a device sent is judged end to end, from a real file to its reason, its earning and its place in storage."""

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contributors import ledger
from contributors.models import Txn
from ml.protocol import Reason
from tests.ml.make_deltas import SHAPES, make_tensors
from tests.training.make import (
    make_attempt_in,
    make_closed_round,
    make_job,
    make_round,
    make_small_round,
    make_submitted_attempt,
    store_delta,
)
from training import blobs, dispatch, earnings, leases, reaper, tasks, validation
from training.models import Attempt, Blob, Round
from training.transitions import TransitionLost

pytestmark = pytest.mark.django_db

State = Attempt.State


@pytest.fixture(params=["int8", "dense"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def round_(tmp_path: Path) -> Round:
    return make_small_round(tmp_path)


def judge(attempt: Attempt) -> Attempt:
    tasks.validate(attempt.pk)
    return Attempt.objects.select_related("device__contributor").get(pk=attempt.pk)


# Accepted


def test_a_good_delta_is_accepted_and_paid(tmp_path: Path, codec: str) -> None:
    round_ = make_small_round(tmp_path, codec=codec)
    attempt = judge(make_submitted_attempt(tmp_path, round_=round_, tokens=640))
    assert (attempt.state, attempt.reason, attempt.verified_tokens) == (State.ACCEPTED, "", 640)
    assert attempt.earned_credits == round_.experiment.credits_for(640) > 0
    assert ledger.balance(attempt.device.contributor).available == attempt.earned_credits
    sent = np.concatenate([values.reshape(-1) for values in make_tensors(seed=attempt.pk).values()])
    assert attempt.delta_norm == pytest.approx(np.linalg.norm(sent), rel=0.01)
    assert attempt.next_transition_at is None
    assert not list(earnings.violations())


def test_a_part_of_the_job_is_paid_in_proportion(tmp_path: Path, round_: Round) -> None:
    attempt = judge(make_submitted_attempt(tmp_path, round_=round_, tokens=64))
    assert (attempt.state, attempt.verified_tokens) == (State.ACCEPTED, 64)
    assert attempt.earned_credits == round_.experiment.credits_for(64)


def test_a_delta_that_claims_less_than_its_report_is_paid_for_what_it_claims(tmp_path: Path, round_: Round) -> None:
    attempt = judge(make_submitted_attempt(tmp_path, round_=round_, tokens=64, report_tokens=640))
    assert (attempt.state, attempt.verified_tokens) == (State.ACCEPTED, 64)


def test_validating_twice_pays_once(tmp_path: Path, round_: Round) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    judge(attempt)
    judge(attempt)
    assert Txn.objects.filter(source=f"attempt:{attempt.pk}").count() == 1


@pytest.mark.parametrize(
    ("age", "available"), [(timedelta(seconds=99), False), (timedelta(seconds=100), True)], ids=["new", "known"]
)
def test_a_new_contributors_earning_rests_in_escrow(
    age: timedelta, available: bool, tmp_path: Path, now: datetime
) -> None:
    round_ = make_small_round(tmp_path, escrow_seconds=100)
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    contributor = attempt.device.contributor
    contributor.created_at = now - age
    validation.begin(attempt=attempt, now=now)
    validation.accept(attempt=attempt, facts=validation.check(attempt), now=now)
    balance = ledger.balance(contributor)
    assert (balance.available > 0, balance.escrow > 0) == (available, not available)


def test_an_earning_that_cannot_be_booked_takes_the_acceptance_back(
    tmp_path: Path, round_: Round, now: datetime
) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    # The ledger has booked this attempt for another amount: it refuses a second one.
    ledger.earn(
        contributor=attempt.device.contributor, amount=1, source=f"attempt:{attempt.pk}", release_at=None, now=now
    )
    with pytest.raises(ledger.IdempotencyConflict):
        tasks.validate(attempt.pk)
    attempt.refresh_from_db()
    assert (attempt.state, attempt.verified_tokens, attempt.earned_credits) == (State.VALIDATING, None, None)
    assert ledger.balance(attempt.device.contributor).available == 1


# Refused


def scaled(factor: float) -> dict[str, Any]:
    return {name: values * np.float32(factor) for name, values in make_tensors().items()}


def without_a_tensor() -> dict[str, Any]:
    return {name: values for name, values in make_tensors().items() if name != "model.norm.weight"}


def of_another_shape() -> dict[str, Any]:
    return {**make_tensors(), "model.norm.weight": np.zeros(SHAPES["model.norm.weight"][0] + 1, np.float32)}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tensors": without_a_tensor()}, Reason.WRONG_TENSORS),
        ({"tensors": of_another_shape()}, Reason.WRONG_TENSORS),
        ({"codec": "dense"}, Reason.TOO_LARGE),
        ({"experiment": "another"}, Reason.WRONG_METADATA),
        ({"round_number": 2}, Reason.WRONG_METADATA),
        ({"attempt_id": 10**9}, Reason.WRONG_METADATA),
        ({"base_sha256": "0" * 64}, Reason.WRONG_BASE),
        ({"tensors": scaled(1e6)}, Reason.NORM_OUT_OF_BOUNDS),
        ({"tokens": 704}, Reason.TOO_MANY_TOKENS),
        ({"tokens": 640, "report_tokens": 704}, Reason.TOO_MANY_TOKENS),
        ({"tokens": 640, "report_tokens": 64}, Reason.TOO_MANY_TOKENS),
        ({"tokens": 0}, Reason.NO_TOKENS),
        ({"tokens": 0, "report_tokens": 64}, Reason.NO_TOKENS),
        ({"tokens": 64, "report_tokens": 0}, Reason.NO_TOKENS),
    ],
)
def test_a_delta_that_is_not_the_jobs_is_refused(
    options: dict[str, Any], reason: Reason, tmp_path: Path, round_: Round, storage: Path
) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_, **options)
    assert attempt.delta is not None
    stored = storage / attempt.delta.path
    assert stored.exists()
    judged = judge(attempt)
    assert (judged.state, judged.reason) == (State.REJECTED, reason)
    assert judged.detail
    assert (judged.verified_tokens, judged.earned_credits, judged.delta) == (None, None, None)
    assert not stored.exists()
    assert not Blob.objects.filter(pk=attempt.delta.pk).exists()
    assert not Txn.objects.exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", Reason.MALFORMED),
        (lambda data: b"not safetensors at all", Reason.MALFORMED),
        (lambda data: data[:-1], Reason.MALFORMED),
        (lambda data: data + b"x", Reason.MALFORMED),
        (lambda data: data + b"x" * 1_000, Reason.TOO_LARGE),
        (lambda data: (2**63).to_bytes(8, "little") + data[8:], Reason.MALFORMED),
        (lambda data: with_first_scale(data, "nan"), Reason.NOT_FINITE),
        (lambda data: with_first_scale(data, "inf"), Reason.NOT_FINITE),
        (lambda data: with_first_scale(data, "-1"), Reason.MALFORMED),
    ],
)
def test_a_damaged_file_is_refused(damage: Any, reason: Reason, tmp_path: Path, round_: Round) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    spoil(attempt, tmp_path, damage)
    judged = judge(attempt)
    assert (judged.state, judged.reason) == (State.REJECTED, reason)


def with_first_scale(data: bytes, value: str) -> bytes:
    """An int8 delta begins with its scales."""
    start = 8 + int.from_bytes(data[:8], "little")
    return data[:start] + np.float32(value).tobytes() + data[start + 4 :]


def spoil(attempt: Attempt, folder: Path, damage: Any) -> None:
    assert attempt.delta is not None
    with blobs.local_path(attempt.delta) as path:
        data = path.read_bytes()
    damaged = folder / "damaged"
    damaged.write_bytes(damage(data))
    store_delta(attempt, damaged, tokens=640)


def test_no_damage_to_a_file_leaves_the_attempt_undecided(tmp_path: Path, round_: Round) -> None:
    Round.objects.update(credit_budget=10**12)
    chance = random.Random(7)
    states = set()
    for _ in range(60):
        attempt = make_submitted_attempt(tmp_path, round_=round_)
        spoil(attempt, tmp_path, lambda data: scramble(data, chance))
        states.add(judge(attempt).state)
    assert State.REJECTED in states
    assert states <= {State.REJECTED, State.ACCEPTED}


def scramble(data: bytes, chance: random.Random) -> bytes:
    """Change a few bytes, mostly in the header."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed) if chance.random() < 0.3 else 600)
        changed[place] = chance.choice([0, 0x22, 0x2C, 0x39, 0x5B, 0x7B, 0x7D, 0xFF, chance.randrange(256)])
    return bytes(changed)


def test_a_submission_without_a_delta_is_refused(round_: Round) -> None:
    attempt = make_submitted_attempt_without_delta(round_)
    judged = judge(attempt)
    assert (judged.state, judged.reason) == (State.REJECTED, Reason.WRONG_SIZE)


def make_submitted_attempt_without_delta(round_: Round) -> Attempt:
    attempt = make_attempt_in(State.SUBMITTED, job=make_job(round_=round_))
    attempt.delta = None
    attempt.save()
    return attempt


def test_a_refused_job_is_offered_again(tmp_path: Path, round_: Round) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_, tokens=0)
    assert not dispatch.orphan_jobs(round_).contains(attempt.job)
    judge(attempt)
    assert dispatch.orphan_jobs(round_).contains(attempt.job)


def test_a_delta_that_another_attempt_holds_too_is_kept(tmp_path: Path, round_: Round, storage: Path) -> None:
    mine = make_submitted_attempt(tmp_path, round_=round_)
    assert mine.delta is not None
    thief = make_submitted_attempt(tmp_path, round_=round_)
    with blobs.local_path(mine.delta) as path:
        copy = tmp_path / "copy"
        copy.write_bytes(path.read_bytes())
    store_delta(thief, copy, tokens=640)
    judged = judge(thief)
    assert (judged.state, judged.reason) == (State.REJECTED, Reason.WRONG_METADATA)
    assert (storage / mine.delta.path).exists()
    assert judge(mine).state == State.ACCEPTED


# Late


def test_a_delta_one_round_late_is_accepted_and_paid(tmp_path: Path, round_: Round) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    Round.objects.update(state=Round.State.CLOSED)
    make_round(experiment=round_.experiment, number=2)
    assert judge(attempt).state == State.ACCEPTED


def test_a_delta_too_many_rounds_late_ends_unpaid(tmp_path: Path, round_: Round, storage: Path) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    assert attempt.delta is not None
    Round.objects.update(state=Round.State.CLOSED)
    make_closed_round(experiment=round_.experiment, number=2, validation_loss=5.0)
    make_round(experiment=round_.experiment, number=3)
    judged = judge(attempt)
    assert (judged.state, judged.reason) == (State.LATE, Reason.TOO_LATE)
    assert judged.detail == "round 3 is open; this delta belongs to round 1"
    assert (judged.earned_credits, judged.delta) == (None, None)
    assert not (storage / attempt.delta.path).exists()
    assert not list(earnings.violations())


def test_what_comes_after_its_rounds_budget_is_spent_ends_unpaid(tmp_path: Path, round_: Round, storage: Path) -> None:
    budget = round_.experiment.credits_for(640)
    Round.objects.update(credit_budget=budget)
    first, second = (make_submitted_attempt(tmp_path, round_=round_) for _ in range(2))
    assert judge(first).state == State.ACCEPTED
    judged = judge(second)
    assert (judged.state, judged.reason, judged.earned_credits) == (State.LATE, Reason.ROUND_SPENT, None)
    assert judged.detail == f"round 1 has paid out its {budget} credits"
    assert second.delta is not None
    assert not (storage / second.delta.path).exists()
    assert not list(earnings.violations())


# Workers that die


def test_a_validator_that_dies_is_followed_by_another(tmp_path: Path, round_: Round, now: datetime) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    validation.begin(attempt=attempt, now=now)
    judge(attempt)
    assert Attempt.objects.get(pk=attempt.pk).state == State.VALIDATING
    assert reaper.reap(now=leases.until(now)).validate == [attempt.pk]
    assert judge(attempt).state == State.ACCEPTED


def test_a_validator_that_wakes_up_too_late_changes_nothing(tmp_path: Path, round_: Round, now: datetime) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    validation.begin(attempt=attempt, now=now)
    facts = validation.check(attempt)
    reaper.reap(now=leases.until(now))
    judge(attempt)
    with pytest.raises(TransitionLost):
        validation.accept(attempt=attempt, facts=facts, now=now)
    with pytest.raises(TransitionLost):
        validation.reject(attempt=attempt, reason=Reason.NOT_FINITE, detail="", now=now)
    assert Txn.objects.count() == 1
    assert Attempt.objects.get(pk=attempt.pk).state == State.ACCEPTED


def test_while_storage_is_away_nothing_is_decided(tmp_path: Path, round_: Round, storage: Path) -> None:
    attempt = make_submitted_attempt(tmp_path, round_=round_)
    storage.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        judge(attempt)
    assert Attempt.objects.get(pk=attempt.pk).state == State.VALIDATING
