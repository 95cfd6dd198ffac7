"""What codecs that leave most values out have in common: a number of values kept of each block, small parameters whole.

A few tensors serve all parameters, so that the header does not outweigh what it describes: the codec's own floats,
`dense` with the small parameters in order of name, and bytes of packed numbers, in which each large parameter, in order
of name, and each of its blocks begins with a whole byte.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ml.codecs.base import BLOCK_VALUES, Codec, Floats, Positions, Slice, Source, chunks, flatten, num_blocks
from ml.codecs.bfloat16 import from_bfloat16, require_finite_bits, to_finite_bfloat16
from ml.codecs.packing import Bytes, Words
from ml.codecs.selection import largest
from ml.tensor_file import Array, Entry, Shape, TensorFileInvalid, arrange

SPARSE_MIN_VALUES = BLOCK_VALUES
"""Smaller parameters are sent whole: a model has hundreds of them, which weigh nothing and matter."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a large parameter begins in the tensors that all of them share."""

    name: str
    num_values: int
    row: int
    """Large parameters before it."""
    block: int
    """Blocks of large parameters before it."""
    byte_starts: Mapping[str, int]
    """In each packed tensor."""


class Sparse(Codec):
    """`num_kept` values of each block of 4,096; parameters under SPARSE_MIN_VALUES in bfloat16."""

    kept_multiple: ClassVar[int]
    """`num_kept` is a multiple of it, so that every block fills whole bytes."""

    def __init__(self, name: str, shapes: Mapping[str, Shape], *, num_kept: int) -> None:
        if num_kept % self.kept_multiple or not 0 < num_kept <= BLOCK_VALUES:
            raise ValueError(f"{name} does not keep a multiple of {self.kept_multiple} of each {BLOCK_VALUES} values")
        super().__init__(name, shapes)
        self.num_kept = num_kept
        self.places: dict[str, Place] = {}
        self._dense_starts: dict[str, int] = {}
        self._num_dense = block = 0
        starts = self._num_bytes(0)
        for parameter, num_values in self.num_values.items():
            if num_values < SPARSE_MIN_VALUES:
                self._dense_starts[parameter] = self._num_dense
                self._num_dense += num_values
                continue
            self.places[parameter] = Place(parameter, num_values, len(self.places), block, starts)
            block += num_blocks(num_values)
            starts = {entry: starts[entry] + size for entry, size in self._num_bytes(num_values).items()}
        floats = self.float_shapes(num_large=len(self.places), num_blocks=block)
        self.entries = self._arranged(floats, num_bytes=starts)

    @abstractmethod
    def float_shapes(self, *, num_large: int, num_blocks: int) -> dict[str, Shape]:
        """The codec's own float tensors, for so many large parameters of so many blocks."""

    @abstractmethod
    def num_bits(self, num_values: int) -> dict[str, int]:
        """Bits of the first `num_values` values of a large parameter in each packed tensor.

        Of a whole block they fill whole bytes; after a parameter's last block zeros fill up the byte.
        """

    @abstractmethod
    def encode_large(self, values_N: Floats) -> dict[str, Array]:
        """What a large parameter has in each tensor but `dense`."""

    @abstractmethod
    def read_positions(self, source: Source, place: Place, start: int, stop: int) -> Positions:
        """Where the kept values of [start, stop) stand, from `start`; both begin or end blocks.

        Raises: TensorFileInvalid.
        """

    @abstractmethod
    def read_kept(self, source: Source, place: Place, start: int, stop: int) -> Floats:
        """The kept values of [start, stop), in order; both begin or end blocks."""

    @abstractmethod
    def check_floats(self, source: Source, place: Place, start: int, stop: int) -> None:
        """Refuse floats of [start, stop) that no device sends.

        Raises: TensorFileInvalid; DeltaNotFinite.
        """

    def kept_of(self, num_values: int) -> int:
        """Values that are sent of the first `num_values` of a parameter.

        A block cut short keeps its share, rounded up: at least one, and any of its values may be it.
        """
        num_whole, num_rest = divmod(num_values, BLOCK_VALUES)
        return num_whole * self.num_kept - (-num_rest * self.num_kept // BLOCK_VALUES)

    def encode(self, delta: Mapping[str, npt.ArrayLike]) -> Iterator[Array]:
        parts = [self.encode_large(flatten(delta, name)) for name in self.places]
        for entry in self.entries:
            if entry == "dense":
                for name in self._dense_starts:
                    yield to_finite_bfloat16(flatten(delta, name), name=name)
            else:
                yield from (part[entry] for part in parts)

    def decode(self, source: Source, name: str, start: int, stop: int, *, out: Floats | None = None) -> Slice:
        if name in self._dense_starts:
            return Slice(from_bfloat16(self._read_dense(source, name, start, stop), out=out), None)
        # Whole blocks are read: nothing tells beforehand how many of a block's values stand before `stop`.
        place = self.places[name]
        end = min(stop - stop % -BLOCK_VALUES, place.num_values)
        positions_K = self.read_positions(source, place, start, end)
        values_K = self.read_kept(source, place, start, end)
        if stop < end:
            num_inside = int(np.searchsorted(positions_K, stop - start))
            positions_K, values_K = positions_K[:num_inside], values_K[:num_inside]
        return Slice(values_K, positions_K)

    def check(self, source: Source) -> None:
        for place in self.places.values():
            for start, stop in chunks(place.num_values):
                self.check_floats(source, place, start, stop)
                self._check_positions(self.read_positions(source, place, start, stop), stop - start, place.name)
            self._check_filling(source, place)
        for name in self._dense_starts:
            require_finite_bits(self._read_dense(source, name, 0, self.num_values[name]), name=name)

    def largest_of_runs(self, values_N: Floats) -> Iterator[tuple[Words, Floats]]:
        """What is kept of a large parameter, some whole blocks at a time, then of the one cut short.

        Yields: places in their block, ascending, and values, (B, K) each.
        """
        for start, stop in _runs(len(values_N)):
            blocks_BV = values_N[start:stop].reshape(-1, min(BLOCK_VALUES, stop - start))
            num_kept = self.kept_of(blocks_BV.shape[1])
            places_BK = largest(blocks_BV, num_kept).reshape(-1, num_kept)
            yield places_BK, np.take_along_axis(blocks_BV, places_BK.astype(np.intp), axis=1)

    def read_packed(self, source: Source, entry: str, place: Place, start: int, stop: int) -> Bytes:
        """Bytes of [start, stop) in a packed tensor; both begin or end blocks."""
        first = place.byte_starts[entry]
        return source.read(entry, first + self._num_bytes(start)[entry], first + self._num_bytes(stop)[entry])

    def _num_bytes(self, num_values: int) -> dict[str, int]:
        return {entry: -(-bits // 8) for entry, bits in self.num_bits(num_values).items()}

    def _arranged(self, floats: Mapping[str, Shape], *, num_bytes: Mapping[str, int]) -> dict[str, Entry]:
        return arrange(
            {entry: ("F32", shape) for entry, shape in floats.items()}
            | {"dense": ("BF16", (self._num_dense,))}
            | {entry: ("U8", (size,)) for entry, size in num_bytes.items()}
        )

    def _read_dense(self, source: Source, name: str, start: int, stop: int) -> npt.NDArray[np.uint16]:
        first = self._dense_starts[name]
        return source.read("dense", first + start, first + stop)

    def _check_positions(self, positions_K: Positions, num_values: int, name: str) -> None:
        """Each block's positions lie in it, in order."""
        firsts_B, lasts_B = positions_K[:: self.num_kept], positions_K[self.num_kept - 1 :: self.num_kept]
        if positions_K[-1] >= num_values:
            raise TensorFileInvalid(f"{name} has an index beyond its last value")
        starts_B = np.arange(0, num_values, BLOCK_VALUES)
        if (firsts_B < starts_B).any() or (lasts_B >= starts_B[: len(lasts_B)] + BLOCK_VALUES).any():
            raise TensorFileInvalid(f"{name} has an index beyond its block")
        if (positions_K[1:] <= positions_K[:-1]).any():
            raise TensorFileInvalid(f"{name} has an index twice, or out of order")

    def _check_filling(self, source: Source, place: Place) -> None:
        """What fills up the last bytes of a parameter is zero."""
        for entry, bits in self.num_bits(place.num_values).items():
            stop = place.byte_starts[entry] + -(-bits // 8)
            if bits % 8 and source.read(entry, stop - 1, stop)[0] >> bits % 8:
                raise TensorFileInvalid(f"{place.name} has bits set after its last in {entry}")


def _runs(num_values: int) -> Iterator[tuple[int, int]]:
    """Slices of whole blocks, then the block that is cut short."""
    end = num_values - num_values % BLOCK_VALUES
    yield from chunks(end)
    if end < num_values:
        yield end, num_values
