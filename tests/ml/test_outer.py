import math

import numpy as np
import pytest
import torch

from ml.config import OuterConfig
from ml.outer import Floats, OuterBuffers, OuterMoment, outer_moment, outer_step


def run_steps(
    weights_N: Floats, gradients_TN: Floats, config: OuterConfig, *, progress: float = 0.0
) -> tuple[Floats, OuterBuffers]:
    """Weights and buffers after one merge for each gradient."""
    zeros_N = np.zeros_like(weights_N)
    buffers = OuterBuffers(zeros_N, zeros_N if config.delay > 1 else None)
    for num_merges, gradient_N in enumerate(gradients_TN):
        moment = outer_moment(config, progress=progress, num_merges=num_merges)
        step_N, buffers = outer_step(gradient_N, buffers, config=config, moment=moment)
        weights_N = weights_N - step_N
    return weights_N, buffers


def make_gradients(num_steps: int) -> Floats:
    return np.random.default_rng(1).standard_normal((num_steps, 1_000), dtype=np.float32)


def make_moment(*, learning_rate: float = 1.0, updates_momentum: bool = True) -> OuterMoment:
    return OuterMoment(learning_rate=learning_rate, updates_momentum=updates_momentum)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.9, True), (0.9, False), (0.0, False)], ids=["nesterov", "heavy_ball", "plain"]
)
def test_outer_steps_are_those_of_torch(momentum: float, nesterov: bool) -> None:
    weights_N = np.random.default_rng(0).standard_normal(1_000, dtype=np.float32)
    parameter = torch.tensor(weights_N)
    reference = torch.optim.SGD([parameter], lr=0.7, momentum=momentum, nesterov=nesterov)
    for gradient_N in make_gradients(5):
        parameter.grad = torch.tensor(gradient_N)
        reference.step()
    config = OuterConfig(learning_rate=0.7, momentum=momentum, nesterov=nesterov)
    found_N, buffers = run_steps(weights_N, make_gradients(5), config)
    np.testing.assert_allclose(found_N, parameter.numpy(), rtol=0, atol=4e-6)
    assert found_N.dtype == buffers.momentum.dtype == np.float32


@pytest.mark.parametrize("delay", [2, 3, 4])
def test_delayed_nesterov_is_the_papers_algorithm(delay: int) -> None:
    learning_rate, momentum, weights = 0.7, 0.9, np.zeros(1_000)
    pending, velocity = np.zeros(1_000), np.zeros(1_000)
    gradients_TN = make_gradients(10)
    for index, gradient in enumerate(gradients_TN.astype(np.float64)):
        pending += gradient
        if (index + 1) % delay == 0:
            velocity = momentum * velocity + pending / delay
            weights -= learning_rate * (momentum * velocity + gradient / delay)
            pending = np.zeros(1_000)
        else:
            weights -= learning_rate * gradient / delay
    config = OuterConfig(learning_rate=learning_rate, momentum=momentum, delay=delay)
    found_N, buffers = run_steps(np.zeros(1_000, np.float32), gradients_TN, config)
    np.testing.assert_allclose(found_N, weights, rtol=0, atol=1e-5)
    np.testing.assert_allclose(buffers.momentum, velocity, rtol=0, atol=1e-5)
    assert buffers.pending is not None
    np.testing.assert_allclose(buffers.pending, pending / delay, rtol=0, atol=1e-6)


@pytest.mark.parametrize("nesterov", [True, False])
def test_arrivals_one_by_one_go_as_far_as_one_merge_of_them_all(nesterov: bool) -> None:
    arriving = OuterConfig(delay=4, nesterov=nesterov)
    together = OuterConfig(nesterov=nesterov)
    gradients_TN = make_gradients(12)
    one_by_one, _ = run_steps(np.zeros(1_000, np.float32), gradients_TN, arriving)
    means_TN = gradients_TN.reshape(3, 4, 1_000).mean(axis=1)
    at_once, _ = run_steps(np.zeros(1_000, np.float32), means_TN, together)
    np.testing.assert_allclose(one_by_one, at_once, rtol=0, atol=1e-5)


def test_outer_step_by_hand() -> None:
    one, two = np.ones(1, np.float32), np.full(1, 2.0, np.float32)
    config = OuterConfig(momentum=0.5, nesterov=True)
    step, buffers = outer_step(one, OuterBuffers(two, None), config=config, moment=make_moment(learning_rate=0.5))
    assert buffers.momentum.tolist() == [0.5 * 2 + 1]
    assert step.tolist() == [0.5 * (1 + 0.5 * 2)]


def test_fedavg_lands_on_the_devices_weights() -> None:
    base, local = np.float32([1.0, -2.0, 0.5]), np.float32([0.75, -2.5, 0.5])
    config = OuterConfig(learning_rate=1.0, momentum=0.0)
    weights, _ = run_steps(base, (base - local)[None], config)
    assert weights.tolist() == local.tolist()


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("nesterov", [True, False])
def test_outer_step_leaves_its_arguments(delay: int, nesterov: bool) -> None:
    gradient, momentum, pending = (np.ones(3, np.float32) for _ in range(3))
    config = OuterConfig(delay=delay, nesterov=nesterov)
    for updates in (True, False):
        moment = make_moment(updates_momentum=updates)
        outer_step(gradient, OuterBuffers(momentum, pending), config=config, moment=moment)
    assert gradient.tolist() == momentum.tolist() == pending.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("schedule", "progress", "learning_rate"),
    [
        ("constant", 0.9, 0.8),
        ("cosine", 0.0, 0.8),
        ("cosine", 0.5, 0.8 * (0.25 + 0.75 * 0.5)),
        ("cosine", 1 / 3, 0.8 * (0.25 + 0.75 * (1 + math.cos(math.pi / 3)) / 2)),
        ("cosine", 1.0, 0.2),
        ("linear", 0.0, 0.8),
        ("linear", 0.5, 0.5),
        ("linear", 1.0, 0.2),
        ("linear", 1.5, 0.2),
    ],
)
def test_the_learning_rate_follows_its_schedule(schedule: str, progress: float, learning_rate: float) -> None:
    config = OuterConfig(learning_rate=0.8, schedule=schedule, min_learning_rate_ratio=0.25)
    found = outer_moment(config, progress=progress, num_merges=0).learning_rate
    assert found == pytest.approx(learning_rate, rel=1e-12)


def test_the_momentum_moves_every_so_many_merges() -> None:
    config = OuterConfig(delay=3)
    moments = [outer_moment(config, progress=0.0, num_merges=count).updates_momentum for count in range(6)]
    assert moments == [False, False, True, False, False, True]
