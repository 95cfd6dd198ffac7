"""Write a run's model in another program's format, with a README that says how it is loaded.

hf            transformers: safetensors, configuration, tokenizer and chat template
gguf          llama.cpp, Ollama, LM Studio: one file
onnx          onnxruntime: a graph from tokens to logits
torchscript   PyTorch without this project, C++ included; deprecated by PyTorch
torch-export  PyTorch without this project, in its lasting form
"""

import argparse
from pathlib import Path

from rich.console import Console

from ml.export.formats import FORMATS, export
from ml.export.source import Source
from ml.export.weights import DTYPES
from ml.run import open_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that `fai train` made")
    parser.add_argument("--format", required=True, choices=FORMATS, help="which program it is for")
    parser.add_argument("--out", required=True, type=Path, metavar="D", help="the folder to write")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which of the run's models")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="type of the weights (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="replace an export that stands in D")


def run(arguments: argparse.Namespace) -> None:
    source = Source.of_run(open_run(arguments.run, checkpoint=arguments.checkpoint))
    with Console(stderr=True).status(f"Writing {arguments.out}"):
        exported = export(
            source, format_name=arguments.format, out=arguments.out, dtype=arguments.dtype, force=arguments.force
        )
    print(f"{exported.folder}: {source.checkpoint} as {arguments.format}, {arguments.dtype}")
    print(exported.listing, end="")
