"""The outer optimizer: SGD with momentum over merged deltas, elementwise, so that it may run slice by slice.

Each line is one float32 operation and none is fused with the next: the same bytes come out on every machine.
"""

import numpy as np
import numpy.typing as npt

from ml.config import OuterConfig

Floats = npt.NDArray[np.float32]


def outer_step(base_N: Floats, momentum_N: Floats, gradient_N: Floats, *, config: OuterConfig) -> tuple[Floats, Floats]:
    """New weights and new momentum; the arguments stay as they are.

    The gradient is a mean of deltas, base - local: it is descended. With learning rate 1 and momentum 0, one device's
    delta lands on that device's weights.
    Source: DiLoCo (arXiv 2311.08105), algorithm 1; torch.optim.SGD with dampening 0, whose first momentum is the
    gradient, as it is here from a momentum of zeros.
    """
    learning_rate, momentum = np.float32(config.learning_rate), np.float32(config.momentum)
    new_momentum_N = momentum * momentum_N + gradient_N
    step_N = gradient_N + momentum * new_momentum_N if config.nesterov else new_momentum_N
    return base_N - learning_rate * step_N, new_momentum_N
