"""Public pages: what they show, in both languages, with a bounded number of queries and nothing to run."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone, translation

from ml.protocol import DeviceState, Reason
from tests.training.make import (
    make_accepted_attempt,
    make_attempt,
    make_blob,
    make_checkpoint,
    make_closed_round,
    make_contributor,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_round,
)
from training.models import Attempt, Blob, Checkpoint, Experiment

pytestmark = pytest.mark.django_db
PAGES = ("/", "/contributors/", "/join/", "/experiments/family-gpt/")


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """A request leaves its language behind."""
    with translation.override("en"):
        yield


@pytest.fixture
def wall() -> datetime:
    return timezone.now()


def make_busy_experiment(wall: datetime, *, num_closed: int = 3, num_devices: int = 2) -> Experiment:
    """Closed rounds, an open one, and devices at work on it."""
    experiment = make_experiment(slug="family-gpt", title="Family GPT", num_rounds=8, round_tokens=200_000)
    make_checkpoint(experiment=experiment, number=0, validation_loss=7.625)
    people = [make_device(last_seen_at=wall, state=DeviceState.TRAINING) for _ in range(num_devices)]
    for number in range(1, num_closed + 1):
        round_ = make_closed_round(experiment=experiment, number=number, validation_loss=7.625 - number)
        for device in people:
            job = make_job(round_=round_)
            make_accepted_attempt(
                job=job, device=device, state=Attempt.State.MERGED, merged_into=round_, submitted_at=wall
            )
    open_round = make_round(experiment=experiment, number=num_closed + 1)
    for device in people:
        make_enrollment(device=device, experiment=experiment)
        make_attempt(
            job=make_job(round_=open_round),
            device=device,
            state=Attempt.State.RUNNING,
            progress_tokens=45_000,
            progress_loss=4.321,
        )
    return experiment


def read(client: Client, path: str, **headers: Any) -> str:
    response = client.get(path, **headers)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_english_at_its_address_and_korean_below_ko(client: Client, wall: datetime, path: str) -> None:
    make_busy_experiment(wall)
    english, korean = read(client, path), read(client, f"/ko{path}")
    assert '<html lang="en">' in english
    assert '<html lang="ko">' in korean
    assert "참여자" in korean
    assert "참여자" not in english
    assert f'href="/ko{path}"' in english
    assert f'href="{path}"' in korean


@pytest.mark.parametrize("path", PAGES)
def test_a_page_carries_no_script_and_no_inline_style(client: Client, wall: datetime, path: str) -> None:
    make_busy_experiment(wall)
    response = client.get(path)
    text = response.content.decode()
    assert "default-src 'none'" in response["Content-Security-Policy"]
    for forbidden in ("<script", "<style", " style=", " onclick=", "http://", "https://"):
        assert forbidden not in text.replace("http://testserver", "")


@pytest.mark.parametrize("path", PAGES)
def test_the_number_of_queries_does_not_grow_with_the_rows(
    client: Client, wall: datetime, django_assert_max_num_queries: Any, path: str
) -> None:
    make_busy_experiment(wall, num_closed=6, num_devices=9)
    for _ in range(5):
        make_round(experiment=make_experiment())
    with django_assert_max_num_queries(9):
        read(client, path)


def test_the_list_shows_round_loss_and_live_devices(client: Client, wall: datetime) -> None:
    make_busy_experiment(wall)
    text = read(client, "/")
    assert "Family GPT" in text
    assert "Round 4 of 8" in text
    assert "4.625" in text
    assert "untrained 7.625" in text
    assert "2 live devices" in text
    assert "<polyline" in text


def test_a_draft_is_on_no_page(client: Client) -> None:
    make_experiment(slug="secret-draft", state=Experiment.State.DRAFT)
    assert "secret-draft" not in read(client, "/")
    assert client.get("/experiments/secret-draft/").status_code == 404


def test_running_experiments_stand_before_finished_ones(client: Client, wall: datetime) -> None:
    make_experiment(title="Old and running")
    make_experiment(title="Ended", state=Experiment.State.FINISHED, finished_at=wall)
    text = read(client, "/")
    assert text.index("Old and running") < text.index("Ended")


def test_an_experiment_shows_its_curve_and_each_round(client: Client, wall: datetime) -> None:
    experiment = make_busy_experiment(wall)
    text = read(client, "/experiments/family-gpt/")
    assert "From 7.625 at round 0 to 4.625 at round 3; lower is better." in text
    assert text.count("<circle") == 4
    assert "5.625 → <b>4.625</b>" in text
    assert "200K of 200K" in text
    for checkpoint in Checkpoint.objects.filter(experiment=experiment):
        assert f'href="/api/v1/blobs/{checkpoint.blob_id}"' in text


def test_an_experiment_shows_what_each_delta_of_the_newest_merge_counted_for(client: Client, wall: datetime) -> None:
    experiment = make_experiment(slug="family-gpt", grace_seconds=90, max_staleness=3)
    before = make_closed_round(experiment=experiment, number=1, validation_loss=6.0)
    manifest = make_blob(kind=Blob.Kind.MANIFEST)
    round_ = make_closed_round(experiment=experiment, number=2, validation_loss=5.0, manifest=manifest)
    Checkpoint.objects.filter(round=round_).update(step=make_blob(kind=Blob.Kind.STEP, size_bytes=300 * 2**10))
    merged = {"state": Attempt.State.MERGED, "merged_into": round_, "delta_size_bytes": 2**20}
    make_accepted_attempt(job=make_job(round_=round_), weight=60.0, kept=1.0, **merged)
    make_accepted_attempt(job=make_job(round_=round_), weight=30.0, kept=0.25, **merged)
    make_accepted_attempt(job=make_job(round_=before), weight=10.0, kept=1.0, **merged)
    text = read(client, "/experiments/family-gpt/")
    assert "The merge of round 2" in text
    assert f'href="/api/v1/blobs/{manifest.sha256}"' in text
    assert "<small>60.0%</small>" in text
    assert "<small>7.5% · held back from 30.0%</small>" in text
    assert "<small>10.0%</small>" in text
    assert "<small>1 late</small><small>1 held back</small>" in text
    assert "3.0 MiB<small>300.0 KiB of 1.2 MiB</small>" in text
    assert "a round waits 90 seconds more" in text
    assert "A delta counts up to 3 rounds late, 50% as much for each." in text


def test_an_experiment_says_how_much_less_it_uploads_than_training_in_lockstep(client: Client, wall: datetime) -> None:
    experiment = make_experiment(slug="family-gpt")
    job = make_job(round_=make_round(experiment=experiment), token_budget=30 * 4_096)
    size_bytes = experiment.model_config.num_parameters
    make_accepted_attempt(job=job, delta_size_bytes=size_bytes)
    assert "120× less than in lockstep" in read(client, "/experiments/family-gpt/")


def test_an_open_round_counts_what_is_accepted_but_not_merged(client: Client, wall: datetime) -> None:
    experiment = make_experiment(slug="family-gpt", round_tokens=200_000)
    job = make_job(round_=make_round(experiment=experiment))
    make_accepted_attempt(job=job, verified_tokens=50_000)
    assert "50K of 200K" in read(client, "/experiments/family-gpt/")


def test_an_experiment_shows_who_gave_what(client: Client, wall: datetime) -> None:
    experiment = make_experiment(slug="family-gpt")
    round_ = make_round(experiment=experiment)
    device = make_device(contributor=make_contributor(nickname="할머니"), name="거실 컴퓨터")
    for tokens in (70_000, 30_000):
        make_accepted_attempt(job=make_job(round_=round_), device=device, verified_tokens=tokens, earned_credits=tokens)
    make_attempt(job=make_job(round_=round_), device=make_device(name="empty-handed"), state=Attempt.State.REJECTED)
    text = read(client, "/experiments/family-gpt/")
    assert '<th scope="row">할머니</th><td>거실 컴퓨터</td><td class="number">2</td>' in text
    assert "100,000" in text
    assert "empty-handed" not in text


def test_a_live_device_shows_its_progress_and_an_idle_one_the_reason(client: Client, wall: datetime) -> None:
    experiment = make_busy_experiment(wall, num_devices=1)
    idle = make_device(last_seen_at=wall, state=DeviceState.IDLE, idle_reason=Reason.ROUND_FULL)
    make_enrollment(device=idle, experiment=experiment)
    silent = make_device(last_seen_at=wall - timedelta(hours=1), name="switched-off")
    make_enrollment(device=silent, experiment=experiment)
    text = read(client, "/experiments/family-gpt/")
    assert "45% of 100K tokens · loss 4.321" in text
    assert "All of this round is given out; the next one opens soon." in text
    assert "switched-off" not in text


def test_a_device_counts_where_it_works_now_alone(client: Client, wall: datetime) -> None:
    former, present = make_experiment(slug="former"), make_experiment(slug="present")
    device = make_device(name="wanderer", last_seen_at=wall)
    make_enrollment(device=device, experiment=former, updated_at=wall - timedelta(minutes=5))
    make_enrollment(device=device, experiment=present, updated_at=wall)
    assert "wanderer" not in read(client, "/experiments/former/")
    assert "wanderer" in read(client, "/experiments/present/")


def test_how_to_join_an_experiment_names_this_server(client: Client, wall: datetime) -> None:
    make_busy_experiment(wall)
    text = read(client, "/experiments/family-gpt/")
    assert "fai join http://testserver --name YOUR-NICKNAME --experiment family-gpt" in text
    assert "fai join http://testserver --name 내-별명" in read(client, "/ko/join/")


def test_a_finished_experiment_invites_nobody(client: Client, wall: datetime) -> None:
    make_experiment(slug="family-gpt", state=Experiment.State.FINISHED, finished_at=wall)
    assert "fai join" not in read(client, "/experiments/family-gpt/")


def test_an_experiment_in_preparation_has_a_page_without_figures(client: Client) -> None:
    make_experiment(slug="family-gpt", state=Experiment.State.PREPARING)
    text = read(client, "/experiments/family-gpt/")
    assert "The first point appears once the untrained model has been measured." in text
    assert "<polyline" not in text


def test_long_tables_are_cut_until_all_is_asked_for(client: Client) -> None:
    experiment = make_experiment(slug="family-gpt", num_rounds=60)
    for number in range(1, 56):
        make_closed_round(experiment=experiment, number=number, validation_loss=4.0)
    cut, whole = read(client, "/experiments/family-gpt/"), read(client, "/experiments/family-gpt/?all")
    assert "Show every row" in cut
    assert "Show every row" not in whole
    assert cut.count("→ <b>") == 50
    assert whole.count("→ <b>") == 55


def test_contributors_are_ranked_by_credits_and_banned_ones_left_out(client: Client, wall: datetime) -> None:
    job = make_job(round_=make_round(experiment=make_experiment()))
    credits_of = {"second": 500, "first": 900, "cheat": 9_000}
    for nickname, amount in credits_of.items():
        banned_at = wall if nickname == "cheat" else None
        person = make_contributor(nickname=nickname, banned_at=banned_at)
        make_accepted_attempt(job=job, device=make_device(contributor=person), earned_credits=amount, submitted_at=wall)
        make_device(contributor=person)
    text = read(client, "/contributors/")
    assert text.index(">first<") < text.index(">second<")
    assert "cheat" not in text
    assert '<td class="number"><b>900</b></td>' in text
    assert '<td class="number">2</td>' in text


def test_recent_figures_leave_out_what_is_older_than_a_week(client: Client, wall: datetime) -> None:
    job = make_job(round_=make_round(experiment=make_experiment()))
    device = make_device()
    make_accepted_attempt(job=job, device=device, earned_credits=700, submitted_at=wall - timedelta(days=8))
    make_accepted_attempt(job=job, device=device, earned_credits=41, submitted_at=wall)
    text = read(client, "/contributors/")
    assert '<td class="number"><b>741</b></td>' in text
    assert '<td class="number">41</td>' in text


def test_the_ranking_goes_on_over_pages(client: Client) -> None:
    for _ in range(101):
        make_device()
    assert 'rel="next"' in read(client, "/contributors/")
    second = read(client, "/contributors/?page=2")
    assert '<td class="number rank">101</td>' in second
    assert 'rel="prev"' in second


def test_empty_pages_say_what_to_do(client: Client) -> None:
    assert "No experiment has been started yet." in read(client, "/")
    assert "Nobody has joined yet." in read(client, "/contributors/")


def test_names_are_escaped(client: Client) -> None:
    make_experiment(slug="family-gpt", title="<script>alert(1)</script>", description="<b>bold</b>")
    make_device(contributor=make_contributor(nickname="<img src=x>"))
    for path in ("/", "/experiments/family-gpt/", "/contributors/"):
        text = read(client, path)
        assert "<script>" not in text
        assert "<b>bold" not in text
        assert "<img src=x>" not in text


def test_an_unknown_address_has_a_page_of_its_own(client: Client) -> None:
    response = client.get("/ko/experiments/none/")
    assert response.status_code == 404
    assert "실험 목록으로" in response.content.decode()


def test_pages_cannot_be_posted_to(client: Client) -> None:
    assert client.post("/").status_code == 405


def test_health_asks_no_database(client: Client, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        response = client.get("/health")
    assert response.json() == {"status": "ok"}


def test_the_openapi_schema_is_served(client: Client) -> None:
    response = client.get("/api/schema/")
    assert response.status_code == 200
    assert b"openapi: 3" in response.content


async def test_static_files_come_whole_and_unstreamed_under_asgi(async_client: AsyncClient) -> None:
    response = await async_client.get("/static/training/pages.css")
    assert response.status_code == 200
    assert not response.streaming
    assert response["Content-Type"].startswith("text/css")
    assert len(response.content) == int(response["Content-Length"])
    unchanged = await async_client.get("/static/training/pages.css", headers={"If-None-Match": response["ETag"]})
    assert unchanged.status_code == 304
