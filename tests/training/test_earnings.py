"""manage.py check_ledger: silent about what is right, one line for each thing that is not."""

import io
from datetime import datetime
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from contributors import ledger
from contributors.models import Account
from tests.training.make import (
    make_accepted_attempt,
    make_attempt_in,
    make_contributor,
    make_experiment,
    make_job,
    make_round,
    make_small_round,
    make_submitted_attempt,
)
from training import earnings, tasks
from training.models import Attempt, Round

pytestmark = pytest.mark.django_db

State = Attempt.State


def make_paid_attempt(now: datetime) -> Attempt:
    attempt = make_accepted_attempt(job=make_job(round_=make_round(experiment=make_experiment())))
    pay(attempt, attempt.earned_credits or 0, now)
    return attempt


def pay(attempt: Attempt, amount: int, now: datetime) -> None:
    ledger.earn(
        contributor=attempt.device.contributor,
        amount=amount,
        source=earnings.source_of(attempt),
        release_at=None,
        now=now,
    )


def check() -> tuple[int, list[str]]:
    """Exit code and lines."""
    output = io.StringIO()
    try:
        call_command("check_ledger", stdout=output)
    except CommandError as error:
        return error.returncode, output.getvalue().splitlines()
    return 0, output.getvalue().splitlines()


def test_an_empty_ledger_is_clean() -> None:
    assert check() == (0, ["ledger clean: 0 transactions, 0 contributors, 0 credits minted"])


def test_a_ledger_after_real_work_is_clean_and_counted(tmp_path: Path) -> None:
    round_ = make_small_round(tmp_path)
    for tokens in (640, 64, 0):
        tasks.validate(make_submitted_attempt(tmp_path, round_=round_, tokens=tokens).pk)
    minted = round_.experiment.credits_for(640) + round_.experiment.credits_for(64)
    assert check() == (0, [f"ledger clean: 2 transactions, 3 contributors, {minted} credits minted"])


@pytest.mark.parametrize("state", [State.MERGED, State.LATE])
def test_an_earning_outlives_the_merge_and_growing_old(state: str, now: datetime) -> None:
    attempt = make_paid_attempt(now)
    Attempt.objects.filter(pk=attempt.pk).update(state=state)
    assert check()[0] == 0


def test_an_accepted_attempt_without_its_earning_is_found(now: datetime) -> None:
    attempt = make_accepted_attempt(job=make_job(round_=make_round(experiment=make_experiment())))
    assert check() == (1, [f"attempt {attempt.pk} earned {attempt.earned_credits} credits, the ledger paid 0"])


def test_an_earning_of_another_amount_is_found(now: datetime) -> None:
    attempt = make_paid_attempt(now)
    paid = attempt.earned_credits
    Attempt.objects.update(earned_credits=F("earned_credits") - 1)
    assert check() == (1, [f"attempt {attempt.pk} earned {(paid or 0) - 1} credits, the ledger paid {paid}"])


@pytest.mark.parametrize("state", [State.REJECTED, State.VALIDATING, State.LEASE_EXPIRED])
def test_an_earning_of_work_that_does_not_count_is_found(state: str, now: datetime) -> None:
    attempt = make_paid_attempt(now)
    Attempt.objects.update(state=state)
    assert check() == (1, [f"attempt {attempt.pk} was paid and is {state}"])


def test_an_earning_of_a_rejected_attempt_is_found(now: datetime) -> None:
    attempt = make_attempt_in(State.REJECTED)
    pay(attempt, 5, now)
    code, lines = check()
    assert code == 1
    assert f"attempt {attempt.pk} was paid and is rejected" in lines


def test_an_earning_of_an_attempt_that_never_was_is_found(now: datetime) -> None:
    ledger.earn(contributor=make_contributor(), amount=5, source="attempt:999999", release_at=None, now=now)
    assert check() == (1, ["attempt:999999 was paid and does not exist"])


def test_an_accepted_attempt_without_verified_tokens_is_found(now: datetime) -> None:
    attempt = make_attempt_in(State.ACCEPTED, verified_tokens=None)
    assert check() == (1, [f"attempt {attempt.pk} is accepted without verified tokens or credits"])


def test_a_round_that_minted_more_than_its_budget_is_found(now: datetime) -> None:
    attempt = make_paid_attempt(now)
    Round.objects.update(credit_budget=attempt.earned_credits)
    assert check()[0] == 0
    Round.objects.update(credit_budget=(attempt.earned_credits or 0) - 1)
    code, lines = check()
    assert code == 1
    assert lines == [
        f"{attempt.job.round.experiment.slug} round 1 minted {attempt.earned_credits} credits, "
        f"its budget is {(attempt.earned_credits or 0) - 1}"
    ]


def test_what_the_ledger_itself_finds_is_said_too(now: datetime) -> None:
    make_paid_attempt(now)
    Account.objects.filter(kind=Account.Kind.AVAILABLE).update(balance=F("balance") + 1)
    code, lines = check()
    assert code == 1
    assert len(lines) == 1
    assert "its postings sum to" in lines[0]
