import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.convergence import baseline, runs, training
from benchmarks.convergence.results import Point, Run
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.simulation import Simulation
from benchmarks.convergence.text import Shard, Text
from benchmarks.convergence.training import RealWork, StepMismatch
from ml import data, hardware
from ml.codec import delta_size_bytes
from ml.config import OuterConfig
from ml.protocol import ShardRef
from tests.benchmarks.make_scenarios import MODEL, make_device, make_rules, make_scenario


@pytest.fixture
def text(tmp_path: Path) -> Text:
    """Tokens in which every second one tells the next."""
    pairs = np.random.default_rng(0).integers(150, size=4_000)
    tokens = np.stack([pairs, pairs + 150], axis=1).reshape(-1).astype(np.uint16)
    shards = []
    for number, part in enumerate(data.split_tokens(tokens, shard_tokens=4_000)):
        path = tmp_path / f"shard-{number}"
        data.write_shard(part, path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        ref = ShardRef(sha256=sha256, size_bytes=path.stat().st_size, num_tokens=len(part), dtype="uint16")
        shards.append(Shard(path=path, ref=ref))
    return Text(shards=tuple(shards), held_out=tokens[:600], sha256="made")


def make_run(scenario: Scenario, text: Text, folder: Path, *, seed: int = 0) -> Run:
    return runs.make(runs.plan(scenario, seed=seed, text=text, is_side_by_side=False, folder=folder), text)


def make_learning(*, num_rounds: int = 5, **changes: Any) -> Scenario:
    """Some rounds of two devices, in which the loss falls."""
    rules = make_rules(
        num_rounds=num_rounds, round_tokens=2_048, round_min_tokens=512, job_tokens=1_024, grace_seconds=9.0
    )
    devices = (make_device(tokens_per_second=1_024.0),) * 2
    return make_scenario(**{"rules": rules, "devices": devices, "outer": OuterConfig(momentum=0.5)} | changes)


@pytest.mark.parametrize("codec", ["int8", "int4", "topk-256"])
def test_the_loss_falls_and_the_files_have_the_size_that_the_codec_says(text: Text, tmp_path: Path, codec: str) -> None:
    run = make_run(make_learning(codec=codec), text, tmp_path)
    assert run.loss < 0.9 * (run.curve[0].loss or 0)
    num_deltas = sum(point.num_deltas for point in run.points)
    assert run.outcomes == {"accepted": num_deltas}
    assert 0 <= num_deltas * delta_size_bytes(MODEL, codec) - run.points[-1].uploaded_bytes <= num_deltas * 128


def test_a_run_is_the_same_again_and_another_with_another_seed(text: Text, tmp_path: Path) -> None:
    scenario = make_learning(num_rounds=2)
    first, again = (make_run(scenario, text, tmp_path / place) for place in ("a", "b"))
    assert first.points == again.points
    assert make_run(scenario, text, tmp_path, seed=1).loss != first.loss


def test_what_is_recorded_is_read_as_it_was(text: Text, tmp_path: Path) -> None:
    run = make_run(make_learning(num_rounds=2), text, tmp_path)
    (path,) = tmp_path.glob("made-*.json")
    assert Run.read(path) == run


def test_lost_deltas_go_back_into_the_error_that_topk_feeds_back(text: Text, tmp_path: Path) -> None:
    devices = (make_device(tokens_per_second=1_024.0, lost_share=0.4),) * 2
    run = make_run(make_learning(codec="topk-64", devices=devices), text, tmp_path)
    assert run.outcomes["lost"] > 1
    assert run.loss < (run.curve[0].loss or 0)


@pytest.mark.parametrize("attack", ["sign_flip", "scaled", "zeros", "random", "copied", "stale"])
def test_an_attack_whose_files_are_well_formed_gets_as_far_as_the_merge(
    text: Text, tmp_path: Path, attack: str
) -> None:
    honest = make_device(tokens_per_second=1_024.0)
    devices = (dataclasses.replace(honest, attack=attack), honest, honest)
    rules = make_rules(num_rounds=7, round_tokens=384, round_min_tokens=128, job_tokens=128, grace_seconds=1.0)
    run = make_run(make_learning(devices=devices, rules=rules), text, tmp_path)
    assert run.outcomes.keys() <= {"accepted", "norm_out_of_bounds"}
    assert run.outcomes["accepted"] >= 14


def test_a_file_with_nan_is_refused_by_name(text: Text, tmp_path: Path) -> None:
    honest = make_device(tokens_per_second=1_024.0)
    devices = (dataclasses.replace(honest, attack="nan"), honest)
    run = make_run(make_learning(devices=devices), text, tmp_path)
    assert run.outcomes["not_finite"] > 0
    assert run.loss < 0.95 * (run.curve[0].loss or 0)


def test_a_step_that_leads_elsewhere_is_found(text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def apply_another(*, base_path: Path, step_path: Path, result_path: Path) -> str:
        return str(step_path)

    monkeypatch.setattr(training.step_file, "apply_step", apply_another)
    work = RealWork(make_learning(), text=text, slug="made", seed=0, hardware=hardware.detect(), folder=tmp_path)
    simulation = Simulation(make_learning(), work=work, num_shards=2, seed=0)
    with pytest.raises(StepMismatch, match="step-1"):
        simulation.run(on_point=lambda point: None)


def test_the_baseline_learns_and_counts_four_bytes_a_parameter_and_step_of_each_device(text: Text) -> None:
    scenario = make_learning(kind="data_parallel")
    points: list[Point] = []
    baseline.train(scenario, text=text, seed=0, hardware=hardware.detect(), on_point=points.append)
    num_steps = 5 * 2_048 // (2 * 32)
    assert points[-1].tokens == 5 * 2_048
    assert points[-1].uploaded_bytes == 2 * 4 * MODEL.num_parameters * num_steps
    assert points[-1].seconds == pytest.approx(
        num_steps * baseline.step_seconds(scenario, step_bytes=4 * MODEL.num_parameters)
    )
    assert (points[-1].loss or 9) < 0.9 * (points[0].loss or 0)
