"""OpenAI's client against the real service: its shapes, its errors, and the bill."""

import functools
import json
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import pytest
import torch

from inference.openai.token_scores import ScoredToken, text_logprobs
from ml import corpus, tokenizer
from ml.model import initial_model
from tests.e2e import completion_seed
from tests.e2e.completion_service import MODEL, Balance, CompletionService

pytestmark = pytest.mark.e2e
PRICE = 3
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "temperature": 0}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompletionService]:
    with CompletionService(tmp_path_factory.mktemp("completions")) as running:
        yield running
        assert running.evaluate("violations()") == "[]"


@functools.cache
def token_texts() -> list[str]:
    """Every token of the model, as completions tell it."""
    tokens = tokenizer.train(corpus.read_documents(completion_seed.SAMPLE), vocab_size=completion_seed.MODEL.vocab_size)
    data = [tokenizer.token_bytes(tokens, token) for token in range(tokens.get_vocab_size())]
    told: list[str] = text_logprobs([ScoredToken(data=own, offset=0, logprob=None, top=()) for own in data])["tokens"]
    return told


@pytest.fixture
def client(service: CompletionService) -> Iterator[openai.OpenAI]:
    with service.client() as strict:
        yield strict


@pytest.fixture
def lenient(service: CompletionService) -> Iterator[openai.OpenAI]:
    """The strict client refuses the null that OpenAI's own service sends as finish_reason before the last chunk."""
    with openai.OpenAI(base_url=service.base_url, api_key=service.keys["rich"], max_retries=0) as client:
        yield client


def test_a_completion_costs_what_its_usage_says(service: CompletionService, client: openai.OpenAI) -> None:
    before = service.balance()
    answer = client.completions.create(model=MODEL, prompt="Dart is", max_tokens=7, temperature=0)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7
    assert service.balance() == Balance(balance=before.balance - PRICE * answer.usage.total_tokens, held=0)


def test_a_chat_streams_what_it_answers_at_once(service: CompletionService, client: openai.OpenAI) -> None:
    asked = {
        "model": MODEL,
        "messages": [{"role": "system", "content": "짧게 답해 줘."}, {"role": "user", "content": "위젯이 뭐야?"}],
        "max_tokens": 40,
        "seed": 7,
    }
    whole = client.chat.completions.create(**asked)
    before = service.balance()
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert streamed == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    usage = chunks[-1].usage
    assert usage == whole.usage
    assert usage is not None
    assert service.balance().balance == before.balance - PRICE * usage.total_tokens
    assert whole.system_fingerprint == chunks[0].system_fingerprint
    assert whole.system_fingerprint is not None


