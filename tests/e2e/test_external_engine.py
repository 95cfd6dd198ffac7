"""Another engine's server behind the same keys and bills, in real processes: llama.cpp with our own export."""

import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.e2e.completion_service import MODEL, CompletionService
from tests.e2e.conftest import wait_for
from tests.ml.export.llama import Llama

pytestmark = pytest.mark.e2e
PRICE = 3
ASKED = {"model": MODEL, "prompt": "Dart is", "max_tokens": 40, "temperature": 0}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    with CompletionService(tmp_path_factory.mktemp("external")) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


@pytest.fixture(scope="module")
def ours(service: CompletionService) -> openai.types.Completion:
    """What our own engine answers; it is stopped then."""
    with service.client() as client:
        answer = client.completions.create(**ASKED)
    assert service.engine.stop() == 0
    return answer


@pytest.fixture(scope="module")
def gguf(service: CompletionService) -> Path:
    out = service.folder / "gguf"
    service.run_manage("export_checkpoint", MODEL, "--format", "gguf", "--out", str(out))
    return out / "model.gguf"


@pytest.fixture
def llama(service: CompletionService, ours: openai.types.Completion, gguf: Path) -> Iterator[Llama]:
    """A server whose bridge serves."""
    with Llama(gguf) as server:
        start_bridge(service, server.address)
        yield server
        service.parts["bridge"].stop()


def lenient(service: CompletionService) -> openai.OpenAI:
    """OpenAI's types have no text chunk without a finish_reason, although its API sends them."""
    return openai.OpenAI(base_url=service.base_url, api_key=service.keys["rich"], max_retries=0)


def start_bridge(service: CompletionService, url: str) -> None:
    """Return once it serves."""
    service._spawn(
        "bridge", "-m", "django", "serve_external", "--upstream", url, "--experiment", MODEL, "--round", "0"
    )  # fmt: skip
    wait_for(lambda: service._try().is_success, seconds=60, what="the bridge serves")


def test_the_same_request_gets_the_same_answer_and_the_same_bill(
    service: CompletionService, ours: openai.types.Completion, llama: Llama
) -> None:
    before = service.balance().balance
    with service.client() as client:
        theirs = client.completions.create(**ASKED)
    assert theirs.choices == ours.choices
    assert theirs.usage == ours.usage
    assert theirs.system_fingerprint == ours.system_fingerprint
    assert theirs.usage is not None
    assert service.balance().balance == before - PRICE * theirs.usage.total_tokens


def test_a_stream_is_counted_to_its_last_token(service: CompletionService, llama: Llama) -> None:
    with lenient(service) as client:
        stream = client.completions.create(**ASKED, n=3, stream=True, stream_options={"include_usage": True})
        *chunks, last = list(stream)
    assert {chunk.choices[0].index for chunk in chunks} == {0, 1, 2}
    assert last.usage is not None
    bill = service.wait_for_bill()
    assert (bill.state, bill.completion_tokens) == ("done", last.usage.completion_tokens)
    assert bill.credits_paid == PRICE * last.usage.total_tokens


def test_what_it_cannot_do_is_refused_by_name_and_free(service: CompletionService, llama: Llama) -> None:
    before = service.balance()
    with service.client() as client, pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**ASKED, logprobs=2)
    assert (caught.value.param, caught.value.code) == ("logprobs", "unsupported_parameter")
    assert service.balance() == before


def test_a_server_that_dies_ends_its_streams_for_free_and_its_model_is_unavailable(
    service: CompletionService, llama: Llama
) -> None:
    before = service.balance()
    asked = {**ASKED, "max_tokens": 200, "n": 8, "logit_bias": {"0": -100, "4": -100}}
    with lenient(service) as client, client.completions.create(**asked, stream=True) as stream:
        next(stream)
        killing = threading.Thread(target=llama.kill)
        killing.start()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        killing.join()
        assert caught.value.code == "engine_failed"
        assert service.wait_for_bill().state == "failed"
        assert service.balance() == before
        wait_for(lambda: service._try().status_code == 503, seconds=15, what="the model is unavailable")
