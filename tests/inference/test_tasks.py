"""What beat sends out for completions."""

from datetime import timedelta

import pytest
from django.utils import timezone

from fai_project.celery_settings import beat_schedule, task_routes
from inference import tasks
from inference.billing import charges, idempotency
from inference.models import Completion, IdempotentRequest
from tests.contributors.make import make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db


def make_completion() -> Completion:
    """A request with an Idempotency-Key whose lease has run out, and nothing else."""
    now = timezone.now() - charges.LEASE_DURATION
    return charges.open_bill(
        request_id="cmpl-1",
        api_key=make_key(make_contributor(credits_=100))[0],
        checkpoint=make_checkpoint(experiment=make_experiment(credits_per_completion_token=1)),
        prompt_tokens=5,
        max_completion_tokens=5,
        claim=idempotency.read("one", path="/v1/completions", body={}, content_type="application/json"),
        now=now,
    )


def test_reap_gives_abandoned_requests_up() -> None:
    completion = make_completion()
    tasks.reap()
    completion.refresh_from_db()
    assert completion.state == Completion.State.FAILED
    assert completion.hold is not None
    assert completion.hold.state == "released"
    assert not IdempotentRequest.objects.exists()


def test_sweep_deletes_answers_whose_time_is_over() -> None:
    completion = make_completion()
    long_ago = timezone.now() - idempotency.KEPT - timedelta(seconds=1)
    charges.settle(
        completion=completion, state=Completion.State.DONE, completion_tokens=5, answer=b"said", now=long_ago
    )
    tasks.sweep()
    assert not IdempotentRequest.objects.exists()
    assert Completion.objects.get().state == Completion.State.DONE


def test_every_scheduled_task_has_a_queue() -> None:
    assert {entry["task"] for entry in beat_schedule.values()} <= set(task_routes)
