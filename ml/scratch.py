"""Arrays that a thread works in, kept from one use to the next: to get memory anew costs more than to fill it."""

import math
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array of this shape with any content; it is the caller's until its thread asks for the same name again."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory: Array | None = getattr(_kept, name, None)
    if memory is None or len(memory) < num_bytes:
        memory = np.empty(num_bytes, np.uint8)
        setattr(_kept, name, memory)
    return memory[:num_bytes].view(dtype).reshape(shape)
