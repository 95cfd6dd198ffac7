"""Robust means that look at directions, worked out on inner products alone.

Where a mean is a combination of the vectors, its distances to them follow from their inner products: the iteration runs
on a matrix of as many rows as there are vectors, however long those are.
"""

import numpy as np
import numpy.typing as npt

MAX_ITERATIONS = 1_000
TOLERANCE = 1e-10
"""Largest change of a coefficient at which an iteration has arrived."""

SMOOTHING = 1e-6
"""Part of the median distance below which a vector counts as no nearer to the median."""

CENTER_STEPS = 3
"""Times that centered clipping moves its center; it hardly moves after that."""

Matrix = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float64]


def geometric_median(gram_MM: Matrix, *, shares: Vector) -> Vector:
    """Coefficients, adding up to 1, of the point with the least sum of distances to the vectors, weighted by `shares`.

    Shapes: inner products of the vectors (M, M), shares (M,) -> (M,).
    Source: Weiszfeld's iteration, smoothed as in RFA (arXiv 1912.13445), algorithm 2.
    """
    part_M = shares
    for _ in range(MAX_ITERATIONS):
        distance_M = _distances(gram_MM, part_M)
        smallest = SMOOTHING * float(np.median(distance_M))
        if not smallest:
            return part_M
        before_M, part_M = part_M, shares / np.maximum(distance_M, smallest)
        part_M = part_M / part_M.sum()
        if np.abs(part_M - before_M).max() < TOLERANCE:
            break
    return part_M


def centered_clipping(gram_MM: Matrix, *, shares: Vector) -> Vector:
    """Coefficients, adding up to 1, of the vectors and of the center that the clipping began with, which comes last.

    Each step moves the center by the mean of what the vectors are away from it, none by more than the median distance.
    Shapes: inner products of the vectors and, last, the center (M + 1, M + 1), shares (M,) -> (M + 1,).
    Source: arXiv 2012.10333, algorithm 2; there the radius is a constant that has to be tuned.
    """
    part_M = np.zeros(len(gram_MM))
    part_M[-1] = 1.0
    for _ in range(CENTER_STEPS):
        distance_M = _distances(gram_MM, part_M)[:-1]
        radius = float(np.median(distance_M))
        kept_M = shares * np.minimum(1.0, radius / np.maximum(distance_M, np.finfo(np.float64).tiny))
        part_M = part_M * (1 - kept_M.sum())
        part_M[:-1] += kept_M
    return part_M


def _distances(gram_MM: Matrix, part_M: Vector) -> Vector:
    """From each vector to the combination."""
    products_M = gram_MM @ part_M
    square_M = np.diag(gram_MM) - 2 * products_M + part_M @ products_M
    # Rounding takes a distance of nothing below zero.
    return np.sqrt(np.maximum(square_M, 0.0))
