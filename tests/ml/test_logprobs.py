import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.logprobs import score_tokens
from ml.token_logprobs import TokenLogprobs

LOGITS_BV = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]).log() + 4.0


def test_scores_are_logarithms_of_probabilities_and_the_likeliest_come_first() -> None:
    first, second = score_tokens(LOGITS_BV, [1, 2], [2, 0])
    assert first.token == 1
    assert first.logprob == pytest.approx(math.log(0.3), abs=1e-6)
    assert [token for token, _ in first.top] == [0, 1]
    assert [logprob for _, logprob in first.top] == pytest.approx([math.log(0.5), math.log(0.3)], abs=1e-6)
    assert second == TokenLogprobs(token=2, logprob=second.logprob, top=())


def test_more_of_the_likeliest_than_there_are_tokens_are_all_of_them() -> None:
    assert [len(score.top) for score in score_tokens(LOGITS_BV, [0, 0], [20, 1])] == [3, 1]


def test_no_tokens_have_no_scores() -> None:
    assert score_tokens(torch.empty(0, 3), [], []) == []


@given(st.lists(st.integers(0, 31), min_size=1, max_size=6), st.integers(0, 1_000))
def test_half_precision_is_scored_as_the_same_logits_in_float64(tokens: list[int], seed: int) -> None:
    logits_BV = (torch.randn(len(tokens), 32, generator=torch.Generator().manual_seed(seed)) * 8).half()
    expected_BV = torch.log_softmax(logits_BV.double(), dim=-1)
    for b, score in enumerate(score_tokens(logits_BV, tokens, [32] * len(tokens))):
        assert score.logprob == pytest.approx(float(expected_BV[b, tokens[b]]), abs=1e-5)
        assert dict(score.top)[tokens[b]] == score.logprob
        assert sum(math.exp(logprob) for _, logprob in score.top) == pytest.approx(1, abs=1e-5)
