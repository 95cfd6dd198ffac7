"""Engines as processes: several on one queue, killed, stopped, given new, older and damaged checkpoints; watched."""

import json
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest

from tests.conftest import _free_port
from tests.e2e.completion_service import MODEL, CompletionService
from tests.e2e.conftest import wait_for

pytestmark = pytest.mark.e2e
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "temperature": 0}
TOKEN = "a token for prometheus"
SECRET_WORD = "Kaninchenbau"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    folder = tmp_path_factory.mktemp("engines")
    settings = {
        "FAI_LOG_FORMAT": "json",
        "FAI_METRICS_TOKEN": TOKEN,
        "FAI_METRICS_DIR": str(folder / "metrics"),
    }
    with CompletionService(folder, timers=settings) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


@pytest.fixture
def client(service: CompletionService) -> Iterator[openai.OpenAI]:
    with service.client() as strict:
        yield strict


def spawn_engine(service: CompletionService, name: str, *options: str) -> str:
    """Start another engine; the address of its pages, once it serves."""
    port = _free_port()
    service._spawn(name, "-m", "django", "serve_engine", "--metrics-port", str(port), *options)
    address = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        try:
            return httpx.get(f"{address}/ready").is_success
        except httpx.TransportError:
            return False

    wait_for(is_ready, seconds=90, what=f"{name} is ready")
    wait_for(lambda: len([s for s in service.engines() if s.models]) >= 2, seconds=60, what="two engines are announced")
    return address


def samples(page: str, name: str) -> float:
    """The sum of a metric's samples, whatever their labels."""
    lines = [line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def publish_at_once(service: CompletionService, *, number: int) -> None:
    """Without a process of its own, which takes long to start."""
    with closing(sqlite3.connect(service.folder / "fai.sqlite3", timeout=20)) as connection, connection:
        connection.execute("UPDATE training_checkpoint SET published_at = created_at WHERE number = ?", (number,))


def fingerprint(client: openai.OpenAI, model: str = MODEL) -> str | None:
    return client.completions.create(model=model, prompt="x", max_tokens=1).system_fingerprint


def test_two_engines_work_on_one_queue_and_the_death_of_one_loses_only_what_it_had_begun(
    service: CompletionService,
) -> None:
    address = spawn_engine(service, "second", "--slots", "2")

    def ask(number: int) -> str:
        with service.client() as client:
            try:
                answer = client.completions.create(model=MODEL, prompt=f"{number}", max_tokens=300, seed=number)
            except openai.APIError as error:
                return str(getattr(error, "status_code", error))
            return answer.choices[0].finish_reason

    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(ask, number) for number in range(32)]
        wait_for(
            lambda: samples(httpx.get(f"{address}/metrics").text, "fai_engine_completion_tokens_total") > 50,
            seconds=60,
            what="the second engine works",
        )
        page = httpx.get(f"{address}/metrics").text
        assert (samples(page, "fai_engine_slots"), samples(page, "fai_engine_models")) == (2, 1)
        assert samples(page, "fai_engine_running_requests") == 2
        service.parts["second"].kill()
        answers = [future.result() for future in asked]
    assert set(answers) <= {"length", "stop", "503"}
    # Two places, and so two that had begun; all others were queued, or were given to the first engine.
    assert answers.count("503") <= 2
    assert service.balance().held == 0


def test_a_stopped_engine_ends_what_it_has_begun_and_the_other_takes_the_rest(service: CompletionService) -> None:
    spawn_engine(service, "third", "--slots", "2", "--grace-seconds", "60")
    wait_for(
        lambda: any(s.models for s in service.engines() if s.num_slots == 2), seconds=60, what="the third engine serves"
    )
    done: list[str] = []

    def ask() -> None:
        with service.client() as client:
            answer = client.completions.create(model=MODEL, prompt="x", max_tokens=400, n=2, temperature=0)
            done.extend(choice.finish_reason for choice in answer.choices)

    threads = [threading.Thread(target=ask) for _ in range(24)]
    for thread in threads:
        thread.start()
    wait_for(
        lambda: any(m.num_running for s in service.engines() if s.num_slots == 2 for m in s.models),
        seconds=30,
        what="the third engine works",
    )
    assert service.parts["third"].stop() == 0
    for thread in threads:
        thread.join()
    assert len(done) == 48


def test_an_older_checkpoint_is_loaded_when_it_is_asked_for(service: CompletionService, client: openai.OpenAI) -> None:
    old = fingerprint(client)
    service.evaluate("publish(number=1)")
    wait_for(lambda: fingerprint(client) != old, seconds=30, what="the new checkpoint is served")
    assert fingerprint(client, f"{MODEL}@0") == old
    assert fingerprint(client, f"{MODEL}@1") == fingerprint(client)
    answer = client.completions.create(model=f"{MODEL}@0", prompt="x", max_tokens=1)
    assert answer.model == f"{MODEL}@0"
    assert client.models.retrieve(f"{MODEL}@0").id == f"{MODEL}@0"
    assert [model.id for model in client.models.list()] == [MODEL]
    for unknown in (f"{MODEL}@7", f"{MODEL}@01", f"{MODEL}@", f"{MODEL}@x"):
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model=unknown, prompt="x")


