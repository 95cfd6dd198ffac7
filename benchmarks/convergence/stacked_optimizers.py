"""The inner optimizers of ml/optimizer.py on the stacked weights of many replicas, each with a rate of its own.

Shape suffixes: G replicas, M rows and N columns of a matrix.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ml.config import InnerConfig

Stacks = dict[str, Tensor]

ADAMW_EPSILON = 1e-8
MUON_MOMENTUM = 0.95
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MUON_ITERATIONS = 5
MUON_MIN_NORM = 1e-7
MUON_RMS = 0.2
"""Usual size of AdamW's steps over its learning rate; this and the values above are torch.optim's."""


class StackedOptimizer(Protocol):
    """Moves some parameters of all replicas."""

    moments: dict[str, Stacks]
    """By kind, then by parameter; (G, ...)."""

    def step(self, gradients: Mapping[str, Tensor], rates: Mapping[int, float]) -> None:
        """Move the replicas that have a rate; the others' weights and moments stay as they are."""


def make_optimizers(weights: Stacks, inner: InnerConfig) -> list[StackedOptimizer]:
    """Which parameters are whose, as in ml.optimizer.make_optimizers.

    Shapes: weights (G, ...), moved in place.
    """
    matrices = {name: stack for name, stack in weights.items() if stack.dim() == 3}
    scales = {name: stack for name, stack in weights.items() if stack.dim() != 3}
    if inner.optimizer == "adamw":
        return [StackedAdamW(matrices, scales, inner)]
    hidden = {name: stack for name, stack in matrices.items() if name.startswith("model.layers.")}
    others = {name: stack for name, stack in matrices.items() if name not in hidden}
    return [StackedMuon(hidden, inner), StackedAdamW(others, scales, inner)]


class StackedAdamW:
    """torch's fused AdamW; replicas with one rate share a call."""

    def __init__(self, matrices: Stacks, scales: Stacks, inner: InnerConfig) -> None:
        weights = matrices | scales
        self.moments: dict[str, Stacks] = {
            "step": {name: torch.zeros(len(stack), device=stack.device) for name, stack in weights.items()},
            "exp_avg": {name: torch.zeros_like(stack) for name, stack in weights.items()},
            "exp_avg_sq": {name: torch.zeros_like(stack) for name, stack in weights.items()},
        }
        self._inner = inner
        self._weights = _replicas_of(weights)
        self._moments = {kind: _replicas_of(stacks) for kind, stacks in self.moments.items()}
        self._decays = ((tuple(matrices), inner.weight_decay), (tuple(scales), 0.0))

    def step(self, gradients: Mapping[str, Tensor], rates: Mapping[int, float]) -> None:
        pieces = {name: gradients[name].unbind(0) for name in self._weights}
        for rate, replicas in _by_rate(rates).items():
            for names, decay in self._decays:
                self._move(names, replicas, pieces, rate=rate, decay=decay)

    def _move(
        self,
        names: Iterable[str],
        replicas: Sequence[int],
        gradients: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        decay: float,
    ) -> None:
        places = [(name, replica) for name in names for replica in replicas]

        def chosen(pieces: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
            return [pieces[name][replica] for name, replica in places]

        adamw(
            chosen(self._weights),
            chosen(gradients),
            chosen(self._moments["exp_avg"]),
            chosen(self._moments["exp_avg_sq"]),
            [],
            chosen(self._moments["step"]),
            fused=True,
            amsgrad=False,
            beta1=self._inner.beta1,
            beta2=self._inner.beta2,
            lr=rate,
            weight_decay=decay,
            eps=ADAMW_EPSILON,
            maximize=False,
        )


class StackedMuon:
    """torch.optim.Muon with Nesterov momentum and steps as large as AdamW's, all matrices of one shape together."""

    def __init__(self, matrices: Stacks, inner: InnerConfig) -> None:
        self.moments: dict[str, Stacks] = {
            "momentum_buffer": {name: torch.zeros_like(stack) for name, stack in matrices.items()}
        }
        self._matrices = matrices
        self._weight_decay = inner.weight_decay
        self._by_shape: defaultdict[torch.Size, list[str]] = defaultdict(list)
        for name, stack in matrices.items():
            self._by_shape[stack.shape].append(name)

    def step(self, gradients: Mapping[str, Tensor], rates: Mapping[int, float]) -> None:
        device = next(iter(self._matrices.values())).device
        moving_G = torch.tensor(list(rates), dtype=torch.int64, device=device)
        rates_G11 = torch.tensor(list(rates.values()), dtype=torch.float64, device=device)[:, None, None]
        shrinking_G11 = (1 - rates_G11 * self._weight_decay).float()
        for shape, names in self._by_shape.items():
            towards = torch.cat([self._advance(name, gradients[name], moving_G) for name in names])
            sizes_G11 = (rates_G11 * (MUON_RMS * math.sqrt(max(shape[1:])))).float()
            for name, direction in zip(names, torch.split(orthogonalize(towards), len(rates)), strict=True):
                matrix_GMN = self._matrices[name]
                matrix_GMN[moving_G] = matrix_GMN[moving_G] * shrinking_G11 - sizes_G11 * direction

    def _advance(self, name: str, gradient_GMN: Tensor, moving_G: Tensor) -> Tensor:
        """Add the gradient to the momentum; the direction before it is made orthogonal."""
        momentum_GMN, gradient_GMN = self.moments["momentum_buffer"][name], gradient_GMN[moving_G]
        advanced_GMN = momentum_GMN[moving_G].lerp_(gradient_GMN, 1 - MUON_MOMENTUM)
        momentum_GMN[moving_G] = advanced_GMN
        return gradient_GMN.lerp(advanced_GMN, MUON_MOMENTUM)


def orthogonalize(x_GMN: Tensor) -> Tensor:
    """For each matrix U S V^T about U V^T, in bfloat16: Newton and Schulz's iteration, with Muon's coefficients.

    Source: Muon (https://kellerjordan.github.io/posts/muon).
    """
    a, b, c = MUON_COEFFICIENTS
    is_tall = x_GMN.shape[1] > x_GMN.shape[2]
    y_GMN = (x_GMN.mT if is_tall else x_GMN).bfloat16()
    y_GMN = y_GMN / y_GMN.norm(dim=(1, 2), keepdim=True).clamp(min=MUON_MIN_NORM)
    for _ in range(MUON_ITERATIONS):
        gram_GMM = y_GMN @ y_GMN.mT
        y_GMN = torch.baddbmm(y_GMN, torch.baddbmm(gram_GMM, gram_GMM, gram_GMM, beta=b, alpha=c), y_GMN, beta=a)
    return y_GMN.mT if is_tall else y_GMN


def _replicas_of(stacks: Stacks) -> dict[str, tuple[Tensor, ...]]:
    return {name: stack.unbind(0) for name, stack in stacks.items()}


def _by_rate(rates: Mapping[int, float]) -> dict[float, list[int]]:
    replicas: defaultdict[float, list[int]] = defaultdict(list)
    for replica, rate in rates.items():
        replicas[rate].append(replica)
    return replicas
