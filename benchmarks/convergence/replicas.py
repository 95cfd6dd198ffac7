"""Copies of one model that are trained side by side: every step is one computation for all of them.

What a small model's step costs is the calls, not the sums: eight copies in one step cost hardly more than two apart.

Shape suffixes: G replicas, P parameters, B rows, T tokens, V vocabulary.
"""

import functools
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.convergence.stacked_optimizers import make_optimizers
from ml.config import InnerConfig, ModelConfig
from ml.model import GPT
from ml.trainer import AUTOCAST_DTYPES

NORM_EPSILON = 1e-6
"""As in torch.nn.utils.clip_grad_norm_."""
CPP_COMPILERS = ("g++", "clang++", "c++")

Losses = Callable[[dict[str, Tensor], Tensor], Tensor]


class Replicas:
    """`weights` and the optimizers' moments are stacked: the first dimension of each tensor is the replica."""

    def __init__(self, base: GPT, *, num_replicas: int, inner: InnerConfig, precision: str, is_compiled: bool) -> None:
        """
        precision: fp32 or bf16, as the Trainer takes it; the weights stay in float32.
        Raises: ValueError where the model has dropout, whose draws would not be the Trainer's.
        """
        if base.config.dropout:
            raise ValueError("models with dropout are not trained side by side")
        self.weights = {
            name: weight.detach().expand(num_replicas, *weight.shape).clone().requires_grad_()
            for name, weight in base.named_parameters()
        }
        self._inner = inner
        self._device = base.device
        self._optimizers = make_optimizers({name: weight.detach() for name, weight in self.weights.items()}, inner)
        self._losses = _make_losses(base.config, base.device.type, precision, is_compiled and _can_compile(base.device))

    def step(self, rows_GBT: Tensor, rates: Mapping[int, float]) -> list[float]:
        """Train the replicas that have a learning rate, and return the mean loss of each replica before the step.

        A replica whose loss or gradient is not finite is not moved; its loss is NaN.

        Shapes: rows_GBT (G, B, T + 1), each row's inputs and, one further, its targets.
        """
        losses_G = self._losses(self.weights, rows_GBT.to(self._device))
        computed = torch.autograd.grad(losses_G.sum(), list(self.weights.values()))
        with torch.no_grad():
            # The fused AdamW takes for granted that they lie in memory as the weights do.
            gradients = {name: gradient.contiguous() for name, gradient in zip(self.weights, computed, strict=True)}
            norms_G = self._clip(list(gradients.values()))
            numbers = torch.stack((losses_G, norms_G)).tolist()
            losses = [loss if math.isfinite(loss + norm) else math.nan for loss, norm in zip(*numbers, strict=True)]
            moving = {replica: rate for replica, rate in rates.items() if not math.isnan(losses[replica])}
            for optimizer in self._optimizers if moving else ():
                optimizer.step(gradients, moving)
        return losses

    def moments(self, replica: int) -> dict[str, Tensor]:
        """Copies on the CPU of what ml.trainer.Trainer.moments gives."""
        return {
            f"{name}/{kind}": stack[replica].to("cpu", copy=True)
            for optimizer in self._optimizers
            for kind, stacks in optimizer.moments.items()
            for name, stack in stacks.items()
        }

    def load_moments(self, replica: int, moments: Mapping[str, Tensor]) -> None:
        """Go on with moments of an earlier job.

        Raises: KeyError, ValueError where they are of another model or optimizer.
        """
        stacks = {
            f"{name}/{kind}": stack
            for optimizer in self._optimizers
            for kind, stacks in optimizer.moments.items()
            for name, stack in stacks.items()
        }
        for name, moment in moments.items():
            place = stacks[name][replica]
            if place.shape != moment.shape:
                raise ValueError(f"{name} has shape {tuple(moment.shape)}, not {tuple(place.shape)}")
            place.copy_(moment)

    def _clip(self, gradients: Sequence[Tensor]) -> Tensor:
        """Scale each replica's gradients down to clip_norm where they are above it; their norms before, (G,)."""
        norms_PG = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
        norms_G: Tensor = torch.linalg.vector_norm(norms_PG, dim=0)
        scale_G = (self._inner.clip_norm / (norms_G + NORM_EPSILON)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(scale_G.view(-1, *[1] * (gradient.dim() - 1)))
        return norms_G


class _Loss(nn.Module):
    """The model's loss by operations that torch.vmap knows; GPT.loss computes its gradients by hand."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, rows_BT: Tensor) -> Tensor:
        logits_BTV = self.model(rows_BT[:, :-1])
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), rows_BT[:, 1:].flatten())


@functools.cache
def _make_losses(config: ModelConfig, device: str, precision: str, is_compiled: bool) -> Losses:
    # Without training, the model takes none of the paths that are written for one copy on a CPU; with no dropout,
    # that is all the difference.
    loss = _Loss(GPT(config).to(device).eval())
    dtype = AUTOCAST_DTYPES[precision]

    def of_one(weights: dict[str, Tensor], rows_BT: Tensor) -> Tensor:
        named = {f"model.{name}": weight for name, weight in weights.items()}
        one: Tensor = functional_call(loss, named, (rows_BT,))
        return one

    def losses(weights: dict[str, Tensor], rows_GBT: Tensor) -> Tensor:
        # The fused attention kernels have no rule for vmap, which would call them once a replica.
        with sdpa_kernel(SDPBackend.MATH), torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            every: Tensor = torch.vmap(of_one)(weights, rows_GBT)
        return every

    return torch.compile(losses, dynamic=False) if is_compiled else losses


@functools.cache
def _can_compile(device: torch.device) -> bool:
    is_able = device.type != "cpu" or any(shutil.which(name) for name in CPP_COMPILERS)
    if not is_able:
        print("there is no C++ compiler: what is trained side by side is not compiled", file=sys.stderr)
    return is_able
