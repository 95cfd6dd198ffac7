import pytest

from inference.openai.token_scores import ScoredToken, chat_logprobs, given, score, text_logprobs
from ml.token_logprobs import TokenLogprobs
from tests.ml.make import make_tokenizer

TOKENIZER = make_tokenizer()
WHOLE = ScoredToken(data=b"ab", offset=3, logprob=-1.5, top=((b"x", -0.5), (b"ab", -1.5)))
HALF = ScoredToken(data="가".encode()[:2], offset=5, logprob=-2.0, top=((b"x", -0.5),))
GIVEN = ScoredToken(data=b"p", offset=0, logprob=None, top=())


def test_a_text_has_lists_and_the_token_itself_among_the_likeliest() -> None:
    assert text_logprobs([GIVEN, WHOLE, HALF]) == {
        "tokens": ["p", "ab", "bytes:\\xea\\xb0"],
        "token_logprobs": [0.0, -1.5, -2.0],
        "top_logprobs": [{}, {"x": -0.5, "ab": -1.5}, {"x": -0.5, "bytes:\\xea\\xb0": -2.0}],
        "text_offset": [0, 3, 5],
    }


def test_a_token_that_is_certain_is_told_like_any_other() -> None:
    certain = ScoredToken(data=b"a", offset=0, logprob=0.0, top=())
    assert text_logprobs([certain])["top_logprobs"] == [{"a": 0.0}]


def test_a_chat_has_bytes_and_only_the_likeliest() -> None:
    assert chat_logprobs([WHOLE, HALF]) == {
        "content": [
            {
                "token": "ab",
                "logprob": -1.5,
                "bytes": [97, 98],
                "top_logprobs": [
                    {"token": "x", "logprob": -0.5, "bytes": [120]},
                    {"token": "ab", "logprob": -1.5, "bytes": [97, 98]},
                ],
            },
            {
                "token": "\\xea\\xb0",
                "logprob": -2.0,
                "bytes": [0xEA, 0xB0],
                "top_logprobs": [{"token": "x", "logprob": -0.5, "bytes": [120]}],
            },
        ],
        "refusal": None,
    }


def test_what_is_text_in_a_token_of_half_characters_stays_text() -> None:
    token = ScoredToken(data=b" \xeb\xaa", offset=0, logprob=-1.0, top=())
    assert text_logprobs([token])["tokens"] == ["bytes: \\xeb\\xaa"]


@pytest.mark.parametrize("text", ["a", "<|endoftext|>", "[/ANSWER]"])
def test_tokens_are_told_by_their_text(text: str) -> None:
    (token,) = TOKENIZER.encode(text).ids
    scored = score(TOKENIZER, TokenLogprobs(token=token, logprob=-1.0, top=((token, -1.0),)), offset=7)
    assert scored == ScoredToken(data=text.encode(), offset=7, logprob=-1.0, top=((text.encode(), -1.0),))
    assert given(TOKENIZER, token).data == text.encode()
