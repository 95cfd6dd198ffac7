import pytest
import torch
from torch import Tensor

from ml.block_attention import BLOCK_QUERIES, KEPT_TOKENS, block_attention
from ml.memory import count_saved_bytes


def make_case(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(2, 3, length, 8, generator=generator) * 2 for _ in range(4)]


def with_gradients(function: object, q: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / 8**0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf")).softmax(-1) @ v


@pytest.mark.parametrize("length", [1, 5, BLOCK_QUERIES, BLOCK_QUERIES + 1, KEPT_TOKENS, KEPT_TOKENS + 30])
def test_output_and_gradients_are_those_of_the_formula(length: int) -> None:
    case = make_case(length)
    exact = with_gradients(reference, *(x.double() for x in case))
    for got, expected in zip(with_gradients(block_attention, *case), exact, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_what_is_kept_for_the_backward_pass_grows_with_a_long_text_not_with_its_square() -> None:
    def kept_bytes(length: int) -> int:
        with count_saved_bytes() as saved:
            block_attention(*(x.requires_grad_() for x in make_case(length)[:3]))
        return saved.num_bytes

    assert kept_bytes(4 * KEPT_TOKENS) == 2 * kept_bytes(2 * KEPT_TOKENS)


def test_in_bfloat16_it_errs_by_little_more_than_the_type_does() -> None:
    """Scores are rounded to bfloat16, 8 bits, before the softmax; torch's kernel errs by a third of this."""
    halves = [x.bfloat16() for x in make_case(2 * BLOCK_QUERIES)]
    exact = with_gradients(reference, *(x.double() for x in halves))
    for got, expected in zip(with_gradients(block_attention, *halves), exact, strict=True):
        assert got.dtype == torch.bfloat16
        assert float((got - expected).norm() / expected.norm()) < 0.015
