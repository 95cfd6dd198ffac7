"""Memory and time of merging int8 deltas of a 20M-parameter model, against loading all of them and averaging.

Each measurement has a fresh process. Run: python -m benchmarks.merging
"""

import dataclasses
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.tables import Goal, print_goals, print_table
from ml.codec import DeltaLabel, encode, open_delta
from ml.config import PRESETS, OuterConfig
from ml.delta_file import measure_norm
from ml.files import sha256_file
from ml.layout import delta_layouts, model_layout, parameter_shapes
from ml.merging import WeightedDelta, merge
from ml.outer import outer_step
from ml.tensor_file import TensorFileWriter, read_header, read_values

MODEL = PRESETS["m4"]
SHAPES = parameter_shapes(MODEL)
MODEL_BYTES = 4 * MODEL.num_parameters
NUM_DELTAS = (2, 16, 64)
TARGET_RATIO = 4.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one merge took beyond an idle process that has imported everything."""

    peak_bytes: int
    seconds: float
    sha256: str = ""


T = TypeVar("T")
Merge = Callable[[Path, Sequence[WeightedDelta], Path], None]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="fai-merging-") as name:
        folder = Path(name)
        deltas = in_new_process(make_inputs, folder, max(NUM_DELTAS))
        delta_bytes = deltas[0].path.stat().st_size
        rows = []
        for num_deltas in NUM_DELTAS:
            taken = deltas[:num_deltas]
            streamed = in_new_process(measure, stream, folder, taken)
            rows.append(cells(num_deltas, "stream", streamed, delta_bytes))
            if num_deltas * MODEL_BYTES < 0.7 * total_memory_bytes():
                rows.append(cells(num_deltas, "naive", in_new_process(measure, load_all, folder, taken), delta_bytes))
            else:
                rows.append((str(num_deltas), "naive", "beyond this machine", "", "", ""))
        shuffled = random.Random(0).sample(deltas, len(deltas))
        equal = in_new_process(measure, stream, folder, shuffled).sha256 == streamed.sha256
    ratio = streamed.peak_bytes / MODEL_BYTES
    print_goals(
        Goal(
            measured=f"{ratio:.2f}x",
            wanted=f"at most {TARGET_RATIO:.0f}x",
            reached=ratio <= TARGET_RATIO,
            what=f"peak memory of merging {num_deltas} deltas, over the fp32 model's size",
        ),
        Goal(measured="same" if equal else "differ", wanted="same", reached=equal, what="bytes for a shuffled order"),
    )
    print_table(("deltas", "way", "peak / model", "peak MB", "seconds", "GB/s of deltas"), rows)
    print(
        f"m4: {MODEL.num_parameters:,} parameters, {MODEL_BYTES / 1e6:.1f} MB in fp32; "
        f"int8 deltas of {delta_bytes / 1e6:.1f} MB; naive: all deltas decoded, then averaged"
    )


def cells(num_deltas: int, way: str, taken: Measurement, delta_bytes: int) -> tuple[str, ...]:
    rate = num_deltas * delta_bytes / taken.seconds / 1e9
    peak_mb = taken.peak_bytes / 1e6
    ratio = taken.peak_bytes / MODEL_BYTES
    return str(num_deltas), way, f"{ratio:.2f}", f"{peak_mb:.1f}", f"{taken.seconds:.2f}", f"{rate:.2f}"


def stream(base_path: Path, deltas: Sequence[WeightedDelta], result_path: Path) -> None:
    """The project's merge."""
    merge(
        base_path=base_path,
        deltas=deltas,
        outer=OuterConfig(),
        outer_state_path=None,
        result_path=result_path,
        result_state_path=result_path.with_suffix(".state"),
    )


def load_all(base_path: Path, deltas: Sequence[WeightedDelta], result_path: Path) -> None:
    """The usual way: a list of all decoded deltas, then their mean."""
    layouts = delta_layouts(SHAPES)
    loaded = [
        {name: reader.tensor(name) for name in SHAPES}
        for reader in (open_delta(delta.path, layouts=layouts) for delta in deltas)
    ]
    weights = np.array([delta.weight for delta in deltas], np.float32)
    weights /= weights.sum()
    with base_path.open("rb") as file, result_path.open("wb") as result_file:
        header = read_header(file, size_bytes=base_path.stat().st_size)
        writer = TensorFileWriter(result_file, metadata={}, entries=header.entries)
        for name, entry in header.entries.items():
            base_N = read_values(file, header=header, entry=entry, start=0, stop=entry.num_values)
            mean_N = sum(weight * delta[name].reshape(-1) for weight, delta in zip(weights, loaded, strict=True))
            new_N, _ = outer_step(base_N, np.zeros_like(base_N), np.asarray(mean_N), config=OuterConfig())
            writer.append(new_N)
        writer.finish()


def measure(way: Merge, folder: Path, deltas: Sequence[WeightedDelta]) -> Measurement:
    before = peak_resident_bytes()
    result_path = folder / "result"
    start = time.perf_counter()
    way(folder / "base", deltas, result_path)
    seconds = time.perf_counter() - start
    return Measurement(peak_resident_bytes() - before, seconds, sha256_file(result_path))


def make_inputs(folder: Path, num_deltas: int) -> list[WeightedDelta]:
    """A base and deltas of normal values, each delta another window of one random series."""
    series_N = np.random.default_rng(0).standard_normal(MODEL.num_parameters + num_deltas, dtype=np.float32)
    entries = model_layout(SHAPES)
    with (folder / "base").open("wb") as file:
        writer = TensorFileWriter(file, metadata={}, entries=entries)
        writer.append(series_N[: MODEL.num_parameters] * np.float32(0.02))
        writer.finish()
    layouts = delta_layouts(SHAPES)
    deltas = []
    for index in range(num_deltas):
        values_N = series_N[index : index + MODEL.num_parameters] * np.float32(1e-3)
        path = folder / f"delta-{index}"
        sha256 = encode(split(values_N), label=make_label(index), tokens=100, path=path)
        delta = WeightedDelta(path=path, attempt_id=index, sha256=sha256, tokens=100, weight=1.0 + index % 7, norm=0.0)
        deltas.append(dataclasses.replace(delta, norm=measure_norm(open_delta(path, layouts=layouts))))
    return deltas


def make_label(attempt_id: int) -> DeltaLabel:
    return DeltaLabel(experiment="benchmark", round_number=1, base_sha256="0" * 64, codec="int8", attempt_id=attempt_id)


def split(values_N: np.ndarray) -> dict[str, np.ndarray]:
    tensors, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + math.prod(shape)
        tensors[name] = values_N[start:stop].reshape(shape)
        start = stop
    return tensors


def in_new_process(function: Callable[..., T], *arguments: object) -> T:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


def total_memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


if __name__ == "__main__":
    main()
