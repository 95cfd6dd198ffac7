"""What each delta of a merge counts for: shares by tokens, limits by the round's median norm, and rules that look at
directions.

Every rule clips at the median norm first, so that none has to hold against lengths. Rules that look at directions need
inner products only: one pass over the deltas, then a small matrix.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.codec import DeltaReader
from ml.config import OuterConfig
from ml.products import Reference, gram_matrix
from ml.robust import Matrix, Vector, centered_clipping, geometric_median
from ml.trust import SenderTrust, judge

CLIP_MIN_DELTAS = 3
"""Of fewer deltas the median says nothing about which one is off."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightedDelta:
    """A checked delta and what it counts for."""

    path: Path
    attempt_id: int
    sender: int
    """The device that trained it."""
    sha256: str
    tokens: int
    """Verified tokens that it was trained on."""
    weight: float
    """Its tokens, less for staleness; only the ratios to the other deltas matter."""
    norm: float
    """L2 norm, as ml.delta_file.check measured it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """How far a round's deltas may go: their median norm, for the median number of tokens."""

    norm: float
    tokens: float

    def limit(self, tokens: int) -> float:
        """Longest norm of a delta of `tokens` tokens.

        Jobs are sized by their devices' speed, so one limit for all would cut down the fast. A job of r times the
        tokens goes r times as far where its steps agree, sqrt(r) times where they are a random walk; the more generous
        one counts.
        """
        ratio = tokens / self.tokens
        return self.norm * max(ratio, math.sqrt(ratio))


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighing:
    """What a rule made of a merge's deltas, in the order in which they are summed."""

    clip: Clip | None
    """None where there were too few deltas to tell which went too far."""
    shares: tuple[float, ...]
    """Part of all weights that each delta has under the rule; they add up to 1."""
    factors: tuple[float, ...]
    """What each delta's values are multiplied by in the sum: its share, times what clipping leaves of it."""
    reference_factor: float = 0.0
    """What the outer momentum is multiplied by in the sum."""
    trust: tuple[SenderTrust, ...] = ()
    """Of every sender that the rule remembers, after this merge; in order of sender."""


def weigh(
    deltas: Sequence[WeightedDelta],
    *,
    readers: Sequence[DeltaReader],
    outer: OuterConfig,
    reference: Reference | None,
    trust: Sequence[SenderTrust] = (),
    num_merges: int = 0,
) -> Weighing:
    """Weigh the deltas, whose files `readers` read, by the rule of `outer`.

    `reference` reads the outer momentum, None before the first merge; `trust` and `num_merges` are what was before this
    merge. Where too little is known for a rule, shares stay those of the tokens.
    """
    clip = find_clip(deltas)
    kept_M = np.array([_kept(delta, clip) for delta in deltas])
    total = math.fsum(delta.weight for delta in deltas)
    shares_M = np.array([delta.weight / total for delta in deltas])
    if outer.rule == "trust" and clip:
        gram_MM = _clipped(gram_matrix(readers), kept_M)
        senders = [delta.sender for delta in deltas]
        shares_M, trust = judge(gram_MM, shares=shares_M, senders=senders, before=trust, num_merges=num_merges)
    if outer.rule == "geometric_median" and clip:
        shares_M = geometric_median(_clipped(gram_matrix(readers), kept_M), shares=shares_M)
    if outer.rule == "centered_clipping" and clip and reference:
        # The momentum is a sum over merges, each less than the next; so much of it is their mean.
        mean_part = 1 - outer.momentum
        gram_MM = _clipped(gram_matrix(readers, reference=reference), np.append(kept_M, mean_part))
        parts_M = centered_clipping(gram_MM, shares=shares_M)
        return _weighing(clip, shares_M, parts_M[:-1] * kept_M, reference_factor=parts_M[-1] * mean_part)
    return _weighing(clip, shares_M, shares_M * kept_M, trust=trust)


def find_clip(deltas: Sequence[WeightedDelta]) -> Clip | None:
    """The medians of a round; None where there are too few deltas to tell."""
    if len(deltas) < CLIP_MIN_DELTAS:
        return None
    return Clip(
        norm=statistics.median(delta.norm for delta in deltas),
        tokens=float(statistics.median(delta.tokens for delta in deltas)),
    )


def _kept(delta: WeightedDelta, clip: Clip | None) -> float:
    """What clipping leaves of a delta.

    It does not raise the share of the others: one diverged device makes the step shorter, not theirs longer.
    """
    if clip is None or delta.norm <= (limit := clip.limit(delta.tokens)):
        return 1.0
    return limit / delta.norm


def _clipped(gram_MM: Matrix, kept_M: Vector) -> Matrix:
    return gram_MM * np.outer(kept_M, kept_M)


def _weighing(
    clip: Clip | None,
    shares_M: Vector,
    factors_M: Vector,
    *,
    reference_factor: float = 0.0,
    trust: Sequence[SenderTrust] = (),
) -> Weighing:
    return Weighing(
        clip=clip,
        shares=tuple(shares_M.tolist()),
        factors=tuple(factors_M.tolist()),
        reference_factor=float(reference_factor),
        trust=tuple(trust),
    )
