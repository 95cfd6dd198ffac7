"""manage.py create_experiment: what is wrong is said in a sentence, and nothing is left of it."""

import threading
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from fai_project.celery import app
from tests.training.conftest import Heard
from tests.training.make import make_corpus
from training import tasks
from training.models import Experiment

pytestmark = pytest.mark.django_db


def create(slug: str = "family", **options: Any) -> None:
    call_command("create_experiment", slug, **{"corpus": "/nowhere", **options})


def test_an_experiment_is_started_and_the_control_plane_rung(heard: Heard, capsys: pytest.CaptureFixture[str]) -> None:
    create()
    assert heard("data") == [[Experiment.objects.get(state=Experiment.State.PREPARING).pk]]
    assert capsys.readouterr().out == "family is preparing\n"


def test_how_rounds_close_can_be_told() -> None:
    create(draft=True)
    asynchronous = {"round_min_tokens": 1, "grace_seconds": 0, "max_staleness": 16, "staleness_percent": 90}
    create("asynchronous", draft=True, codec="topk-64", outer={"delay": 8}, **asynchronous)
    plain, other = Experiment.objects.order_by("pk")
    assert (plain.round_min_tokens, plain.grace_seconds, plain.max_staleness) == (250_000, None, 1)
    assert {name: getattr(other, name) for name in asynchronous} == asynchronous
    assert (other.codec, other.outer_config.delay) == ("topk-64", 8)


def test_without_redis_the_reaper_will_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.conf, "broker_url", "redis://127.0.0.1:1/0")
    create()
    assert Experiment.objects.get().state == Experiment.State.PREPARING


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"round_tokens": -5}, "round_tokens: Ensure this value is greater than or equal to 0."),
        ({"rounds": 0}, "num_rounds must be at least 1"),
        ({"round_min_tokens": 2_000_000}, "round_min_tokens must lie between 1 and round_tokens"),
        ({"grace_seconds": -1}, "grace_seconds: Ensure this value is greater than or equal to 0."),
        ({"outer": {"rule": "krum"}}, "outer rule must be .* or trust, not 'krum'"),
        ({"slug": "a b"}, "Enter a valid .slug."),
        ({"model": {"n_layer": "x"}}, "n_layer must be a positive integer, not 'x'"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_created(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandError, match=sentence):
        create(**options)
    assert not Experiment.objects.exists()


@pytest.mark.parametrize("text", ["{", "[1]", "7"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="is no JSON"):
        call_command("create_experiment", "family", "--corpus", "/nowhere", "--model", text)


@pytest.mark.django_db(transaction=True)
def test_waiting_fails_with_what_the_preparation_says(heard: Heard, tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", num_documents=1)

    def prepare() -> None:
        (pk,) = heard("data")[0]
        tasks.prepare(pk)
        connections.close_all()

    control_plane = threading.Timer(0.5, prepare)
    control_plane.start()
    with pytest.raises(CommandError, match="two different documents"):
        create(corpus=str(corpus), wait=True)
    control_plane.join()
