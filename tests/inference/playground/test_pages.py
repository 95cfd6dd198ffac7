"""The playground's page: what it offers, in both languages, and what it may load."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.test import Client
from django.utils import translation

from inference.playground import offers, sampling, texts
from inference.playground.offers import MAX_CHECKPOINTS
from tests.training.make import make_blob, make_checkpoint, make_experiment
from training.models import Blob, Experiment

pytestmark = pytest.mark.django_db
SCRIPTS = "inference/playground"


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    """A request leaves its language behind."""
    with translation.override("en"):
        yield


def make_offered_experiment(*, num_checkpoints: int = 1, **fields: Any) -> Experiment:
    experiment = make_experiment(tokenizer=make_blob(kind=Blob.Kind.TOKENIZER), **fields)
    for number in range(num_checkpoints):
        make_checkpoint(experiment=experiment, number=number, validation_loss=7.5 - number)
    return experiment


def read(client: Client, path: str = "/playground/") -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def embedded(text: str, name: str) -> Any:
    found = re.search(rf'<script id="{name}" type="application/json">(.*?)</script>', text)
    assert found is not None
    return json.loads(found[1])


def test_the_page_is_english_at_its_address_and_korean_below_ko(client: Client) -> None:
    make_offered_experiment()
    english, korean = read(client), read(client, "/ko/playground/")
    assert '<html lang="en">' in english
    assert "Your API key" in english
    assert '<html lang="ko">' in korean
    assert "API 키" in korean
    assert embedded(korean, "playground-texts")["stopped"] != embedded(english, "playground-texts")["stopped"]


def test_only_scripts_of_our_own_may_run_and_only_our_server_is_asked(client: Client) -> None:
    make_offered_experiment()
    response = client.get("/playground/")
    policy = dict(rule.strip().split(" ", 1) for rule in response["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["style-src"] == "'self'"
    assert policy["form-action"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    text = response.content.decode().replace("http://testserver", "")
    for forbidden in ("<style", " style=", " onclick=", "http://", "https://"):
        assert forbidden not in text
    assert not re.search(r"<script(?![^>]*(src=|application/json))", text)


def test_a_title_cannot_become_markup(client: Client) -> None:
    evil = "</script><script>alert(1)</script>"
    make_offered_experiment(title=evil)
    text = read(client)
    assert "<script>alert" not in text
    assert embedded(text, "playground-models")[0]["title"] == evil


def test_a_model_is_offered_with_its_price_and_its_checkpoints_newest_first() -> None:
    make_offered_experiment(slug="family-gpt", num_checkpoints=3, credits_per_completion_token=4)
    (model,) = offers.offered_models()
    assert (model["slug"], model["price"]) == ("family-gpt", 4)
    assert [(row["number"], row["loss"]) for row in model["checkpoints"]] == [(2, 5.5), (1, 6.5), (0, 7.5)]


def test_drafts_and_what_has_published_nothing_are_not_offered(client: Client) -> None:
    make_offered_experiment(num_checkpoints=0)
    make_offered_experiment(state=Experiment.State.DRAFT)
    assert offers.offered_models() == []
    assert "No model can be asked yet." in read(client)


def test_of_many_checkpoints_the_first_the_newest_and_some_between_are_offered() -> None:
    make_offered_experiment(num_checkpoints=MAX_CHECKPOINTS + 40)
    numbers = [row["number"] for row in offers.offered_models()[0]["checkpoints"]]
    assert (numbers[0], numbers[-1]) == (MAX_CHECKPOINTS + 39, 0)
    assert len(set(numbers)) == len(numbers) == MAX_CHECKPOINTS


def test_the_number_of_queries_does_not_grow_with_the_experiments(
    client: Client, django_assert_max_num_queries: Any
) -> None:
    for _ in range(5):
        make_offered_experiment(num_checkpoints=3)
    with django_assert_max_num_queries(2):
        read(client)


def test_every_default_lies_within_its_range() -> None:
    for setting in (setting for group in sampling.GROUPS for setting in group.settings):
        assert setting.default is None or setting.least <= setting.default <= setting.most


def test_every_text_that_the_scripts_ask_for_is_there() -> None:
    script_texts = texts.script_texts()
    for name in ("account", "answer", "choices", "conversation", "probabilities"):
        source = Path(str(finders.find(f"{SCRIPTS}/{name}.js"))).read_text(encoding="utf-8")
        assert set(re.findall(r'\bsay\("(\w+)"', source)) <= set(script_texts)


def test_the_page_is_reached_from_every_page_and_from_joining(client: Client) -> None:
    assert 'href="/playground/"' in read(client, "/")
    assert read(client, "/join/").count('href="/playground/"') == 2
