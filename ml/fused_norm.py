"""RMS norm, alone and with rotary positions, for training on the CPU: few passes, and little kept for the backward one.

torch has fused kernels for accelerators; on the CPU it runs each operation, and its gradient, as passes of their own.

Shape suffixes: B texts, S texts of a slice, T tokens, H heads, E head_dim, D width.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SLICE_VALUES = 2**18
"""What is computed with so many at a time stays in the cache from one pass to the next."""


def rms_norm(x_BTD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Scaled to unit mean square, times weight; computed in float32, returned in `dtype`."""
    y_BTD: Tensor = _RMSNorm.apply(x_BTD, weight_D, eps, dtype)  # type: ignore[no-untyped-call]
    return y_BTD


def rotated_rms_norm(x_BTHE: Tensor, weight_E: Tensor, eps: float, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """RMS norm over each head, then turned by each position's angles.

    Shapes: x_BTHE (B, T, H, E), rotation as ml.model.rotation_at's for one text -> (B, H, T, E), contiguous.
    """
    cos_T1E, sin_T1E = (torch.cat((part, part), dim=-1).view(-1, 1, x_BTHE.shape[-1]) for part in rotation)
    sin_T1E[..., : x_BTHE.shape[-1] // 2] *= -1
    y_BHTE: Tensor = _RotatedRMSNorm.apply(x_BTHE, weight_E, eps, cos_T1E, sin_T1E)  # type: ignore[no-untyped-call]
    return y_BHTE


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y_BTD = torch.empty(x_BTD.shape, dtype=dtype)
        scale_BT1 = torch.empty(*x_BTD.shape[:-1], 1)
        for x_STD, y_STD, scale_ST1 in _slices(x_BTD, y_BTD, scale_BT1):
            scale_ST1.copy_(_scale(x_STD.float(), eps))
            y_STD.copy_((x_STD * scale_ST1).mul_(weight_D))
        ctx.save_for_backward(x_BTD, weight_D, scale_BT1)
        return y_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_BTD, weight_D, scale_BT1 = ctx.saved_tensors
        grad_x_BTD, grad_weight_D = torch.empty_like(x_BTD), torch.zeros_like(weight_D)
        for grad_STD, x_STD, scale_ST1, grad_x_STD in _slices(grad_BTD, x_BTD, scale_BT1, grad_x_BTD):
            by_x, by_weight = _norm_gradients(grad_STD.float(), x_STD * scale_ST1, scale_ST1, weight_D)
            grad_x_STD.copy_(by_x)
            grad_weight_D += by_weight
        return grad_x_BTD, grad_weight_D, None, None


class _RotatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHE: Tensor, weight_E: Tensor, eps: float, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
        batch, length, num_heads, head_dim = x_BTHE.shape
        y_BHTE = torch.empty(batch, num_heads, length, head_dim, dtype=x_BTHE.dtype)
        scale_BTH1 = torch.empty(batch, length, num_heads, 1)
        # The weight goes into the angles, which are small, instead of over the heads, which are not.
        weighted_cos_T1E, weighted_sin_T1E = cos_T1E * weight_E, sin_T1E * _swap_halves(weight_E)
        for x_STHE, y_SHTE, scale_STH1 in _slices(x_BTHE, y_BHTE, scale_BTH1):
            x32_STHE = x_STHE.float()
            scale_STH1.copy_(_scale(x32_STHE, eps))
            unit_STHE = x32_STHE * scale_STH1
            turned_STHE = (unit_STHE * weighted_cos_T1E).addcmul_(_swap_halves(unit_STHE), weighted_sin_T1E)
            y_SHTE.copy_(turned_STHE.transpose(1, 2))
        ctx.save_for_backward(x_BTHE, weight_E, scale_BTH1, cos_T1E, sin_T1E)
        return y_BHTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTE: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_BTHE, weight_E, scale_BTH1, cos_T1E, sin_T1E = ctx.saved_tensors
        turned_sin_T1E = _swap_halves(sin_T1E)
        grad_x_BTHE, grad_weight_E = torch.empty(x_BTHE.shape, dtype=x_BTHE.dtype), torch.zeros_like(weight_E)
        for grad_SHTE, x_STHE, scale_STH1, grad_x_STHE in _slices(grad_BHTE, x_BTHE, scale_BTH1, grad_x_BTHE):
            grad_STHE = torch.empty(x_STHE.shape).copy_(grad_SHTE.transpose(1, 2))
            turned_STHE = (grad_STHE * cos_T1E).addcmul_(_swap_halves(grad_STHE), turned_sin_T1E)
            by_x, by_weight = _norm_gradients(turned_STHE, x_STHE * scale_STH1, scale_STH1, weight_E)
            grad_x_STHE.copy_(by_x)
            grad_weight_E += by_weight
        return grad_x_BTHE, grad_weight_E, None, None, None


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same whole texts of each tensor, about SLICE_VALUES of the first one's values at a time."""
    num_texts = max(1, SLICE_VALUES // tensors[0][0].numel())
    return zip(*(torch.split(x, num_texts) for x in tensors), strict=True)


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / root mean square of each last dimension, kept."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (norm.square_() / x.shape[-1]).add_(eps).rsqrt_()


def _norm_gradients(grad: Tensor, unit: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """By the norm's input and by its weight.

    With u = x s and g the gradient by u w: s (g w - u mean(g w u)), and g u summed over tokens.
    """
    product = grad * unit
    mean = (product @ weight / len(weight))[..., None]
    grad_x = (grad * weight).addcmul_(unit, mean, value=-1).mul_(scale)
    return grad_x, product.flatten(0, -2).sum(0)


def _swap_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1)
