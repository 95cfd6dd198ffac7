"""Speed and memory of merging a 20M-parameter model's deltas by each codec, beside memory bandwidth and Flower.

Run: python -m benchmarks.merging [CODEC ...]
"""

import random
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flower import FlowerMissing, FlowerRun, run_fedavg
from benchmarks.merging_inputs import MODEL, MODEL_BYTES, make_base, make_deltas
from benchmarks.merging_runs import (
    Measurement,
    in_new_process,
    largest_difference,
    measure,
    measure_bandwidth,
    read_rate,
)
from benchmarks.tables import Goal, print_goals, print_table
from ml.config import CODECS
from ml.merging import WeightedDelta

NUM_DELTAS = (2, 8, 32, 64, 256)
FLOWER_DELTAS = 64
MAX_DIFFERENCE = 1e-5


@dataclass(frozen=True, slots=True)
class Merged:
    """One codec's measurements, by the number of deltas."""

    delta_bytes: int
    by_count: Mapping[int, Measurement]

    def rate(self, num_deltas: int) -> float:
        """Bytes of deltas that are added up in a second."""
        return num_deltas * self.delta_bytes / self.by_count[num_deltas].sum_seconds

    def seconds_per_delta(self) -> list[float]:
        return [measured.sum_seconds / num_deltas for num_deltas, measured in self.by_count.items()]


@dataclass(frozen=True, slots=True)
class Beside:
    """Flower's FedAvg of the same deltas, and the merge of them."""

    flower: FlowerRun
    merged: Measurement
    difference: float
    """Of the means, over their root mean square."""


def main() -> None:
    codecs = sys.argv[1:] or list(CODECS)
    bandwidth = measure_bandwidth()
    best = max(bandwidth.values())
    merged, same_bytes, beside = {}, None, None
    for codec in codecs:
        with tempfile.TemporaryDirectory(prefix="fai-merging-") as name:
            folder = Path(name)
            in_new_process(make_base, folder / "base")
            deltas = in_new_process(make_deltas, folder, codec, max(NUM_DELTAS))
            merged[codec] = measure_counts(folder, deltas)
            if codec == "dense":
                bandwidth["files in the page cache (read)"] = in_new_process(read_rate, deltas)
                shuffled = random.Random(0).sample(deltas, len(deltas))
                expected = merged[codec].by_count[len(deltas)].sha256
                same_bytes = in_new_process(measure, folder, shuffled).sha256 == expected
                beside = measure_beside(folder, deltas[:FLOWER_DELTAS], merged[codec].by_count[FLOWER_DELTAS])
    print_goals(*goals(merged, best, same_bytes=same_bytes, beside=beside))
    print_merged(merged, best)
    print_beside(beside)
    print_table(("memory bandwidth", "GB/s"), [(kernel, f"{rate / 1e9:.1f}") for kernel, rate in bandwidth.items()])
    print(
        f"m4: {MODEL.num_parameters:,} parameters, {MODEL_BYTES / 1e6:.1f} MB in fp32; "
        "the best of several runs counts; files are in the page cache"
    )


def measure_counts(folder: Path, deltas: Sequence[WeightedDelta]) -> Merged:
    return Merged(
        deltas[0].path.stat().st_size,
        {num_deltas: in_new_process(measure, folder, deltas[:num_deltas]) for num_deltas in NUM_DELTAS},
    )


def measure_beside(folder: Path, deltas: Sequence[WeightedDelta], merged: Measurement) -> Beside | None:
    try:
        flower = run_fedavg(deltas, folder / "mean")
    except FlowerMissing as problem:
        print(f"merging: left out beside Flower: {problem}", file=sys.stderr)
        return None
    return Beside(flower, merged, in_new_process(largest_difference, folder / "mean", deltas))


