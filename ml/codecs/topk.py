"""The largest values of each block, two bits each.

Source: SparseLoCo (arXiv 2508.15706), section 3, whose blocks are 64 x 64 tiles of a matrix.
"""

import numpy as np

from ml.codecs.base import BLOCK_VALUES, Floats, Positions, Source, require_finite
from ml.codecs.packing import pack_2, pack_12, unpack_2, unpack_12
from ml.codecs.selection import two_bits
from ml.codecs.sparse import Place, Sparse
from ml.tensor_file import Array, Shape


class TopK(Sparse):
    """`num_kept` values of each block of 4,096, in 14 bits each.

    `tables` holds, for each large parameter, what its four codes stand for; `codes` and `indices` two and twelve bits
    for each kept value.
    """

    error_decay = 0.95
    kept_multiple = 4

    def float_shapes(self, *, num_large: int, num_blocks: int) -> dict[str, Shape]:
        return {"tables": (num_large, 4)}

    def num_bits(self, num_values: int) -> dict[str, int]:
        num_kept = self.kept_of(num_values)
        return {"codes": 2 * num_kept, "indices": 12 * num_kept}

    def encode_large(self, values_N: Floats) -> dict[str, Array]:
        runs = [(places_BK.reshape(-1), kept_BK.reshape(-1)) for places_BK, kept_BK in self.largest_of_runs(values_N)]
        codes_K, table = two_bits(np.concatenate([kept_K for _, kept_K in runs]))
        indices_K = np.concatenate([places_K for places_K, _ in runs])
        return {"tables": table, "codes": pack_2(codes_K), "indices": pack_12(indices_K)}

    def read_positions(self, source: Source, place: Place, start: int, stop: int) -> Positions:
        num_kept = self.kept_of(stop - start)
        packed = self.read_packed(source, "indices", place, start, stop)
        positions_K = unpack_12(packed, num_kept).astype(np.intp)
        num_whole = (stop - start) // BLOCK_VALUES
        whole_BK = positions_K[: num_whole * self.num_kept].reshape(num_whole, self.num_kept)
        whole_BK += np.arange(0, num_whole * BLOCK_VALUES, BLOCK_VALUES)[:, None]
        positions_K[num_whole * self.num_kept :] += num_whole * BLOCK_VALUES
        return positions_K

    def read_kept(self, source: Source, place: Place, start: int, stop: int) -> Floats:
        codes_K = unpack_2(self.read_packed(source, "codes", place, start, stop), self.kept_of(stop - start))
        return self._read_table(source, place).take(codes_K)

    def check_floats(self, source: Source, place: Place, start: int, stop: int) -> None:
        require_finite(self._read_table(source, place), name=f"the table of {place.name}")

    def _read_table(self, source: Source, place: Place) -> Floats:
        return source.read("tables", 4 * place.row, 4 * place.row + 4)
