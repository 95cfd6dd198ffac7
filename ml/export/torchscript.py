"""For programs that load TorchScript, C++ ones among them; torch has deprecated it in favour of torch.export."""

import warnings
from pathlib import Path

import torch

from ml.export.source import Source
from ml.export.torch_export import example
from ml.export.weights import GRAPH_ABOUT, graph

DTYPES = ("fp32", "bf16", "fp16")
FILE = "model.pt"
ABOUT = f"For `torch.jit.load` in Python and C++, on the CPU; PyTorch has deprecated it.\n{GRAPH_ABOUT}"
SNIPPET = """\
# pip install tokenizers torch
import tokenizers, torch
tokenizer = tokenizers.Tokenizer.from_file("FOLDER/tokenizer.json")
logits = torch.jit.load("FOLDER/model.pt")(torch.tensor([tokenizer.encode("Dart는").ids]))
print(tokenizer.decode([logits[0, -1].argmax()], skip_special_tokens=False))
"""


def write(source: Source, folder: Path, *, dtype: str) -> None:
    """Raises: ml.export.weights.WeightsTooLarge."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            graph(source.checkpoint, dtype=dtype), (example(source.config),)
        )
        traced.save(str(folder / FILE))
    source.tokenizer.save(str(folder / "tokenizer.json"))
