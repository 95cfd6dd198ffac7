from datetime import timedelta

import pytest

from inference import catalogue
from tests.training.make import NOW, make_checkpoint, make_experiment
from training.models import Experiment

pytestmark = pytest.mark.django_db
State = Experiment.State


def test_the_newest_published_checkpoint_is_served() -> None:
    experiment = make_experiment()
    make_checkpoint(experiment=experiment, number=0)
    published = make_checkpoint(experiment=experiment, number=1)
    make_checkpoint(experiment=experiment, number=2, published_at=None)
    assert catalogue.find(experiment.slug) == published


def test_models_are_in_order_of_their_start() -> None:
    for slug, days in (("second", 2), ("third", 3), ("first", 1)):
        make_checkpoint(experiment=make_experiment(slug=slug, started_at=NOW - timedelta(days=days)))
    assert [checkpoint.experiment.slug for checkpoint in catalogue.served()] == ["first", "second", "third"]


@pytest.mark.parametrize("state", [State.RUNNING, State.PAUSED, State.FINISHED])
def test_what_once_ran_is_served(state: State) -> None:
    checkpoint = make_checkpoint(experiment=make_experiment(state=state))
    assert list(catalogue.served()) == [checkpoint]


def test_a_draft_is_unknown() -> None:
    make_checkpoint(experiment=make_experiment(slug="draft", state=State.DRAFT))
    for model in ("draft", "nobody", "nul\0", "half a pair \ud800", "a" * 10**6):
        with pytest.raises(catalogue.ModelNotFound):
            catalogue.find(model)


@pytest.mark.parametrize("state", [State.PREPARING, State.RUNNING])
def test_an_experiment_without_a_checkpoint_is_not_ready(state: State) -> None:
    make_experiment(slug="fresh", state=state)
    with pytest.raises(catalogue.ModelNotReady):
        catalogue.find("fresh")


def test_a_rounds_checkpoint_has_a_name_of_its_own() -> None:
    experiment = make_experiment(slug="study")
    old = make_checkpoint(experiment=experiment, number=0)
    newest = make_checkpoint(experiment=experiment, number=12)
    make_checkpoint(experiment=experiment, number=13, published_at=None)
    assert catalogue.find("study@0") == old
    assert catalogue.find("study@12") == catalogue.find("study") == newest
    assert list(catalogue.published("study")) == [newest, old]
    assert (catalogue.is_pinned("study@0"), catalogue.is_pinned("study")) == (True, False)


@pytest.mark.parametrize(
    "name",
    ["study@13", "study@7", "study@", "study@-1", "study@01", "study@x", "study@²", f"study@{'9' * 5_000}", "@0"],
)
def test_a_round_without_a_published_checkpoint_is_not_found(name: str) -> None:
    experiment = make_experiment(slug="study")
    make_checkpoint(experiment=experiment, number=0)
    make_checkpoint(experiment=experiment, number=13, published_at=None)
    with pytest.raises(catalogue.ModelNotFound):
        catalogue.find(name)


def test_a_drafts_checkpoints_cannot_be_asked() -> None:
    make_checkpoint(experiment=make_experiment(slug="study", state=State.DRAFT))
    assert not catalogue.published("study").exists()
