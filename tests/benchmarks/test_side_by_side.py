"""Jobs side by side are held against ml.local.run_job, which they stand in for."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.convergence import replicas, side_by_side
from benchmarks.convergence.side_by_side import Result, Setting, SideJob
from benchmarks.convergence.simulation import Simulation
from benchmarks.convergence.stacked_optimizers import StackedMuon, orthogonalize
from benchmarks.convergence.text import Shard, Text
from benchmarks.convergence.training import RealWork
from ml.config import ModelConfig
from ml.local import LocalResult
from ml.trainer import TrainingDiverged
from tests.benchmarks.make_scenarios import make_device, make_scenario
from tests.ml.make import make_base, make_config, make_hardware, make_inner, make_shard, make_tokens

NUM_STEPS = 12
STEP_TOKENS = 128
SHARES = {"adamw": 1e-3, "muon": 3e-2}
"""Muon's matrices are made orthogonal in bfloat16, where the last digit of a float32 may decide on a hundredth."""


def make_jobs(folder: Path, *, num_jobs: int = 3, **changes: Any) -> list[SideJob]:
    shard_path, shard = make_shard(folder)
    fields = {"token_budget": NUM_STEPS * STEP_TOKENS, "last_step": NUM_STEPS} | changes
    return [SideJob(shard_path=shard_path, shard=shard, seed=seed, **fields) for seed in range(num_jobs)]


def make_setting(folder: Path, *, model: ModelConfig | None = None, **changes: Any) -> Setting:
    model = model or make_config()
    fields: dict[str, Any] = {"inner": make_inner(), "progress": (0.2, 0.6), "hardware": make_hardware()} | changes
    return Setting(model=model, base_path=make_base(folder, model), **fields)


def run_together(jobs: list[SideJob], setting: Setting) -> list[Result]:
    return side_by_side.run_together(jobs, setting, is_compiled=False)


def run_alone(job: SideJob, setting: Setting) -> LocalResult:
    return finished(side_by_side.run_apart([job], setting)[0])


def finished(result: Result) -> LocalResult:
    assert isinstance(result, LocalResult)
    return result


def assert_equal_but_for_rounding(ours: LocalResult, theirs: LocalResult, *, share: float = 1e-3) -> None:
    """Losses within a hundredth of the share; each delta's and moment's difference within the share of its norm."""
    assert (ours.report.tokens, ours.report.num_steps) == (theirs.report.tokens, theirs.report.num_steps)
    assert (ours.report.partial, ours.micro_batch) == (theirs.report.partial, theirs.micro_batch)
    assert ours.report.first_loss == pytest.approx(theirs.report.first_loss, rel=share / 100)
    assert ours.report.last_loss == pytest.approx(theirs.report.last_loss, rel=share / 100)
    for mine, other in ((ours.delta, theirs.delta), (ours.moments, theirs.moments)):
        assert mine.keys() == other.keys()
        for name, tensor in other.items():
            assert (mine[name].shape, mine[name].dtype) == (tensor.shape, tensor.dtype), name
            assert (mine[name] - tensor).norm() <= share * tensor.norm(), name


def assert_equals_run_job(jobs: list[SideJob], setting: Setting) -> list[LocalResult]:
    together = [finished(result) for result in run_together(jobs, setting)]
    for job, ours in zip(jobs, together, strict=True):
        assert_equal_but_for_rounding(ours, run_alone(job, setting), share=SHARES[setting.inner.optimizer])
    return together


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_jobs_side_by_side_are_those_apart(tmp_path: Path, optimizer: str) -> None:
    jobs, setting = make_jobs(tmp_path), make_setting(tmp_path, inner=make_inner(optimizer=optimizer))
    together = assert_equals_run_job(jobs, setting)
    assert together[0].report.last_loss != together[1].report.last_loss


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_jobs_go_on_with_their_own_moments_or_with_none(tmp_path: Path, optimizer: str) -> None:
    setting = make_setting(tmp_path, inner=make_inner(optimizer=optimizer, warmup_steps=4))
    jobs = make_jobs(tmp_path)
    jobs[0] = dataclasses.replace(jobs[0], moments=run_alone(jobs[0], setting).moments)
    assert_equals_run_job(jobs, setting)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_jobs_end_where_each_does(tmp_path: Path, optimizer: str) -> None:
    jobs, setting = make_jobs(tmp_path, num_jobs=4), make_setting(tmp_path, inner=make_inner(optimizer=optimizer))
    jobs[1] = dataclasses.replace(jobs[1], last_step=5)
    jobs[2] = dataclasses.replace(jobs[2], last_step=1)
    jobs[3] = dataclasses.replace(jobs[3], token_budget=3 * STEP_TOKENS)
    together = assert_equals_run_job(jobs, setting)
    assert [result.report.num_steps for result in together] == [NUM_STEPS, 5, 1, 3]
    assert [result.report.partial for result in together] == [False, True, True, False]


def test_whole_heads_and_small_batches(tmp_path: Path) -> None:
    setting = make_setting(tmp_path, model=make_config(n_head=4, n_kv_head=4))
    for result in assert_equals_run_job(make_jobs(tmp_path, token_budget=48, num_jobs=2), setting):
        assert (result.report.tokens, result.micro_batch) == (48, 3)


