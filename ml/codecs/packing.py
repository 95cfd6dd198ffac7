"""Small integers without gaps: 12, 4 and 2 bits each, the first in the lowest bits of the first byte."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint16]
Number = TypeVar("Number", np.uint8, np.uint16)


def pack_12(numbers_N: Words) -> Bytes:
    """Two numbers under 4096 in three bytes; an odd last one in two, whose upper 4 bits are zero.

    Shapes: (N,) -> (ceil(1.5 N),).
    """
    pairs_P2 = _padded(numbers_N, 2).reshape(-1, 2)
    first_P, second_P = pairs_P2[:, 0], pairs_P2[:, 1]
    packed_P3 = np.empty((len(pairs_P2), 3), np.uint8)
    packed_P3[:, 0] = first_P & 0xFF
    packed_P3[:, 1] = (first_P >> 8) | ((second_P & 0xF) << 4)
    packed_P3[:, 2] = second_P >> 4
    return packed_P3.reshape(-1)[: num_bytes_12(len(numbers_N))]


def unpack_12(packed_B: Bytes, num_numbers: int) -> Words:
    """(ceil(1.5 N),) -> (N,)."""
    packed_P3 = _padded(packed_B, 3).reshape(-1, 3)
    middle_P = packed_P3[:, 1].astype(np.uint16)
    numbers_P2 = np.empty((len(packed_P3), 2), np.uint16)
    numbers_P2[:, 0] = ((middle_P & 0xF) << 8) | packed_P3[:, 0]
    numbers_P2[:, 1] = (packed_P3[:, 2].astype(np.uint16) << 4) | (middle_P >> 4)
    return numbers_P2.reshape(-1)[:num_numbers]


def num_bytes_12(num_numbers: int) -> int:
    return -(-num_numbers * 3 // 2)


def pack_2(numbers_N: Bytes) -> Bytes:
    """Four numbers under 4 in a byte, the last one filled up with zeros: (N,) -> (ceil(N / 4),)."""
    quads_Q4 = _padded(numbers_N, 4).reshape(-1, 4)
    packed_Q = quads_Q4[:, 0].copy()
    for place in range(1, 4):
        packed_Q |= quads_Q4[:, place] << np.uint8(2 * place)
    return packed_Q


def unpack_2(packed_B: Bytes, num_numbers: int) -> Bytes:
    """(ceil(N / 4),) -> (N,)."""
    quads_Q4 = np.empty((len(packed_B), 4), np.uint8)
    for place in range(4):
        np.right_shift(packed_B, 2 * place, out=quads_Q4[:, place])
    quads_Q4 &= 3
    return quads_Q4.reshape(-1)[:num_numbers]


def num_bytes_2(num_numbers: int) -> int:
    return -(-num_numbers // 4)


def pack_4(numbers_N: npt.NDArray[np.int8]) -> Bytes:
    """Two numbers from -8 to 7 in a byte, an odd last one beside a zero: (N,) -> (ceil(N / 2),)."""
    pairs_P2 = _padded(numbers_N.view(np.uint8), 2).reshape(-1, 2)
    packed_P = pairs_P2[:, 1] << np.uint8(4)
    packed_P |= pairs_P2[:, 0] & np.uint8(0xF)
    return packed_P


def unpack_4(packed_P: Bytes) -> npt.NDArray[np.int8]:
    """(P,) -> (2 P,)."""
    # Both halves of a byte move into a byte each at once, whose four low bits then become signed: three times as fast
    # as writing every other value.
    spread_P = packed_P.astype("<u2")
    spread_P |= spread_P << 4
    spread_P &= 0x0F0F
    numbers_N = spread_P.view(np.int8)
    numbers_N ^= 8
    numbers_N -= 8
    return numbers_N


def _padded(values_N: npt.NDArray[Number], multiple: int) -> npt.NDArray[Number]:
    num_missing = -len(values_N) % multiple
    return np.concatenate([values_N, np.zeros(num_missing, values_N.dtype)]) if num_missing else values_N
