import logging
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from inference.engine import loader
from inference.engine.loader import Loader
from ml.inference_model import InferenceModel
from tests import s3
from tests.inference.make import make_served_experiment, make_stored_checkpoint
from training.models import Checkpoint

pytestmark = pytest.mark.django_db


def make_loader(experiment: str | None = None) -> Loader:
    return Loader(experiment=experiment, num_slots=2, device="cpu", max_extra_models=2)


def polled(of: Loader) -> list[tuple[str, str]]:
    """Models and the SHA-256 of what was loaded for them."""
    return [(model, runner.sha256) for model, runner in of.poll()]


def test_each_published_checkpoint_is_loaded_once(storage: Path, tmp_path: Path) -> None:
    experiment = make_served_experiment(tmp_path)
    of = make_loader()
    assert polled(of) == [("study", experiment.checkpoints.get(number=0).blob_id)]
    assert polled(of) == []
    newer = make_stored_checkpoint(tmp_path, experiment=experiment, number=1)
    assert polled(of) == [("study", newer.blob_id)]


def test_an_engine_may_be_kept_to_one_experiment(storage: Path, tmp_path: Path) -> None:
    make_served_experiment(tmp_path, slug="one")
    make_served_experiment(tmp_path, slug="other")
    assert [model for model, _ in polled(make_loader("other"))] == ["other"]
    assert len(polled(make_loader())) == 2


def test_an_experiment_that_newer_ones_displace_is_left(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "MAX_MODELS", 1)
    make_served_experiment(tmp_path, slug="older")
    of = make_loader()
    assert [model for model, _ in polled(of)] == ["older"]
    newer = make_served_experiment(tmp_path, slug="newer")
    changes = dict(of.poll())
    assert changes.keys() == {"older", "newer"}
    assert changes["older"] is None
    newer.checkpoints.update(published_at=None)
    assert [model for model, runner in of.poll() if runner is not None] == ["older"]


