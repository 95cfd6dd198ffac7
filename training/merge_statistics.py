"""What each round's merge took, and what each delta counted for in it."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, F, Q, QuerySet, Sum
from django.db.models.functions import Coalesce

from training import rounds
from training.models import Attempt, Experiment, Round

HELD_BACK_BELOW = 0.999
"""Factors are float32: what was left whole may come out a little below 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundSummary:
    round: Round
    accepted_tokens: int
    num_deltas: int
    num_late: int
    """Of its deltas, those of earlier rounds."""
    num_held_back: int
    """Of its deltas, those of which the merge's rule took less than their share."""
    uploaded_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedDelta:
    """What one delta counted for in its merge."""

    attempt: Attempt
    rounds_late: int
    share_percent: float
    """Of all weights of the merge."""

    @property
    def counted_percent(self) -> float:
        """What the merge's rule left of the share."""
        kept = self.attempt.kept
        return self.share_percent * (1.0 if kept is None else kept)

    @property
    def is_held_back(self) -> bool:
        kept = self.attempt.kept
        return kept is not None and kept < HELD_BACK_BELOW


def summarize_rounds(experiment: Experiment) -> list[RoundSummary]:
    """Newest first. A round that is open counts what its merge would take now."""
    rows = annotate_merges(experiment.rounds.select_related("base", "result__blob", "result__step"))
    return [_summarize_round(row) for row in rows.order_by("-number")]


def _summarize_round(row: Any) -> RoundSummary:
    return RoundSummary(
        round=row,
        accepted_tokens=_accepted_tokens(row),
        num_deltas=row.num_deltas,
        num_late=row.num_late,
        num_held_back=row.num_held_back,
        uploaded_bytes=row.uploaded_bytes,
    )


def annotate_merges(rounds: QuerySet[Round]) -> QuerySet[Round]:
    """Each with merged_tokens, num_deltas, num_late, num_held_back and uploaded_bytes."""
    return rounds.annotate(
        merged_tokens=Coalesce(Sum("merged_attempts__verified_tokens"), 0),
        num_deltas=Count("merged_attempts"),
        num_late=Count("merged_attempts", filter=~Q(merged_attempts__job__round=F("pk"))),
        num_held_back=Count("merged_attempts", filter=Q(merged_attempts__kept__lt=HELD_BACK_BELOW)),
        uploaded_bytes=Coalesce(Sum("merged_attempts__delta_size_bytes"), 0),
    )


def merged_deltas(round_: Round) -> list[MergedDelta]:
    """What the round's merge took, the heaviest first."""
    rows = round_.merged_attempts.select_related("device__contributor", "job__round").order_by(
        F("weight").desc(nulls_last=True), "pk"
    )
    total = sum(row.weight or 0.0 for row in rows)
    return [
        MergedDelta(
            attempt=row,
            rounds_late=round_.number - row.job.round.number,
            share_percent=100 * (row.weight or 0.0) / total if total else 0.0,
        )
        for row in rows
    ]


def _accepted_tokens(row: Any) -> int:
    if row.state == Round.State.OPEN:
        return rounds.allocation(row).accepted_tokens
    return int(row.merged_tokens)
