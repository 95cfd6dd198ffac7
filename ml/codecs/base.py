"""What every codec is: one file layout for one model's deltas, encoded once and decoded slice by slice."""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ml.tensor_file import Array, Entry, Header, InputFile, Shape, read_values

BLOCK_VALUES = 4_096
"""Values of a flattened parameter that make a block; slices begin with one."""

CHUNK_VALUES = 64 * BLOCK_VALUES
"""Values that are worked on at a time: a megabyte of float32 stays in cache, and weighs more than the calls do."""

Floats = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]


class DeltaNotFinite(ValueError):
    """A delta with infinite or undefined values, or with values that its codec cannot hold."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Decoded values [start, stop) of a flattened parameter; those that were not sent count as zero."""

    values: Floats
    positions: Positions | None
    """Where the values stand, from `start`, ascending; None: they are all there."""

    def densified(self, num_values: int) -> Floats:
        """All `num_values` values of the slice, zero where nothing was sent."""
        if self.positions is None:
            return self.values
        values_N = np.zeros(num_values, np.float32)
        values_N[self.positions] = self.values
        return values_N


class Source:
    """An open delta: reads of its tensors, which threads may share."""

    def __init__(self, file: InputFile, header: Header) -> None:
        self._file = file
        self._header = header
        self._lock = threading.Lock()

    def read(self, name: str, start: int, stop: int, *, out: Array | None = None) -> Array:
        """Values [start, stop) of the tensor `name`, flattened, as they lie in the file; in `out` where it is given.

        Raises: TensorFileInvalid where the file ends before.
        """
        entry = self._header.entries[name]
        with self._lock:
            return read_values(self._file, header=self._header, entry=entry, start=start, stop=stop, out=out)


class Codec(ABC):
    """How the deltas of one model lie in a file; bound to the shapes of its parameters."""

    error_decay: ClassVar[float] = 0.0
    """What a device keeps, for its next delta, of the error of its last; 0: nothing is fed back."""

    entries: dict[str, Entry]
    """Places of a file's tensors, in their order."""

    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        self.name = name
        self.shapes = dict(sorted(shapes.items()))
        self.num_values = {parameter: math.prod(shape) for parameter, shape in self.shapes.items()}

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors in a file, without its header."""
        return max((entry.stop for entry in self.entries.values()), default=0)

    @abstractmethod
    def encode(self, delta: Mapping[str, npt.ArrayLike]) -> Iterator[Array]:
        """Content of the entries, in their order, in pieces.

        Raises: DeltaNotFinite.
        """

    @abstractmethod
    def decode(self, source: Source, name: str, start: int, stop: int, *, out: Floats | None = None) -> Slice:
        """Values [start, stop) of the flattened parameter `name`; `start` is a multiple of BLOCK_VALUES.

        A codec that holds all values writes them to `out`, (stop - start,), where it is given.
        Raises: TensorFileInvalid where the file was cut short.
        """

    @abstractmethod
    def check(self, source: Source) -> None:
        """Refuse content on which `decode` cannot rely, in memory that does not depend on the file.

        A scale near the end of float32 may still decode to infinity, which shows in the norm.
        Raises: TensorFileInvalid; DeltaNotFinite.
        """


class SliceCodec(Codec):
    """A codec that encodes each block for itself, so that what is too large for memory can be encoded in slices."""

    @abstractmethod
    def encode_slice(self, name: str, values_N: Floats) -> dict[str, Array]:
        """Content of whole blocks, or of a parameter's end, by entry; what `encode` yields is these end to end.

        Raises: DeltaNotFinite.
        """


def flatten(delta: Mapping[str, npt.ArrayLike], name: str) -> Floats:
    """One parameter of a delta as (N,) float32.

    Raises: DeltaNotFinite.
    """
    values_N = np.asarray(delta[name], np.float32).reshape(-1)
    for start, stop in chunks(len(values_N)):
        require_finite(values_N[start:stop], name=name)
    return values_N


def require_finite(values_N: Floats, *, name: str) -> None:
    """Raises: DeltaNotFinite."""
    if not np.isfinite(values_N).all():
        raise DeltaNotFinite(f"{name} has a value that is not finite")


def chunks(num_values: int) -> Iterator[tuple[int, int]]:
    """Slices [start, stop) of at most CHUNK_VALUES that cover a flattened parameter; each begins with a block."""
    for start in range(0, num_values, CHUNK_VALUES):
        yield start, min(start + CHUNK_VALUES, num_values)


def num_blocks(num_values: int, block_values: int = BLOCK_VALUES) -> int:
    """Blocks that cover so many values, the last one perhaps in part."""
    return -(-num_values // block_values)
