from collections.abc import Iterator

import pytest
from redis import Redis

from contributors.models import ApiKey
from fai_project.redis_server import RedisServer
from inference.billing.bills import Bill, Outcome
from inference.billing.limits import Allowance
from inference.models import Completion
from inference.openai.shapes import Usage
from tests.contributors.make import make_contributor, make_key
from tests.inference.make import make_request
from tests.training.make import make_checkpoint, make_experiment
from training.models import Checkpoint

pytestmark = pytest.mark.django_db(transaction=True)
State = Completion.State


@pytest.fixture(autouse=True)
def _redis(redis_settings: RedisServer) -> Iterator[None]:
    with Redis.from_url(redis_settings.url) as redis:
        for key in redis.scan_iter("fai:limit:*"):
            redis.delete(key)
        yield


@pytest.fixture
def api_key() -> ApiKey:
    key, _ = make_key(make_contributor(credits_=1_000))
    ApiKey.objects.filter(pk=key.pk).update(tokens_per_minute=20)
    return ApiKey.objects.select_related("contributor").get(pk=key.pk)


@pytest.fixture
def checkpoint() -> Checkpoint:
    return make_checkpoint(experiment=make_experiment(credits_per_completion_token=1))


@pytest.mark.parametrize(
    ("state", "tokens", "used"),
    [
        (State.DONE, 8, 11),
        (State.DISCONNECTED, 2, 5),
        (State.DISCONNECTED, 0, 0),
        (State.FAILED, 0, 0),
        (State.FAILED, 2, 0),
    ],
)
async def test_the_rate_counts_what_is_paid(
    api_key: ApiKey, checkpoint: Checkpoint, state: State, tokens: int, used: int
) -> None:
    allowance = Allowance.of(api_key)
    request = make_request(max_tokens=8)
    bill = Bill(api_key, allowance=allowance)
    completion = await bill.open(request, checkpoint=checkpoint)
    assert allowance.headers["x-ratelimit-remaining-tokens"] == str(20 - 11)
    usage = Usage(prompt_tokens=request.prompt_tokens, completion_tokens=tokens)
    outcome = Outcome(state=state, usage=usage)
    assert await bill.settle(completion, lambda: outcome) == outcome
    assert allowance.headers["x-ratelimit-remaining-tokens"] == str(20 - used)
