"""Memory bandwidth of this machine, as STREAM measures and counts it, and for reading alone.

Arrays are far beyond every cache, all cores work, the best of ten runs counts. A kernel's bytes are those that it reads
and writes, not what the caches fetch besides. Source: McCalpin's STREAM, https://www.cs.virginia.edu/stream/ref.html.
Run: python -m benchmarks.bandwidth; it prints a JSON object of bytes per second by kernel.
"""

import json
import time
from collections.abc import Callable

import numpy as np
import torch

from ml.threads import num_cores

ARRAY_BYTES = 256 * 2**20
NUM_RUNS = 10


def main() -> None:
    torch.set_num_threads(num_cores())
    # numpy asks for huge pages, as a program that is after bandwidth does.
    a, b, c = (torch.from_numpy(np.ones(ARRAY_BYTES // 4, np.float32)) for _ in range(3))
    kernels: dict[str, tuple[int, Callable[[], object]]] = {
        "copy (a = b)": (2, lambda: a.copy_(b)),
        "scale (a = s b)": (2, lambda: torch.mul(b, 3.0, out=a)),
        "add (a = b + c)": (3, lambda: torch.add(b, c, out=a)),
        "triad (a = b + s c)": (3, lambda: torch.add(b, c, alpha=3.0, out=a)),
        "read (sum of a)": (1, a.sum),
    }
    print(json.dumps({name: num_arrays * ARRAY_BYTES / best(kernel) for name, (num_arrays, kernel) in kernels.items()}))


def best(kernel: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        kernel()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
