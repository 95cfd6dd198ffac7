"""Everything in small: a run of each kind, and what must hold of them, in under three minutes on two cores."""

import dataclasses
import tempfile
from pathlib import Path

from benchmarks.convergence import plots, report, scenario, text
from benchmarks.convergence.goals import Runs
from benchmarks.convergence.results import Run
from benchmarks.convergence.runs import scratch
from benchmarks.convergence.scenario import Device, Scenario
from benchmarks.convergence.sweep import Options, sweep
from benchmarks.tables import Goal, print_goals
from ml.codec import delta_size_bytes

LEAST_FALL = 0.15
"""Of the loss, below the untrained model's; what a few rounds on the sample corpus surely reach."""
HEADER_SLACK_BYTES = 128
"""A real header has fewer digits than the longest that a delta can have."""
HOME_LINK = "home-link-int8"


def main(corpus: Path, *, num_processes: int) -> int:
    """Run and check; 1 where anything does not hold."""
    scenarios = make_scenarios(scenario.read(scenario.FOLDER / "_quick.toml"))
    scenarios += scenario.read_all([HOME_LINK])
    with tempfile.TemporaryDirectory(prefix="fai-convergence-", dir=scratch()) as place:
        folder = Path(place)
        options = Options(
            texts={512: text.prepare(corpus, vocab_size=512, cache=folder)},
            folder=folder,
            num_seeds=1,
            num_processes=num_processes,
            is_side_by_side=False,
        )
        made = sweep(scenarios, options)
        runs = report.by_scenario(made)
        report.print_runs(scenarios, runs)
        names = [one.name for one in scenarios if one.kind != "clock"]
        plots.draw(
            runs, titles={name: name for name in names}, names=names, costs=(plots.TOKENS,), path=folder / "plot.png"
        )
    goals = check(runs, {one.name: one for one in scenarios})
    print_goals(*goals)
    return 0 if all(goal.reached for goal in goals) else 1


def make_scenarios(base: Scenario) -> list[Scenario]:
    """The base in every kind: baseline, codecs, lost deltas, uneven devices, attackers and what holds against them."""
    device = base.devices[0]
    num_devices = len(base.devices)

    def one_is(kind: str) -> tuple[Device, ...]:
        return (dataclasses.replace(device, attack=kind), *base.devices[1:])

    uneven = tuple(dataclasses.replace(device, tokens_per_second=speed) for speed in (1_024, 2_048, 3_072, 4_096))
    losing = (dataclasses.replace(device, lost_share=0.3),) * num_devices
    one_each = dataclasses.replace(
        base.rules,
        num_rounds=num_devices * base.rules.num_rounds,
        round_min_tokens=1,
        grace_seconds=0.0,
        max_staleness=64,
        staleness_percent=100,
    )
    trust = dataclasses.replace(base.outer, rule="trust")
    sparse = dataclasses.replace(base.outer, momentum=0.0)
    delayed = dataclasses.replace(base.outer, delay=num_devices)
    return [
        base.replace(name="data-parallel", title="data-parallel AdamW", kind="data_parallel"),
        base.replace(name="int8", title="int8"),
        base.replace(name="topk", title="topk-128", codec="topk-128", outer=sparse),
        base.replace(name="lost", title="3 of 10 deltas lost", devices=losing),
        base.replace(name="async", title="a merge for each delta", devices=uneven, rules=one_each, outer=delayed),
        base.replace(name="attack", title="1 of 4 flips signs", devices=one_is("sign_flip")),
        base.replace(name="defence", title="the same, by trust", devices=one_is("sign_flip"), outer=trust),
        base.replace(name="nan", title="1 of 4 sends NaN", devices=one_is("nan")),
    ]


def check(runs: Runs, scenarios: dict[str, Scenario]) -> list[Goal]:
    """What must hold of the runs, whatever the machine."""
    base = scenarios["int8"]
    num_jobs = base.rules.num_rounds * len(base.devices)
    int8, topk, baseline, asynchronous = (runs[name][0] for name in ("int8", "topk", "data-parallel", "async"))
    gradients = 4 * base.model.num_parameters * base.num_tokens // base.inner.batch_tokens
    trained = [run for (run, *_) in runs.values() if scenarios[run.name].kind != "clock"]
    return [
        *(_falls(run) for run in trained),
        _holds(baseline.points[-1].uploaded_bytes == gradients, "bytes of data-parallel: four a parameter and batch"),
        _holds(_has_exact_size(int8, base, num_jobs), "bytes of int8: as the codec says"),
        _holds(_has_exact_size(topk, scenarios["topk"], num_jobs), "bytes of topk-128: as the codec says"),
        _holds(int8.outcomes == {"accepted": num_jobs}, "every honest delta is accepted"),
        _holds(runs["lost"][0].outcomes["lost"] > 0, "deltas are lost where they are to be"),
        _holds(runs["nan"][0].outcomes["not_finite"] == base.rules.num_rounds, "each NaN is refused by name"),
        _holds(runs["defence"][0].loss < runs["attack"][0].loss, "a sign flip does less harm where trust weighs"),
        _holds(len(asynchronous.points) == scenarios["async"].rules.num_rounds + 1, "one merge for each delta"),
        _holds(min(runs[HOME_LINK][0].utilisations) >= 0.95, "m4 behind a home link trains 95% of the time"),
    ]


def _falls(run: Run) -> Goal:
    first = run.curve[0].loss or 0.0
    return Goal(
        measured=f"-{1 - run.loss / first:.0%}",
        wanted=f"-{LEAST_FALL:.0%}",
        reached=run.loss <= (1 - LEAST_FALL) * first,
        what=f"loss of {run.name}",
    )


def _holds(condition: bool, what: str) -> Goal:
    return Goal(measured="yes" if condition else "no", wanted="yes", reached=condition, what=what)


def _has_exact_size(run: Run, made_of: Scenario, num_deltas: int) -> bool:
    most = num_deltas * delta_size_bytes(made_of.model, made_of.codec)
    return 0 <= most - run.points[-1].uploaded_bytes <= num_deltas * HEADER_SLACK_BYTES
