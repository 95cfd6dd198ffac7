"""Every value as a small integer, and for each block of a flattened parameter one float32 that it is a multiple of."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ml.codecs.base import (
    BLOCK_VALUES,
    Floats,
    Slice,
    SliceCodec,
    Source,
    chunks,
    flatten,
    num_blocks,
    require_finite,
)
from ml.codecs.packing import pack_4, unpack_4
from ml.scratch import scratch
from ml.tensor_file import Array, Shape, TensorFileInvalid, arrange

SCALE_SUFFIX = ".scale"

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below it float32 loses digits; a block that needs a smaller one is sent as zeros."""

Levels = npt.NDArray[np.int8]


def block_scales(values_N: Floats, *, block_values: int, max_level: int) -> Floats:
    """Largest magnitude of each block over `max_level`; zero where that would be under SMALLEST_SCALE.

    Shapes: (N,) -> (K,), K = ceil(N / block_values).
    """
    blocks_KB = _blocks(values_N, block_values)
    scale_K = np.maximum(blocks_KB.max(axis=1), -blocks_KB.min(axis=1)) / np.float32(max_level)
    scale_K[scale_K < SMALLEST_SCALE] = 0
    return np.asarray(scale_K, np.float32)


def quantize(values_N: Floats, scale_K: Floats, *, block_values: int, max_level: int) -> Levels:
    """Nearest multiples of each block's scale, from -max_level to max_level.

    Error: at most scale / 2 for each value, up to float32 rounding; under max_level * SMALLEST_SCALE where the scale
    is 0.
    """
    divisor_K = np.where(scale_K > 0, scale_K, np.float32(np.inf))
    levels_KB = _blocks(values_N, block_values) / divisor_K[:, None]
    np.rint(levels_KB, out=levels_KB)
    levels_KB.clip(-max_level, max_level, out=levels_KB)
    return levels_KB.astype(np.int8).reshape(-1)[: len(values_N)]


def scale_blocks(values_N: Floats, scale_K: Floats, *, block_values: int) -> None:
    """Multiply each block, in place, by its scale."""
    num_whole = len(values_N) // block_values
    whole_KB = values_N[: num_whole * block_values].reshape(-1, block_values)
    # Hostile scales overflow; who measures the norm finds the infinity.
    with np.errstate(over="ignore"):
        np.multiply(whole_KB, scale_K[:num_whole, None], out=whole_KB)
        if num_whole < len(scale_K):
            values_N[num_whole * block_values :] *= scale_K[num_whole]


def _blocks(values_N: Floats, block_values: int) -> Floats:
    """(N,) -> (K, block_values), the last block filled up with zeros."""
    num_missing = -len(values_N) % block_values
    padded = np.concatenate([values_N, np.zeros(num_missing, np.float32)]) if num_missing else values_N
    return padded.reshape(-1, block_values)


class Blocks(SliceCodec):
    """A parameter's levels under its own name, and its scales as `<name>.scale`."""

    block_values: ClassVar[int]
    """Values that share a scale; BLOCK_VALUES is a multiple of it."""
    max_level: ClassVar[int]

    def encode(self, delta: Mapping[str, npt.ArrayLike]) -> Iterator[Array]:
        for entry in self.entries:
            values_N = flatten(delta, entry if entry in self.shapes else entry.removesuffix(SCALE_SUFFIX))
            for start, stop in chunks(len(values_N)):
                scale_K = self._scales(values_N[start:stop])
                yield self._levels(values_N[start:stop], scale_K) if entry in self.shapes else scale_K

    def encode_slice(self, name: str, values_N: Floats) -> dict[str, Array]:
        require_finite(values_N, name=name)
        scale_K = self._scales(values_N)
        return {name: self._levels(values_N, scale_K), name + SCALE_SUFFIX: scale_K}

    def decode(self, source: Source, name: str, start: int, stop: int, *, out: Floats | None = None) -> Slice:
        first, last = start // self.block_values, num_blocks(stop, self.block_values)
        values_N = np.empty(stop - start, np.float32) if out is None else out
        self._read_levels(source, name, start, stop, values_N)
        scale_blocks(values_N, source.read(name + SCALE_SUFFIX, first, last), block_values=self.block_values)
        return Slice(values_N, None)

    def check(self, source: Source) -> None:
        for name, num_values in self.num_values.items():
            for start, stop in chunks(num_values):
                first, last = start // self.block_values, num_blocks(stop, self.block_values)
                _check_scales(source.read(name + SCALE_SUFFIX, first, last), name + SCALE_SUFFIX)

    def _scales(self, values_N: Floats) -> Floats:
        return block_scales(values_N, block_values=self.block_values, max_level=self.max_level)

    @abstractmethod
    def _levels(self, values_N: Floats, scale_K: Floats) -> Array:
        """What stands in the file for these values."""

    @abstractmethod
    def _read_levels(self, source: Source, name: str, start: int, stop: int, out: Floats) -> None:
        """Write levels [start, stop) of a parameter to `out`."""


class Int8(Blocks):
    """A byte a value and a scale for each 4,096. Error: at most half a scale, a 254th of the block's largest value."""

    block_values = BLOCK_VALUES
    max_level = 127

    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        levels = {parameter: ("I8", shape) for parameter, shape in shapes.items()}
        super().__init__(name, shapes)
        self.entries = arrange(levels | _scale_specs(shapes, self.block_values))

    def _levels(self, values_N: Floats, scale_K: Floats) -> Array:
        return quantize(values_N, scale_K, block_values=self.block_values, max_level=self.max_level)

    def _read_levels(self, source: Source, name: str, start: int, stop: int, out: Floats) -> None:
        np.copyto(out, source.read(name, start, stop, out=scratch("levels", (stop - start,), np.int8)))


class Int4(Blocks):
    """Two values a byte, the first in the lower half, and a scale for each 256.

    Error: at most half a scale, a 14th of the block's largest value.
    """

    block_values = 256
    max_level = 7

    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        levels = {parameter: ("U8", (num_blocks(math.prod(shape), 2),)) for parameter, shape in shapes.items()}
        super().__init__(name, shapes)
        self.entries = arrange(levels | _scale_specs(shapes, self.block_values))

    def check(self, source: Source) -> None:
        super().check(source)
        for name, num_values in self.num_values.items():
            for start, stop in chunks(num_values):
                packed_P = source.read(name, start // 2, num_blocks(stop, 2))
                if ((packed_P & 0xF) == 8).any() or ((packed_P >> 4) == 8).any():
                    raise TensorFileInvalid(f"{name} has the value -8, which no delta has")
            if num_values % 2 and source.read(name, num_values // 2, num_values // 2 + 1)[0] >> 4:
                raise TensorFileInvalid(f"{name} has bits set after its last value")

    def _levels(self, values_N: Floats, scale_K: Floats) -> Array:
        return pack_4(quantize(values_N, scale_K, block_values=self.block_values, max_level=self.max_level))

    def _read_levels(self, source: Source, name: str, start: int, stop: int, out: Floats) -> None:
        np.copyto(out, unpack_4(source.read(name, start // 2, num_blocks(stop, 2)))[: stop - start])


def _scale_specs(shapes: Mapping[str, Shape], block_values: int) -> dict[str, tuple[str, Shape]]:
    return {
        name + SCALE_SUFFIX: ("F32", (num_blocks(math.prod(shape), block_values),)) for name, shape in shapes.items()
    }


def _check_scales(scale_K: Floats, name: str) -> None:
    require_finite(scale_K, name=name)
    if (scale_K < 0).any():
        raise TensorFileInvalid(f"{name} has a negative value")
