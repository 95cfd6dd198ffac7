import pytest
import torch
from torch import Tensor

from ml import fused_norm
from ml.fused_norm import rms_norm, rotated_rms_norm
from ml.model import RMSNorm, rotate, rotation_at
from tests.ml.make import make_config

EPS = 1e-6


@pytest.fixture(autouse=True, params=[1, 2**18], ids=["sliced", "whole"])
def _slice_values(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_norm, "SLICE_VALUES", request.param)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


def assert_same(got: Tensor, expected: Tensor, inputs: tuple[Tensor, ...], *, rtol: float) -> None:
    """Values, and the gradients of a random sum of them, relative to their largest."""
    grad = random(*got.shape, seed=9).to(got.dtype)
    pairs = zip(
        (got, *torch.autograd.grad(got, inputs, grad)),
        (expected, *torch.autograd.grad(expected, inputs, grad.to(expected.dtype))),
        strict=True,
    )
    for value, wanted in pairs:
        assert float((value - wanted).detach().abs().max() / wanted.detach().abs().max()) < rtol


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_rms_norm_is_the_formula(dtype: torch.dtype, rtol: float) -> None:
    x, weight = random(2, 5, 32).to(dtype).requires_grad_(), random(32, seed=1).requires_grad_()
    expected = x.float() / (x.float().square().mean(-1, keepdim=True) + EPS).sqrt() * weight
    got = rms_norm(x, weight, EPS, dtype)
    assert got.dtype == dtype
    assert_same(got, expected, (x, weight), rtol=rtol)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_the_rotated_norm_is_the_norm_and_then_the_rotation(dtype: torch.dtype, rtol: float) -> None:
    config = make_config(rope_theta=50.0)
    rotation = rotation_at(torch.arange(7)[None], config)
    norm = RMSNorm(config.head_dim, EPS).eval()
    with torch.no_grad():
        norm.weight.copy_(random(config.head_dim, seed=1))
    x_BTHE = random(2, 7, 4, config.head_dim).to(dtype).requires_grad_()
    expected = rotate(norm(x_BTHE.float()).transpose(1, 2), rotation)
    got = rotated_rms_norm(x_BTHE, norm.weight, EPS, rotation)
    assert got.dtype == dtype
    assert got.is_contiguous()
    assert_same(got, expected, (x_BTHE, norm.weight), rtol=rtol)