def test_a_damaged_checkpoint_is_reported_and_not_served(
    storage: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_served_experiment(tmp_path)
    of = make_loader()
    polled(of)
    damaged = make_stored_checkpoint(tmp_path, experiment=experiment, number=1)
    path = storage / damaged.blob.path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with caplog.at_level(logging.ERROR):
        assert polled(of) == []
    assert "study@1 cannot be served" in caplog.text
    path.write_bytes(whole)
    assert polled(of) == []
    monkeypatch.setattr(loader.time, "monotonic", lambda: 10.0**9)
    assert polled(of) == [("study", damaged.blob_id)]


def test_a_missing_checkpoint_is_reported(storage: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = make_served_experiment(tmp_path)
    (storage / experiment.checkpoints.get().blob.path).unlink()
    with caplog.at_level(logging.ERROR):
        assert polled(make_loader()) == []
    assert "study@0 cannot be served" in caplog.text


def test_while_the_store_is_away_the_checkpoint_is_a_problem_and_tried_again(
    storage: Path, tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = make_served_experiment(tmp_path)
    of = make_loader()
    local = settings.STORAGES
    settings.STORAGES = s3.storages(settings)
    assert polled(of) == []
    (problem,) = of.problems
    assert (problem.subject, "study@0 cannot be served: storage does not answer" in problem.message) == ("study", True)
    settings.STORAGES = local
    assert polled(of) == []
    monkeypatch.setattr(loader.time, "monotonic", lambda: 10.0**9)
    assert polled(of) == [("study", experiment.checkpoints.get().blob_id)]
    assert of.problems == ()


def test_what_nobody_foresaw_in_one_checkpoint_keeps_no_other_from_being_served(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_served_experiment(tmp_path, slug="sound")
    make_stored_checkpoint(tmp_path, experiment=make_served_experiment(tmp_path, slug="odd"), number=1)
    prepare = loader.prepare
    failures = [ZeroDivisionError("what nobody foresaw")]

    def fail_once(model: Any) -> InferenceModel:
        if failures:
            raise failures.pop()
        return prepare(model)

    monkeypatch.setattr(loader, "prepare", fail_once)
    of = make_loader()
    assert [model for model, _ in polled(of)] == ["sound"]
    assert [problem.subject for problem in of.problems] == ["odd"]
    assert "Traceback" in caplog.text


def test_what_was_loaded_before_redis_went_away_is_handed_out(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=3)
    of = Loader(experiment=None, num_slots=1, device="cpu", max_extra_models=1)
    changed(of, ["study@0"])
    experiment = Checkpoint.objects.get(number=0).experiment
    newest = make_stored_checkpoint(tmp_path, experiment=experiment, number=3)

    def ask(name: str) -> bool:
        raise RedisError("away")

    changes = of.poll(wanted=["study@1"], is_idle=ask)
    name, runner = next(changes)
    assert (name, runner.sha256 if runner else "") == ("study", newest.blob_id)
    with pytest.raises(RedisError):
        next(changes)


def make_rounds(folder: Path, *, num_rounds: int) -> None:
    experiment = make_served_experiment(folder)
    for number in range(1, num_rounds):
        make_stored_checkpoint(folder, experiment=experiment, number=number)


def changed(of: Loader, wanted: list[str], *, busy: tuple[str, ...] = ()) -> list[tuple[str, int | None]]:
    """Models with the round that serves them from then on; None: none does."""
    changes = of.poll(wanted=wanted, is_idle=lambda name: name not in busy)
    numbers = dict(Checkpoint.objects.values_list("pk", "number"))
    return [(name, None if runner is None else numbers[runner.checkpoint_id]) for name, runner in changes]


def test_an_older_checkpoint_is_loaded_when_it_is_wanted(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=3)
    of = make_loader()
    assert changed(of, ["study@0"]) == [("study", 2), ("study@0", 0)]
    assert changed(of, ["study@0"]) == []


def test_what_is_wanted_and_does_not_exist_is_left_alone(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=1)
    of = make_loader()
    assert changed(of, ["study@9", "nobody@0", "study@x"]) == [("study", 0)]
    assert changed(make_loader("study"), ["other@0"]) == [("study", 0)]


def test_the_checkpoint_that_is_wanted_longest_ago_gives_its_place_away(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=5)
    of = Loader(experiment=None, num_slots=1, device="cpu", max_extra_models=2)
    changed(of, ["study@0"])
    changed(of, ["study@1", "study@0"])
    wanted = ["study@2", "study@1", "study@0"]
    assert changed(of, wanted) == [("study@0", None)]
    assert changed(of, wanted) == [("study@2", 2)]
    assert changed(of, wanted) == []


def test_a_checkpoint_that_is_read_from_keeps_its_place(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=3)
    of = Loader(experiment=None, num_slots=1, device="cpu", max_extra_models=1)
    changed(of, ["study@0"])
    assert changed(of, ["study@1", "study@0"], busy=("study@0",)) == []
    assert changed(of, ["study@1", "study@0"]) == [("study@0", None)]
    assert changed(of, ["study@1", "study@0"]) == [("study@1", 1)]


def test_a_checkpoint_under_two_names_is_loaded_once(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=1)
    changes = list(make_loader().poll(wanted=["study@0"]))
    assert [name for name, _ in changes] == ["study", "study@0"]
    assert changes[0][1] is changes[1][1]


def test_a_damaged_older_checkpoint_is_a_problem_as_long_as_it_is_wanted(storage: Path, tmp_path: Path) -> None:
    make_rounds(tmp_path, num_rounds=2)
    old = Checkpoint.objects.get(number=0)
    (storage / old.blob.path).write_bytes(b"other bytes")
    of = make_loader()
    assert changed(of, ["study@0"]) == [("study", 1)]
    (problem,) = of.problems
    assert (problem.subject, "study@0 cannot be served" in problem.message) == ("study@0", True)
    changed(of, [])
    assert of.problems == ()
