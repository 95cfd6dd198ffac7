"""What is answered, against the published schemas and the models of OpenAI's package."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from inference.openai.response_schemas import CHAT_COMPLETION, COMPLETION
from inference.openai.shapes import Answer, ChatShape, Head, Piece, TextShape, Usage
from inference.openai.token_scores import ScoredToken
from tests.inference.openai.test_request_schemas import json_schema

HEAD = Head(request_id="cmpl-1", created=5, model="study", checkpoint_sha256="ab" * 32)
USAGE = Usage(prompt_tokens=2, completion_tokens=3)
SCORED = (
    ScoredToken(data=b"p", offset=0, logprob=None, top=()),
    ScoredToken(data=b"\xea", offset=1, logprob=-1.5, top=((b"a", -1.0),)),
)
LOGPROBS = pytest.mark.parametrize("logprobs", [None, (), SCORED])


def is_valid(body: Any, schema: dict[str, Any]) -> bool:
    return bool(Draft202012Validator(json_schema(schema)).is_valid(body))


@LOGPROBS
def test_a_text_is_as_published_and_as_openais_package_wants_it(logprobs: tuple[ScoredToken, ...] | None) -> None:
    answer = Answer(index=0, text="p\ufffd", finish_reason="stop", logprobs=logprobs)
    body = TextShape().whole(HEAD, [answer], USAGE)
    assert is_valid(body, COMPLETION)
    assert (Completion.model_validate(body).choices[0].logprobs is None) == (logprobs is None)


@LOGPROBS
def test_a_chat_is_as_published_and_as_openais_package_wants_it(logprobs: tuple[ScoredToken, ...] | None) -> None:
    answer = Answer(index=0, text="p\ufffd", finish_reason="length", logprobs=logprobs)
    body = ChatShape().whole(HEAD, [answer], USAGE)
    assert is_valid(body, CHAT_COMPLETION)
    assert (ChatCompletion.model_validate(body).choices[0].logprobs is None) == (logprobs is None)


@LOGPROBS
def test_every_chunk_of_a_chat_is_as_openais_package_wants_it(logprobs: tuple[ScoredToken, ...] | None) -> None:
    shape = ChatShape()
    piece = Piece(index=1, text="p", num_tokens=1, finish_reason=None, logprobs=logprobs)
    last = Piece(index=1, text="", num_tokens=2, finish_reason="stop", logprobs=logprobs)
    chunks = [*shape.opening(HEAD, 2), shape.chunk(HEAD, piece), shape.chunk(HEAD, last), shape.closing(HEAD, USAGE)]
    read = [ChatCompletionChunk.model_validate(chunk) for chunk in chunks]
    assert [[choice.index for choice in chunk.choices] for chunk in read] == [[0], [1], [1], [1], []]
    assert [choice.delta.content for chunk in read for choice in chunk.choices] == ["", "", "p", None]


def test_a_field_that_openai_requires_is_missing_nowhere() -> None:
    answer = Answer(index=0, text="", finish_reason="stop")
    body = TextShape().whole(HEAD, [answer], USAGE)
    for name in body:
        assert not is_valid({key: value for key, value in body.items() if key != name}, COMPLETION)
    assert body["system_fingerprint"] == "fp_abababababab"
