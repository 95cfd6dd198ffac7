import json
import math
from pathlib import Path

import pytest

from benchmarks.convergence import results, sweep
from benchmarks.convergence.results import Point, Run
from benchmarks.convergence.runs import Plan
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.sweep import SEARCH_FACTOR, Options
from tests.benchmarks.make_scenarios import make_scenario


def make_point(*, loss: float | None, tokens: int = 100) -> Point:
    return Point(
        round_number=1, num_deltas=4, tokens=tokens, uploaded_bytes=8, downloaded_bytes=8, seconds=1.0, loss=loss
    )


def make_run(*, name: str = "made", seed: int = 0, learning_rate: float = 1e-2, loss: float = 2.0) -> Run:
    return Run(
        name=name,
        seed=seed,
        learning_rate=learning_rate,
        num_devices=4,
        points=[make_point(loss=3.0), make_point(loss=loss)],
        utilisations=[0.5] * 4,
        outcomes={"accepted": 4},
        seconds=1.0,
    )


def make_options(folder: Path, *, num_seeds: int = 3) -> Options:
    return Options(texts={}, folder=folder, num_seeds=num_seeds, num_processes=1, is_side_by_side=False)


def record(plan: Plan, *, loss: float) -> None:
    scenario = plan.scenario
    run = make_run(name=scenario.name, seed=plan.seed, learning_rate=scenario.inner.learning_rate, loss=loss)
    results.write(run, scenario, plan.path)


def test_a_scenario_is_run_with_as_many_seeds_as_it_and_the_sweep_allow(tmp_path: Path) -> None:
    scenarios = [make_scenario(name="a", num_seeds=3), make_scenario(name="b", num_seeds=1)]
    plans = sweep.wanted(scenarios, make_options(tmp_path, num_seeds=2), {})
    assert [(plan.scenario.name, plan.seed) for plan in plans] == [("a", 0), ("b", 0), ("a", 1)]


@pytest.mark.parametrize("best", [1e-2, 1e-2 * SEARCH_FACTOR**3, 1e-2 / SEARCH_FACTOR**2])
def test_the_search_ends_with_a_worse_rate_on_either_side_and_other_seeds_run_at_the_best(
    tmp_path: Path, best: float
) -> None:
    baseline = make_scenario(kind="data_parallel", num_seeds=2)
    options = make_options(tmp_path)
    recorded: dict[Path, Run] = {}
    for _ in range(9):
        plans = sweep.wanted([baseline], options, recorded)
        for plan in plans:
            if plan.path not in recorded:
                record(plan, loss=2 + abs(math.log(plan.scenario.inner.learning_rate / best)))
    rates = sorted(plan.scenario.inner.learning_rate for plan in plans if plan.seed == 0)
    (other,) = (plan.scenario.inner.learning_rate for plan in plans if plan.seed == 1)
    assert other == pytest.approx(best, rel=0.01)
    assert rates[0] < other < rates[-1]


def test_a_change_of_the_scenario_asks_for_another_run_and_its_title_does_not(tmp_path: Path) -> None:
    def path_of(scenario: Scenario, *, seed: int = 0) -> Path:
        return results.path_of(scenario, seed=seed, text_sha256="a", device="cpu", folder=tmp_path)

    made = path_of(make_scenario())
    assert path_of(make_scenario(title="other", num_seeds=2)) == made
    assert len({made, path_of(make_scenario(codec="int4")), path_of(make_scenario(), seed=1)}) == 3


def test_runs_that_are_recorded_are_not_made_again(tmp_path: Path) -> None:
    scenario = make_scenario(kind="clock", evaluate_every=9)
    options = make_options(tmp_path)
    (run,) = sweep.sweep([scenario], options)
    (path,) = tmp_path.glob("*.json")
    path.write_text(path.read_text().replace('"seconds":', '"seconds":1e3,"x":').replace('"x":', '"seconds":'))
    stamp = path.stat().st_mtime_ns
    assert sweep.sweep([scenario], options) == [run]
    assert path.stat().st_mtime_ns == stamp
    assert json.loads(path.read_text())["run"]["name"] == "made"
