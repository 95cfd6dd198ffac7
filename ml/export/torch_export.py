"""For PyTorch without this project: the graph that torch.export sees, of any batch and length."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from ml.config import ModelConfig
from ml.export.source import Source
from ml.export.weights import GRAPH_ABOUT, graph

DTYPES = ("fp32", "bf16", "fp16")
FILE = "model.pt2"
ABOUT = f"For PyTorch without the program that trained it, on the CPU.\n{GRAPH_ABOUT}"
SNIPPET = """\
# pip install tokenizers torch
import tokenizers, torch
tokenizer = tokenizers.Tokenizer.from_file("FOLDER/tokenizer.json")
logits = torch.export.load("FOLDER/model.pt2").module()(torch.tensor([tokenizer.encode("Dart는").ids]))
print(tokenizer.decode([logits[0, -1].argmax()], skip_special_tokens=False))
"""


def write(source: Source, folder: Path, *, dtype: str) -> None:
    """Raises: ml.export.weights.WeightsTooLarge."""
    config = source.config
    program = torch.export.export(
        graph(source.checkpoint, dtype=dtype), (example(config),), dynamic_shapes=lengths(config)
    )
    torch.export.save(program, folder / FILE)
    source.tokenizer.save(str(folder / "tokenizer.json"))


def example(config: ModelConfig) -> Tensor:
    """Tokens to follow through the graph; two of each dimension, because one would be taken for a constant."""
    return torch.zeros(2, min(2, config.block_size), dtype=torch.int64)


def lengths(config: ModelConfig) -> dict[str, Any]:
    """What may vary: rows without bound, and tokens up to the context."""
    return {"tokens": {0: Dim("rows", min=1), 1: Dim("length", min=1, max=config.block_size)}}
