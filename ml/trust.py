"""Trust in senders: how far their deltas have pointed where the other deltas of their rounds point.

One round says little: the deltas of honest devices are nearly orthogonal. But each agrees a little with the sum of all
the others, a flipped one disagrees with it, and over some rounds the two come apart. The outer momentum is no judge:
under a fast outer optimizer honest devices oppose it, and once an attacker has turned it they do so for good.
Source: the moving average and the cosine of FLTrust (arXiv 2012.13995), with the other devices in the server's place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TRUST_DECAY = 0.8
"""Of a sender's score with each round: a device that turns is found out in some rounds, and a bad one is forgiven."""

OUTLIER_DEVIATIONS = 4.0
"""A score so many median deviations below the median, and below zero, is no honest device's."""

NUM_JUDGEMENTS = 3
"""Times that scores are found anew without those who were not believed."""

FORGOTTEN_AFTER_MERGES = 1_000
"""A sender that was not heard of for so long begins anew."""

Vector = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SenderTrust:
    """What is remembered of a sender."""

    sender: int
    score: float
    """Moving average of the cosine between its deltas and the sum of the others."""
    merge: int
    """Number of the merge that changed it last."""


def judge(
    gram_MM: Matrix, *, shares: Vector, senders: Sequence[int], before: Sequence[SenderTrust], num_merges: int
) -> tuple[Vector, tuple[SenderTrust, ...]]:
    """Shares of those who are believed, adding up to 1, and what is remembered of all senders after this merge.

    Shapes: inner products of the deltas (M, M), shares (M,) -> (M,).
    """
    believed_M = np.ones(len(shares), bool)
    for _ in range(NUM_JUDGEMENTS):
        agreement_M = agreement_with_others(gram_MM, weights=shares * believed_M)
        trust = update_trust(before, _by_sender(agreement_M, shares, senders), num_merges=num_merges)
        scores = {one.sender: one.score for one in trust}
        believed_M = ~outliers(np.array([scores[sender] for sender in senders]))
    believed_shares_M = shares * believed_M
    return believed_shares_M / believed_shares_M.sum(), trust


def agreement_with_others(gram_MM: Matrix, *, weights: Vector) -> Vector:
    """Cosine of each vector to the weighted sum of the others; zero where either is nothing."""
    own_M = np.diag(gram_MM)
    products_M = gram_MM @ weights
    others_M = products_M - weights * own_M
    square_M = weights @ products_M - 2 * weights * products_M + weights**2 * own_M
    length_M = np.sqrt(np.maximum(own_M * square_M, 0.0))
    return np.divide(others_M, length_M, out=np.zeros_like(length_M), where=length_M > 0)


def outliers(scores: Vector) -> npt.NDArray[np.bool_]:
    """Which scores are negative and far below the others; never half of them."""
    median = np.median(scores)
    deviation = np.median(np.abs(scores - median))
    return np.asarray((scores < 0) & (scores < median - OUTLIER_DEVIATIONS * deviation))


def update_trust(
    before: Sequence[SenderTrust], cosines: Mapping[int, float], *, num_merges: int
) -> tuple[SenderTrust, ...]:
    """Scores after a merge in which the deltas of each sender had these cosines; in order of sender.

    A sender that comes for the first time has the cosine of that time.
    """
    scores = {trust.sender: trust for trust in before if num_merges - trust.merge <= FORGOTTEN_AFTER_MERGES}
    for sender, cosine in cosines.items():
        old = scores[sender].score if sender in scores else cosine
        score = TRUST_DECAY * old + (1 - TRUST_DECAY) * cosine
        scores[sender] = SenderTrust(sender=sender, score=score, merge=num_merges)
    return tuple(scores[sender] for sender in sorted(scores))


def _by_sender(cosines: Vector, shares: Vector, senders: Sequence[int]) -> dict[int, float]:
    """Mean of each sender's cosines, weighted by the shares."""
    sender_M = np.array(senders)
    return {
        sender: float(np.average(cosines[sender_M == sender], weights=shares[sender_M == sender]))
        for sender in set(senders)
    }
