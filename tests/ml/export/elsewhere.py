"""Runs the README and the model of exports in a process that loads nothing of this project."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from tests.ml.export.make import readme_code

PROGRAM = """
import contextlib, io, os, sys, torch
jobs, inputs = torch.load("jobs.pt")
results = {}
for name, (folder, code, loader) in jobs.items():
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
        model = eval(loader)
    results[name] = printed.getvalue(), [model(tokens) for tokens in inputs]
assert not {"ml", "fai"} & set(sys.modules)
torch.save(results, "results.pt")
"""
Result = tuple[str, list[Tensor]]
"""What the README's code prints, and the logits that the model gives for each input."""


def run_elsewhere(
    folders: dict[str, Path], scratch: Path, *, loaders: dict[str, str], inputs: list[Tensor]
) -> dict[str, Result]:
    """A result for each exported folder; its loader is Python that, run in the folder, gives the model."""
    jobs = {name: (str(folder), readme_code(folder), loaders[name]) for name, folder in folders.items()}
    torch.save((jobs, inputs), scratch / "jobs.pt")
    command = [sys.executable, "-I", "-W", "ignore::DeprecationWarning", "-c", PROGRAM]
    subprocess.run(command, cwd=scratch, check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})
    results: dict[str, Result] = torch.load(scratch / "results.pt")
    return results
