"""The outer optimizer: SGD with momentum over merged deltas, elementwise, so that it may run slice by slice.

Each line is one float32 operation and none is fused with the next: the same bytes come out on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ml.config import OuterConfig

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OuterBuffers:
    """What the optimizer remembers of a slice."""

    momentum: Floats
    pending: Floats | None
    """Gradients since the last update of the momentum; None where every merge updates it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterMoment:
    """Where in the experiment a merge stands."""

    learning_rate: float
    updates_momentum: bool
    """Under a delay, every so many merges."""


def outer_moment(config: OuterConfig, *, progress: float, num_merges: int) -> OuterMoment:
    """`progress` is the share of the experiment's rounds that are over, `num_merges` counts those before this one."""
    return OuterMoment(
        learning_rate=config.learning_rate * _schedule(config, min(max(progress, 0.0), 1.0)),
        updates_momentum=(num_merges + 1) % config.delay == 0,
    )


def outer_step(
    gradient_N: Floats, buffers: OuterBuffers, *, config: OuterConfig, moment: OuterMoment
) -> tuple[Floats, OuterBuffers]:
    """The step, which is subtracted from the weights, and the buffers after it; the arguments stay as they are.

    The gradient is a mean of deltas, base - local: it is descended. With learning rate 1 and momentum 0, one device's
    delta lands on that device's weights.
    Source: DiLoCo (arXiv 2311.08105), algorithm 1; torch.optim.SGD with dampening 0, whose first momentum is the
    gradient, as it is here from a momentum of zeros.
    """
    if config.delay > 1:
        return _delayed_step(gradient_N, buffers, config=config, moment=moment)
    momentum = np.float32(config.momentum)
    momentum_N = momentum * buffers.momentum
    momentum_N += gradient_N
    step_N = momentum_N
    if config.nesterov:
        step_N = momentum * momentum_N
        step_N += gradient_N
    return step_N * np.float32(moment.learning_rate), OuterBuffers(momentum_N, None)


def _delayed_step(
    gradient_N: Floats, buffers: OuterBuffers, *, config: OuterConfig, moment: OuterMoment
) -> tuple[Floats, OuterBuffers]:
    """Descend each gradient at once, by its share of the delay; the momentum once in a while, over all of them.

    Source: Delayed Nesterov (arXiv 2401.09135), algorithm 3, with c = 0. Without `nesterov` the old momentum goes in,
    as in plain SGD.
    """
    learning_rate, momentum = np.float32(moment.learning_rate), np.float32(config.momentum)
    share_N = gradient_N / np.float32(config.delay)
    pending_N = share_N if buffers.pending is None else buffers.pending + share_N
    if not moment.updates_momentum:
        return share_N * learning_rate, OuterBuffers(buffers.momentum, pending_N)
    momentum_N = momentum * buffers.momentum
    step_N = share_N if config.nesterov else share_N + momentum_N
    momentum_N += pending_N
    if config.nesterov:
        step_N = share_N + momentum * momentum_N
    return step_N * learning_rate, OuterBuffers(momentum_N, np.zeros_like(pending_N))


def _schedule(config: OuterConfig, progress: float) -> float:
    lowest = config.min_learning_rate_ratio
    match config.schedule:
        case "cosine":
            return lowest + (1 - lowest) * (1 + math.cos(math.pi * progress)) / 2
        case "linear":
            return lowest + (1 - lowest) * (1 - progress)
    return 1.0
