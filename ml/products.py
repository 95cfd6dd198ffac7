"""Inner products of deltas, in one pass over their files: a few values of each at a time, in float64."""

from collections.abc import Callable, Sequence

import numpy as np

from ml.codec import DeltaReader
from ml.codecs.base import BLOCK_VALUES
from ml.delta_sums import read_span
from ml.layout import model_layout
from ml.outer import Floats
from ml.robust import Matrix
from ml.spans import Span, spans
from ml.threads import in_threads

STACK_VALUES = 2**20
"""Values of all vectors together that are in memory at a time; more deltas take shorter spans."""

Reference = Callable[[Span], Floats]
"""Reads a span of the outer momentum."""


def gram_matrix(readers: Sequence[DeltaReader], *, reference: Reference | None = None) -> Matrix:
    """Inner products of the deltas with each other and, in the last row and column, with the reference.

    Shapes: (M, M) for M vectors. Error: sums of float64, whose last digits differ between machines.
    """
    num_vectors = len(readers) + (reference is not None)

    def products(span: Span) -> Matrix:
        stack_MK = np.empty((num_vectors, span.num_values))
        for row_K, reader in zip(stack_MK, readers, strict=False):
            row_K[:] = read_span(reader, span)
        if reference is not None:
            stack_MK[-1] = reference(span)
        return np.asarray(stack_MK @ stack_MK.T)

    max_values = max(STACK_VALUES // num_vectors // BLOCK_VALUES, 1) * BLOCK_VALUES
    total_MM = np.zeros((num_vectors, num_vectors))
    for part_MM in in_threads(products, spans(model_layout(readers[0].shapes), max_values=max_values)):
        total_MM += part_MM
    return total_MM
