import logging
from pathlib import Path

import pytest

from inference import loader
from inference.loader import Loader
from tests.inference.make import make_served_experiment, make_stored_checkpoint

pytestmark = pytest.mark.django_db


def make_loader(experiment: str | None = None) -> Loader:
    return Loader(experiment=experiment, num_slots=2, device="cpu")


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
