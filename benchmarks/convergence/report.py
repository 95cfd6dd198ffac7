"""What a sweep came to: goals, tables, a summary in JSON and plots; on request into docs/."""

import contextlib
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.convergence import plots
from benchmarks.convergence.goals import (
    ATTACKS,
    BASELINE,
    DEFENDED,
    DILOCO,
    GOALS,
    SPARSE,
    Runs,
    excesses,
    spread,
    times_fewer_bytes,
)
from benchmarks.convergence.results import Run
from benchmarks.convergence.scenario import Scenario
from benchmarks.tables import print_goals, print_table
from ml.files import replacing

PICTURES = record.RECORD.parent / "pictures"
SUMMARY = Path(__file__).resolve().parent / "measured.json"
SPREAD = (
    "spread-sync",
    "spread-quorum",
    "spread-quorum-tokens",
    "spread-buffered",
    "spread-async",
    "spread-async-damped",
    "spread-async-naive",
)
"""Ways of waiting, or not, for devices of unequal speeds."""
COSTS = (BASELINE, DILOCO, "diloco-8-int4", SPARSE, "lost-30", *SPREAD)
LINKS = """
![Validation loss against tokens, uploaded bytes and simulated seconds](pictures/convergence.png)

![Validation loss against tokens under attacks](pictures/convergence_attacks.png)

All curves are in `benchmarks/convergence/measured.json`.
"""
"""What the record says after the tables."""
ATTACKED = (DILOCO, DEFENDED, "attack-sign-flip-1", "attack-sign-flip-2", *(f"attack-{name}-1" for name in ATTACKS))
"""Scenarios of the two plots."""


def main(scenarios: Sequence[Scenario], made: Sequence[Run], *, folder: Path, write: bool) -> None:
    """Print the tables, and put summary and plots into `folder`; with `write` into the repository."""
    runs = by_scenario(made)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        print_goals(*(goal for one in GOALS if (goal := one.judge(runs))))
        print_runs(scenarios, runs)
        print_clocks(scenarios, runs)
        print_search(scenarios, made)
    print(output.getvalue(), end="")
    _save_summary(summary(scenarios, runs), SUMMARY if write else folder / "summary.json")
    _draw(scenarios, runs, PICTURES if write else folder)
    if write:
        record.write("convergence", output.getvalue() + LINKS)


def by_scenario(made: Sequence[Run]) -> Runs:
    """Runs of each scenario by seed; of a search for the learning rate those at its best."""
    grouped: defaultdict[str, list[Run]] = defaultdict(list)
    for run in made:
        grouped[run.name].append(run)
    runs = {}
    for name, group in grouped.items():
        best = min((run for run in group if run.seed == 0), key=lambda run: run.loss)
        runs[name] = sorted((run for run in group if run.learning_rate == best.learning_rate), key=lambda run: run.seed)
    return runs


def print_runs(scenarios: Sequence[Scenario], runs: Runs) -> None:
    """A row for each scenario that was trained."""
    head = ("scenario", "loss", "of each seed", "over data-parallel", "MB up", "fewer bytes", "MB down", "s", "trained")
    rows = []
    for scenario in scenarios:
        if scenario.kind == "clock" or scenario.name not in runs:
            continue
        ours, theirs = runs[scenario.name], runs.get(BASELINE, ())
        over = excesses(ours, theirs)
        last = ours[0].points[-1]
        rows.append(
            (
                scenario.title,
                f"{statistics.mean(run.loss for run in ours):.4f}",
                " ".join(f"{run.loss:.4f}" for run in ours),
                spread(over) if over else "",
                f"{ours[0].device_bytes(last) / 1e6:.2f}",
                f"{times_fewer_bytes(ours[0], theirs[0]):,.0f}x" if theirs and scenario.kind == "rounds" else "",
                f"{last.downloaded_bytes / ours[0].num_devices / 1e6:.2f}",
                f"{last.seconds:,.0f}",
                f"{statistics.mean(ours[0].utilisations):.0%}" if ours[0].utilisations else "",
            )
        )
    print_table(head, rows)


def print_clocks(scenarios: Sequence[Scenario], runs: Runs) -> None:
    """A row for each scenario of which only the clock ran."""
    head = ("clock alone", "trained", "MB up a job", "MB down a job", "s a round")
    rows = []
    for scenario in scenarios:
        if scenario.kind == "clock" and scenario.name in runs:
            run = runs[scenario.name][0]
            last, num_jobs = run.points[-1], sum(run.outcomes.values())
            rows.append(
                (
                    scenario.title,
                    f"{min(run.utilisations):.1%}",
                    f"{last.uploaded_bytes / num_jobs / 1e6:.2f}",
                    f"{last.downloaded_bytes / num_jobs / 1e6:.2f}",
                    f"{last.seconds / last.round_number:,.1f}",
                )
            )
    if rows:
        print_table(head, rows)


def print_search(scenarios: Sequence[Scenario], made: Sequence[Run]) -> None:
    """Losses by learning rate of what was searched."""
    for scenario in scenarios:
        if scenario.kind == "data_parallel":
            losses = {run.learning_rate: run.loss for run in made if run.name == scenario.name and run.seed == 0}
            rates = sorted(losses)
            head = (f"{scenario.title} at learning rate", *(f"{rate:g}" for rate in rates))
            print_table(head, [("validation loss", *(f"{losses[rate]:.4f}" for rate in rates))])


def summary(scenarios: Sequence[Scenario], runs: Runs) -> dict[str, Any]:
    """All that the tables and the plots are made of."""
    return {
        scenario.name: {
            "title": scenario.title,
            "learning_rate": runs[scenario.name][0].learning_rate,
            "losses": [_finite(run.loss) for run in runs[scenario.name]],
            "uploaded_bytes": runs[scenario.name][0].points[-1].uploaded_bytes,
            "downloaded_bytes": runs[scenario.name][0].points[-1].downloaded_bytes,
            "tokens": runs[scenario.name][0].points[-1].tokens,
            "seconds": runs[scenario.name][0].points[-1].seconds,
            "utilisations": runs[scenario.name][0].utilisations,
            "deltas": runs[scenario.name][0].outcomes,
            "curves": [_curve(run) for run in runs[scenario.name]],
        }
        for scenario in scenarios
        if scenario.name in runs
    }


def _curve(run: Run) -> list[tuple[int, int, float, float | None]]:
    return [(point.tokens, point.uploaded_bytes, round(point.seconds, 3), _finite(point.loss)) for point in run.curve]


def _finite(loss: float | None) -> float | None:
    """JSON knows no infinity."""
    return round(loss, 5) if loss is not None and math.isfinite(loss) else None


def _save_summary(values: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
        partial.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _draw(scenarios: Sequence[Scenario], runs: Runs, folder: Path) -> None:
    titles = {scenario.name: scenario.title for scenario in scenarios if scenario.kind != "clock"}
    plans = (
        ("convergence.png", COSTS, (plots.TOKENS, plots.BYTES, plots.SECONDS)),
        ("convergence_attacks.png", ATTACKED, (plots.TOKENS,)),
    )
    for file, wanted, costs in plans:
        if names := [name for name in wanted if name in runs and name in titles]:
            plots.draw(runs, titles=titles, names=names, costs=costs, path=folder / file)
