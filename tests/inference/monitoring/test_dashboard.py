"""The dashboard's page of engines, by what engines say in a real Redis."""

from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from redis import Redis

from fai_project.redis_server import RedisServer
from inference.status import Problem
from tests.inference.engines import make_status, say_that_it_lives
from tests.inference.make import make_request
from tests.training.make import make_checkpoint, make_experiment
from training.models import Experiment

pytestmark = pytest.mark.django_db


@pytest.fixture
def redis(redis_settings: RedisServer) -> Any:
    with Redis.from_url(redis_settings.url) as client:
        for key in client.scan_iter("fai:engine:*"):
            client.delete(key)
        yield client


def page(path: str = "/admin/engines/") -> str:
    client = Client()
    client.force_login(User.objects.create_superuser("operator"))
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def test_an_engine_is_shown_with_its_models_and_what_waits(redis: Any) -> None:
    experiment = make_experiment(slug="study", state=Experiment.State.RUNNING)
    old = make_checkpoint(experiment=experiment, number=1)
    make_checkpoint(experiment=experiment, number=2)
    say_that_it_lives(redis, make_status("study", checkpoint_id=old.pk, sha256=old.blob_id))
    redis.lpush("fai:engine:requests:study", make_request().encode())
    html = page()
    assert "pretended" in html
    assert "study@1" in html
    assert "a newer one is published" in html
    assert "Requests waiting" in html
    assert "0.0 s" in html


def test_a_problem_is_shown_to_the_operator_in_both_languages(redis: Any) -> None:
    problem = Problem(subject="study", message="study@4 cannot be served: <other bytes>", at=0.0)
    say_that_it_lives(redis, replace(make_status("study"), problems=(problem,)))
    html = page()
    assert "study@4 cannot be served: &lt;other bytes&gt;" in html
    assert "has a problem" in html


def test_a_model_that_no_engine_serves_is_named(redis: Any) -> None:
    make_checkpoint(experiment=make_experiment(slug="study", state=Experiment.State.RUNNING))
    html = page()
    assert "No engine serves:" in html
    assert "No engine lives." in html


def test_without_redis_the_page_says_so(settings: Any) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    assert "Redis is away" in page()


def test_only_operators_see_engines(redis_settings: RedisServer) -> None:
    assert Client().get("/admin/engines/").status_code == 302
    client = Client()
    client.force_login(User.objects.create_user("helper", is_staff=True))
    assert client.get("/admin/engines/").status_code == 403
