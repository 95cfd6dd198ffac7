"""What sparse codecs send: which values of a block, and under topk which of four values each becomes."""

import numpy as np
import numpy.typing as npt

from ml.codecs.base import Floats

BIN_SIGMAS = 1.5
"""Width of a bin: four of them cover six standard deviations."""


def largest(blocks_BV: Floats, num_kept: int) -> npt.NDArray[np.uint16]:
    """Places of the `num_kept` largest magnitudes of each row, ascending; of equal ones the first.

    Shapes: (B, V) finite, V <= 65536 -> (B * num_kept,).
    """
    magnitudes_BV = np.abs(blocks_BV)
    threshold_B = np.partition(magnitudes_BV, -num_kept, axis=1)[:, -num_kept]
    kept_BV = magnitudes_BV > threshold_B[:, None]
    equal_BV = magnitudes_BV == threshold_B[:, None]
    num_missing_B = num_kept - np.count_nonzero(kept_BV, axis=1)
    kept_BV |= equal_BV
    for row in np.flatnonzero(np.count_nonzero(equal_BV, axis=1) > num_missing_B):
        kept_BV[row, np.flatnonzero(equal_BV[row])[num_missing_B[row] :]] = False
    return np.nonzero(kept_BV)[1].astype(np.uint16)


def two_bits(values_K: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """The code of each value, and what the four codes stand for: the mean of their values, 0 where there are none.

    Bins are BIN_SIGMAS standard deviations wide and meet at the mean; the outer two have no end.
    Shapes: (K,) -> (K,), (4,).
    Error: elementwise, in an inner bin, under BIN_SIGMAS standard deviations; all together, never more than sending
    zeros instead.
    """
    doubles_K = values_K.astype(np.float64)
    mean, step = doubles_K.mean(), BIN_SIGMAS * doubles_K.std()
    codes_K = np.zeros(len(values_K), np.uint8)
    for edge in (mean - step, mean, mean + step):
        codes_K += doubles_K >= edge
    counts = np.bincount(codes_K, minlength=4)
    sums = np.bincount(codes_K, weights=doubles_K, minlength=4)
    return codes_K, (sums / np.maximum(counts, 1)).astype(np.float32)