def goals(merged: Mapping[str, Merged], best: float, *, same_bytes: bool | None, beside: Beside | None) -> list[Goal]:
    found = [flat_memory(merged)]
    if dense := merged.get("dense"):
        share = dense.rate(max(NUM_DELTAS)) / best
        per_delta = dense.seconds_per_delta()
        slowest = max(per_delta) / min(per_delta)
        found = [
            Goal(
                measured=f"{share:.0%}",
                wanted="at least 50%",
                reached=share >= 0.5,
                what=f"bytes of {max(NUM_DELTAS)} dense deltas a second, over memory bandwidth",
            ),
            Goal(
                measured=f"{slowest:.2f}x",
                wanted="at most 1.25x",
                reached=slowest <= 1.25,
                what="time per dense delta, the slowest count over the fastest",
            ),
            *found,
            Goal(
                measured="same" if same_bytes else "differ",
                wanted="same",
                reached=bool(same_bytes),
                what="bytes for a shuffled order",
            ),
        ]
    return found + (goals_beside(beside) if beside else [])


def flat_memory(merged: Mapping[str, Merged]) -> Goal:
    peaks = [[measured.peak_bytes for measured in codec.by_count.values()] for codec in merged.values()]
    growth = max(max(of_codec) / min(of_codec) - 1 for of_codec in peaks)
    return Goal(
        measured=f"{growth:.0%}",
        wanted="at most 10%",
        reached=growth <= 0.1,
        what=f"growth of a process's peak memory, {min(NUM_DELTAS)} to {max(NUM_DELTAS)} deltas, any codec",
    )


def goals_beside(beside: Beside) -> list[Goal]:
    memory = beside.flower.peak_bytes / beside.merged.peak_bytes
    speed = beside.flower.seconds / beside.merged.merge_seconds
    return [
        Goal(
            measured=f"{memory:.0f}x",
            wanted="at least 5x",
            reached=memory >= 5,
            what=f"Flower's peak memory over ours, {FLOWER_DELTAS} dense deltas",
        ),
        Goal(
            measured=f"{speed:.1f}x",
            wanted="above 1x",
            reached=speed > 1,
            what="Flower's time to average arrays in memory, over ours from files to files",
        ),
        Goal(
            measured=f"{beside.difference:.1e}",
            wanted=f"at most {MAX_DIFFERENCE:.0e}",
            reached=beside.difference <= MAX_DIFFERENCE,
            what="largest difference of the two means, over their root mean square",
        ),
    ]


def print_merged(merged: Mapping[str, Merged], best: float) -> None:
    counts = [str(num_deltas) for num_deltas in NUM_DELTAS]
    rates = [
        (
            name,
            f"{codec.delta_bytes / 1e6:.2f}",
            f"{codec.rate(max(NUM_DELTAS)) / 1e9:.2f}",
            f"{codec.rate(max(NUM_DELTAS)) / best:.1%}",
            *(f"{1e3 * seconds:.2f}" for seconds in codec.seconds_per_delta()),
        )
        for name, codec in merged.items()
    ]
    print_table(("sum", "MB a delta", "GB/s", "of bandwidth", *(f"ms a delta of {count}" for count in counts)), rates)
    for title, cell in (
        ("seconds of a whole merge", lambda measured: f"{measured.merge_seconds:.2f}"),
        ("peak MB of the process", lambda measured: f"{measured.peak_bytes / 1e6:.1f}"),
        ("of it, MB beyond idle", lambda measured: f"{(measured.peak_bytes - measured.idle_bytes) / 1e6:.1f}"),
    ):
        rows = [(name, *map(cell, codec.by_count.values())) for name, codec in merged.items()]
        print_table((title, *counts), rows)


def print_beside(beside: Beside | None) -> None:
    if beside is None:
        return
    flower, merged = beside.flower, beside.merged
    rows = [
        ("merge", "files to files", f"{merged.merge_seconds:.2f}", f"{merged.peak_bytes / 1e6:.0f}"),
        (f"Flower {flower.version}", "memory to memory", f"{flower.seconds:.2f}", f"{flower.peak_bytes / 1e6:.0f}"),
    ]
    print_table((f"{FLOWER_DELTAS} dense deltas", "", "seconds", "peak MB of the process"), rows)


if __name__ == "__main__":
    main()
