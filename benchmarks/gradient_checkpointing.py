"""Activation memory with gradient checkpointing, against without, and its price in time.

    python -m benchmarks.gradient_checkpointing [--preset small] [--rows 1] [--rounds 2] [--threads 2] [--quick]

Memory: the peak of what torch has allocated in a micro-batch's forward and backward pass, over what it held before,
with weights and their gradients already there, as from the second micro-batch of a step on. Activations: what as many
rows again add to that peak. So they are all that grows with the rows: what layers keep, what the backward pass computes
again, and the loss's own scratch; but not the weights' bf16 copies and the scratch of their gradients, which are there
for any number of rows. Time: optimizer steps with and without in turns, the median of the rounds' ratios.
"""

import argparse
import json
import statistics
import tempfile
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from benchmarks.tables import Goal, print_goals, print_table
from ml import hardware
from ml.config import PRESETS, InnerConfig, ModelConfig
from ml.model import GPT, initial_model
from ml.trainer import Trainer

TARGET_SAVING = 0.5


def make_batch(config: ModelConfig, *, num_rows: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(config.vocab_size, size=(num_rows, length + 1))


def run_backward(model: GPT, batch: NDArray[np.int64]) -> None:
    tokens = torch.from_numpy(batch).to(model.device)
    with torch.autocast(model.device.type, dtype=torch.bfloat16):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()  # type: ignore[no-untyped-call]


def peak_bytes(model: GPT, batch: NDArray[np.int64]) -> int:
    """Of a micro-batch, over what was allocated before it."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run_backward(model, batch)
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_backward(model, batch)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted(
        (float(event["ts"]), int(event["args"]["Bytes"])) for event in events if event["name"] == "[memory]"
    )
    return max(accumulate(num_bytes for _, num_bytes in changes))


def activation_bytes(model: GPT, *, num_rows: int) -> tuple[int, int]:
    """Of so many rows; and all that their micro-batch takes besides weights and gradients."""
    length = model.config.block_size
    run_backward(model, make_batch(model.config, num_rows=1, length=1))  # Makes the gradients.
    total, twice = (
        peak_bytes(model, make_batch(model.config, num_rows=size, length=length)) for size in (num_rows, 2 * num_rows)
    )
    return twice - total, total


def time_ratio(model: GPT, *, num_rows: int, num_rounds: int) -> tuple[float, float]:
    """Seconds of a plain step, and how many times as long a checkpointed one takes."""
    batch = make_batch(model.config, num_rows=num_rows, length=model.config.block_size)
    trainer = Trainer(model, inner=InnerConfig(), precision="bf16", micro_batch=num_rows)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(num_rounds + 1):
        for is_checkpointed, seconds in taken.items():
            model.gradient_checkpointing = is_checkpointed
            start = time.perf_counter()
            trainer.step(batch, learning_rate=1e-4)
            seconds.append(time.perf_counter() - start)
    pairs = list(zip(taken[False], taken[True], strict=True))[1:]  # The first round warms up.
    return statistics.median(plain for plain, _ in pairs), statistics.median(slow / plain for plain, slow in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--rows", type=int, default=1, help="of a micro-batch")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the tiny preset, one round: does it run at all?")
    options = parser.parse_args()
    if options.quick:
        options.preset, options.rounds = "tiny", 1
    hardware.limit_threads(options.threads)
    config = PRESETS[options.preset]
    model = initial_model(config, 0).to(hardware.detect().device).train()
    figures = []
    for model.gradient_checkpointing in (False, True):
        figures.append(activation_bytes(model, num_rows=options.rows))
    (plain_bytes, plain_total), (checked_bytes, checked_total) = figures
    saving = 1 - checked_bytes / plain_bytes
    seconds, ratio = time_ratio(model, num_rows=options.rows, num_rounds=options.rounds)
    print_goals(
        Goal(
            measured=f"{saving:.0%}",
            wanted=f"at least {TARGET_SAVING:.0%}",
            reached=saving >= TARGET_SAVING,
            what=f"less activation memory for {options.preset}",
        )
    )
    print_table(
        ("gradient checkpointing", "activation MB", "all scratch MB", "seconds a step"),
        [
            ("off", f"{plain_bytes / 1e6:,.0f}", f"{plain_total / 1e6:,.0f}", f"{seconds:.2f}"),
            ("on", f"{checked_bytes / 1e6:,.0f}", f"{checked_total / 1e6:,.0f}", f"{seconds * ratio:.2f}"),
        ],
    )
    print(f"{ratio:.2f}x the time; {options.rows} rows of {config.block_size} tokens, bf16, {options.threads} threads")


if __name__ == "__main__":
    main()
