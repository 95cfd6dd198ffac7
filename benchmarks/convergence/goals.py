"""What low-communication training is to reach, scenario against scenario, and whether it did."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.convergence.results import Run
from benchmarks.tables import Goal

BASELINE = "data-parallel"
DILOCO = "diloco-8-int8"
SPARSE = "sparse-8-ternary640"
DEFENDED = "robust-none"
ATTACKS = ("nan", "zeros", "random", "copied", "scaled", "stale")

Runs = Mapping[str, Sequence[Run]]
"""By scenario, those of all seeds in their order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGoal:
    """How far a scenario's last loss may lie above another's, seed by seed."""

    scenario: str
    against: str
    most: float
    """Share of the other's loss."""
    what: str

    def judge(self, runs: Runs) -> Goal | None:
        """None where either was not run."""
        over = excesses(runs.get(self.scenario, ()), runs.get(self.against, ()))
        if not over:
            return None
        mean = statistics.mean(over)
        return Goal(
            measured=spread(over),
            wanted=f"at most {self.most:+.1%}",
            reached=mean <= self.most,
            what=self.what,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BytesGoal:
    """How many times fewer bytes each device uploads than data-parallel training's."""

    scenario: str
    least: float
    what: str

    def judge(self, runs: Runs) -> Goal | None:
        """None where either was not run."""
        ours, theirs = runs.get(self.scenario), runs.get(BASELINE)
        if not ours or not theirs:
            return None
        times = times_fewer_bytes(ours[0], theirs[0])
        return Goal(
            measured=f"{times:,.0f}x",
            wanted=f"at least {self.least:,.0f}x",
            reached=times >= self.least,
            what=self.what,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UtilisationGoal:
    """How much of the simulated time the least busy device trains."""

    scenario: str
    least: float
    what: str

    def judge(self, runs: Runs) -> Goal | None:
        """None where it was not run."""
        ours = runs.get(self.scenario)
        if not ours:
            return None
        least = min(ours[0].utilisations)
        return Goal(
            measured=f"{least:.1%}",
            wanted=f"at least {self.least:.0%}",
            reached=least >= self.least,
            what=self.what,
        )


GOALS: tuple[LossGoal | BytesGoal | UtilisationGoal, ...] = (
    LossGoal(scenario=DILOCO, against=BASELINE, most=0.02, what="DiLoCo, 8 devices, int8, over data-parallel"),
    BytesGoal(scenario=DILOCO, least=120, what="its uploaded bytes"),
    LossGoal(scenario=SPARSE, against=BASELINE, most=0.03, what="the best sparse mode over data-parallel"),
    BytesGoal(scenario=SPARSE, least=1_000, what="its uploaded bytes"),
    LossGoal(scenario="diloco-2-int8", against=BASELINE, most=0.01, what="2 devices, int8, over data-parallel"),
    LossGoal(scenario="diloco-4-int8", against=BASELINE, most=0.015, what="4 devices, int8, over data-parallel"),
    LossGoal(scenario="lost-30", against=DILOCO, most=0.015, what="30% of deltas lost, over none lost"),
    LossGoal(
        scenario="spread-quorum-tokens",
        against="spread-sync",
        most=0.01,
        what="speeds 4x apart, a quorum, over waiting, at as many tokens",
    ),
    LossGoal(
        scenario="spread-quorum",
        against="spread-sync",
        most=0.01,
        what="speeds 4x apart, a quorum, over waiting, at as many rounds",
    ),
    LossGoal(
        scenario="spread-buffered",
        against="spread-sync",
        most=0.01,
        what="speeds 4x apart, a merge a half round, over waiting",
    ),
    LossGoal(
        scenario="spread-async", against="spread-sync", most=0.01, what="speeds 4x apart, a merge a delta, over waiting"
    ),
    LossGoal(scenario="attack-sign-flip-1", against=DEFENDED, most=0.02, what="1 of 8 flips signs x10, over no attack"),
    LossGoal(scenario="attack-sign-flip-2", against=DEFENDED, most=0.04, what="2 of 8 flip signs x10, over no attack"),
    *(
        LossGoal(scenario=f"attack-{name}-1", against=DEFENDED, most=0.02, what=f"1 of 8 sends {name}, over no attack")
        for name in ATTACKS
    ),
    LossGoal(scenario=DEFENDED, against=DILOCO, most=0.005, what="the defence over the default, no attack"),
    UtilisationGoal(scenario="home-link-int8", least=0.95, what="of the time m4 trains behind 100/20 Mb/s, int8"),
)


def excesses(ours: Sequence[Run], theirs: Sequence[Run]) -> list[float]:
    """For each seed that both have: loss over the other's, as a share of it."""
    losses = {run.seed: run.loss for run in theirs}
    return [run.loss / losses[run.seed] - 1 for run in ours if run.seed in losses]


def times_fewer_bytes(ours: Run, theirs: Run) -> float:
    """Uploaded bytes of a device of theirs over those of one of ours."""
    return theirs.device_bytes(theirs.points[-1]) / ours.device_bytes(ours.points[-1])


def spread(values: Sequence[float]) -> str:
    """Mean of shares, and where there are several, their least and largest."""
    mean = f"{statistics.mean(values):+.1%}"
    return mean if len(values) == 1 else f"{mean} ({min(values):+.1%} to {max(values):+.1%})"
