import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ml import loss
from ml.loss import linear_cross_entropy
from tests.ml.make import make_model


def make_case(num_tokens: int = 50) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_ND = torch.randn(num_tokens, 16, generator=generator)
    weight_VD = torch.randn(40, 16, generator=generator)
    return x_ND, weight_VD, torch.randint(40, (num_tokens,), generator=generator)


def with_gradients(function: object, x: Tensor, weight: Tensor, targets: Tensor) -> list[Tensor]:
    """Loss, and three times its gradients: what flows in must flow through."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = function(x, weight, targets)
    (value * 3).backward()
    return [value.detach(), x.grad, weight.grad]


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), targets)


@pytest.mark.parametrize("chunk_tokens", [7, 25, 64])
def test_loss_and_gradients_are_those_of_the_whole_logits(monkeypatch: pytest.MonkeyPatch, chunk_tokens: int) -> None:
    monkeypatch.setattr(loss, "CHUNK_TOKENS", chunk_tokens)
    monkeypatch.setattr(loss, "CPU_SLICE_TOKENS", 4)
    for got, expected in zip(
        with_gradients(linear_cross_entropy, *make_case()), with_gradients(plain, *make_case()), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_they_err_no_more_than_autograds_own() -> None:
    case = make_case(num_tokens=500)
    exact = with_gradients(plain, *(x.double() if x.is_floating_point() else x for x in case))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, autograds = with_gradients(linear_cross_entropy, *case), with_gradients(plain, *case)
    for got, usual, expected in zip(ours, autograds, exact, strict=True):
        assert got.dtype == torch.float32
        error, usual_error = (float((value - expected).norm() / expected.norm()) for value in (got, usual))
        assert error < max(1.3 * usual_error, 1e-3)
        assert error < 0.01


def test_without_gradients_the_loss_is_the_same() -> None:
    x, weight, targets = make_case()
    with torch.no_grad():
        value = linear_cross_entropy(x, weight.requires_grad_(), targets)
    assert not value.requires_grad
    assert value.item() == pytest.approx(plain(x, weight, targets).item(), rel=1e-6)


def test_a_target_without_any_probability_costs_much_but_not_infinitely_much() -> None:
    x, weight = torch.tensor([[1.0]]), torch.tensor([[500.0], [-500.0]])
    value, *gradients = with_gradients(linear_cross_entropy, x, weight, torch.tensor([1]))
    assert 80 < value.item() < 100
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_logits_that_are_no_numbers_give_a_loss_that_is_none() -> None:
    x, weight, targets = make_case()
    x[3, 3] = math.nan
    assert math.isnan(linear_cross_entropy(x, weight, targets).item())


def test_a_model_learns_the_same_curve_with_it_and_with_the_whole_logits() -> None:
    curves = []
    tokens = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(1))
    for is_plain in (True, False):
        model = make_model(scale=2.0).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        curve = []
        for _ in range(12):
            inputs, targets = tokens[:, :-1], tokens[:, 1:]
            value = (
                F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
                if is_plain
                else model.loss(inputs, targets)
            )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            curve.append(value.item())
        curves.append(curve)
    assert curves[0][-1] < curves[0][0] - 0.5
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)
