"""For programs that load TorchScript, C++ ones among them; torch has deprecated it in favour of torch.export."""

import warnings
from pathlib import Path

import torch

from ml.export.torch_export import example
from ml.export.weights import GRAPH_ABOUT, graph
from ml.run import Run

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


def write(run: Run, folder: Path, *, dtype: str) -> None:
    """Raises: ml.export.weights.WeightsTooLarge."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            graph(run.checkpoint, dtype=dtype), (example(run.model.config),)
        )
        traced.save(str(folder / FILE))
    run.tokenizer.save(str(folder / "tokenizer.json"))
