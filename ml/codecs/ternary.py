"""The largest values of each block, each as its sign times the block's scale.

Source: Sparse Ternary Compression (Sattler et al., arXiv 1903.02891), algorithm 1, which takes the mean magnitude over
all that is kept and writes positions in Golomb's code.
"""

import numpy as np

from ml.codecs import elias_fano
from ml.codecs.base import BLOCK_VALUES, Floats, Positions, Source, num_blocks, require_finite
from ml.codecs.sparse import Place, Sparse
from ml.tensor_file import Array, Shape, TensorFileInvalid


class Ternary(Sparse):
    """`num_kept` values of each block of 4,096, all of one magnitude, in 4 bits each; 1,056 more for each block.

    `scales` holds, for each block of the large parameters, the mean magnitude of what is kept of it; `lows` and
    `uppers` where it stands, as Elias-Fano numbers; `signs` a bit for each value, set where it is negative.
    """

    # What is left out comes later, all of it: a decay would take a part of every delta for good.
    error_decay = 1.0
    kept_multiple = 8

    def float_shapes(self, *, num_large: int, num_blocks: int) -> dict[str, Shape]:
        return {"scales": (num_blocks,)}

    def num_bits(self, num_values: int) -> dict[str, int]:
        num_kept = self.kept_of(num_values)
        return {
            "lows": elias_fano.LOW_BITS * num_kept,
            "uppers": elias_fano.num_upper_bits(num_kept, num_values),
            "signs": num_kept,
        }

    def encode_large(self, values_N: Floats) -> dict[str, Array]:
        parts: dict[str, list[Array]] = {"scales": [], "lows": [], "uppers": [], "signs": []}
        num_left = len(values_N)
        for places_BK, kept_BK in self.largest_of_runs(values_N):
            num_values = min(len(places_BK) * BLOCK_VALUES, num_left)
            num_left -= num_values
            positions_BK = places_BK + np.arange(0, num_values, BLOCK_VALUES)[:, None]
            lows, uppers = elias_fano.pack(positions_BK.reshape(-1), num_values)
            parts["scales"].append(np.abs(kept_BK).mean(axis=1, dtype=np.float64).astype(np.float32))
            parts["lows"].append(lows)
            parts["uppers"].append(uppers)
            parts["signs"].append(np.packbits(kept_BK.reshape(-1) < 0, bitorder="little"))
        return {entry: np.concatenate(pieces) for entry, pieces in parts.items()}

    def read_positions(self, source: Source, place: Place, start: int, stop: int) -> Positions:
        return elias_fano.unpack(
            self.read_packed(source, "lows", place, start, stop),
            self.read_packed(source, "uppers", place, start, stop),
            num_positions=self.kept_of(stop - start),
            num_values=stop - start,
            name=place.name,
        )

    def read_kept(self, source: Source, place: Place, start: int, stop: int) -> Floats:
        num_kept = self.kept_of(stop - start)
        signs = self.read_packed(source, "signs", place, start, stop)
        # The sign bits of floats: three times as fast as multiplying.
        words_K = np.unpackbits(signs, count=num_kept, bitorder="little").astype(np.uint32)
        words_K <<= 31
        words_K |= np.repeat(self._read_scales(source, place, start, stop).view(np.uint32), self.num_kept)[:num_kept]
        return words_K.view(np.float32)

    def check_floats(self, source: Source, place: Place, start: int, stop: int) -> None:
        scales_B = self._read_scales(source, place, start, stop)
        require_finite(scales_B, name=f"a scale of {place.name}")
        if (scales_B < 0).any():
            raise TensorFileInvalid(f"{place.name} has a negative scale")

    def _read_scales(self, source: Source, place: Place, start: int, stop: int) -> Floats:
        first = place.block + start // BLOCK_VALUES
        return source.read("scales", first, first + num_blocks(stop - start))
