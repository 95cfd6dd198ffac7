from datetime import timedelta

import pytest

from contributors import api_keys
from contributors.models import ApiKey
from inference.billing import charges, idempotency
from inference.billing.idempotency import Claim
from inference.models import Completion, IdempotentRequest
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
    return make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))


def make_claim(key: str = "one", body: object = "x") -> Claim:
    return idempotency.read(key, path="/v1/completions", body=body, content_type="application/json")


def open_bill(api_key: ApiKey, checkpoint: Checkpoint, claim: Claim, *, now=NOW) -> Completion:
    return charges.open_bill(
        request_id=f"cmpl-{Completion.objects.count()}",
        api_key=api_key,
        checkpoint=checkpoint,
        prompt_tokens=5,
        max_completion_tokens=5,
        claim=claim,
        now=now,
    )


def settle(completion: Completion, state: State, *, tokens: int = 5, answer: bytes | None = b"said") -> None:
    charges.settle(completion=completion, state=state, completion_tokens=tokens, answer=answer, now=NOW)


def test_the_first_answer_is_found_again(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    claim = make_claim()
    assert idempotency.find(claim, api_key=api_key, now=NOW) is None
    settle(open_bill(api_key, checkpoint, claim), State.DONE)
    kept = idempotency.find(claim, api_key=api_key, now=NOW)
    assert kept == idempotency.KeptAnswer(content_type="application/json", body=b"said")


def test_while_the_first_runs_the_key_is_in_use(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    open_bill(api_key, checkpoint, make_claim())
    with pytest.raises(idempotency.InProgress):
        idempotency.find(make_claim(), api_key=api_key, now=NOW)
    with pytest.raises(idempotency.InProgress):
        open_bill(api_key, checkpoint, make_claim())
    assert Completion.objects.count() == 1


@pytest.mark.parametrize("is_over", [False, True])
def test_another_request_with_the_same_key_is_refused(api_key: ApiKey, checkpoint: Checkpoint, is_over: bool) -> None:
    completion = open_bill(api_key, checkpoint, make_claim())
    if is_over:
        settle(completion, State.DONE)
    with pytest.raises(idempotency.KeyReused):
        idempotency.find(make_claim(body="y"), api_key=api_key, now=NOW)


def test_spaces_and_order_of_a_body_make_no_other_request() -> None:
    assert make_claim(body={"a": 1, "b": 2}) == make_claim(body={"b": 2, "a": 1})
    assert make_claim(body={"a": 1}) != make_claim(body={"a": 2})
    assert make_claim(body="\ud800").request_sha256


@pytest.mark.parametrize(("state", "tokens"), [(State.FAILED, 3), (State.DISCONNECTED, 0)])
def test_what_was_free_may_be_tried_again(api_key: ApiKey, checkpoint: Checkpoint, state: State, tokens: int) -> None:
    settle(open_bill(api_key, checkpoint, make_claim()), state, tokens=tokens)
    assert idempotency.find(make_claim(), api_key=api_key, now=NOW) is None
    settle(open_bill(api_key, checkpoint, make_claim()), State.DONE)


def test_what_was_paid_before_the_client_left_is_kept(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    settle(open_bill(api_key, checkpoint, make_claim()), State.DISCONNECTED, tokens=2)
    assert idempotency.find(make_claim(), api_key=api_key, now=NOW) is not None


def test_the_reaper_frees_the_key_with_the_hold(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    open_bill(api_key, checkpoint, make_claim())
    assert charges.reap(now=NOW + charges.LEASE_DURATION) == ["cmpl-0"]
    assert idempotency.find(make_claim(), api_key=api_key, now=NOW) is None


def test_keys_are_each_api_keys_own_and_a_successors_too(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    settle(open_bill(api_key, checkpoint, make_claim()), State.DONE)
    sibling, _ = make_key(api_key.contributor)
    assert idempotency.find(make_claim(), api_key=sibling, now=NOW) is None
    successor, _ = api_keys.rotate(key=api_key, overlap=timedelta(), now=NOW)
    assert idempotency.find(make_claim(), api_key=successor, now=NOW) is not None


def test_an_answer_is_gone_after_a_day(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    settle(open_bill(api_key, checkpoint, make_claim()), State.DONE)
    open_bill(api_key, checkpoint, make_claim("runs"))
    late = NOW + idempotency.KEPT
    assert idempotency.sweep(now=late - timedelta(seconds=1)) == 0
    assert idempotency.find(make_claim(), api_key=api_key, now=late) is None
    assert idempotency.sweep(now=late) == 1
    assert [row.key for row in IdempotentRequest.objects.all()] == ["runs"]


def test_an_expired_key_is_free_before_it_is_swept(api_key: ApiKey, checkpoint: Checkpoint) -> None:
    settle(open_bill(api_key, checkpoint, make_claim()), State.DONE)
    late = NOW + idempotency.KEPT
    open_bill(api_key, checkpoint, make_claim(body="y"), now=late)
    with pytest.raises(idempotency.InProgress):
        idempotency.find(make_claim(body="y"), api_key=api_key, now=late)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "é", "a\tb"])
def test_a_key_has_few_visible_characters(key: str) -> None:
    with pytest.raises(idempotency.KeyInvalid):
        make_claim(key)
