"""Training throughput against transformers' LlamaForCausalLM of the same shape, and as a share of the machine's peak.

    python -m benchmarks.training_speed [--preset m4] [--rounds 7] [--threads 2] [--quick]

Each contender trains in a process of its own, since the Trainer sets how its process keeps freed memory; what that
setting alone gives them stands in a row of its own. They take turns on the same batch: peak, ours, theirs, peak, ours,
theirs ...; figures are medians over rounds, and the ratio is the median of the rounds' ratios. Each first tries
micro-batches and keeps its fastest. Theirs: bf16 autocast, fused AdamW, transformers' default attention (sdpa), the
loss that the model computes itself, clipping as ours.

Peak: the fastest bf16 product of square matrices in the round. FLOPs of a token: 6 N + 6 L D T, that is attention
counted as causal, and the tied matrix once, for the logits.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.tables import Goal, print_goals, print_table
from ml import allocator, hardware
from ml.config import PRESETS, InnerConfig, ModelConfig
from ml.model import initial_model
from ml.trainer import Trainer

TARGET_RATIO = 1.5
TARGET_SHARE = {"cpu": 0.4, "cuda": 0.5}
CONTENDERS = {
    "ours": "fai",
    "theirs": "transformers",
    "theirs-kept": "transformers, freed memory kept as ours",
}
PEAK_SIZES = {"cpu": (1_024, 2_048), "cuda": (4_096, 8_192)}
LEARNING_RATE = 1e-4

Step = Callable[[int], object]
"""One optimizer step in pieces of so many rows, finished when it returns."""


def our_step(config: ModelConfig, batch: NDArray[np.int64], device: str) -> Step:
    model = initial_model(config, 0).to(device)
    trainer = Trainer(model, inner=InnerConfig(), precision="bf16", micro_batch=1)

    def step(micro_batch: int) -> None:
        trainer.micro_batch = micro_batch
        trainer.step(batch, learning_rate=LEARNING_RATE)

    return step


def their_step(config: ModelConfig, batch: NDArray[np.int64], device: str) -> Step:
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415 - takes seconds, and only this process needs it

    shape = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.n_embd,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.n_layer,
        num_attention_heads=config.n_head,
        num_key_value_heads=config.n_kv_head,
        max_position_embeddings=config.block_size,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model: nn.Module = LlamaForCausalLM(shape)
    model.to(device).train()
    inner = InnerConfig()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=inner.weight_decay, fused=True)
    tokens, targets = (torch.from_numpy(part.copy()).to(device) for part in (batch[:, :-1], batch[:, 1:]))

    def step(micro_batch: int) -> float:
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device)
        for inputs, labels in zip(torch.split(tokens, micro_batch), torch.split(targets, micro_batch), strict=True):
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(input_ids=inputs, labels=labels, shift_labels=labels).loss * (len(inputs) / len(tokens))
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), inner.clip_norm)
        optimizer.step()
        return total.item()

    return step


def contend(name: str, config: ModelConfig, *, device: str, num_rows: int) -> None:
    """A contender's process: says its micro-batch, then answers every line with the seconds of a step."""
    batch = np.random.default_rng(0).integers(config.vocab_size, size=(num_rows, config.block_size + 1))
    if name == "theirs-kept":
        allocator.keep_freed_memory()
    step = (our_step if name == "ours" else their_step)(config, batch, device)
    sizes = [size for size in (4, 8, 16, 32, 64) if size <= num_rows] or [num_rows]
    step(sizes[0])
    micro_batch = min(sizes, key=lambda size: min(timed(lambda: step(size), device) for _ in range(2)))
    print(micro_batch, flush=True)
    for _ in sys.stdin:
        print(timed(lambda: step(micro_batch), device), flush=True)


def timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


class Contender:
    """A process that trains one step when asked to."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "benchmarks.training_speed", *arguments, "--contender", name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.micro_batch = int(self._read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def step(self) -> float:
        """Seconds that it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> float:
        assert self._process.stdout is not None
        return float(self._process.stdout.readline())


def peak_flops(device: str) -> float:
    """FLOP/s of the fastest bf16 matrix product tried."""
    best = 0.0
    for size in PEAK_SIZES[device]:
        a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
        seconds = min(timed(lambda a=a: a @ a, device) for _ in range(10))  # type: ignore[misc]
        best = max(best, 2 * size**3 / seconds)
    return best


def flops_per_token(config: ModelConfig) -> int:
    return 6 * config.num_parameters + 6 * config.n_layer * config.n_embd * config.block_size


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small" if device == "cuda" else "m4")
    parser.add_argument("--tokens", type=int, default=65_536 if device == "cuda" else 4_096, help="of a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the tiny preset, two rounds: does it run at all?")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.preset, options.rounds, options.tokens = "tiny", 2, 512
    hardware.limit_threads(options.threads)
    config = PRESETS[options.preset]
    if options.contender:
        contend(options.contender, config, device=device, num_rows=options.tokens // config.block_size)
        return
    arguments = [f"--preset={options.preset}", f"--tokens={options.tokens}", f"--threads={options.threads}"]
    measure(config, arguments, device=device, num_tokens=options.tokens, num_rounds=options.rounds)
    print(f"{options.preset}: {config.num_parameters:,} parameters, {options.tokens:,} tokens a step, bf16, {device}")
    print(f"{options.threads} threads, {options.rounds} rounds, {flops_per_token(config) / 1e6:.1f} MFLOP a token")


def measure(config: ModelConfig, arguments: list[str], *, device: str, num_tokens: int, num_rounds: int) -> None:
    """Prints goals and table."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    peaks = []
    with ExitStack() as stack:
        contenders = {name: stack.enter_context(Contender(name, arguments)) for name in CONTENDERS}
        for _ in range(num_rounds):
            peaks.append(peak_flops(device))
            for name, contender in contenders.items():
                seconds[name].append(contender.step())
    peak = statistics.median(peaks)
    ratios = {
        name: statistics.median(their / our for our, their in zip(seconds["ours"], taken, strict=True))
        for name, taken in seconds.items()
    }
    speeds = {name: num_tokens / statistics.median(taken) for name, taken in seconds.items()}
    shares = {name: speed * flops_per_token(config) / peak for name, speed in speeds.items()}
    print_goals(
        Goal(
            measured=f"{ratios['theirs']:.2f}x",
            wanted=f"at least {TARGET_RATIO}x",
            reached=ratios["theirs"] >= TARGET_RATIO,
            what="tokens/s over transformers' LlamaForCausalLM of the same shape",
        ),
        Goal(
            measured=f"{shares['ours']:.0%}",
            wanted=f"at least {TARGET_SHARE[device]:.0%}",
            reached=shares["ours"] >= TARGET_SHARE[device],
            what=f"of the bf16 matrix-product peak measured in the same run, {peak / 1e9:,.0f} GFLOP/s",
        ),
    )
    print_table(
        ("trained by", "micro-batch", "tokens/s", "share of peak", "time over ours"),
        [
            (
                CONTENDERS[name],
                f"{contenders[name].micro_batch}",
                f"{speeds[name]:,.0f}",
                f"{shares[name]:.0%}",
                f"{ratios[name]:.2f}x",
            )
            for name in CONTENDERS
        ],
    )


if __name__ == "__main__":
    main()