def test_bfloat16_is_used_where_run_job_uses_it(tmp_path: Path) -> None:
    jobs, setting = make_jobs(tmp_path), make_setting(tmp_path)
    half = dataclasses.replace(setting, hardware=dataclasses.replace(make_hardware(), bf16=True))
    exact = run_together(jobs, setting)
    for job, ours, theirs in zip(jobs, run_together(jobs, half), exact, strict=True):
        assert finished(ours).report.first_loss != finished(theirs).report.first_loss
        assert finished(ours).report.last_loss == pytest.approx(run_alone(job, half).report.last_loss, rel=2e-3)


def test_a_job_that_diverges_is_no_matter_to_the_others(tmp_path: Path) -> None:
    jobs, setting = make_jobs(tmp_path), make_setting(tmp_path)
    before = run_alone(jobs[1], setting).moments
    spoiled = {name: torch.full_like(tensor, np.nan) if tensor.dim() else tensor for name, tensor in before.items()}
    jobs[1] = dataclasses.replace(jobs[1], moments=spoiled)
    results = run_together(jobs, setting)
    (theirs,) = side_by_side.run_apart(jobs[1:2], setting)
    assert isinstance(results[1], TrainingDiverged)
    assert isinstance(theirs, TrainingDiverged)
    assert results[1].step == theirs.step == 1
    for number in (0, 2):
        assert_equal_but_for_rounding(finished(results[number]), run_alone(jobs[number], setting))


def test_jobs_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    jobs, setting = make_jobs(tmp_path), make_setting(tmp_path)
    smaller = dataclasses.replace(jobs[0], token_budget=STEP_TOKENS // 2)
    dropping = make_setting(tmp_path, model=make_config(dropout=0.1))
    for some, where, is_able in (
        (jobs, setting, True),
        (jobs[:1], setting, False),
        ([*jobs, smaller], setting, False),
        (jobs, dropping, False),
    ):
        assert side_by_side.can_run_together(some, where) == is_able
        if not is_able:
            with pytest.raises(ValueError, match="side by side"):
                run_together(some, where)


def test_moments_of_another_optimizer_are_refused(tmp_path: Path) -> None:
    jobs, setting = make_jobs(tmp_path), make_setting(tmp_path)
    muon = dataclasses.replace(setting, inner=make_inner(optimizer="muon"))
    moments = run_alone(jobs[0], muon).moments
    jobs[0] = dataclasses.replace(jobs[0], moments=moments)
    with pytest.raises(KeyError):
        run_together(jobs, setting)
    jobs[0] = dataclasses.replace(jobs[0], moments={name: torch.zeros(3) for name in moments})
    with pytest.raises(ValueError, match="has shape"):
        run_together(jobs, muon)


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 24), (2, 24, 8)):
        x = torch.randn(shape, generator=generator)
        values = torch.linalg.svdvals(orthogonalize(x).float())
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_muon_moves_a_stack_as_torch_moves_each_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn((3, 8, 24), generator=generator)
    inner = make_inner(optimizer="muon")
    ours, theirs = StackedMuon({"a": stack}, inner), [torch.nn.Parameter(matrix.clone()) for matrix in stack]
    optimizers = [
        torch.optim.Muon([one], weight_decay=inner.weight_decay, adjust_lr_fn="match_rms_adamw") for one in theirs
    ]
    for step in range(10):
        gradients = torch.randn(stack.shape, generator=generator)
        rates = {0: 0.01, 2: 0.02 / (step + 1)}
        ours.step({"a": gradients}, rates)
        for number, rate in rates.items():
            optimizers[number].param_groups[0]["lr"] = rate
            theirs[number].grad = gradients[number]
            optimizers[number].step()  # type: ignore[no-untyped-call]
    for number, one in enumerate(theirs):
        assert torch.allclose(stack[number], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_simulation_comes_to_the_same_losses_either_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # Compiling takes a minute.
    monkeypatch.setattr(replicas, "_can_compile", lambda device: False)
    path, ref = make_shard(tmp_path)
    text = Text(shards=(Shard(path=path, ref=ref),), held_out=make_tokens(1_000, seed=1), sha256="")
    devices = (make_device(),) * 3 + (make_device(leave_share=0.5, attack="sign_flip"),)
    scenario = make_scenario(inner=make_inner(optimizer=optimizer, batch_tokens=32), devices=devices)
    runs = []
    for is_side_by_side in (False, True):
        folder = tmp_path / str(is_side_by_side)
        folder.mkdir()
        work = RealWork(
            scenario,
            text=text,
            seed=0,
            slug="made",
            hardware=make_hardware(),
            folder=folder,
            is_side_by_side=is_side_by_side,
        )
        simulation = Simulation(scenario, work=work, num_shards=1, seed=0)
        simulation.run(on_point=lambda point: None)
        runs.append(simulation.points)
    apart, together = runs
    assert [point.loss for point in together] == pytest.approx([point.loss for point in apart], rel=1e-4)
    assert [dataclasses.replace(point, loss=None) for point in together] == [
        dataclasses.replace(point, loss=None) for point in apart
    ]
