import numpy as np
import pytest
import torch

from ml.config import OuterConfig
from ml.outer import outer_step


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)], ids=["nesterov", "heavy_ball", "plain"]
)
def test_outer_steps_are_those_of_torch(momentum: float, nesterov: bool) -> None:
    rng = np.random.default_rng(0)
    weights_N, momentum_N = rng.standard_normal(1_000, dtype=np.float32), np.zeros(1_000, np.float32)
    parameter = torch.tensor(weights_N)
    reference = torch.optim.SGD([parameter], lr=0.7, momentum=momentum, nesterov=nesterov)
    config = OuterConfig(learning_rate=0.7, momentum=momentum, nesterov=nesterov)
    for _ in range(5):
        gradient_N = rng.standard_normal(1_000, dtype=np.float32)
        parameter.grad = torch.tensor(gradient_N)
        reference.step()
        weights_N, momentum_N = outer_step(weights_N, momentum_N, gradient_N, config=config)
    np.testing.assert_allclose(weights_N, parameter.numpy(), rtol=0, atol=4e-6)
    assert weights_N.dtype == momentum_N.dtype == np.float32


def test_outer_step_by_hand() -> None:
    one, two = np.ones(1, np.float32), np.full(1, 2.0, np.float32)
    config = OuterConfig(learning_rate=0.5, momentum=0.5, nesterov=True)
    weights, momentum = outer_step(one, two, one, config=config)
    assert momentum.tolist() == [0.5 * 2 + 1]
    assert weights.tolist() == [1 - 0.5 * (1 + 0.5 * 2)]


def test_fedavg_lands_on_the_devices_weights() -> None:
    base, local = np.float32([1.0, -2.0, 0.5]), np.float32([0.75, -2.5, 0.5])
    config = OuterConfig(learning_rate=1.0, momentum=0.0)
    weights, _ = outer_step(base, np.zeros(3, np.float32), base - local, config=config)
    assert weights.tolist() == local.tolist()


def test_outer_step_leaves_its_arguments() -> None:
    base, momentum, gradient = (np.ones(3, np.float32) for _ in range(3))
    outer_step(base, momentum, gradient, config=OuterConfig())
    assert base.tolist() == momentum.tolist() == gradient.tolist() == [1, 1, 1]
