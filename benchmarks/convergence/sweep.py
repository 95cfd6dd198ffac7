"""Many runs on a few processes: those not recorded yet are made, and what they show decides which come next."""

import dataclasses
import math
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convergence import runs
from benchmarks.convergence.results import Run
from benchmarks.convergence.runs import Plan
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.text import Text

SEARCH_FACTOR = math.sqrt(2)
"""Between two learning rates that are tried."""


class SweepFailed(Exception):
    """Some runs crashed; what they said is on standard error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Of a sweep."""

    texts: Mapping[int, Text]
    """By size of the vocabulary."""
    folder: Path
    """Where runs are recorded."""
    num_seeds: int
    """Most of a scenario; it may want fewer."""
    num_processes: int
    is_side_by_side: bool
    """Whether jobs that begin together are trained in one computation."""


def sweep(scenarios: Sequence[Scenario], options: Options) -> list[Run]:
    """All runs that the scenarios ask for, the recorded ones read, the others made; those of the first seed first.

    Raises: SweepFailed, once all the others are made.
    """
    recorded: dict[Path, Run] = {}
    busy: dict[Future[Run], Plan] = {}
    failed: set[Path] = set()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=options.num_processes, mp_context=context) as pool:
        while True:
            plans = wanted(scenarios, options, recorded)
            under_way = {plan.path for plan in busy.values()}
            missing = [plan for plan in plans if plan.path not in recorded.keys() | under_way | failed]
            for plan in missing[: options.num_processes - len(busy)]:
                busy[pool.submit(runs.make, plan, options.texts.get(plan.scenario.model.vocab_size))] = plan
            if not busy:
                break
            done, _ = wait(busy, return_when=FIRST_COMPLETED)
            for future in done:
                plan = busy.pop(future)
                if problem := future.exception():
                    print(f"{plan.label} failed: {problem!r}", file=sys.stderr, flush=True)
                    failed.add(plan.path)
                else:
                    recorded[plan.path] = future.result()
    if failed:
        raise SweepFailed(f"{len(failed)} runs failed")
    return [recorded[plan.path] for plan in plans]


def wanted(scenarios: Sequence[Scenario], options: Options, recorded: dict[Path, Run]) -> list[Plan]:
    """Plans of all runs that are known to be needed, by seed; `recorded` takes up the runs that are on the disk."""

    def plan(scenario: Scenario, seed: int) -> Plan:
        text = options.texts.get(scenario.model.vocab_size)
        made = runs.plan(scenario, seed=seed, text=text, is_side_by_side=options.is_side_by_side, folder=options.folder)
        if made.path not in recorded and made.path.exists():
            recorded[made.path] = Run.read(made.path)
        return made

    plans: list[Plan] = []
    for scenario in scenarios:
        found = scenario
        if scenario.kind == "data_parallel":
            searched, best = search(scenario, lambda tried: plan(tried, 0), recorded)
            plans += searched
            if best is None:
                continue
            found = best
        plans += [plan(found, seed) for seed in range(min(options.num_seeds, scenario.num_seeds))]
    return sorted({made.path: made for made in plans}.values(), key=lambda made: made.seed)


def search(
    scenario: Scenario, plan: Callable[[Scenario], Plan], recorded: Mapping[Path, Run]
) -> tuple[list[Plan], Scenario | None]:
    """Runs of a search for the learning rate, and the scenario with the best one, None while it is not known.

    The grid grows until its best has a worse one on either side.
    """
    places = [-1, 0]
    while True:
        tried = [_at_rate(scenario, place) for place in places]
        plans = [plan(one) for one in tried]
        if any(made.path not in recorded for made in plans):
            return plans, None
        losses = [recorded[made.path].loss for made in plans]
        best = losses.index(min(losses))
        if best == 0:
            places.insert(0, places[0] - 1)
        elif best == len(places) - 1:
            places.append(places[-1] + 1)
        else:
            return plans, tried[best]


def _at_rate(scenario: Scenario, place: int) -> Scenario:
    rate = float(f"{scenario.inner.learning_rate * SEARCH_FACTOR**place:.3g}")
    return scenario.replace(inner=dataclasses.replace(scenario.inner, learning_rate=rate))
