"""Sums over a round's deltas, span by span, in float32: the dense ones in their order, then the others in theirs.

One numpy operation follows another, none is fused, and each value has its own sum: the bytes depend neither on how the
work is cut up nor on the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ml.codec import DeltaReader
from ml.codecs.base import Floats, Slice
from ml.codecs.dense import Dense
from ml.scratch import scratch
from ml.spans import Span

UPPER_HALF = np.uint32(0xFFFF0000)
HALF_BITS = np.uint32(16)


@dataclass(frozen=True, slots=True)
class Summand:
    """A delta in a sum."""

    reader: DeltaReader
    share: np.float32
    """Its part of all weights."""
    factor: np.float32
    """What its values are multiplied by."""


def mean_span(summands: Sequence[Summand], span: Span, *, over_senders: bool) -> Floats:
    """Sum of all deltas times their factors; `over_senders`, each coordinate divided by the shares of who sent it.

    Where no delta is sparse, all have sent all, and nothing is divided. What nobody sent is zero.
    Shapes: (span.num_values,).
    """
    dense = [summand for summand in summands if isinstance(summand.reader.codec, Dense)]
    others = [summand for summand in summands if not isinstance(summand.reader.codec, Dense)]
    total_K = _sum_dense(dense, span) if dense else np.zeros(span.num_values, np.float32)
    if others:
        if over_senders:
            whole_share = sum((summand.share for summand in dense), np.float32(0))
            _add_over_senders(total_K, others, span, whole_share=whole_share)
        else:
            _add(total_K, others, span)
    return total_K


def trimmed_mean_span(summands: Sequence[Summand], span: Span, *, num_trimmed: int) -> Floats:
    """Mean of each coordinate without its `num_trimmed` largest and as many smallest values, weighted by the shares.

    What a delta did not send counts as zero. Values come multiplied by what clipping leaves of them.
    Source: coordinate-wise trimmed mean (arXiv 1803.01498), definition 2, with weights.
    """
    values_MK = np.empty((len(summands), span.num_values), np.float32)
    for row_K, summand in zip(values_MK, summands, strict=True):
        np.multiply(read_span(summand.reader, span), summand.factor / summand.share, out=row_K)
    share_M = np.array([summand.share for summand in summands], np.float32)
    # Stable: of equal values the order of the deltas decides.
    order_MK = np.argsort(values_MK, axis=0, kind="stable")
    total_K, shares_K = np.zeros(span.num_values, np.float32), np.zeros(span.num_values, np.float32)
    for index_K in order_MK[num_trimmed : len(summands) - num_trimmed]:
        weight_K = share_M[index_K]
        shares_K += weight_K
        weight_K *= np.take_along_axis(values_MK, index_K[None], axis=0)[0]
        total_K += weight_K
    total_K /= shares_K
    return total_K


def read_span(reader: DeltaReader, span: Span) -> Floats:
    """All values of a delta in a span; zero where nothing was sent."""
    values_K = np.empty(span.num_values, np.float32)
    for piece, part in zip(span.pieces, _decode(reader, span, values_K), strict=True):
        if part.positions is not None:
            piece_P = values_K[piece.offset : piece.end]
            piece_P.fill(0)
            piece_P[part.positions] = part.values
    return values_K


def _sum_dense(summands: Sequence[Summand], span: Span) -> Floats:
    """Two values of bfloat16 make a word: its upper half is the second as float32, shifted up it is the first.

    So the sums of first and second values are kept apart, and are brought together at the end. That is a third faster
    than to widen each value.
    """
    num_pairs = -(-span.num_values // 2)
    total_2P = scratch("total", (2, num_pairs), np.float32)
    total_2P.fill(0)
    words_2P = scratch("words", (2, num_pairs), np.uint32)
    values_2P = words_2P.view(np.float32)
    pairs_P = scratch("pairs", (num_pairs,), "<u4")
    bits_K = pairs_P.view("<u2")
    bits_K[-1] = 0
    start = span.pieces[0].start
    for summand in summands:
        with summand.reader.opened() as source:
            # A dense file has the parameters of a span in a row.
            source.read(span.name, start, start + span.num_values, out=bits_K[: span.num_values])
        np.left_shift(pairs_P, HALF_BITS, out=words_2P[0])
        np.bitwise_and(pairs_P, UPPER_HALF, out=words_2P[1])
        np.multiply(values_2P, summand.factor, out=values_2P)
        np.add(total_2P, values_2P, out=total_2P)
    total_K = np.empty(span.num_values, np.float32)
    total_K[::2] = total_2P[0]
    total_K[1::2] = total_2P[1, : span.num_values // 2]
    return total_K


def _add(total_K: Floats, summands: Sequence[Summand], span: Span) -> None:
    """Add to `total_K`."""
    values_K = scratch("values", total_K.shape, np.float32)
    for summand in summands:
        found = _decode(summand.reader, span, values_K)
        if all(part.positions is None for part in found):
            values_K *= summand.factor
            total_K += values_K
            continue
        for piece, part in zip(span.pieces, found, strict=True):
            total_P = total_K[piece.offset : piece.end]
            if part.positions is None:
                total_P += part.values * summand.factor
            else:
                total_P[part.positions] += part.values * summand.factor


def _add_over_senders(total_K: Floats, summands: Sequence[Summand], span: Span, *, whole_share: np.float32) -> None:
    """Add to `total_K`; where a delta is sparse, divide by the shares of the senders.

    `whole_share` has sent everything and is in the total. Whether to divide is decided for each parameter, so that it
    is the same for any span.
    """
    values_K, sent_K = scratch("values", total_K.shape, np.float32), np.zeros(0, np.float32)
    whole_shares = np.full(len(span.pieces), whole_share)
    sparse: set[int] = set()
    for summand in summands:
        found = _decode(summand.reader, span, values_K)
        if all(part.positions is None for part in found):
            values_K *= summand.factor
            total_K += values_K
            whole_shares += summand.share
            continue
        sent_K = sent_K if len(sent_K) else np.zeros_like(total_K)
        for index, (piece, part) in enumerate(zip(span.pieces, found, strict=True)):
            total_P, sent_P = total_K[piece.offset : piece.end], sent_K[piece.offset : piece.end]
            if part.positions is None:
                total_P += part.values * summand.factor
                whole_shares[index] += summand.share
            else:
                total_P[part.positions] += part.values * summand.factor
                sent_P[part.positions] += summand.share
                sparse.add(index)
    for index in sparse:
        piece = span.pieces[index]
        total_P, sent_P = total_K[piece.offset : piece.end], sent_K[piece.offset : piece.end]
        sent_P += whole_shares[index]
        np.divide(total_P, sent_P, out=total_P, where=sent_P > 0)


def _decode(reader: DeltaReader, span: Span, out_K: Floats) -> list[Slice]:
    """The pieces of a span; those that are whole also stand in `out_K`."""
    with reader.opened() as source:
        return [
            reader.codec.decode(source, piece.name, piece.start, piece.stop, out=out_K[piece.offset : piece.end])
            for piece in span.pieces
        ]
