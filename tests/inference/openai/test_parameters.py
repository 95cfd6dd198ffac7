from typing import Any

import pytest
from openai.types import completion_create_params as text
from openai.types.chat import completion_create_params as chat

from inference.openai.errors import ApiError
from inference.openai.fields import CHAT_FIELDS, COMPLETION_FIELDS, MAX_PROMPT_TOKENS, UNSUPPORTED_FIELDS
from inference.openai.parameters import Parameters, read_chat, read_completion

TEXT = {"model": "study", "prompt": "x"}
CHAT = {"model": "study", "messages": [{"role": "user", "content": "x"}]}


def refusal(body: dict[str, Any], *, is_chat: bool = False) -> ApiError:
    with pytest.raises(ApiError) as caught:
        (read_chat if is_chat else read_completion)(body)
    assert caught.value.status == 400
    return caught.value


def test_what_a_client_leaves_out_has_openais_defaults() -> None:
    text, chat = read_completion({"model": "study"}), read_chat(CHAT)
    assert (text.prompts, text.max_tokens, chat.max_tokens) == (("",), 16, None)
    for given in (text, chat):
        assert (given.n, given.temperature, given.top_p, given.stop, given.is_stream) == (1, 1.0, 1.0, (), False)


def test_requests_without_a_seed_differ() -> None:
    assert read_completion(TEXT).seed != read_completion(TEXT).seed


@pytest.mark.parametrize(
    ("prompt", "read"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_a_prompt_has_four_forms(prompt: Any, read: Any) -> None:
    assert read_completion({**TEXT, "prompt": prompt}).prompts == read


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, "a"], [[1], "a"], 5, {}, [True], [1.0], ["a"] * 129])
def test_a_prompt_of_another_form_is_refused(prompt: Any) -> None:
    assert refusal({**TEXT, "prompt": prompt}).param == "prompt"


@pytest.mark.parametrize(
    ("name", "least", "most", "step"),
    [
        ("temperature", 0, 2, 0.01),
        ("top_p", 0, 1, 0.01),
        ("min_p", 0, 1, 0.01),
        ("n", 1, 128, 1),
        ("top_k", -1, 10_000_000, 1),
        ("seed", -(2**63), 2**63 - 1, 1),
        ("max_tokens", 0, 10_000_000, 1),
        ("logprobs", 0, 5, 1),
        ("best_of", 0, 20, 1),
        ("frequency_penalty", -2, 2, 0.01),
        ("presence_penalty", -2, 2, 0.01),
    ],
)
def test_a_number_is_taken_up_to_its_bounds_and_refused_beyond(name: str, least: Any, most: Any, step: Any) -> None:
    for value in (least, most):
        read_completion({**TEXT, name: value})
    below, above = refusal({**TEXT, name: least - step}), refusal({**TEXT, name: most + step})
    assert (below.param, above.param) == (name, name)
    assert below.code is not None
    assert below.code.endswith("_below_min_value")
    assert above.code is not None
    assert above.code.endswith("_above_max_value")


@pytest.mark.parametrize("name", ["temperature", "n", "max_tokens", "seed", "top_k", "stream", "stop", "user", "model"])
@pytest.mark.parametrize("value", [[1], {"a": 1}])
def test_a_value_of_another_type_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal({**TEXT, name: value})
    assert (error.param, error.code) == (name, "invalid_type")


def test_true_is_no_number_and_two_point_zero_is_an_integer() -> None:
    assert refusal({**TEXT, "n": True}).code == "invalid_type"
    assert refusal({**TEXT, "n": 1.5}).code == "invalid_type"
    assert read_completion({**TEXT, "n": 2.0}).n == 2