def test_a_text_streams_what_it_answers_at_once(lenient: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "final", "max_tokens": 30, "seed": 3}
    whole = lenient.completions.create(**asked)
    chunks = list(lenient.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert all(chunk.usage is None for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "length"]


def test_each_of_several_choices_and_prompts_has_its_index(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=["one", "two"], n=3, max_tokens=5, seed=1)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert len({choice.text for choice in answer.choices}) > 1
    assert answer.usage is not None
    prompts = [client.completions.create(model=MODEL, prompt=text, max_tokens=1).usage for text in ("one", "two")]
    assert answer.usage.prompt_tokens == sum(usage.prompt_tokens for usage in prompts if usage)
    assert answer.usage.completion_tokens == 30


def test_more_choices_than_places_are_served_in_turn(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hi"}], n=11, max_tokens=3, temperature=0
    )
    assert len({choice.message.content for choice in answer.choices}) == 1
    assert len(answer.choices) == 11


def test_tokens_as_a_prompt_are_the_text_that_they_stand_for(client: openai.OpenAI) -> None:
    one = client.completions.create(model=MODEL, prompt=[[70, 71, 72], [73]], max_tokens=4, temperature=0)
    other = client.completions.create(model=MODEL, prompt=[70, 71, 72], max_tokens=4, temperature=0)
    assert one.choices[0].text == other.choices[0].text
    assert one.usage is not None
    assert one.usage.prompt_tokens == 4


def test_the_same_seed_gives_the_same_text_beside_others(service: CompletionService, client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "class", "max_tokens": 60, "temperature": 0.9, "top_p": 0.9, "seed": 42}
    alone = client.completions.create(**asked).choices[0].text
    texts = []
    crowd = [
        threading.Thread(target=lambda: texts.append(client.completions.create(**asked).choices[0].text))
        for _ in range(6)
    ]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    assert texts == [alone] * 6
    assert client.completions.create(**{**asked, "seed": 43}).choices[0].text != alone


def test_a_stop_text_ends_the_choice_and_is_no_part_of_it(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "final", "max_tokens": 60, "seed": 3}
    whole = client.completions.create(**asked).choices[0].text
    stop = whole[20:24]
    answer = client.completions.create(**asked, stop=[stop, "never ever"])
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens < 60


def test_logprobs_are_what_the_model_itself_says(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "위젯은 a widget", "max_tokens": 20, "seed": 5, "temperature": 1.3}
    choice = client.completions.create(**asked, echo=True, logprobs=3).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.token_logprobs is not None
    assert told.top_logprobs is not None
    texts = token_texts()
    tokens = [texts.index(text) for text in told.tokens]
    model = initial_model(completion_seed.MODEL, seed=0)
    with torch.inference_mode():
        logits = model.unembed(model.hidden(torch.tensor([tokens])))[0]
    expected = torch.log_softmax(logits.float(), dim=-1).tolist()
    for place in range(1, len(tokens)):
        likely, top = expected[place - 1], told.top_logprobs[place]
        assert told.token_logprobs[place] == pytest.approx(likely[tokens[place]], abs=0.02)
        assert top == pytest.approx({text: likely[texts.index(text)] for text in top}, abs=0.02)
        assert max(top.values()) == pytest.approx(max(likely), abs=0.02)
        assert len(top) == 3 + (told.tokens[place] not in list(top)[:3])
    assert (told.token_logprobs[0], told.top_logprobs[0]) == (0.0, {})
    assert choice.text == "위젯은 a widget" + client.completions.create(**asked).choices[0].text


def test_a_prompt_alone_is_scored_and_costs_what_it_is_long(service: CompletionService, client: openai.OpenAI) -> None:
    before = service.balance()
    answer = client.completions.create(model=MODEL, prompt=["가a", "b"], max_tokens=0, echo=True, logprobs=0)
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("가a", "length"), ("b", "length")]
    logprobs = answer.choices[0].logprobs
    assert answer.usage is not None
    assert logprobs is not None
    assert logprobs.text_offset is not None
    assert logprobs.text_offset[-1] == 1
    assert answer.usage.completion_tokens == 0
    assert answer.usage.prompt_tokens == len(logprobs.text_offset) + 1
    assert service.balance() == Balance(balance=before.balance - PRICE * answer.usage.prompt_tokens, held=0)


def test_the_best_of_several_are_those_with_the_likeliest_tokens(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": ["x", "y"], "max_tokens": 6, "seed": 11, "logprobs": 0}
    every = client.completions.create(**asked, n=4)
    best = client.completions.create(**asked, n=2, best_of=4)

    def likelihood(index: int) -> float:
        logprobs = every.choices[index].logprobs
        assert logprobs is not None
        return sum(logprobs.token_logprobs or [])

    expected = [sorted(range(first, first + 4), key=likelihood, reverse=True)[:2] for first in (0, 4)]
    assert [choice.text for choice in best.choices] == [every.choices[i].text for pair in expected for i in pair]
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert best.usage == every.usage


def test_a_bias_bans_and_forces_tokens(client: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "x", "max_tokens": 4, "temperature": 0, "logprobs": 0}
    texts = token_texts()

    def tokens(**fields: object) -> list[int]:
        logprobs = client.completions.create(**asked, **fields).choices[0].logprobs
        assert logprobs is not None
        return [texts.index(text) for text in logprobs.tokens or []]

    first = tokens()[0]
    assert first not in tokens(logit_bias={str(first): -100})
    assert tokens(logit_bias={"70": 100}) == [70] * 4
    assert sorted(tokens(logit_bias={"70": 50, "71": 50}, frequency_penalty=2)) == [70, 70, 71, 71]
    with pytest.raises(openai.BadRequestError) as caught:
        tokens(logit_bias={"512": 1})
    assert caught.value.param == "logit_bias.512"


def test_a_chat_streams_its_logprobs_beside_its_text(client: openai.OpenAI) -> None:
    asked = {**QUESTION, "max_tokens": 60, "temperature": 1.5, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**asked).choices[0]
    assert whole.logprobs is not None
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    told = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content or []]
    assert [token.bytes for token in told] == [token.bytes for token in whole.logprobs.content or []]
    assert [token.logprob for token in told] == pytest.approx([token.logprob for token in whole.logprobs.content or []])
    assert [len(token.top_logprobs) for token in told] == [2] * len(told)
    text = "".join(chunk.delta.content or "" for chunk in chunks)
    assert b"".join(bytes(token.bytes or []) for token in told).decode(errors="replace") == text


