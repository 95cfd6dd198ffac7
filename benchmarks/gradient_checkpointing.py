"""Activation memory with gradient checkpointing, against without, and its price in time.

    python -m benchmarks.gradient_checkpointing [--preset small] [--rows 4] [--rounds 3] [--threads 2] [--quick]

Memory: the peak of a process that takes one training step, less the peak of another one that takes the same step on
rows of one token, which holds the same weights, gradients and optimizer moments and next to no activations; so it
counts everything, the loss and the backward pass's own scratch included. On CUDA: max_memory_allocated, likewise. Time:
both in turns in one process, the median of the rounds' ratios.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables import Goal, print_goals, print_table
from ml import hardware
from ml.config import PRESETS, InnerConfig, ModelConfig
from ml.model import initial_model
from ml.trainer import Trainer

TARGET_SAVING = 0.5


def make_trainer(config: ModelConfig, *, num_rows: int, is_checkpointed: bool) -> Trainer:
    model = initial_model(config, 0).to(hardware.detect().device)
    model.gradient_checkpointing = is_checkpointed
    return Trainer(model, inner=InnerConfig(), precision="bf16", micro_batch=num_rows)


def make_batch(config: ModelConfig, *, num_rows: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(config.vocab_size, size=(num_rows, length + 1))


def measure_step(config: ModelConfig, *, num_rows: int, length: int, is_checkpointed: bool) -> None:
    """In a process of its own: prints its peak."""
    trainer = make_trainer(config, num_rows=num_rows, is_checkpointed=is_checkpointed)
    trainer.step(make_batch(config, num_rows=num_rows, length=length), learning_rate=1e-4)
    if torch.cuda.is_available():
        peak_bytes = torch.cuda.max_memory_allocated()
    else:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(peak_bytes)


def run_step(arguments: list[str], *, length: int, is_checkpointed: bool) -> int:
    command = [sys.executable, "-m", "benchmarks.gradient_checkpointing", *arguments, f"--length={length}"]
    command += ["--checkpointed"] if is_checkpointed else []
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def time_ratio(config: ModelConfig, *, num_rows: int, num_rounds: int) -> tuple[float, float]:
    """Seconds of a plain step, and how many times as long a checkpointed one takes."""
    batch = make_batch(config, num_rows=num_rows, length=config.block_size)
    trainer = make_trainer(config, num_rows=num_rows, is_checkpointed=False)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(num_rounds + 1):
        for is_checkpointed, seconds in taken.items():
            trainer.model.gradient_checkpointing = is_checkpointed
            start = time.perf_counter()
            trainer.step(batch, learning_rate=1e-4)
            seconds.append(time.perf_counter() - start)
    pairs = list(zip(taken[False], taken[True], strict=True))[1:]  # The first round warms up.
    return statistics.median(plain for plain, _ in pairs), statistics.median(slow / plain for plain, slow in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--rows", type=int, default=4, help="of a micro-batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the tiny preset, one round: does it run at all?")
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.preset, options.rounds = "tiny", 1
    hardware.limit_threads(options.threads)
    config = PRESETS[options.preset]
    if options.length:
        measure_step(config, num_rows=options.rows, length=options.length, is_checkpointed=options.checkpointed)
        return
    arguments = [f"--preset={options.preset}", f"--rows={options.rows}", f"--threads={options.threads}"]
    base_bytes = run_step(arguments, length=1, is_checkpointed=False)
    plain_bytes = run_step(arguments, length=config.block_size, is_checkpointed=False)
    checked_bytes = run_step(arguments, length=config.block_size, is_checkpointed=True)
    saving = 1 - (checked_bytes - base_bytes) / (plain_bytes - base_bytes)
    seconds, ratio = time_ratio(config, num_rows=options.rows, num_rounds=options.rounds)
    print_goals(
        Goal(
            measured=f"{saving:.0%}",
            wanted=f"at least {TARGET_SAVING:.0%}",
            reached=saving >= TARGET_SAVING,
            what=f"less activation memory for {options.preset}",
        )
    )
    print_table(
        ("gradient checkpointing", "activation MB", "seconds a step"),
        [
            ("off", f"{(plain_bytes - base_bytes) / 1e6:,.0f}", f"{seconds:.2f}"),
            ("on", f"{(checked_bytes - base_bytes) / 1e6:,.0f}", f"{seconds * ratio:.2f}"),
        ],
    )
    print(f"{ratio:.2f}x the time; {options.rows} rows of {config.block_size} tokens, bf16, {options.threads} threads")


if __name__ == "__main__":
    main()