@pytest.mark.parametrize(
    "prompt",
    [[1] * MAX_PROMPT_TOKENS + ["a"], [[1] * (MAX_PROMPT_TOKENS // 2), [1] * (MAX_PROMPT_TOKENS // 2), [1, "a"]]],
)
def test_too_many_tokens_are_refused_before_each_is_looked_at(prompt: Any) -> None:
    error = refusal({**TEXT, "prompt": prompt})
    assert (error.param, error.code) == ("prompt", "array_above_max_length")


def test_as_many_tokens_as_are_allowed_are_read() -> None:
    half = [1] * (MAX_PROMPT_TOKENS // 2)
    assert read_completion({**TEXT, "prompt": [half, half]}).prompts == (tuple(half), tuple(half))


@pytest.mark.parametrize("body", [{"prompt": "x"}, {"model": None}])
def test_the_model_is_required(body: dict[str, Any]) -> None:
    assert refusal(body).code == "missing_required_parameter"


def test_messages_are_required() -> None:
    assert refusal({"model": "study"}, is_chat=True).param == "messages"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("suffix", "end"),
        ("tools", [{"type": "function"}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("store", True),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, value: Any) -> None:
    for body, is_chat in ((TEXT, False), (CHAT, True)):
        error = refusal({**body, name: value}, is_chat=is_chat)
        assert (error.param, error.code) == (name, "unsupported_parameter")
        assert name in str(error)


def test_what_belongs_to_the_other_endpoint_is_refused_by_name() -> None:
    for body, is_chat in (
        ({**CHAT, "echo": True}, True),
        ({**CHAT, "best_of": 2}, True),
        ({**TEXT, "top_logprobs": 2}, False),
    ):
        error = refusal(body, is_chat=is_chat)
        assert (error.param, error.code) == (list(body)[-1], "unsupported_parameter")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("echo", False),
        ("best_of", 1),
        ("best_of", 0),
        ("tools", None),
        ("response_format", {"type": "text"}),
        ("modalities", ["text"]),
    ],
)
def test_what_asks_for_nothing_is_taken(name: str, value: Any) -> None:
    read_chat({**CHAT, name: value})


def test_every_field_of_openais_specification_is_either_supported_or_refused_by_name() -> None:
    assert set(text.CompletionCreateParamsBase.__annotations__) <= COMPLETION_FIELDS | set(UNSUPPORTED_FIELDS)
    assert set(chat.CompletionCreateParamsBase.__annotations__) <= CHAT_FIELDS | set(UNSUPPORTED_FIELDS)


def test_a_field_that_nobody_knows_is_refused() -> None:
    error = refusal({**TEXT, "temprature": 1})
    assert error.param == "temprature"
    assert "Unrecognized request argument supplied: temprature" in str(error)


def test_the_two_names_of_the_longest_answer_must_agree() -> None:
    assert read_chat({**CHAT, "max_completion_tokens": 5}).max_tokens == 5
    assert read_chat({**CHAT, "max_completion_tokens": 5, "max_tokens": 5}).max_tokens == 5
    assert refusal({**CHAT, "max_completion_tokens": 5, "max_tokens": 6}, is_chat=True).param == "max_tokens"


def test_prompts_times_choices_are_bounded() -> None:
    assert refusal({**TEXT, "prompt": ["a"] * 65, "n": 2}).param == "n"


def test_best_of_is_at_least_n_and_not_streamed() -> None:
    assert read_completion({**TEXT, "n": 2, "best_of": 3}).best_of == 3
    assert read_completion({**TEXT, "n": 2}).best_of == 2
    assert read_completion({**TEXT, "n": 2, "best_of": 0}).best_of == 2
    assert refusal({**TEXT, "n": 3, "best_of": 2}).param == "best_of"
    assert refusal({**TEXT, "best_of": 2, "stream": True}).param == "best_of"
    assert read_completion({**TEXT, "n": 2, "best_of": 2, "stream": True}).n == 2
    assert refusal({**TEXT, "prompt": ["a"] * 7, "best_of": 20}).param == "best_of"


def test_logprobs_of_a_chat_are_switched_on_and_counted_apart() -> None:
    def num_logprobs(**fields: Any) -> int | None:
        return read_chat({**CHAT, **fields}).num_logprobs

    assert [num_logprobs(), num_logprobs(logprobs=True), num_logprobs(logprobs=True, top_logprobs=20)] == [None, 0, 20]
    assert refusal({**CHAT, "top_logprobs": 2}, is_chat=True).param == "top_logprobs"
    assert refusal({**CHAT, "logprobs": 2}, is_chat=True).param == "logprobs"
    assert refusal({**CHAT, "logprobs": True, "top_logprobs": 21}, is_chat=True).param == "top_logprobs"


def test_logprobs_of_a_text_are_a_count() -> None:
    counts = [read_completion({**TEXT, **fields}).num_logprobs for fields in ({}, {"logprobs": 0}, {"logprobs": 5})]
    assert counts == [None, 0, 5]
    assert refusal({**TEXT, "logprobs": True}).code == "invalid_type"


def test_only_a_text_may_have_no_tokens() -> None:
    assert read_completion({**TEXT, "max_tokens": 0, "echo": True}).max_tokens == 0
    assert refusal({**CHAT, "max_tokens": 0}, is_chat=True).param == "max_tokens"


def test_biases_are_tokens_and_numbers() -> None:
    given: Parameters = read_chat({**CHAT, "logit_bias": {"5": -100, "0": 2.5}})
    assert given.logit_bias == ((5, -100.0), (0, 2.5))


@pytest.mark.parametrize(
    ("bias", "param"),
    [
        ([], "logit_bias"),
        ({str(token): 1 for token in range(301)}, "logit_bias"),
        ({"foo": 0}, "logit_bias.foo"),
        ({"-1": 0}, "logit_bias.-1"),
        ({"05": 0}, "logit_bias.05"),
        ({"٣": 0}, "logit_bias.٣"),
        ({"9" * 5_000: 0}, "logit_bias." + "9" * 5_000),
        ({"5": 101}, "logit_bias.5"),
        ({"5": None}, "logit_bias.5"),
        ({"5": "1"}, "logit_bias.5"),
    ],
)
def test_a_bias_that_makes_no_sense_is_refused_by_name(bias: Any, param: str) -> None:
    assert refusal({**TEXT, "logit_bias": bias}).param == param


@pytest.mark.parametrize("stop", [["a"] * 5, "", ["a", ""], [1]])
def test_a_stop_that_makes_no_sense_is_refused(stop: Any) -> None:
    assert refusal({**TEXT, "stop": stop}).param == "stop"


def test_stream_options_need_a_stream() -> None:
    options = {"include_usage": True}
    assert refusal({**TEXT, "stream_options": options}).param == "stream_options"
    assert read_completion({**TEXT, "stream": True, "stream_options": options}).includes_usage
    error = refusal({**TEXT, "stream": True, "stream_options": {"include_everything": True}})
    assert error.param == "stream_options.include_everything"


def test_top_k_has_two_words_for_no_limit() -> None:
    assert [read_completion({**TEXT, "top_k": value}).top_k for value in (-1, 0, 3)] == [None, None, 3]
