"""RMS norm, alone and with rotary positions, for training on the CPU: few passes, and little kept for the backward one.

torch has fused kernels for accelerators; on the CPU it runs each operation, and its gradient, as passes of their own.

Shape suffixes: B texts, T tokens, H heads, E head_dim, D width, as in ml.model.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


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
        scale_BT1 = _scale(x_BTD.float(), eps)
        ctx.save_for_backward(x_BTD, weight_D, scale_BT1)
        return (x_BTD * scale_BT1).mul_(weight_D).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_BTD, weight_D, scale_BT1 = ctx.saved_tensors
        grad_x_BTD, grad_weight_D = _norm_gradients(grad_BTD.float(), x_BTD * scale_BT1, scale_BT1, weight_D)
        return grad_x_BTD.to(x_BTD.dtype), grad_weight_D, None, None


class _RotatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHE: Tensor, weight_E: Tensor, eps: float, cos_T1E: Tensor, sin_T1E: Tensor) -> Tensor:
        x32_BTHE = x_BTHE.float()
        scale_BTH1 = _scale(x32_BTHE, eps)
        ctx.save_for_backward(x_BTHE, weight_E, scale_BTH1, cos_T1E, sin_T1E)
        unit_BTHE = x32_BTHE * scale_BTH1
        # The weight goes into the angles, which are small, instead of over the heads, which are not.
        y_BTHE = unit_BTHE * (cos_T1E * weight_E)
        y_BTHE.addcmul_(_swap_halves(unit_BTHE), sin_T1E * _swap_halves(weight_E))
        # `to` alone would leave what is already of this type in the order of its input.
        y_BHTE: Tensor = y_BTHE.to(x_BTHE.dtype).transpose(1, 2).contiguous()
        return y_BHTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHTE: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x_BTHE, weight_E, scale_BTH1, cos_T1E, sin_T1E = ctx.saved_tensors
        grad_BTHE = torch.empty(x_BTHE.shape).copy_(grad_BHTE.transpose(1, 2))
        turned_BTHE = (grad_BTHE * cos_T1E).addcmul_(_swap_halves(grad_BTHE), _swap_halves(sin_T1E))
        unit_BTHE = x_BTHE * scale_BTH1
        grad_x_BTHE, grad_weight_E = _norm_gradients(turned_BTHE, unit_BTHE, scale_BTH1, weight_E)
        return grad_x_BTHE.to(x_BTHE.dtype), grad_weight_E, None, None, None


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