def test_a_stream_ends_on_the_checkpoint_on_which_it_began(service: CompletionService, client: openai.OpenAI) -> None:
    old = fingerprint(client)
    service.evaluate("publish(number=2, is_public=False)")
    with client.chat.completions.create(**QUESTION, max_tokens=1_000, n=32, stream=True) as stream:
        seen = {next(stream).system_fingerprint}
        publish_at_once(service, number=2)
        wait_for(lambda: fingerprint(client) != old, seconds=60, what="the new checkpoint is served")
        bills = service.count("running")
        seen |= {chunk.system_fingerprint for chunk in stream}
    assert bills == 1, "the stream was over before the new checkpoint was served"
    assert seen == {old}
    assert service.wait_for_bill().state == "done"


def test_a_damaged_checkpoint_is_told_to_the_operator_and_the_old_one_goes_on(
    service: CompletionService, client: openai.OpenAI
) -> None:
    old = fingerprint(client)
    service.evaluate("damage(number=3)")
    found = wait_for(
        lambda: [problem for status in service.engines() for problem in status.problems],
        seconds=30,
        what="a problem is reported",
    )
    assert [problem.subject for problem in found] == [MODEL]
    assert "study@3 cannot be served" in found[0].message
    assert "study@3 cannot be served" in service.engine.log.read_text("utf-8")
    assert fingerprint(client) == old
    page = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert samples(page, "fai_problems") == 1


def test_metrics_are_for_who_has_the_token(service: CompletionService, client: openai.OpenAI) -> None:
    client.completions.create(model=MODEL, prompt="x", max_tokens=9)
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nobody", prompt="x")
    assert httpx.get(f"{service.url}/metrics").status_code == 401
    assert httpx.get(f"{service.url}/metrics", headers={"Authorization": "Bearer no"}).status_code == 401
    page = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    for name in ("fai_prompt_tokens_total", "fai_completion_tokens_total", "fai_first_token_seconds_count"):
        assert samples(page, name) > 0, name
    assert samples(page, "fai_token_seconds_count") > 0
    assert samples(page, "fai_engines") >= 1
    assert 'fai_queue_requests{model="study"} 0.0' in page
    assert "fai_open_holds 0.0" in page
    assert 'status="404"' in page
    assert 'state="done"' in page


def test_metrics_tell_what_is_held_while_a_stream_runs(service: CompletionService, client: openai.OpenAI) -> None:
    with client.chat.completions.create(**QUESTION, max_tokens=1_000, n=8, stream=True) as stream:
        next(stream)
        page = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
        assert service.count("running") == 1, "the stream was over before it was looked at"
        assert samples(page, "fai_open_holds") == 1
        assert samples(page, "fai_held_credits") == service.balance().held > 8_000
    assert samples(page, "fai_http_seconds_count") > 0


def test_a_requests_id_is_in_its_answer_and_in_every_log_and_its_text_in_none(
    service: CompletionService, client: openai.OpenAI
) -> None:
    answer = client.completions.with_raw_response.create(
        model=MODEL, prompt=SECRET_WORD, max_tokens=5, extra_headers={"x-request-id": "from-the-client-1"}
    )
    assert answer.headers["x-request-id"] == "from-the-client-1"
    made = client.completions.with_raw_response.create(
        model=MODEL, prompt=SECRET_WORD, max_tokens=5, extra_headers={"x-request-id": "two words"}
    )
    assert made.headers["x-request-id"].startswith("req_")
    web, engine = service.parts["web"].log, service.engine.log
    lines = wait_for(lambda: _lines(web, "from-the-client-1"), seconds=60, what="the web process has logged it")
    ended = next(line for line in lines if line["message"] == "completion done")
    assert (ended["model"], ended["completion_tokens"], ended["state"]) == (MODEL, 5, "done")
    assert ended["key"] == service.keys["rich"].split("_")[2]
    assert ended["seconds"] >= ended["first_token_seconds"] > 0
    answered = next(line for line in lines if line["message"] == "answered")
    assert (answered["status"], answered["path"], answered["key"]) == (200, "/v1/completions", ended["key"])
    (of_engine,) = _lines(engine, "from-the-client-1")
    assert (of_engine["message"], of_engine["completion_tokens"]) == ("request done", 5)
    for log in service.log_dir.iterdir():
        assert SECRET_WORD not in log.read_text("utf-8", errors="replace"), log.name


def _lines(log: Any, request_id: str) -> list[dict[str, Any]]:
    texts = [line for line in log.read_text("utf-8").splitlines() if request_id in line]
    return [json.loads(line) for line in texts if line.startswith("{")]


def test_an_engine_without_a_model_lives_and_is_not_ready(service: CompletionService) -> None:
    port = _free_port()
    service._spawn(
        "idle", "-m", "django", "serve_engine", "--experiment", "unready", "--metrics-port", str(port)
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"

    def lives() -> bool:
        try:
            return httpx.get(f"{address}/health").is_success
        except httpx.TransportError:
            return False

    wait_for(lives, seconds=60, what="the engine lives")
    assert httpx.get(f"{address}/ready").status_code == 503
    assert httpx.get(f"{address}/nothing").status_code == 404
    assert service.parts["idle"].stop() == 0
