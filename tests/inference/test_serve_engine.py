import pytest
from django.core.management import CommandError, call_command

from contributors import ledger
from inference import tasks
from inference.billing import charges
from inference.models import Completion
from tests.contributors.make import NOW, make_contributor, make_key
from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"experiment": "nobody"}, "There is no experiment 'nobody'"),
        ({"slots": 0}, "--slots must be at least 1"),
        ({"threads": 0}, "--threads must be at least 1"),
    ],
)
def test_an_engine_that_cannot_serve_says_why(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        call_command("serve_engine", **options)


def test_the_task_gives_up_what_nobody_works_on() -> None:
    contributor = make_contributor(credits_=1_000)
    charges.open_bill(
        request_id="cmpl-1",
        api_key=make_key(contributor)[0],
        checkpoint=make_checkpoint(experiment=make_experiment()),
        prompt_tokens=10,
        max_completion_tokens=90,
        now=NOW,
    )
    tasks.reap()
    assert Completion.objects.get().state == Completion.State.FAILED
    assert ledger.balance(contributor).available == 1_000
