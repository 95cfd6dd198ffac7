"""How fast a model generates here, and how near that comes to what the memory allows.

Decoding one token reads every weight once, so that a text can grow no faster than
memory bandwidth / bytes of weights. The share of the bandwidth that is used is therefore
weight bytes * decoding steps per second / measured bandwidth; the keys and values read beside them are left out.
"""

import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ml.bad_input import BadInput
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.packed import PackedGPT, can_pack, pack
from ml.sampling import SamplingParams, sample_next

if sys.platform != "win32":
    import resource

BATCH_ROWS = 8
BANDWIDTH_BYTES = 2**28
"""Read at a time; far more than a CPU's caches hold."""
GPU_BANDWIDTH_BYTES = 2**31
BANDWIDTH_REPEATS = 5
MIN_REPEATS = 3
GREEDY = SamplingParams(temperature=0.0)


class SpeedInvalid(BadInput):
    """A measurement that the model has no room for."""

    page = "generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSpeed:
    """Medians for one kind of weights."""

    weights: str
    """fp32; bf16; or fp16, packed as ml.packed does."""
    weight_bytes: int
    """Read for each decoding step."""
    prefill_tokens_per_second: float
    """Of the prompt."""
    first_token_seconds: float
    """From the prompt to the first token, drawn."""
    decode_tokens_per_second: float
    batch_tokens_per_second: float
    """BATCH_ROWS texts at a time, together."""
    bandwidth_share: float
    """While one text is decoded."""
    batch_bandwidth_share: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """A model's speed on this machine."""

    device: str
    threads: int
    parameters: int
    prompt_tokens: int
    new_tokens: int
    bandwidth_bytes_per_second: float
    """The best of reading and copying a big tensor."""
    peak_memory_bytes: int | None
    """Of the process, or on CUDA of the device; None where the system does not tell."""
    variants: tuple[VariantSpeed, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"batch_rows": BATCH_ROWS}


