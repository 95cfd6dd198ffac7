"""Cross-entropy over a large vocabulary, a chunk of tokens at a time: the whole logits never exist.

The gradients are computed in the forward pass, while a chunk's logits are at hand, so that nothing of the vocabulary's
size is kept for the backward pass but the weights' own gradient, and the softmax is computed once.

Source: Cut Your Losses (arXiv 2411.09009) for the idea, Liger Kernel (arXiv 2410.10989) for gradients in the forward
pass.

Shape suffixes: N tokens, C tokens of a chunk, D n_embd, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 2_048
"""Adding up the weights' gradient costs a pass over V x D once a chunk: enough tokens to make that little."""
CPU_SLICE_TOKENS = 32
"""Their float32 probabilities stay in a core's cache."""
MIN_PROBABILITY = torch.finfo(torch.float32).tiny
"""A target's probability that underflowed costs 87 nats, not infinitely many."""


def linear_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Mean of -log softmax(x W^T)[target], in nats; a scalar in float32.

    Matrix products are computed in autocast's type where that is on, the softmax and all sums in float32.

    Shapes: x_ND (N, D), weight_VD (V, D), targets_N (N,) integers.
    """
    dtype = x_ND.dtype
    if torch.is_autocast_enabled(x_ND.device.type):
        dtype = torch.get_autocast_dtype(x_ND.device.type)
    if not torch.is_grad_enabled():
        return _run(x_ND.to(dtype), weight_VD.to(dtype), targets_N, None, None)
    loss: Tensor = _LinearCrossEntropy.apply(x_ND, weight_VD, targets_N, dtype)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, dtype: torch.dtype) -> Tensor:
        # Gradients of a sum over tokens, since 1 / N would underflow fp16 before its loss scale can help.
        grad_x_ND = torch.empty(x_ND.shape, dtype=dtype, device=x_ND.device)
        grad_weight_VD = torch.empty(weight_VD.shape, dtype=torch.float32, device=weight_VD.device)
        with torch.autocast(x_ND.device.type, enabled=False):
            loss = _run(x_ND.to(dtype), weight_VD.to(dtype), targets_N, grad_x_ND, grad_weight_VD)
        ctx.gradients = grad_x_ND, grad_weight_VD
        ctx.dtypes = x_ND.dtype, weight_VD.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad_x_ND, grad_weight_VD), (x_dtype, weight_dtype) = ctx.gradients, ctx.dtypes
        del ctx.gradients  # Used up: the next line overwrites them.
        share = grad / len(grad_x_ND)
        return grad_x_ND.mul_(share).to(x_dtype), grad_weight_VD.mul_(share).to(weight_dtype), None, None


def _run(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, grad_x_ND: Tensor | None, grad_weight_VD: Tensor | None
) -> Tensor:
    """The mean loss; fills in the gradients of the summed loss where there is room for them."""
    total = torch.zeros((), dtype=torch.float32, device=x_ND.device)
    room = torch.empty(min(CHUNK_TOKENS, len(x_ND)), len(weight_VD), dtype=x_ND.dtype, device=x_ND.device)
    for start in range(0, len(x_ND), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        x_CD = x_ND[chunk]
        scores_CV = torch.mm(x_CD, weight_VD.T, out=room[: len(x_CD)])
        total += _softmax_gradient_(scores_CV, targets_N[chunk])
        if grad_x_ND is not None and grad_weight_VD is not None:
            torch.mm(scores_CV, weight_VD, out=grad_x_ND[chunk])
            share_VD = scores_CV.T @ x_CD
            grad_weight_VD.copy_(share_VD) if start == 0 else grad_weight_VD.add_(share_VD)
    return total / len(x_ND)


def _softmax_gradient_(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Overwrite logits with the summed loss's gradient by them, softmax - one-hot; return the summed loss."""
    total = torch.zeros((), dtype=torch.float32, device=logits_CV.device)
    size = CPU_SLICE_TOKENS if logits_CV.device.type == "cpu" else len(logits_CV)
    for logits_SV, targets_S in zip(torch.split(logits_CV, size), torch.split(targets_C, size), strict=True):
        probabilities_SV = torch.softmax(logits_SV, dim=-1, dtype=torch.float32)
        target_S1 = probabilities_SV.gather(1, targets_S[:, None])
        total -= target_S1.clamp(min=MIN_PROBABILITY).log().sum()
        probabilities_SV.scatter_(1, targets_S[:, None], target_S1 - 1)
        logits_SV.copy_(probabilities_SV)
    return total
