from typing import Any

import pytest

from inference.openai.errors import ApiError
from inference.openai.messages import Message, read_messages

QUESTION = {"role": "user", "content": "What is a widget?"}


def test_text_comes_whole_or_in_parts() -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a widget?"}]
    assert read_messages([{"role": "user", "content": parts}]) == read_messages([QUESTION])


def test_an_answer_may_be_handed_back_as_it_came() -> None:
    answer = {"role": "assistant", "content": "A description.", "refusal": None, "tool_calls": None, "annotations": []}
    assert read_messages([QUESTION, answer, QUESTION])[1] == Message(role="assistant", text="A description.")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ("hello", "messages"),
        ([], "messages"),
        ([QUESTION] * 1_001, "messages"),
        (["hello"], "messages[0]"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": [], "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text", "text": "x", "size": 1}]}], "messages[0].content[0].size"),
        ([{**QUESTION, "name": "mina"}], "messages[0].name"),
        ([QUESTION, {"role": "assistant", "content": "A"}], "messages[1].role"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_place(messages: Any, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_messages(messages)
    assert caught.value.param == param
