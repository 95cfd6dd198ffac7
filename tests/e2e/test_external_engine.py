"""Other engines' servers behind the same keys and bills, in real processes, with the checkpoint that we export."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e import llama_cpp_python
from tests.e2e.completion_service import MODEL, CompletionService
from tests.e2e.conftest import wait_for
from tests.e2e.llama_cpp_python import LlamaCppPython
from tests.ml.export.llama import Llama

pytestmark = pytest.mark.e2e
Upstream = Llama | LlamaCppPython
PRICE = 3
LEARNED = "Dart is what a family learns together: 가족이 함께 배워요 👨‍👩‍👧, one widget after another, and another."
ASKED = {"model": f"{MODEL}@1", "prompt": "Dart is", "max_tokens": 60, "temperature": 0}
ENDLESS = {**ASKED, "max_tokens": 200, "n": 8, "logit_bias": {"0": -100, "4": -100}}
DIVIDES_A_CHARACTER = 53
"""So many tokens of the completion end within one."""
HALF_A_CHARACTER = 150
"""A token of one byte that is no text alone."""
REFUSED: dict[type, dict[str, Any]] = {
    Llama: {"logprobs": 2, "frequency_penalty": 0.5, "presence_penalty": 0.5},
    LlamaCppPython: {
        "logprobs": 2,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.1,
        "prompt": [HALF_A_CHARACTER],
    },
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    with CompletionService(tmp_path_factory.mktemp("external")) as running:
        running.evaluate(f"publish(number=1, text={LEARNED!r})")
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


@pytest.fixture(
    params=[
        Llama,
        pytest.param(
            LlamaCppPython,
            marks=pytest.mark.skipif(
                not os.environ.get(llama_cpp_python.VARIABLE),
                reason=f"{llama_cpp_python.VARIABLE} names no Python that has llama-cpp-python",
            ),
        ),
    ]
)
def upstream(
    request: pytest.FixtureRequest, service: CompletionService, ours: openai.types.Completion, gguf: Path
) -> Iterator[Upstream]:
    """A server whose bridge serves."""
    with request.param(gguf) as server:
        start_bridge(service, server.address)
        yield server
        service.parts["bridge"].stop()


def lenient(service: CompletionService) -> openai.OpenAI:
    """OpenAI's types have no text chunk without a finish_reason, although its API sends them."""
    return openai.OpenAI(base_url=service.base_url, api_key=service.keys["rich"], max_retries=0)


def start_bridge(service: CompletionService, url: str) -> None:
    """Return once it serves."""
    service._spawn(
        "bridge", "-m", "django", "serve_external", "--upstream", url, "--experiment", MODEL, "--round", "1"
    )  # fmt: skip
    wait_for(lambda: service._try().is_success, seconds=60, what="the bridge serves")


def test_the_same_request_gets_the_same_answer_and_the_same_bill(
    service: CompletionService, ours: openai.types.Completion, upstream: Upstream
) -> None:
    before = service.balance().balance
    with service.client() as client:
        theirs = client.completions.create(**ASKED)
    assert LEARNED.startswith(ASKED["prompt"] + ours.choices[0].text)
    assert theirs.choices == ours.choices
    assert theirs.usage == ours.usage
    assert theirs.system_fingerprint == ours.system_fingerprint
    assert theirs.usage is not None
    assert service.balance().balance == before - PRICE * theirs.usage.total_tokens


def test_a_stream_is_counted_to_its_last_token(
    service: CompletionService, ours: openai.types.Completion, upstream: Upstream
) -> None:
    with lenient(service) as client:
        stream = client.completions.create(**ASKED, n=3, stream=True, stream_options={"include_usage": True})
        *chunks, last = list(stream)
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [ours.choices[0].text] * 3
    assert len(chunks) > 30
    assert last.usage is not None
    assert last.usage.completion_tokens == 3 * ASKED["max_tokens"]
    bill = service.wait_for_bill()
    assert (bill.state, bill.completion_tokens) == ("done", last.usage.completion_tokens)
    assert bill.credits_paid == PRICE * last.usage.total_tokens


def test_a_character_that_the_limit_divides_is_billed_up_to_the_limit(
    service: CompletionService, ours: openai.types.Completion, upstream: Upstream
) -> None:
    with service.client() as client:
        theirs = client.completions.create(**{**ASKED, "max_tokens": DIVIDES_A_CHARACTER})
    whole = theirs.choices[0].text.rstrip("�")
    assert ours.choices[0].text.startswith(whole)
    assert len(whole) > 40
    assert theirs.usage is not None
    assert theirs.usage.completion_tokens == DIVIDES_A_CHARACTER
    assert service.wait_for_bill().completion_tokens == DIVIDES_A_CHARACTER


def test_a_request_right_after_a_cancelled_one_is_answered(
    service: CompletionService, ours: openai.types.Completion, upstream: Upstream
) -> None:
    for _ in range(3):
        with lenient(service) as client, client.completions.create(**ENDLESS, stream=True) as stream:
            next(stream)
        with service.client() as client:
            assert client.completions.create(**ASKED).choices == ours.choices
    assert service.count("disconnected") >= 3


def test_what_it_cannot_do_is_refused_by_name_and_free(service: CompletionService, upstream: Upstream) -> None:
    before = service.balance()
    for name, value in REFUSED[type(upstream)].items():
        with service.client() as client, pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{**ASKED, "extra_body": {name: value}})
        assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")
    assert service.balance() == before


def test_a_server_that_dies_ends_its_streams_for_free_and_its_model_is_unavailable(
    service: CompletionService, upstream: Upstream
) -> None:
    before = service.balance()
    with lenient(service) as client, client.completions.create(**ENDLESS, stream=True) as stream:
        next(stream)
        killing = threading.Thread(target=upstream.kill)
        killing.start()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        killing.join()
        assert caught.value.code == "engine_failed"
        assert service.wait_for_bill().state == "failed"
        assert service.balance() == before
        wait_for(lambda: service._try().status_code == 503, seconds=60, what="the model is unavailable")
