"""What anyone may read, without a key."""

from datetime import timedelta

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from ml.protocol import PROTOCOL_VERSION
from tests.training.api.calls import BASE, State, problem
from tests.training.make import (
    make_accepted_attempt,
    make_blob,
    make_checkpoint,
    make_closed_round,
    make_experiment,
    make_job,
    make_round,
)
from training.models import Blob, Checkpoint, Experiment

pytestmark = pytest.mark.django_db


def test_the_root_says_what_answers() -> None:
    data = APIClient().get(f"{BASE}/").json()
    assert (data["service"], data["protocol_version"]) == ("fai", PROTOCOL_VERSION)


def test_experiments_are_listed_newest_first_without_drafts() -> None:
    now = timezone.now()
    older = make_experiment(started_at=now - timedelta(days=1))
    newer = make_experiment(started_at=now, state=Experiment.State.FINISHED)
    make_experiment(state=Experiment.State.DRAFT)
    make_closed_round(experiment=older, number=1, validation_loss=6.0)
    make_round(experiment=older, number=2)
    listed = APIClient().get(f"{BASE}/experiments").json()
    assert [(one["slug"], one["state"], one["round_number"]) for one in listed] == [
        (newer.slug, "finished", 0),
        (older.slug, "running", 2),
    ]


def test_one_experiment_tells_what_a_device_needs_and_the_losses_so_far() -> None:
    experiment = make_experiment()
    make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    make_checkpoint(experiment=experiment, number=2, published_at=None)
    data = APIClient().get(f"{BASE}/experiments/{experiment.slug}").json()
    assert (data["model"], data["inner"]) == (experiment.model, experiment.inner)
    assert (data["codec"], data["num_rounds"], data["round_number"]) == ("int8", 8, 1)
    assert (data["grace_seconds"], data["max_staleness"], data["staleness_percent"]) == (None, 1, 50)
    assert [(one["number"], one["validation_loss"]) for one in data["checkpoints"]] == [(0, 7.6), (1, 6.0)]


@pytest.mark.parametrize("path", ["", "/rounds", "/checkpoints/latest"])
def test_drafts_and_unknown_experiments_are_not_there(path: str) -> None:
    draft = make_experiment(state=Experiment.State.DRAFT)
    for slug in ("unknown", draft.slug):
        assert problem(APIClient().get(f"{BASE}/experiments/{slug}{path}")) == (404, "not_found")


def test_rounds_are_listed_newest_first_with_what_they_merged() -> None:
    experiment = make_experiment()
    manifest, step = make_blob(kind=Blob.Kind.MANIFEST), make_blob(kind=Blob.Kind.STEP)
    closed = make_closed_round(experiment=experiment, number=1, validation_loss=6.0, manifest=manifest)
    Checkpoint.objects.filter(round=closed).update(step=step)
    for kept in (1.0, 0.4):
        job = make_job(round_=closed)
        make_accepted_attempt(job=job, state=State.MERGED, merged_into=closed, kept=kept, delta_size_bytes=7_000)
    make_round(experiment=experiment, number=2)
    newest, first = APIClient().get(f"{BASE}/experiments/{experiment.slug}/rounds").json()
    assert (newest["number"], newest["state"], newest["validation_loss"]) == (2, "open", None)
    assert (first["num_deltas"], first["accepted_tokens"]) == (2, 200_000)
    assert (first["manifest_sha256"], first["step_sha256"]) == (manifest.sha256, step.sha256)
    assert (newest["manifest_sha256"], newest["step_sha256"]) == (None, None)
    assert (first["num_late"], first["num_held_back"], first["uploaded_bytes"]) == (0, 1, 14_000)
    assert (newest["num_deltas"], newest["accepted_tokens"], newest["uploaded_bytes"]) == (0, 0, 0)
    assert (first["base_validation_loss"], first["validation_loss"]) == (7.6, 6.0)


def test_the_latest_checkpoint_is_the_newest_published() -> None:
    experiment = make_experiment(tokenizer=make_blob(kind=Blob.Kind.TOKENIZER))
    published = make_closed_round(experiment=experiment, number=1, validation_loss=6.0).result
    make_checkpoint(experiment=experiment, number=2, published_at=None)
    data = APIClient().get(f"{BASE}/experiments/{experiment.slug}/checkpoints/latest").json()
    assert published is not None
    assert (data["number"], data["sha256"]) == (1, published.blob_id)
    assert (data["size_bytes"], data["tokenizer_sha256"]) == (published.blob.size_bytes, experiment.tokenizer_id)


def test_an_experiment_without_a_checkpoint_says_so() -> None:
    experiment = make_experiment(state=Experiment.State.PREPARING)
    response = APIClient().get(f"{BASE}/experiments/{experiment.slug}/checkpoints/latest")
    assert problem(response) == (404, "not_found")
