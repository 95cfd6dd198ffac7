"""The admin: what an operator sees, may change, and may order."""

import dataclasses
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation
from kombu.exceptions import OperationalError

from contributors import ledger
from ml.config import CODECS, OUTER_SCHEDULES, PRESETS, RULES, STEP_CODECS, OuterConfig
from ml.protocol import DeviceState, Reason
from tests.training.make import (
    make_accepted_attempt,
    make_attempt,
    make_checkpoint,
    make_closed_round,
    make_device,
    make_enrollment,
    make_experiment,
    make_job,
    make_round,
)
from training import tasks
from training.admin import commands, options
from training.models import Attempt, Blob, Checkpoint, Enrollment, Experiment, Job, Round

pytestmark = pytest.mark.django_db
State = Experiment.State
ADD = "/admin/training/experiment/add/"


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """A request leaves its language behind, and reverse() follows it."""
    with translation.override("en"):
        yield


@pytest.fixture
def operator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("operator"))
    return client


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Primary keys of the experiments whose preparation was asked for."""
    pks: list[int] = []
    monkeypatch.setattr(tasks.prepare, "delay", pks.append)
    return pks


def fields(**changes: Any) -> dict[str, Any]:
    """What an operator fills in, who changes nothing but names and folder."""
    return {
        "title": "Family GPT",
        "slug": "family-gpt",
        "description": "",
        "corpus_dir": "/data/corpus",
        "preset": "tiny",
        "model": "{}",
        "inner": "{}",
        "outer": "{}",
        "codec": "int8",
        "shard_tokens": "4000000",
        "num_rounds": "20",
        "round_tokens": "2000000",
        "round_min_tokens": "500000",
        "round_seconds": "3600",
        "grace_seconds": "",
        "job_seconds": "600",
        "max_staleness": "1",
        "staleness_percent": "50",
        "credits_per_teraflop": "1000",
        "credits_per_completion_token": "1",
        "escrow_seconds": "0",
        **changes,
    }


def change_url(experiment: Experiment) -> str:
    return reverse("admin:training_experiment_change", args=[experiment.pk])


def order(client: Client, experiment: Experiment, name: str) -> str:
    """Press a button; returns what the operator is told."""
    url = reverse("admin:training_experiment_command", args=[experiment.pk, name])
    response = client.post(url, follow=True)
    assert response.status_code == 200
    experiment.refresh_from_db()
    return " ".join(str(message) for message in response.context["messages"])


def errors(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200
    found: dict[str, list[str]] = response.context["adminform"].form.errors
    return found


def test_a_draft_is_made_from_a_preset_with_defaults_that_can_run(operator: Client) -> None:
    shown = operator.get(ADD)
    initial = {name: field.initial for name, field in shown.context["adminform"].form.fields.items()}
    assert initial["preset"] == "m4"
    response = operator.post(ADD, fields())
    assert response.status_code == 302
    experiment = Experiment.objects.get(slug="family-gpt")
    assert experiment.state == State.DRAFT
    assert experiment.model_config == PRESETS["tiny"]


def test_what_differs_from_the_preset_is_laid_over_it(operator: Client) -> None:
    operator.post(ADD, fields(model='{"block_size": 64}'))
    assert Experiment.objects.get().model_config == PRESETS["tiny"].replace(block_size=64)


def test_without_a_preset_the_json_says_everything(operator: Client) -> None:
    assert "model" in errors(operator.post(ADD, fields(preset="", model="{}")))
    assert "model" in errors(operator.post(ADD, fields(preset="", model='{"n_layer": 2}')))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": '{"n_head": 3}'}, "model"),
        ({"model": '{"layers": 3}'}, "model"),
        ({"model": "[1]"}, "model"),
        ({"model": "{"}, "model"),
        ({"inner": "5"}, "inner"),
        ({"inner": '{"learning_rate": -1}'}, "inner"),
        ({"outer": '{"momentum": "much"}'}, "outer"),
        ({"codec": "zip"}, "codec"),
        ({"codec": "topk-65"}, "codec"),
        ({"outer": '{"rule": "krum"}'}, "outer"),
        ({"outer": '{"step_codec": "topk-64"}'}, "outer"),
        ({"outer": '{"schedule": "wsd"}'}, "outer"),
        ({"outer": '{"delay": 0}'}, "outer"),
        ({"outer": '{"trim_share": 1}'}, "outer"),
        ({"outer": '{"min_learning_rate_ratio": 2}'}, "outer"),
        ({"grace_seconds": "-1"}, "grace_seconds"),
        ({"grace_seconds": "soon"}, "grace_seconds"),
        ({"round_tokens": "10"}, "round_tokens"),
        ({"round_min_tokens": "3000000"}, "round_min_tokens"),
        ({"num_rounds": "0"}, "num_rounds"),
        ({"num_rounds": "many"}, "num_rounds"),
    ],
)
def test_what_cannot_be_trained_is_said_beside_its_field(operator: Client, changes: dict[str, str], field: str) -> None:
    assert field in errors(operator.post(ADD, fields(**changes)))
    assert not Experiment.objects.exists()


@pytest.mark.parametrize(("written", "grace_seconds"), [("", None), ("0", 0), ("90", 90)])
def test_a_round_may_have_a_grace_or_none(operator: Client, written: str, grace_seconds: int | None) -> None:
    operator.post(ADD, fields(grace_seconds=written))
    assert Experiment.objects.get().grace_seconds == grace_seconds


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_can_be_chosen(operator: Client, codec: str) -> None:
    operator.post(ADD, fields(codec=codec))
    assert Experiment.objects.get().codec == codec


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_codec_says_what_it_costs_and_every_outer_member_what_it_does(language: str) -> None:
    with translation.override(language):
        texts = dict(options.codec_choices())
        help_text = str(options.OUTER_HELP)
    assert list(texts) == list(CODECS)
    assert len(set(texts.values())) == len(CODECS)
    assert "0.44" in texts["topk-128"]
    assert "0.88" in texts["ternary-640"]
    for field in dataclasses.fields(OuterConfig):
        assert re.search(rf"<code>[^<]*\b{field.name}\b", help_text), field.name
    for choice in (*RULES, *OUTER_SCHEDULES, *STEP_CODECS):
        assert choice in help_text


def test_start_prepares_once_the_change_is_committed(
    operator: Client, prepared: list[int], django_capture_on_commit_callbacks: Any
) -> None:
    experiment = make_experiment(state=State.DRAFT)
    with django_capture_on_commit_callbacks(execute=True):
        order(operator, experiment, "start")
        assert not prepared
    assert prepared == [experiment.pk]
    assert experiment.state == State.PREPARING


@pytest.mark.parametrize(
    ("before", "name", "after"),
    [
        (State.RUNNING, "pause", State.PAUSED),
        (State.PAUSED, "resume", State.RUNNING),
        (State.RUNNING, "finish", State.FINISHED),
        (State.PAUSED, "finish", State.FINISHED),
    ],
)
def test_a_button_moves_the_experiment_and_says_so(operator: Client, before: State, name: str, after: State) -> None:
    experiment = make_experiment(state=before)
    assert order(operator, experiment, name) == str(commands.COMMANDS[name].done)
    assert experiment.state == after


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_what_the_state_does_not_allow_is_refused_in_words(
    operator: Client, prepared: list[int], state: State, name: str
) -> None:
    experiment = make_experiment(state=state)
    allowed = name in commands.available(experiment)
    assert ("Not done" in order(operator, experiment, name)) is not allowed
    assert (experiment.state == state) is not allowed


def test_buttons_are_shown_for_what_the_state_allows(operator: Client) -> None:
    shown = {
        state: re.findall(r"/(\w+)/command/", operator.get(change_url(make_experiment(state=state))).content.decode())
        for state in State
    }
    assert shown == {
        State.DRAFT: ["start"],
        State.PREPARING: [],
        State.RUNNING: ["pause", "finish"],
        State.PAUSED: ["resume", "finish"],
        State.FINISHED: [],
    }


def test_a_draft_that_cannot_be_trained_is_not_started(operator: Client, prepared: list[int]) -> None:
    experiment = make_experiment(state=State.DRAFT, round_min_tokens=0)
    assert "round_min_tokens" in order(operator, experiment, "start")
    assert experiment.state == State.DRAFT
    assert not prepared


def test_a_lost_race_is_told_in_words(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(state=State.RUNNING)
    monkeypatch.setattr(
        commands.experiments,
        "pause",
        lambda experiment: (_ for _ in ()).throw(commands.TransitionLost("finished meanwhile")),
    )
    assert "changed meanwhile" in order(operator, experiment, "pause")


@pytest.mark.django_db(transaction=True)
def test_a_queue_that_is_away_does_not_undo_the_start(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(pk: int) -> None:
        raise OperationalError("Connection refused")

    client.force_login(User.objects.create_superuser("operator"))
    monkeypatch.setattr(tasks.prepare, "delay", away)
    experiment = make_experiment(state=State.DRAFT)
    assert "Redis cannot be reached" in order(client, experiment, "start")
    assert experiment.state == State.PREPARING


def test_buttons_need_post_a_known_name_and_the_right_to_change(operator: Client, client: Client) -> None:
    experiment = make_experiment(state=State.RUNNING)
    pause = reverse("admin:training_experiment_command", args=[experiment.pk, "pause"])
    assert operator.get(pause).status_code == 405
    assert operator.post(pause.replace("pause", "explode")).status_code == 404
    assert operator.post(pause.replace(f"/{experiment.pk}/", "/999/")).status_code == 404
    onlooker = User.objects.create_user("onlooker", is_staff=True)
    onlooker.user_permissions.add(Permission.objects.get(codename="view_experiment"))
    client.force_login(onlooker)
    assert client.post(pause).status_code == 403
    client.logout()
    assert client.post(pause).status_code == 302
    experiment.refresh_from_db()
    assert experiment.state == State.RUNNING


def test_a_started_experiment_keeps_its_model_whatever_is_posted(operator: Client) -> None:
    experiment = make_experiment(state=State.RUNNING)
    before = experiment.model
    sent = fields(slug="renamed", model='{"n_layer": 1}', title="New title", num_rounds="30")
    assert operator.post(change_url(experiment), sent).status_code == 302
    experiment.refresh_from_db()
    assert (experiment.title, experiment.num_rounds) == ("New title", 30)
    assert (experiment.slug, experiment.model) != ("renamed", {"n_layer": 1})
    assert experiment.model == before


def test_a_finished_experiment_changes_in_words_and_price_alone(operator: Client) -> None:
    experiment = make_experiment(state=State.FINISHED)
    sent = fields(title="New title", num_rounds="99", credits_per_completion_token="7")
    assert operator.post(change_url(experiment), sent).status_code == 302
    experiment.refresh_from_db()
    assert (experiment.title, experiment.num_rounds, experiment.credits_per_completion_token) == ("New title", 8, 7)


def test_saving_does_not_undo_a_change_of_state(operator: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(state=State.RUNNING)
    save = Experiment.save

    def paused_meanwhile(self: Experiment, **options: Any) -> None:
        Experiment.objects.filter(pk=self.pk).update(state=State.PAUSED)
        save(self, **options)

    monkeypatch.setattr(Experiment, "save", paused_meanwhile)
    operator.post(change_url(experiment), fields(title="New title"))
    experiment.refresh_from_db()
    assert (experiment.title, experiment.state) == ("New title", State.PAUSED)


@pytest.mark.parametrize("state", list(State))
def test_a_draft_alone_can_be_deleted(operator: Client, state: State) -> None:
    experiment = make_experiment(state=state)
    url = reverse("admin:training_experiment_delete", args=[experiment.pk])
    status = operator.post(url, {"post": "yes"}).status_code
    assert status == (302 if state == State.DRAFT else 403)
    assert Experiment.objects.filter(pk=experiment.pk).exists() is (state != State.DRAFT)


def fill(num_rounds: int) -> None:
    """Rows of every kind that the lists show, `num_rounds` of each or more."""
    now = timezone.now()
    experiment = make_experiment(title="Family GPT", started_at=now)
    make_checkpoint(experiment=experiment)
    for number in range(1, num_rounds + 1):
        round_ = make_closed_round(experiment=experiment, number=number, validation_loss=5.0 - number / 10)
        device = make_device(last_seen_at=now, idle_reason=Reason.ROUND_FULL)
        make_enrollment(device=device, experiment=experiment)
        attempt = make_accepted_attempt(
            job=make_job(round_=round_), device=device, offered_at=now, submitted_at=now, verified_tokens=60_000
        )
        source = f"attempt:{attempt.pk}"
        ledger.earn(contributor=device.contributor, amount=1_000, source=source, release_at=None, now=now)
        make_attempt(
            job=make_job(round_=round_),
            state=Attempt.State.REJECTED,
            reason=Reason.NOT_FINITE,
            detail="tensor model.norm.weight",
            offered_at=now,
        )


@pytest.mark.parametrize("model", [Experiment, Round, Job, Attempt, Enrollment, Checkpoint, Blob])
def test_a_list_asks_the_database_as_often_for_many_rows_as_for_few(
    operator: Client, django_assert_max_num_queries: Any, model: type[Any]
) -> None:
    fill(7)
    with django_assert_max_num_queries(12):
        response = operator.get(reverse(f"admin:training_{model._meta.model_name}_changelist"))
    assert response.status_code == 200
    assert response.context["cl"].result_count == model.objects.count()


@pytest.mark.parametrize("model", [Round, Job, Attempt, Enrollment, Checkpoint, Blob])
def test_records_can_be_looked_at_and_nothing_more(operator: Client, model: type[Any]) -> None:
    fill(1)
    row = model.objects.first()
    name = f"admin:training_{model._meta.model_name}"
    shown = operator.get(reverse(f"{name}_change", args=[row.pk]))
    assert shown.status_code == 200
    assert not shown.context["has_change_permission"]
    assert operator.post(reverse(f"{name}_change", args=[row.pk]), {}).status_code == 403
    assert operator.get(reverse(f"{name}_add")).status_code == 403
    assert operator.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code == 403


def test_an_attempt_never_shows_its_nonce(operator: Client) -> None:
    attempt = make_attempt(job=make_job(round_=make_round(experiment=make_experiment())), nonce="f" * 32)
    shown = operator.get(reverse("admin:training_attempt_change", args=[attempt.pk])).content.decode()
    assert "f" * 32 not in shown


def test_live_devices_can_be_told_from_the_others(operator: Client) -> None:
    now = timezone.now()
    experiment = make_experiment()
    make_enrollment(device=make_device(name="here", last_seen_at=now), experiment=experiment)
    make_enrollment(device=make_device(name="gone", last_seen_at=now - timedelta(days=1)), experiment=experiment)
    url = reverse("admin:training_enrollment_changelist")
    live, all_ = (operator.get(url + query).content.decode() for query in ("?live=yes", ""))
    assert "here" in live
    assert "gone" not in live
    assert "gone" in all_


def test_the_overview_shows_the_key_numbers(operator: Client, django_assert_max_num_queries: Any) -> None:
    fill(3)
    make_experiment(state=State.PAUSED, started_at=None)
    with django_assert_max_num_queries(20):
        response = operator.get("/admin/")
    tiles = {str(tile.title): (tile.number, tile.note) for tile in response.context["tiles"]}
    assert tiles == {
        "Running experiments": ("1", "paused: 1, drafts: 0"),
        "Live devices": ("3", "heard from within three heartbeats"),
        "Tokens accepted": ("180K", "in the last hour"),
        "Credits minted": ("3K", "in 24 hours; 3K in all"),
        "Credits spent": ("0", "in 24 hours; 0 in all"),
    }
    text = response.content.decode()
    assert "The delta holds values that are not finite." in text
    assert "All of this round is given out; the next one opens soon." in text
    assert "From 7.600 at round 0 to 4.700 at round 3" in text


def test_every_number_on_the_overview_leads_somewhere(operator: Client) -> None:
    fill(2)
    text = operator.get("/admin/").content.decode()
    overview = text[text.index('class="overview"') :]
    links = set(re.findall(r'href="(/[^"]+)"', overview))
    assert len(links) >= 6
    for link in links:
        assert operator.get(link.replace("&amp;", "&")).status_code == 200, link


def test_the_overview_of_an_empty_coordinator_says_what_to_do(operator: Client) -> None:
    text = operator.get("/admin/").content.decode()
    assert "Add an experiment" in text
    assert ADD in text


def test_the_admin_speaks_korean_below_ko(operator: Client) -> None:
    fill(1)
    make_device(state=DeviceState.IDLE)
    text = operator.get("/ko/admin/").content.decode()
    assert "활동 중인 기기" in text
    assert "검증 손실" in text


@pytest.mark.parametrize("page", ["admin:auth_user_changelist", "admin:auth_user_add", "admin:auth_group_changelist"])
def test_operators_accounts_are_managed_here(operator: Client, page: str) -> None:
    assert operator.get(reverse(page)).status_code == 200


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_model_has_a_name_in_the_readers_language(language: str) -> None:
    ours = [model for model in admin.site._registry if model.__module__.startswith(("contributors", "training", "inf"))]
    assert len(ours) == 16
    with translation.override(language):
        names = [str(name) for model in ours for name in (model._meta.verbose_name, model._meta.verbose_name_plural)]
    is_korean = [any("가" <= letter <= "힣" for letter in name) for name in names]
    assert set(is_korean) == {language == "ko"}