def measure_speed(
    model: GPT, *, prompt_tokens: int | None = None, new_tokens: int | None = None, seconds: float = 2.0
) -> Speed:
    """Prefill and decoding, each repeated for `seconds` or MIN_REPEATS times, whichever is longer.

    By default the prompt takes half of the context, and the new tokens, at most 64, come from the other half.
    Raises: SpeedInvalid.
    """
    block_size = model.config.block_size
    num_prompt = max(1, block_size // 2) if prompt_tokens is None else prompt_tokens
    num_new = min(64, block_size - num_prompt) if new_tokens is None else new_tokens
    if num_prompt < 1 or num_new < 2 or num_prompt + num_new > block_size:
        raise SpeedInvalid(
            f"{num_prompt} prompt tokens and {num_new} new ones do not fit: take at least 1 and 2, "
            f"and at most {block_size} together"
        )
    stopwatch = _Stopwatch(num_prompt=num_prompt, num_new=num_new, seconds=seconds)
    timed = [(name, variant, stopwatch.time(variant)) for name, variant in _variants(model)]
    # Before the bandwidth's own big tensors.
    peak_memory_bytes = _peak_memory_bytes(model.device)
    bandwidth = measure_bandwidth(model.device)
    return Speed(
        device=_device_name(model.device),
        threads=torch.get_num_threads(),
        parameters=model.config.num_parameters,
        prompt_tokens=num_prompt,
        new_tokens=num_new,
        bandwidth_bytes_per_second=bandwidth,
        peak_memory_bytes=peak_memory_bytes,
        variants=tuple(
            _speed_of(name, variant, times, num_prompt=num_prompt, bandwidth=bandwidth)
            for name, variant, times in timed
        ),
    )


def measure_bandwidth(device: torch.device) -> float:
    """Bytes per second that the memory gives: the best of several reads, and of several copies, which move twice."""
    size_bytes = GPU_BANDWIDTH_BYTES if device.type == "cuda" else BANDWIDTH_BYTES
    source = torch.ones(size_bytes // 4, device=device)
    target = torch.empty_like(source)
    works: list[tuple[Callable[[], object], int]] = [
        (source.max, size_bytes),
        (lambda: torch.dot(source, source), size_bytes),
        (lambda: target.copy_(source), 2 * size_bytes),
    ]
    return max(num_bytes / _seconds_of(work, device) for work, num_bytes in works for _ in range(BANDWIDTH_REPEATS))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Times:
    """Seconds, medians."""

    prefill: float
    first_token: float
    step: float
    batch_step: float


class _Stopwatch:
    def __init__(self, *, num_prompt: int, num_new: int, seconds: float) -> None:
        self._num_prompt = num_prompt
        self._num_new = num_new
        self._seconds = seconds

    @torch.inference_mode()
    def time(self, model: GPT) -> _Times:
        model.eval()
        prefills, first_tokens, steps = self._repeat(model, num_rows=1)
        _, _, batch_steps = self._repeat(model, num_rows=BATCH_ROWS)
        return _Times(
            prefill=statistics.median(prefills),
            first_token=statistics.median(first_tokens),
            step=statistics.median(steps),
            batch_step=statistics.median(batch_steps),
        )

    def _repeat(self, model: GPT, *, num_rows: int) -> tuple[list[float], list[float], list[float]]:
        dtype = model.model.embed_tokens.weight.dtype
        cache = KVCache(model.config, num_slots=num_rows, device=model.device, dtype=dtype)
        self._generate(model, cache)
        found: list[tuple[float, float, float]] = []
        start = time.perf_counter()
        while len(found) < MIN_REPEATS or time.perf_counter() - start < self._seconds:
            found.append(self._generate(model, cache))
        prefills, first_tokens, steps = (list(column) for column in zip(*found, strict=True))
        return prefills, first_tokens, steps

    def _generate(self, model: GPT, cache: KVCache) -> tuple[float, float, float]:
        """Seconds of the prompt, of the first token, and of each further step."""
        num_rows = len(cache.lengths)
        for slot in range(num_rows):
            cache.clear(slot)
        vocab_size = model.config.vocab_size
        texts = [[(row + place) % vocab_size for place in range(self._num_prompt)] for row in range(num_rows)]
        marks = [time.perf_counter()]
        hidden = model.hidden(torch.tensor(texts, device=model.device), cache=cache)
        _wait(model.device)
        marks.append(time.perf_counter())
        for _ in range(self._num_new):
            drawn = sample_next(model.unembed(hidden[:, -1]), params=[GREEDY] * num_rows, texts=texts)
            marks.append(time.perf_counter())
            hidden = model.hidden(torch.tensor(drawn, device=model.device)[:, None], cache=cache)
        return marks[1] - marks[0], marks[2] - marks[0], (marks[-1] - marks[2]) / (self._num_new - 1)


def _variants(model: GPT) -> list[tuple[str, GPT]]:
    if model.device.type == "cuda":
        return [("fp32", model), ("bf16", deepcopy(model).to(torch.bfloat16))]
    if can_pack(model):
        return [("fp32", model), ("fp16 packed", pack(model))]
    return [("fp32", model)]


def _speed_of(name: str, model: GPT, times: _Times, *, num_prompt: int, bandwidth: float) -> VariantSpeed:
    weight_bytes = _weight_bytes(model)
    return VariantSpeed(
        weights=name,
        weight_bytes=weight_bytes,
        prefill_tokens_per_second=num_prompt / times.prefill,
        first_token_seconds=times.first_token,
        decode_tokens_per_second=1 / times.step,
        batch_tokens_per_second=BATCH_ROWS / times.batch_step,
        bandwidth_share=weight_bytes / times.step / bandwidth,
        batch_bandwidth_share=weight_bytes / times.batch_step / bandwidth,
    )


def _weight_bytes(model: GPT) -> int:
    """What one step reads: every matrix, the tied embedding once, as the output layer."""
    if isinstance(model, PackedGPT):
        return 2 * model.config.num_parameters
    return sum(parameter.nbytes for parameter in model.parameters())


def _seconds_of(work: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _peak_memory_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    # The kernel counts in kilobytes on Linux and in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
