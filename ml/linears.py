"""Linear layers for generation: a weight in a format that this machine reads fast, float32 in and out.

| format      | where                           | error of a weight, relative |
|-------------|---------------------------------|-----------------------------|
| fp16_packed | x86: FBGEMM, sums in float32    | 2**-11                      |
| fp16        | CUDA, MPS                       | 2**-11, products' sums too  |
| bf16        | CPUs that compute in it, CUDA   | 2**-8, products' sums too   |
| fp32        | anywhere                        | none                        |

One row through nn.Linear reads weights at a quarter of the memory's speed on x86; packed ones are read at all of it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMATS = ("fp16_packed", "fp16", "bf16", "fp32")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def formats_of(device: torch.device) -> tuple[str, ...]:
    """What the device computes with, the fastest first; the last is exact."""
    if device.type == "cuda":
        return ("fp16", "bf16", "fp32")
    if device.type == "mps":
        return ("fp16", "fp32")
    if device.type != "cpu":
        return ("fp32",)
    if torch.backends.quantized.engine in ("fbgemm", "x86"):
        return ("fp16_packed", "fp32")
    return ("bf16", "fp32") if _computes_bf16() else ("fp32",)


def make_linear(weight: Tensor, *, weight_format: str) -> nn.Module:
    """The layer of a weight (outputs, inputs) in one of FORMATS. Shapes: (N, inputs) -> (N, outputs), both float32."""
    weight = weight.detach()
    if weight_format == "fp16_packed":
        return _Packed(weight)
    return _Plain(weight.to(_DTYPES[weight_format]))


class _Packed(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, None)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)  # type: ignore[no-any-return]


class _Plain(nn.Module):
    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight).float()


def _computes_bf16() -> bool:
    """Whether oneDNN has bfloat16 here; elsewhere torch emulates it, slower than float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]
