"""A model made ready to generate on an x86 CPU: weights in half precision, laid out for FBGEMM; see ml.linears."""

import torch
from torch import Tensor, nn

from ml.linears import formats_of, make_linear
from ml.model import GPT

FORMAT = "fp16_packed"


class PackedGPT(GPT):
    """A GPT that computes through packed weights; it cannot be trained or saved."""

    head: nn.Module

    def unembed(self, x_BTD: Tensor) -> Tensor:
        logits_BTV: Tensor = self.head(x_BTD)
        return logits_BTV


def can_pack(model: GPT) -> bool:
    """Whether its device computes with packed weights."""
    return FORMAT in formats_of(model.device)


def pack(model: GPT) -> GPT:
    """A model that generates the same, faster; the model itself where its device cannot.

    What is not packed, the embedding and the norms, is shared with `model`.
    """
    if not can_pack(model):
        return model
    with torch.device("meta"):
        packed = PackedGPT(model.config)
    packed.load_state_dict(model.state_dict(), assign=True)
    packed.head = make_linear(model.model.embed_tokens.weight.float(), weight_format=FORMAT)
    for module in list(packed.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make_linear(child.weight.float(), weight_format=FORMAT))
    return packed.requires_grad_(False).train(model.training)