def test_an_echo_is_streamed_before_the_text(lenient: openai.OpenAI) -> None:
    asked = {"model": MODEL, "prompt": "뷁 x", "max_tokens": 30, "seed": 3, "echo": True, "logprobs": 1}
    whole = lenient.completions.create(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in lenient.completions.create(**asked, stream=True)]
    assert chunks[0].text.startswith("뷁 x")
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert whole.logprobs is not None
    for name in ("tokens", "text_offset"):
        streamed = [value for chunk in chunks for value in getattr(chunk.logprobs, name)]
        assert streamed == getattr(whole.logprobs, name)
    logprobs = [value for chunk in chunks for value in (chunk.logprobs and chunk.logprobs.token_logprobs) or []]
    assert logprobs == pytest.approx(whole.logprobs.token_logprobs)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    listed = client.models.list()
    assert [model.id for model in listed] == [MODEL]
    assert client.models.retrieve(MODEL) == next(iter(listed))
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("unready")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_refused(service: CompletionService) -> None:
    with (
        openai.OpenAI(base_url=service.base_url, api_key="fai_sk_nobody", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        stranger.models.list()
    assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")


def test_a_key_of_another_scope_is_refused(service: CompletionService) -> None:
    with service.client("volunteer") as volunteer, pytest.raises(openai.PermissionDeniedError):
        volunteer.models.list()


def test_an_empty_balance_is_refused_once(service: CompletionService) -> None:
    with (
        openai.OpenAI(base_url=service.base_url, api_key=service.keys["poor"], max_retries=2) as poor,
        pytest.raises(openai.RateLimitError) as caught,
    ):
        poor.completions.create(model=MODEL, prompt="hello", max_tokens=100)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "x-stainless-retry-count" in caught.value.request.headers
    assert caught.value.request.headers["x-stainless-retry-count"] == "0"
    assert service.balance("poor") == Balance(balance=50, held=0)


def test_what_the_balance_covers_is_served_to_the_last_credit(service: CompletionService) -> None:
    with service.client("poor") as poor:
        answer = poor.completions.create(model=MODEL, prompt=[70], max_tokens=15)
    assert answer.usage is not None
    assert service.balance("poor") == Balance(balance=50 - PRICE * answer.usage.total_tokens, held=0)


def test_too_long_a_prompt_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt=[70] * 1_000, max_tokens=25)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert "1025 tokens" in caught.value.message


@pytest.mark.parametrize(
    ("param", "value", "code"),
    [
        ("temperature", 2.5, "decimal_above_max_value"),
        ("n", 0, "integer_below_min_value"),
        ("max_tokens", "many", "invalid_type"),
        ("logprobs", 6, "integer_above_max_value"),
        ("suffix", "end", "unsupported_parameter"),
        ("prompt", [], "invalid_type"),
    ],
)
def test_a_bad_parameter_is_named(client: openai.OpenAI, param: str, value: object, code: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": MODEL, "prompt": "x", param: value})
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_model_that_does_not_exist_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-9", prompt="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_model_without_a_checkpoint_is_unavailable(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="unready", prompt="x")
    assert caught.value.status_code == 503


def test_every_answer_carries_its_id_and_time(client: openai.OpenAI) -> None:
    answer = client.models.with_raw_response.list()
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0


def test_a_dropped_stream_is_billed_for_what_was_sent(service: CompletionService, client: openai.OpenAI) -> None:
    before = service.balance()
    with client.chat.completions.create(**QUESTION, max_tokens=1_000, n=16, stream=True) as stream:
        for _ in range(16 + 5):
            next(stream)
    bill = service.wait_for_bill()
    assert bill.state == "disconnected"
    assert 5 <= bill.completion_tokens < 15_000
    assert bill.credits_paid == PRICE * (bill.prompt_tokens + bill.completion_tokens)
    assert service.balance() == Balance(balance=before.balance - bill.credits_paid, held=0)


def test_a_dropped_request_is_free_and_frees_the_engine(service: CompletionService, client: openai.OpenAI) -> None:
    before, num_left = service.balance(), service.count("disconnected")
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{service.base_url}/completions",
            headers={"Authorization": f"Bearer {service.keys['rich']}"},
            json={"model": MODEL, "prompt": "x", "max_tokens": 1_000, "n": 16, "temperature": 0},
            timeout=0.4,
        )
    deadline = time.monotonic() + 15
    while service.count("disconnected") == num_left:
        assert time.monotonic() < deadline, "the request goes on"
        time.sleep(0.05)
    assert service.balance() == before
    while service.num_running():
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.05)
    assert client.completions.create(model=MODEL, prompt="x", max_tokens=1).usage is not None


