"""bfloat16 in numpy, which has none: its bits as integers."""

import numpy as np
import numpy.typing as npt

from ml.codecs.base import DeltaNotFinite, Floats

Bits = npt.NDArray[np.uint16]

EXPONENT = 0x7F80
"""Bits that are all set in infinities and undefined values."""


def to_bfloat16(values_N: Floats) -> Bits:
    """Bits of the nearest bfloat16, ties to even, as torch rounds; a finite value may become infinite.

    Error: relatively at most 2**-8 for each value that float32 holds with all its digits.
    """
    bits_N = values_N.view(np.uint32)
    rounding_N = bits_N >> 16
    rounding_N &= 1
    rounding_N += 0x7FFF
    rounding_N += bits_N
    rounding_N >>= 16
    return rounding_N.astype(np.uint16)


def to_finite_bfloat16(values_N: Floats, *, name: str) -> Bits:
    """As `to_bfloat16`.

    Raises: DeltaNotFinite where a value is beyond bfloat16.
    """
    bits_N = to_bfloat16(values_N)
    if not _are_finite(bits_N):
        raise DeltaNotFinite(f"{name} has values beyond bfloat16")
    return bits_N


def from_bfloat16(bits_N: Bits, *, out: Floats | None = None) -> Floats:
    """float32 of the same values, exact."""
    values_N = np.empty(len(bits_N), np.float32) if out is None else out
    words_N = values_N.view(np.uint32)
    # Faster than one shift that also casts.
    np.copyto(words_N, bits_N)
    np.left_shift(words_N, 16, out=words_N)
    return values_N


def require_finite_bits(bits_N: Bits, *, name: str) -> None:
    """Raises: DeltaNotFinite where a value is infinite or undefined."""
    if not _are_finite(bits_N):
        raise DeltaNotFinite(f"{name} has a value that is not finite")


def _are_finite(bits_N: Bits) -> bool:
    return bool(((bits_N & EXPONENT) != EXPONENT).all())
