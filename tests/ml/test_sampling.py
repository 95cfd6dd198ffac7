from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml.sampling import SamplingParams, sample_next

PROBABILITIES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS_V = PROBABILITIES.log() + 3.0


def draw_many(params: SamplingParams, *, logits_V: torch.Tensor = LOGITS_V, num_draws: int = 20_000) -> torch.Tensor:
    """Share of each token over many positions of one text."""
    texts = [range(length) for length in range(num_draws)]
    tokens = sample_next(logits_V.expand(num_draws, -1), params=[params] * num_draws, texts=texts)
    return torch.bincount(torch.tensor(tokens), minlength=len(logits_V)) / num_draws


def draws(params: SamplingParams) -> set[int]:
    return set(draw_many(params, num_draws=2_000).nonzero()[:, 0].tolist())


# 20,000 draws: a standard error of at most 0.0036.
TOLERANCE = 0.015


def test_tokens_come_as_often_as_their_probability_says() -> None:
    torch.testing.assert_close(draw_many(SamplingParams()), PROBABILITIES, rtol=0, atol=TOLERANCE)


def test_temperature_sharpens_and_flattens() -> None:
    for temperature in (0.5, 2.0):
        expected = torch.softmax(LOGITS_V / temperature, dim=-1)
        found = draw_many(SamplingParams(temperature=temperature))
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("temperature", [1e-3, 1e-308, 5e-324])
def test_the_least_temperatures_take_the_likeliest(temperature: float) -> None:
    shares_V = draw_many(SamplingParams(temperature=temperature), logits_V=LOGITS_V.flip(0), num_draws=100)
    assert shares_V.tolist() == [0, 0, 0, 0, 1]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert draws(SamplingParams(temperature=0.0)) == {0}


@pytest.mark.parametrize(
    ("params", "kept"),
    [
        (SamplingParams(top_k=1), {0}),
        (SamplingParams(top_k=3), {0, 1, 2}),
        (SamplingParams(top_k=99), {0, 1, 2, 3, 4}),
        (SamplingParams(top_p=0.01), {0}),
        (SamplingParams(top_p=0.69), {0, 1}),
        (SamplingParams(top_p=0.71), {0, 1, 2}),
        (SamplingParams(min_p=0.26), {0, 1, 2}),
        (SamplingParams(min_p=1.0), {0}),
        (SamplingParams(top_k=2, top_p=0.9), {0, 1}),
        (SamplingParams(top_k=2, top_p=0.5), {0}),
        (SamplingParams(top_k=4, min_p=0.3), {0, 1, 2}),
    ],
)
def test_limits_leave_out_the_unlikely(params: SamplingParams, kept: set[int]) -> None:
    assert draws(params) == kept


def test_what_is_left_keeps_its_proportions() -> None:
    expected = torch.tensor([4 / 7, 3 / 7, 0, 0, 0])
    torch.testing.assert_close(draw_many(SamplingParams(top_k=2)), expected, rtol=0, atol=TOLERANCE)


def test_repetition_makes_a_token_less_likely_on_both_sides_of_zero() -> None:
    logits_BV = torch.tensor([[2.0, 1.9, -1.0], [-1.0, -1.1, -5.0]])
    params = SamplingParams(temperature=0.0, repetition_penalty=1.5)
    assert sample_next(logits_BV, params=[params, params], texts=[[0, 0, 2], [0]]) == [1, 1]
    assert sample_next(logits_BV, params=[params, params], texts=[[2], [2]]) == [0, 0]
    assert logits_BV[0, 0] == 2.0


def test_each_time_that_a_token_was_generated_counts_for_the_frequency_penalty_and_once_for_presence() -> None:
    logits_BV = torch.tensor([[2.0, 1.5, 0.0, -9.0]])
    greedy = {"temperature": 0.0}

    def next_token(text: list[int], num_generated: int | None, **penalties: float) -> int:
        counts = None if num_generated is None else [num_generated]
        params = [SamplingParams(**greedy | penalties)]
        return sample_next(logits_BV, params=params, texts=[text], num_generated=counts)[0]

    assert next_token([0, 0, 0], 1, frequency_penalty=0.4) == 0
    assert next_token([0, 0, 0], 2, frequency_penalty=0.4) == 1
    assert next_token([0, 0, 0], 2, presence_penalty=0.4) == 0
    assert next_token([0, 0, 0], 2, presence_penalty=0.6) == 1
    assert next_token([3, 3, 3], 2, presence_penalty=-20.0) == 3
    assert next_token([0, 0, 0], 0, frequency_penalty=2.0, presence_penalty=2.0) == 0
    assert next_token([0, 0, 0], None, frequency_penalty=2.0, presence_penalty=2.0) == 0
    assert logits_BV[0, 0] == 2.0


def test_a_bias_moves_a_token_and_adds_to_its_penalties() -> None:
    logits_BV = torch.tensor([[2.0, 1.5, 0.0], [2.0, 1.5, 0.0], [2.0, 1.5, 0.0]])
    banned = SamplingParams(temperature=0.0, logit_bias=((0, -100.0),))
    forced = SamplingParams(temperature=1.0, logit_bias=((2, 100.0), (1, -1.0)))
    mended = SamplingParams(temperature=0.0, presence_penalty=1.0, logit_bias=((0, 0.9),))
    texts = [[1], [1], [1, 0]]
    assert sample_next(logits_BV, params=[banned, forced, mended], texts=texts, num_generated=[0, 0, 1]) == [1, 2, 0]


def test_seeds_and_positions_give_different_draws() -> None:
    flat_BV = torch.zeros(1, 1_000)
    found = Counter(
        sample_next(flat_BV, params=[SamplingParams(seed=seed)], texts=[[0] * length])[0]
        for seed in range(10)
        for length in range(10)
    )
    assert len(found) > 85


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.lists(st.tuples(st.integers(0, 31), st.floats(-100, 100)), max_size=3).map(tuple),
    seed=st.integers(-(2**63), 2**64),
)


@given(st.lists(st.tuples(PARAMS, st.lists(st.integers(0, 31), min_size=1, max_size=5)), min_size=1, max_size=5))
def test_a_row_is_drawn_the_same_alone_and_in_any_company(rows: list[tuple[SamplingParams, list[int]]]) -> None:
    logits_BV = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(len(rows))) * 3
    params, texts = [row[0] for row in rows], [row[1] for row in rows]
    counts = [len(text) - 1 for text in texts]
    together = sample_next(logits_BV, params=params, texts=texts, num_generated=counts)
    alone = [
        sample_next(logits_BV[b : b + 1], params=[params[b]], texts=[texts[b]], num_generated=[counts[b]])[0]
        for b in range(len(rows))
    ]
    assert together == alone


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=20), st.integers(0, 1_000))
def test_only_tokens_with_a_probability_are_drawn(logits: list[float], seed: int) -> None:
    logits_BV = torch.tensor([logits])
    token = sample_next(logits_BV, params=[SamplingParams(seed=seed, top_p=0.5)], texts=[[1]])[0]
    assert logits_BV.softmax(dim=-1)[0, token] > 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"repetition_penalty": 0.0},
        {"frequency_penalty": float("nan")},
        {"presence_penalty": float("inf")},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, float("nan")),)},
        {"max_tokens": 0},
        {"stop": ("",)},
    ],
)
def test_numbers_out_of_range_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
