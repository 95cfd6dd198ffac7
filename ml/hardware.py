"""The machine that trains: what it is, how many rows it takes at a time, how fast it is."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ml.config import InnerConfig, ModelConfig
from ml.memory import count_saved_bytes, free_bytes
from ml.model import initial_model
from ml.threads import num_cores
from ml.trainer import Trainer

MIN_GAIN = 1.05
"""A larger micro-batch must be this much faster to be worth its memory."""
FIND_SECONDS = 6.0
MEASURE_SECONDS = 3.0
MEMORY_MARGIN = 2.0
"""Of what a forward pass keeps: the backward pass needs some more, and other programs may."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """A device as torch sees it."""

    device: str
    """cuda, mps or cpu."""
    name: str
    memory_bytes: int
    """The accelerator's own memory; on the CPU, the machine's."""
    cores: int
    """Logical cores that this process may use."""
    bf16: bool
    """Whether bfloat16 is computed in hardware, and not emulated slower than float32."""


def detect() -> Hardware:
    """The best device here: CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Hardware(
            device="cuda", name=properties.name, memory_bytes=properties.total_memory, cores=num_cores(), bf16=bf16
        )
    if torch.backends.mps.is_available():
        memory_bytes = torch.mps.recommended_max_memory()
        return Hardware(device="mps", name=_cpu_name(), memory_bytes=memory_bytes, cores=num_cores(), bf16=False)
    return Hardware(
        device="cpu", name=_cpu_name(), memory_bytes=_memory_bytes(), cores=num_cores(), bf16=_cpu_has_bf16()
    )


def resolve_precision(name: str, hardware: Hardware) -> str:
    """fp32, bf16 or fp16: what `auto` means on this hardware, and every other name itself."""
    if name != "auto":
        return name
    return "bf16" if hardware.bf16 else "fp32"


def limit_threads(num_threads: int) -> None:
    """Let torch compute on so many cores at most, so that the machine stays usable.

    Beside another torch process, one thread each: threads that fight for a core wait for each other.
    """
    torch.set_num_threads(num_threads)


def find_micro_batch(
    config: ModelConfig,
    inner: InnerConfig,
    hardware: Hardware,
    *,
    precision: str = "auto",
    gradient_checkpointing: bool = False,
    seconds: float = FIND_SECONDS,
) -> int:
    """Rows per forward pass that train fastest here, at most a whole batch; starts no trial after `seconds`.

    On the CPU no size is tried that the free memory may not hold: the system would kill the process, not refuse it.

    Raises: the device's own out-of-memory error where not even one row fits.
    """
    trainer = _make_trainer(config, inner, hardware, micro_batch=1, precision=precision)
    trainer.model.gradient_checkpointing = gradient_checkpointing
    row_bytes = _activation_bytes(trainer) if hardware.device == "cpu" else 0

    def rows_per_second(num_rows: int) -> float | None:
        if num_rows > 1 and row_bytes and num_rows * row_bytes * MEMORY_MARGIN > free_bytes():
            return None
        trainer.micro_batch = num_rows
        taken = min(_time_step(trainer, _random_batch(config, num_rows)) for _ in range(2))
        return num_rows / taken if trainer.micro_batch == num_rows else None

    return double_while_it_pays(rows_per_second, limit=rows_per_batch(config, inner), seconds=seconds)


def double_while_it_pays(rows_per_second: Callable[[int], float | None], *, limit: int, seconds: float) -> int:
    """The last power of two up to `limit` before one that does not fit, None, or gains less than MIN_GAIN."""
    deadline = time.perf_counter() + seconds
    best, best_rate, num_rows = 1, 0.0, 1
    while num_rows <= limit:
        rate = rows_per_second(num_rows)
        if rate is None or rate < best_rate * MIN_GAIN:
            break
        best, best_rate = num_rows, rate
        if time.perf_counter() >= deadline:
            break
        num_rows *= 2
    return best


def measure_tokens_per_second(
    config: ModelConfig,
    inner: InnerConfig,
    hardware: Hardware,
    *,
    micro_batch: int,
    seconds: float = MEASURE_SECONDS,
) -> float:
    """Tokens trained per second in whole optimizer steps; starts no step after `seconds`."""
    trainer = _make_trainer(config, inner, hardware, micro_batch=micro_batch)
    num_rows = rows_per_batch(config, inner)
    _time_step(trainer, _random_batch(config, min(micro_batch, num_rows)))
    batch = _random_batch(config, num_rows)
    num_steps, taken = 0, 0.0
    while taken < seconds:
        taken += _time_step(trainer, batch)
        num_steps += 1
    return num_steps * num_rows * config.block_size / taken


def rows_per_batch(config: ModelConfig, inner: InnerConfig) -> int:
    """Rows of one optimizer step: batch_tokens in whole rows, at least one."""
    return max(1, inner.batch_tokens // config.block_size)


def _make_trainer(
    config: ModelConfig, inner: InnerConfig, hardware: Hardware, *, micro_batch: int, precision: str = "auto"
) -> Trainer:
    model = initial_model(config, 0).to(hardware.device)
    return Trainer(model, inner=inner, precision=resolve_precision(precision, hardware), micro_batch=micro_batch)


def _activation_bytes(trainer: Trainer) -> int:
    """What one row needs between its forward and its backward pass, the logits included."""
    model, config = trainer.model, trainer.model.config
    is_checkpointed, model.gradient_checkpointing = model.gradient_checkpointing, False
    with count_saved_bytes() as saved:
        trainer.step(_random_batch(config, 1), learning_rate=0.0)
    model.gradient_checkpointing = is_checkpointed
    logits_bytes = config.block_size * config.vocab_size * 4
    if not is_checkpointed:
        return saved.num_bytes + logits_bytes
    inputs_bytes = config.n_layer * config.block_size * config.n_embd * 4
    return saved.num_bytes // config.n_layer + inputs_bytes + logits_bytes


def _random_batch(config: ModelConfig, num_rows: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(config.vocab_size, size=(num_rows, config.block_size + 1))


def _time_step(trainer: Trainer, batch: NDArray[np.int64]) -> float:
    # A step returns its loss as a float, so the device has finished its gradients when the clock stops.
    start = time.perf_counter()
    trainer.step(batch, learning_rate=0.0)
    return time.perf_counter() - start


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _cpu_name() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(models, platform.machine())
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    if sys.platform == "win32":
        return _windows_memory_bytes()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _windows_memory_bytes() -> int:
    command = ["powershell", "-NoProfile", "-Command", "(Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
