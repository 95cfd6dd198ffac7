"""What other engines are asked, and what their streams mean; recorded lines of `vllm serve` stand for it."""

import pytest

from inference.external.dialects import VLLM, Chunk, LlamaServer, OpenAI, Refused, count_tokens, settled
from inference.wire import GenerationRequest
from tests.inference.make import make_request
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer(vocab_size=300)
REQUEST = make_request(
    prompts=((70, 71), (72,)),
    n=2,
    max_tokens=9,
    stop_tokens=(0, 4),
    seed=2**40,
    temperature=0.5,
    top_p=0.9,
    top_k=7,
    min_p=0.1,
    logit_bias=((5, -1.5),),
)


def test_vllm_is_asked_by_tokens_and_for_tokens() -> None:
    body = VLLM("m").body(REQUEST, 3)
    assert (body["prompt"], body["seed"], body["max_tokens"]) == ([72], 3, 9)
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0.5, 0.9, 7, 0.1)
    assert body["logit_bias"] == {"5": -1.5}
    assert (body["stop_token_ids"], body["return_token_ids"]) == ([0, 4], True)


def test_vllms_tokens_are_taken_as_it_tells_them() -> None:
    line = {"choices": [{"index": 0, "text": " a", "logprobs": None, "finish_reason": None, "token_ids": [70, 71]}]}
    assert VLLM("m").read(line) == Chunk(text=" a", tokens=(70, 71))
    line = {"choices": [{"index": 0, "text": "", "finish_reason": "length", "token_ids": []}]}
    assert VLLM("m").read(line).finish_reason == "length"


def test_an_older_vllm_that_tells_no_tokens_is_counted_by_its_text() -> None:
    line = {"choices": [{"index": 0, "text": " a", "finish_reason": "abort"}]}
    assert VLLM("m").read(line) == Chunk(text=" a", finish_reason="stop")


def test_llama_server_is_asked_to_sample_in_our_order() -> None:
    body = LlamaServer().body(REQUEST, 0)
    assert body["samplers"] == ["penalties", "temperature", "top_k", "top_p", "min_p"]
    assert (body["prompt"], body["n_predict"], body["logit_bias"]) == ([70, 71], 9, [[5, -1.5]])
    assert body["repeat_last_n"] == 2 + 9


def test_llama_server_counts_its_tokens() -> None:
    piece = {"index": 0, "content": "가", "tokens": [72], "stop": False, "tokens_predicted": 3}
    assert LlamaServer().read(piece) == Chunk(text="가", num_tokens=3)
    end = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "eos", "tokens_predicted": 4}
    assert LlamaServer().read(end) == Chunk(text="", num_tokens=4, finish_reason="stop")
    assert LlamaServer().read({**end, "stop_type": "limit"}).finish_reason == "length"


def test_a_server_without_tokens_is_asked_by_the_text_that_becomes_them() -> None:
    prompt = tuple(TOKENIZER.encode("Dart는 [QUESTION]", add_special_tokens=False).ids)
    request = make_request(prompts=(prompt,))
    assert OpenAI("m", TOKENIZER, takes_tokens=False).body(request, 0)["prompt"] == "Dart는 [QUESTION]"
    assert OpenAI("m", TOKENIZER, takes_tokens=True).body(request, 0)["prompt"] == list(prompt)


def test_tokens_of_no_text_are_refused_where_only_texts_are_taken() -> None:
    half_a_character = TOKENIZER.encode("가").ids[:1]
    with pytest.raises(Refused, match="'prompt'"):
        OpenAI("m", TOKENIZER, takes_tokens=False).body(make_request(prompts=(tuple(half_a_character),)), 0)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"num_logprobs": 0}, "logprobs"),
        ({"has_prompt_logprobs": True}, "logprobs"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"frequency_penalty": 0.1}, "frequency_penalty"),
        ({"presence_penalty": 0.1}, "presence_penalty"),
    ],
)
def test_what_servers_do_in_ways_of_their_own_is_refused_by_name(changes: dict[str, object], param: str) -> None:
    request: GenerationRequest = make_request(**changes)
    with pytest.raises(Refused, match=f"'{param}'") as caught:
        OpenAI("m", TOKENIZER, takes_tokens=True).body(request, 0)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("text", "part"), [("", ""), ("one", ""), ("one ", "one"), ("one two", "one"), ("one   two", "one"), (" one", "")]
)
def test_a_texts_last_word_is_not_settled(text: str, part: str) -> None:
    assert settled(text) == part


def test_the_count_of_what_is_settled_never_falls() -> None:
    text = "Flutter 위젯은   상태를  갖는다. 'It's' 12 34\n\n  next  line "
    counts = [count_tokens(TOKENIZER, settled(text[:end])) for end in range(len(text) + 1)]
    assert counts == sorted(counts)
    assert counts[-1] <= count_tokens(TOKENIZER, text)
