"""Merges that are measured, each call meant for a fresh process, because its peak memory never falls."""

import functools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from io import FileIO
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.merging_inputs import BASE_SHA256, SHAPES
from ml.codec import open_delta
from ml.config import OuterConfig
from ml.delta_sums import Summand, mean_span
from ml.layout import model_layout
from ml.merging import SPAN_VALUES, WeightedDelta, merge
from ml.spans import spans
from ml.threads import in_threads

NUM_RUNS = 5
READ_BYTES = 2**18
"""Small enough for a core's cache."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measurement:
    """The best of several runs."""

    sum_seconds: float
    """Reading, decoding, weighting and adding up all deltas."""
    merge_seconds: float
    """The whole merge: the sum, the outer step, three files written through to the disk, and their hashes."""
    peak_bytes: int
    """Of the process."""
    idle_bytes: int
    """Of the process before its first merge."""
    sha256: str


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure_bandwidth() -> dict[str, float]:
    """Bytes per second by kernel; outside, because torch would be in every process's memory."""
    command = [sys.executable, "-m", "benchmarks.bandwidth"]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def measure(folder: Path, deltas: Sequence[WeightedDelta]) -> Measurement:
    """Merge `deltas` into the base of the folder."""
    idle_bytes = peak_resident_bytes()
    sha256, merge_seconds = best_of(functools.partial(_merge, folder, deltas))
    peak_bytes = peak_resident_bytes()
    _, sum_seconds = best_of(functools.partial(_add_up, deltas))
    return Measurement(sum_seconds, merge_seconds, peak_bytes, idle_bytes, sha256)


def read_rate(deltas: Sequence[WeightedDelta]) -> float:
    """Bytes a second of reading the files and doing nothing with them: what any merge of files stays under."""
    _, seconds = best_of(lambda: list(in_threads(_read, [delta.path for delta in deltas])))
    return sum(delta.path.stat().st_size for delta in deltas) / seconds


def largest_difference(path: Path, deltas: Sequence[WeightedDelta]) -> float:
    """Between the mean of dense deltas and the float32 values in a file, over the root mean square of the latter."""
    others_N = np.memmap(path, "<f4", mode="r")
    largest, start, summands = 0.0, 0, _summands(deltas)
    for span in spans(model_layout(SHAPES), max_values=SPAN_VALUES):
        other_K = others_N[start : start + span.num_values]
        largest = max(largest, float(np.abs(mean_span(summands, span, over_senders=False) - other_K).max()))
        start += span.num_values
    return largest / float(np.sqrt(np.mean(np.square(others_N))))


def peak_resident_bytes() -> int:
    """Largest resident memory that this process has had; pages of files that it only reads are not in it."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


def best_of(run: Callable[[], T]) -> tuple[T, float]:
    """The last result, and the fewest seconds."""
    seconds = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def _merge(folder: Path, deltas: Sequence[WeightedDelta]) -> str:
    return merge(
        base_path=folder / "base",
        base_sha256=BASE_SHA256,
        deltas=deltas,
        outer=OuterConfig(),
        progress=0.0,
        outer_state_path=None,
        result_path=folder / "result",
        result_state_path=folder / "result.state",
        step_path=folder / "result.step",
    ).sha256


def _add_up(deltas: Sequence[WeightedDelta]) -> None:
    add_span = functools.partial(mean_span, _summands(deltas), over_senders=False)
    for _ in in_threads(add_span, spans(model_layout(SHAPES), max_values=SPAN_VALUES)):
        pass


def _read(path: Path) -> None:
    piece = bytearray(READ_BYTES)
    with FileIO(path) as file:
        while file.readinto(piece):
            pass


def _summands(deltas: Sequence[WeightedDelta]) -> list[Summand]:
    total = sum(delta.weight for delta in deltas)
    shares = [np.float32(delta.weight / total) for delta in deltas]
    readers = [open_delta(delta.path, shapes=SHAPES) for delta in deltas]
    return [Summand(reader, share, share) for reader, share in zip(readers, shares, strict=True)]
