import pytest
from django.core.management import CommandError, call_command

from tests.training.make import make_checkpoint, make_experiment

pytestmark = pytest.mark.django_db
GIVEN = {"upstream": "http://127.0.0.1:1", "experiment": "study", "round": 0}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"experiment": "nobody"}, "There is no experiment 'nobody'"),
        ({"round": 7}, "Round 7 of 'study' has no published checkpoint"),
        ({"slots": 0}, "--slots must be at least 1"),
        ({"grace_seconds": -1.0}, "--grace-seconds must not be negative"),
        ({}, "The experiment 'study' has no tokenizer"),
    ],
)
def test_a_bridge_that_cannot_serve_says_why(options: dict[str, object], sentence: str) -> None:
    make_checkpoint(experiment=make_experiment(slug="study", tokenizer=None), number=0)
    with pytest.raises(CommandError, match=sentence):
        call_command("serve_external", **{**GIVEN, **options})
