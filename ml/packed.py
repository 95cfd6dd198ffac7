"""A model made ready to generate on an x86 CPU: weights in half precision, laid out for FBGEMM.

One row through nn.Linear reads weights at a quarter of the memory's speed there; packed ones are read at all of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ml.model import GPT


class PackedLinear(nn.Module):
    """A linear layer with its weight in float16, inputs and sums in float32.

    Error: each weight is rounded to 11 bits, so relatively by at most 2**-11.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight: Any = torch.ops.quantized.linear_prepack_fp16(weight.detach().float(), None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self._weight)
        return y


class PackedGPT(GPT):
    """A GPT that computes through packed weights; it cannot be trained or saved."""

    head: PackedLinear

    def unembed(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(x_BTD)
        return logits_BTV


def can_pack() -> bool:
    """Whether this machine computes with packed weights."""
    return torch.backends.quantized.engine in ("fbgemm", "x86")


def pack(model: GPT) -> GPT:
    """A model that generates the same, faster; the model itself where this machine, or its device, cannot.

    What is not packed, the embedding and the norms, is shared with `model`.
    """
    if not can_pack() or model.device.type != "cpu":
        return model
    with torch.device("meta"):
        packed = PackedGPT(model.config)
    packed.load_state_dict(model.state_dict(), assign=True)
    packed.head = PackedLinear(model.model.embed_tokens.weight)
    for module in list(packed.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight))
    return packed.requires_grad_(False).train(model.training)
