"""Real threads on PostgreSQL: of many requests with one Idempotency-Key, one is billed."""

import pytest

from contributors import ledger
from inference.billing import charges, idempotency
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.inference.billing.test_charges_concurrency import NUM_REQUESTS, run_in_threads
from tests.training.make import make_checkpoint, make_experiment

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("wide_pool")]


def test_of_many_requests_with_one_key_one_is_billed() -> None:
    api_key, _ = make_key(make_contributor(credits_=NUM_REQUESTS * 100))
    checkpoint = make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))
    claim = idempotency.read("one", path="/v1/completions", body={"prompt": "x"}, content_type="application/json")
    refused: list[str] = []

    def ask(number: int) -> None:
        try:
            charges.open_bill(
                request_id=f"cmpl-{number}",
                api_key=api_key,
                checkpoint=checkpoint,
                prompt_tokens=10,
                max_completion_tokens=90,
                claim=claim,
                now=NOW,
            )
        except idempotency.InProgress as error:
            refused.append(str(error))

    run_in_threads(ask)
    completion = Completion.objects.get()
    assert len(refused) == NUM_REQUESTS - 1
    assert ledger.balance(api_key.contributor).held == 100
    charges.settle(completion=completion, state=Completion.State.DONE, completion_tokens=20, answer=b"said", now=NOW)
    assert idempotency.find(claim, api_key=api_key, now=NOW) is not None
    assert ledger.balance(api_key.contributor) == ledger.Balance(available=NUM_REQUESTS * 100 - 30, held=0, escrow=0)
    assert ledger.violations(now=NOW) == []
