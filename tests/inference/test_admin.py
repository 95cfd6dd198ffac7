import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from inference.billing import charges, idempotency
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def completion() -> Completion:
    opened = charges.open_bill(
        request_id="cmpl-1",
        api_key=make_key(make_contributor("mina", credits_=1_000))[0],
        checkpoint=make_checkpoint(experiment=make_experiment(slug="study", credits_per_completion_token=3)),
        prompt_tokens=10,
        max_completion_tokens=90,
        claim=idempotency.read("once", path="/v1/completions", body={}, content_type="application/json"),
        now=NOW,
    )
    charges.settle(completion=opened, state=Completion.State.DONE, completion_tokens=27, answer=b"a secret", now=NOW)
    return opened


def test_the_operator_sees_what_was_asked_and_paid(operator: Client, completion: Completion) -> None:
    page = operator.get(reverse("admin:inference_completion_changelist")).content.decode()
    for shown in ("cmpl-1", "mina", "study@0", "111"):
        assert shown in page


def test_nobody_changes_a_bill_by_hand(operator: Client, completion: Completion) -> None:
    assert operator.get(reverse("admin:inference_completion_change", args=[completion.pk])).status_code == 200
    for name, args in (("add", []), ("delete", [completion.pk])):
        assert operator.get(reverse(f"admin:inference_completion_{name}", args=args)).status_code == 403
    posted = operator.post(reverse("admin:inference_completion_change", args=[completion.pk]), {"state": "failed"})
    assert posted.status_code == 403


def test_the_operator_sees_that_an_answer_is_kept_and_not_what_it_says(
    operator: Client, completion: Completion
) -> None:
    kept = completion.idempotent_request
    for name, args in (("changelist", []), ("change", [kept.pk])):
        page = operator.get(reverse(f"admin:inference_idempotentrequest_{name}", args=args)).content.decode()
        assert "once" in page
        assert "a secret" not in page
    assert operator.get(reverse("admin:inference_idempotentrequest_delete", args=[kept.pk])).status_code == 403
