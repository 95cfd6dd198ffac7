"""A model's weights and its graph, in the type that an export asks for."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ml.bad_input import BadInput
from ml.checkpoint import load_model
from ml.model import GPT

GRAPH_ABOUT = """\
Input: tokens (rows, length) as int64. Output: logits (rows, length, vocabulary) as float32, the scores of the token
after each token. There is no cache of keys and values."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class WeightsTooLarge(BadInput):
    """Weights beyond what fp16 can hold."""

    page: ClassVar[str] = "export"


class Logits(nn.Module):
    """What an exported graph computes: logits of the token after each token, without a KV cache.

    Shapes: tokens (B, T) int64 -> (B, T, V) float32.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.gpt = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.gpt(tokens)
        return logits.float()


def graph(checkpoint: Path, *, dtype: str) -> Logits:
    """The checkpoint's model on the CPU, without dropout, in `dtype`.

    Raises: WeightsTooLarge.
    """
    model = load_model(checkpoint)
    for name, tensor in model.state_dict().items():
        rounded(tensor, name=name, dtype=dtype)
    return Logits(model).eval().requires_grad_(False).to(DTYPES[dtype])


def tensors(checkpoint: Path) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the checkpoint by its name, on the CPU in fp32, read one at a time."""
    with safe_open(checkpoint, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield name, file.get_tensor(name)


def rounded(tensor: Tensor, *, name: str, dtype: str) -> Tensor:
    """The tensor in `dtype`.

    Raises: WeightsTooLarge.
    """
    converted = tensor.to(DTYPES[dtype])
    if converted.isinf().any():
        raise WeightsTooLarge(f"{name} holds values beyond {dtype}: export with `--dtype fp32`.")
    return converted
