"""For onnxruntime and other ONNX programs: one graph from tokens to logits, of any batch and length."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from ml.export.source import Source
from ml.export.torch_export import example, lengths
from ml.export.weights import DTYPES as TORCH_DTYPES
from ml.export.weights import GRAPH_ABOUT, graph

DTYPES = ("fp32", "fp16")
FILE = "model.onnx"
OPSET = 20
MAX_FILE_BYTES = 2 * 10**9
"""Protocol buffers end at 2 GiB; weights beyond go into a file beside the graph, model.onnx.data."""
ABOUT = f"For onnxruntime and other programs that read ONNX, opset {OPSET}.\n{GRAPH_ABOUT}"
SNIPPET = """\
# pip install onnxruntime tokenizers
import numpy, onnxruntime, tokenizers
tokenizer = tokenizers.Tokenizer.from_file("FOLDER/tokenizer.json")
tokens = numpy.array([tokenizer.encode("Dart는").ids])
logits = onnxruntime.InferenceSession("FOLDER/model.onnx").run(["logits"], {"tokens": tokens})[0]
print(tokenizer.decode([logits[0, -1].argmax()], skip_special_tokens=False))
"""


def write(source: Source, folder: Path, *, dtype: str) -> None:
    """Raises: ml.export.weights.WeightsTooLarge."""
    size_bytes = source.config.num_parameters * TORCH_DTYPES[dtype].itemsize
    with _quiet():
        torch.onnx.export(
            graph(source.checkpoint, dtype=dtype),
            (example(source.config),),
            folder / FILE,
            input_names=["tokens"],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=lengths(source.config),
            external_data=size_bytes > MAX_FILE_BYTES,
            verbose=False,
        )
    source.tokenizer.save(str(folder / "tokenizer.json"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own code, and of torchvision, which no language model needs."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
