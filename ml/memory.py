"""Memory on the CPU: what is free, and what a forward pass keeps for the backward one."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(slots=True)
class SavedBytes:
    """What autograd saved while it was counted; each piece of memory once."""

    num_bytes: int = 0
    seen: set[int] = field(default_factory=set)


@contextlib.contextmanager
def count_saved_bytes() -> Iterator[SavedBytes]:
    """Count the bytes of activations that forward passes inside keep; weights are none.

    Memory is told apart by its address, so count one forward pass: a second one may use the first one's again.
    """
    saved = SavedBytes()

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in saved.seen:
            saved.seen.add(storage.data_ptr())
            saved.num_bytes += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved


def free_bytes() -> int:
    """Memory that this process may still take before the system kills one: a container's limit counts too.

    Without end elsewhere than on Linux, where systems swap or refuse instead.
    """
    if sys.platform != "linux":
        return sys.maxsize
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(free, *_cgroup_free_bytes())


def _cgroup_free_bytes() -> Iterator[int]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # No such file, or no limit: "max".
            yield int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text())
    yield sys.maxsize
