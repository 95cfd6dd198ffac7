"""Ascending positions in little more than the bits that they must take: two low bits each, the rest in unary.

K positions below N take 3 K + N / 4 bits: 4.6 each for 640 of 4,096, and 5 for 512, where the least is 4.0 and 4.3.
Source: Elias, Efficient Storage and Retrieval by Content and Address of Static Files (1974); Fano (1971).
"""

import numpy as np
import numpy.typing as npt

from ml.codecs.base import Positions
from ml.codecs.packing import Bytes, pack_2, unpack_2
from ml.tensor_file import TensorFileInvalid

LOW_BITS = 2


def num_upper_bits(num_positions: int, num_values: int) -> int:
    """Bits of the bitmap for so many positions in [0, num_values)."""
    return num_positions - (-num_values >> LOW_BITS)


def pack(positions_K: npt.NDArray[np.integer], num_values: int) -> tuple[Bytes, Bytes]:
    """Strictly ascending positions in [0, num_values), as their low bits, and the bitmap of the upper ones.

    The bitmap has the bit `(position >> 2) + place` for each position; zeros fill up the last byte of both. Where the
    positions are those of blocks of 8 k values each, as many of each block, so that they fill whole bytes, what is
    packed together is what is packed block by block, end to end.
    Shapes: (K,) -> (ceil(K / 4),), (ceil((K + ceil(num_values / 4)) / 8),).
    """
    bits = np.zeros(num_upper_bits(len(positions_K), num_values), np.uint8)
    bits[(positions_K >> LOW_BITS) + np.arange(len(positions_K))] = 1
    lows_K = (positions_K & (1 << LOW_BITS) - 1).astype(np.uint8)
    return pack_2(lows_K), np.packbits(bits, bitorder="little")


def unpack(lows: Bytes, uppers: Bytes, *, num_positions: int, num_values: int, name: str) -> Positions:
    """The positions again, (K,). What they are for bytes that `pack` did not write is for the caller to check.

    Raises: TensorFileInvalid where the bitmap is for another number of positions.
    """
    bits = np.unpackbits(uppers, count=num_upper_bits(num_positions, num_values), bitorder="little")
    positions_K = np.flatnonzero(bits.view(np.bool_))
    if len(positions_K) != num_positions:
        raise TensorFileInvalid(f"{name} has {len(positions_K)} indices, not {num_positions}")
    positions_K -= np.arange(num_positions)
    positions_K <<= LOW_BITS
    positions_K |= unpack_2(lows, num_positions)
    return positions_K
