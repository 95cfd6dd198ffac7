import json
from pathlib import Path

import pytest

from benchmarks.convergence import goals, report
from benchmarks.convergence.goals import BASELINE, DILOCO, BytesGoal, LossGoal, UtilisationGoal
from tests.benchmarks.make_scenarios import make_scenario
from tests.benchmarks.test_convergence_sweep import make_run

GOAL = LossGoal(scenario="ours", against="theirs", most=0.02, what="ours over theirs")


@pytest.mark.parametrize(("loss", "reached"), [(2.03, True), (2.09, False), (float("inf"), False)])
def test_a_loss_is_held_against_the_others_of_its_seed(loss: float, reached: bool) -> None:
    runs = {
        "ours": [make_run(loss=loss), make_run(seed=1, loss=4.04)],
        "theirs": [make_run(loss=2.0), make_run(seed=1, loss=4.0), make_run(seed=2, loss=1.0)],
    }
    goal = GOAL.judge(runs)
    assert goal is not None
    assert goal.reached is reached


def test_a_goal_whose_scenario_was_not_run_says_nothing() -> None:
    assert GOAL.judge({"ours": [make_run()]}) is None
    assert BytesGoal(scenario="ours", least=2, what="").judge({}) is None
    assert UtilisationGoal(scenario="ours", least=0.9, what="").judge({}) is None


def test_of_a_search_only_the_best_rate_counts() -> None:
    made = [
        make_run(learning_rate=1e-2, loss=2.5),
        make_run(learning_rate=2e-2, loss=2.0),
        make_run(seed=1, learning_rate=2e-2, loss=9.0),
    ]
    assert [run.loss for run in report.by_scenario(made)["made"]] == [2.0, 9.0]


def test_spread_tells_the_mean_and_both_ends() -> None:
    assert goals.spread([0.01]) == "+1.0%"
    assert goals.spread([0.01, 0.03]) == "+2.0% (+1.0% to +3.0%)"


def test_tables_summary_and_plots_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = [
        make_scenario(name=BASELINE, kind="data_parallel", title="the baseline"),
        make_scenario(name=DILOCO, title="ours"),
        make_scenario(name="attack-nan-1", title="attacked"),
    ]
    made = [make_run(name=one.name, seed=seed, loss=2 + 0.01 * seed) for one in scenarios for seed in (0, 1)]
    report.main(scenarios, made, folder=tmp_path, write=False)
    output = capsys.readouterr().out
    assert "| +0.0% (+0.0% to +0.0%) | at most +2.0% | ok" in output
    assert "ours" in output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary[DILOCO]["losses"] == [2.0, 2.01]
    assert {path.name for path in tmp_path.glob("*.png")} == {"convergence.png", "convergence_attacks.png"}
