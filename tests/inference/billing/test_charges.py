from datetime import timedelta

import pytest

from contributors import ledger
from contributors.models import ApiKey, Contributor
from inference.billing import charges
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment
from training.models import Checkpoint

pytestmark = pytest.mark.django_db
State = Completion.State


@pytest.fixture
def api_key() -> ApiKey:
    return make_key(make_contributor(credits_=1_000))[0]


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint(experiment=make_experiment(credits_per_completion_token=2))


def open_bill(api_key: ApiKey, checkpoint: Checkpoint, *, request_id: str = "cmpl-1") -> Completion:
    return charges.open_bill(
        request_id=request_id,
        api_key=api_key,
        checkpoint=checkpoint,
        prompt_tokens=10,
        max_completion_tokens=90,
        now=NOW,
    )


def settle(completion: Completion, state: State, tokens: int) -> None:
    charges.settle(completion=completion, state=state, completion_tokens=tokens, now=NOW + timedelta(seconds=5))


def left(contributor: Contributor) -> tuple[int, int]:
    """Credits available, and held; the ledger is clean."""
    assert ledger.violations(now=NOW) == []
    balance = ledger.balance(contributor)
    return balance.available, balance.held


def test_the_most_that_a_request_can_cost_is_held(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    open_bill(api_key, checkpoint)
    assert left(api_key.contributor) == (800, 200)


@pytest.mark.parametrize(
    ("state", "tokens", "paid"),
    [
        (State.DONE, 90, 200),
        (State.DONE, 7, 34),
        (State.DONE, 0, 20),
        (State.DISCONNECTED, 7, 34),
        (State.DISCONNECTED, 0, 0),
        (State.FAILED, 7, 0),
    ],
)
def test_what_was_sent_is_paid_and_a_failure_is_free(
    api_key: ApiKey, checkpoint: Checkpoint, state: State, tokens: int, paid: int
) -> None:
    completion = open_bill(api_key, checkpoint)
    settle(completion, state, tokens)
    assert left(api_key.contributor) == (1_000 - paid, 0)
    completion.refresh_from_db()
    assert (completion.state, completion.completion_tokens) == (state, tokens)
    assert charges.credits_paid(completion) == paid


@pytest.mark.parametrize("first", [State.DONE, State.DISCONNECTED, State.FAILED])
@pytest.mark.parametrize("second", [State.DONE, State.DISCONNECTED, State.FAILED])
def test_a_request_ends_once(api_key: ApiKey, checkpoint: Checkpoint, first: State, second: State) -> None:
    completion = open_bill(api_key, checkpoint)
    settle(completion, first, 5)
    after_first = left(api_key.contributor)
    settle(completion, second, 80)
    completion.refresh_from_db()
    assert (completion.state, completion.completion_tokens) == (first, 5)
    assert left(api_key.contributor) == after_first


def test_too_few_credits_leave_no_trace(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    for number in range(5):
        open_bill(api_key, checkpoint, request_id=f"cmpl-{number}")
    with pytest.raises(ledger.InsufficientCredits):
        open_bill(api_key, checkpoint, request_id="cmpl-5")
    assert Completion.objects.count() == 5
    assert left(api_key.contributor) == (0, 1_000)


def test_a_free_model_holds_and_takes_nothing(api_key: ApiKey) -> None:
    free = make_checkpoint(experiment=make_experiment(credits_per_completion_token=0))
    completion = open_bill(api_key, free)
    settle(completion, State.DONE, 50)
    assert left(api_key.contributor) == (1_000, 0)
    assert charges.credits_paid(completion) == 0


def test_the_price_is_that_of_the_beginning(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    completion = open_bill(api_key, checkpoint)
    checkpoint.experiment.credits_per_completion_token = 50
    checkpoint.experiment.save()
    settle(completion, State.DONE, 90)
    assert left(api_key.contributor) == (800, 0)


def test_the_checkpoint_that_answered_is_noted(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    newer = make_checkpoint(experiment=checkpoint.experiment, number=1)
    completion = open_bill(api_key, checkpoint)
    charges.settle(completion=completion, state=State.DONE, completion_tokens=1, checkpoint_id=newer.pk, now=NOW)
    completion.refresh_from_db()
    assert completion.checkpoint == newer


def test_what_is_delivered_after_the_hold_expired_is_not_paid(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    completion = open_bill(api_key, checkpoint)
    late = NOW + charges.HOLD_DURATION
    assert ledger.expire_holds(now=late) == 1
    charges.settle(completion=completion, state=State.DONE, completion_tokens=90, now=late)
    completion.refresh_from_db()
    assert completion.state == State.DONE
    assert left(api_key.contributor) == (1_000, 0)


@pytest.mark.parametrize("is_expired_first", [False, True])
def test_a_request_whose_web_process_died_is_given_up(
    api_key: ApiKey, checkpoint: Checkpoint, is_expired_first: bool
) -> None:
    completion = open_bill(api_key, checkpoint)
    assert charges.reap(now=NOW + charges.LEASE_DURATION - timedelta(seconds=1)) == []
    late = NOW + charges.HOLD_DURATION
    if is_expired_first:
        ledger.expire_holds(now=late)
    assert len(charges.reap(now=late)) == 1
    assert charges.reap(now=late) == []
    completion.refresh_from_db()
    assert completion.state == State.FAILED
    assert left(api_key.contributor) == (1_000, 0)


def test_a_long_request_whose_web_process_lives_is_left_alone(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    completion = open_bill(api_key, checkpoint)
    now = NOW
    while now < NOW + charges.REQUEST_DURATION:
        now += charges.LEASE_DURATION - timedelta(seconds=1)
        assert charges.reap(now=now) == []
        charges.renew([completion.pk], now=now)
    assert left(api_key.contributor) == (800, 200)


def test_a_lease_is_not_renewed_after_the_end(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    completion = open_bill(api_key, checkpoint)
    settle(completion, State.DONE, 5)
    charges.renew([completion.pk], now=NOW + timedelta(hours=1))
    completion.refresh_from_db()
    assert completion.lease_expires_at == NOW + charges.LEASE_DURATION


def test_a_request_from_before_there_were_leases_is_given_up_with_its_hold(
    api_key: ApiKey, checkpoint: Checkpoint
) -> None:
    open_bill(api_key, checkpoint)
    Completion.objects.update(lease_expires_at=None)
    assert charges.reap(now=NOW + charges.REQUEST_DURATION) == []
    assert len(charges.reap(now=NOW + charges.HOLD_DURATION)) == 1
