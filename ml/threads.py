"""Work on many pieces by as many threads as there are cores: numpy and file reads let go of the interpreter's lock."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 8
"""Each has its own buffers; memory is reached before more of them help."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results in the order of the items. The first error ends the work, and no piece is begun after it."""
    with ThreadPoolExecutor(num_threads()) as pool:
        yield from pool.map(work, items)


def num_threads() -> int:
    return min(num_cores(), MAX_THREADS)


def num_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
