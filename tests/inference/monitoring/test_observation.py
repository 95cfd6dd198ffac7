import logging
from typing import Any

import pytest

from inference.monitoring import observation
from inference.monitoring.observation import Observed
from inference.wire import ChoicePiece, ChoiceTokens
from tests.inference.make import make_request
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer(vocab_size=300)
TEXT = "가족 words"
REQUEST = make_request(prompts=(tuple(TOKENIZER.encode(TEXT).ids),), trace="req_1")


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(str(vars(record)) for record in caplog.records)


def test_prompts_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        observation.log_prompts(REQUEST, TOKENIZER)
        Observed(REQUEST).end(state="done", completion_tokens=1, key_prefix="abcdefgh")
    assert TEXT not in told(caplog)


def test_prompts_are_logged_where_the_operator_wants_that(caplog: pytest.LogCaptureFixture, settings: Any) -> None:
    settings.LOG_PROMPTS = True
    with caplog.at_level(logging.DEBUG):
        observation.log_prompts(REQUEST, TOKENIZER)
    assert TEXT in told(caplog)


def test_the_end_is_a_line_with_who_what_and_how_long(caplog: pytest.LogCaptureFixture) -> None:
    observed = Observed(REQUEST)
    observed.note(ChoiceTokens(index=0, offset=0, tokens=(70,)))
    observed.note(ChoicePiece(index=0, offset=1, text="", num_tokens=0))
    with caplog.at_level(logging.INFO):
        observed.end(state="done", completion_tokens=1, key_prefix="abcdefgh")
    line = vars(caplog.records[-1])
    assert (line["request_id"], line["key"], line["model"]) == ("req_1", "abcdefgh", "study")
    assert (line["state"], line["completion_tokens"]) == ("done", 1)
    assert line["prompt_tokens"] == REQUEST.prompt_tokens
    assert line["seconds"] >= line["first_token_seconds"] >= 0
