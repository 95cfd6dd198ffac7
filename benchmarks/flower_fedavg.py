"""Flower's FedAvg over deltas in bfloat16: seconds and peak memory. Runs where Flower is installed, without FAI.

Run: python flower_fedavg.py RESULT < JSON list of [path, weight]; RESULT takes the mean's float32 values.
"""

import importlib.metadata
import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

NUM_RUNS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """A node's answer as the strategy looks at it; a Message would need a run of Flower's server."""

    content: RecordDict

    def has_error(self) -> bool:
        return False


def main() -> None:
    replies = [Reply(record(Path(path), weight)) for path, weight in json.load(sys.stdin)]
    runs = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        mean, _ = FedAvg().aggregate_train(1, replies)
        runs.append(time.perf_counter() - start)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1_024)
    with Path(sys.argv[1]).open("wb") as file:
        for name in mean:
            file.write(mean[name].numpy().tobytes())
    print(json.dumps({"seconds": min(runs), "peak_bytes": peak_bytes, "version": importlib.metadata.version("flwr")}))


def record(path: Path, weight: float) -> RecordDict:
    """A delta as Flower holds it once it has arrived: float32 tensors and the node's number of examples."""
    tensors = {name: Array(values) for name, values in read(path).items()}
    return RecordDict({"arrays": ArrayRecord(tensors), "metrics": MetricRecord({"num-examples": weight})})


def read(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """Tensors of a safetensors file of bfloat16, in order of name."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        del header["__metadata__"]
        return {
            name: (np.fromfile(file, "<u2", (stop - start) // 2).astype(np.uint32) << 16)
            .view(np.float32)
            .reshape(header[name]["shape"])
            for name in sorted(header)
            for start, stop in [header[name]["data_offsets"]]
        }


if __name__ == "__main__":
    main()