@pytest.mark.parametrize("is_stream", [True, False])
def test_clients_that_leave_at_any_moment_leave_nothing_held(service: CompletionService, is_stream: bool) -> None:
    body = json.dumps({**QUESTION, "max_tokens": 500, "stream": is_stream})
    num_left, num_done = service.count("disconnected"), service.count("done")
    for number in range(24):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {service.keys['rich']}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            time.sleep(number * 0.004)
    deadline = time.monotonic() + 15
    while service.balance().held or service.count("running"):
        assert time.monotonic() < deadline, "credits are still held"
        time.sleep(0.1)
    assert service.count("disconnected") > num_left
    assert service.count("done") == num_done or not is_stream


def test_a_published_checkpoint_is_served_without_a_restart(service: CompletionService, client: openai.OpenAI) -> None:
    old = client.completions.create(model=MODEL, prompt="x", max_tokens=1).system_fingerprint
    service.evaluate("publish(number=1)")
    deadline = time.monotonic() + 15
    while client.completions.create(model=MODEL, prompt="x", max_tokens=1).system_fingerprint == old:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_killed_engine_ends_its_streams_with_an_error_and_no_bill(
    service: CompletionService, client: openai.OpenAI
) -> None:
    before = service.balance()
    with client.chat.completions.create(**QUESTION, max_tokens=1_000, n=16, stream=True) as stream:
        next(stream)
        service.engine.kill()
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code == "engine_failed"
    assert service.wait_for_bill().state == "failed"
    assert service.balance() == before
    with pytest.raises(openai.InternalServerError) as refused:
        client.completions.create(model=MODEL, prompt="x")
    assert refused.value.status_code == 503
    assert service.balance() == before
    service.start_engine()


def test_a_stopped_engine_finishes_what_it_has_begun(service: CompletionService, client: openai.OpenAI) -> None:
    with client.chat.completions.create(**QUESTION, max_tokens=400, stream=True) as stream:
        next(stream)
        assert service.engine.stop() == 0
        assert sum(1 for _ in stream) > 0
    assert service.wait_for_bill().state == "done"
    service.start_engine()


def test_a_stream_survives_a_restart_of_redis(service: CompletionService, client: openai.OpenAI) -> None:
    asked = {**QUESTION, "max_tokens": 900, "n": 4, "stream_options": {"include_usage": True}}
    with client.chat.completions.create(**asked, stream=True) as stream:
        next(stream)
        service.redis.stop()
        service.redis.start()
        *_, last = stream
    assert last.usage is not None
    assert last.usage.completion_tokens == 4 * 900
    assert service.wait_for_bill().state == "done"
