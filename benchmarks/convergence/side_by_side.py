"""ml.local.run_job for several jobs at once: those of devices that begin at one moment, from one checkpoint."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.convergence.replicas import Replicas
from ml import checkpoint, data
from ml.config import InnerConfig, ModelConfig
from ml.hardware import Hardware, resolve_precision, rows_per_batch
from ml.local import LocalResult, plan_steps, run_job
from ml.protocol import Report, ShardRef
from ml.trainer import TrainingDiverged, learning_rate_at


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What the jobs have in common."""

    model: ModelConfig
    inner: InnerConfig
    base_path: Path
    progress: tuple[float, float]
    """Share of the experiment trained before the jobs, and after their round."""
    hardware: Hardware


@dataclass(frozen=True, kw_only=True, slots=True)
class SideJob:
    """What each job has of its own."""

    shard_path: Path
    shard: ShardRef
    token_budget: int
    seed: int
    last_step: int
    """The job ends after so many steps, if not before."""
    moments: dict[str, Tensor] | None = None
    """Of the device's job before; with them there is no warm-up."""


Result = LocalResult | TrainingDiverged


def run_apart(jobs: Sequence[SideJob], setting: Setting) -> list[Result]:
    """One job after the other, by run_job itself."""
    return [_run_alone(job, setting) for job in jobs]


def can_run_together(jobs: Sequence[SideJob], setting: Setting) -> bool:
    """Whether `run_together` takes them: at least two, as many rows in a step of each, and no dropout."""
    rows = {plan_steps(setting.model, setting.inner, token_budget=job.token_budget)[0] for job in jobs}
    return len(jobs) > 1 and not setting.model.dropout and len(rows) == 1


def run_together(jobs: Sequence[SideJob], setting: Setting, *, is_compiled: bool) -> list[Result]:
    """For each job what run_job returns or raises, but for the rounding of sums; in bfloat16 where run_job is.

    Weights, clipping, moments, batches and learning rates are each job's own. A report's seconds are those of all jobs
    together. A job that ends before the others stays in the computation, so that jobs of one length gain most. Where
    memory does not hold all of them, nothing is tried again with fewer rows.

    Raises: ValueError where `can_run_together` says no or the base is another model; what run_job raises for files.
    """
    if not can_run_together(jobs, setting):
        raise ValueError("these jobs cannot be trained side by side")
    base = checkpoint.load_model(setting.base_path)
    if base.config != setting.model:
        raise ValueError(f"{setting.base_path.name} holds another model than the job's")
    replicas = Replicas(
        base.to(setting.hardware.device),
        num_replicas=len(jobs),
        inner=setting.inner,
        precision=resolve_precision("auto", setting.hardware),
        is_compiled=is_compiled,
    )
    running = [_begin(job, setting, replicas, number) for number, job in enumerate(jobs)]
    start = time.perf_counter()
    _train(running, setting, replicas)
    seconds = time.perf_counter() - start
    weights = {name: weight.detach().cpu() for name, weight in base.named_parameters()}
    return [
        TrainingDiverged(len(one.losses) - 1)
        if one.is_diverged
        else LocalResult(
            delta={name: weight - replicas.weights[name][number].detach().cpu() for name, weight in weights.items()},
            report=one.report(seconds),
            moments=replicas.moments(number),
            micro_batch=one.num_rows,
        )
        for number, one in enumerate(running)
    ]


@dataclass(kw_only=True)
class _Running:
    """A job while it is trained."""

    job: SideJob
    tokens: data.Tokens
    inner: InnerConfig
    num_rows: int
    num_steps: int
    block_size: int
    losses: list[float] = field(default_factory=list)

    @property
    def is_diverged(self) -> bool:
        return bool(self.losses) and math.isnan(self.losses[-1])

    @property
    def is_over(self) -> bool:
        return self.is_diverged or len(self.losses) >= min(self.num_steps, self.job.last_step)

    def report(self, seconds: float) -> Report:
        num_tokens = len(self.losses) * self.num_rows * self.block_size
        return Report(
            tokens=num_tokens,
            num_steps=len(self.losses),
            seconds=seconds,
            first_loss=self.losses[0],
            last_loss=self.losses[-1],
            tokens_per_second=num_tokens / seconds,
            partial=len(self.losses) < self.num_steps,
        )


def _begin(job: SideJob, setting: Setting, replicas: Replicas, number: int) -> _Running:
    num_rows, num_steps = plan_steps(setting.model, setting.inner, token_budget=job.token_budget)
    if job.moments:
        replicas.load_moments(number, job.moments)
    return _Running(
        job=job,
        tokens=data.open_shard(job.shard_path, job.shard.dtype),
        inner=dataclasses.replace(setting.inner, warmup_steps=0) if job.moments else setting.inner,
        num_rows=num_rows,
        num_steps=num_steps,
        block_size=setting.model.block_size,
    )


def _train(running: Sequence[_Running], setting: Setting, replicas: Replicas) -> None:
    progress_start, progress_end = setting.progress
    # Those that are over keep the rows that they had last; they are not moved.
    rows_GBT = np.zeros((len(running), running[0].num_rows, running[0].block_size + 1), dtype=np.int64)
    while moving := {number: one for number, one in enumerate(running) if not one.is_over}:
        rates = {}
        for number, one in moving.items():
            step = len(one.losses)
            rows_GBT[number] = data.sample_batch(
                one.tokens, seed=one.job.seed, step=step, num_rows=one.num_rows, block_size=one.block_size
            )
            rates[number] = learning_rate_at(
                step,
                inner=one.inner,
                num_steps=one.num_steps,
                progress_start=progress_start,
                progress_end=progress_end,
            )
        losses = replicas.step(torch.from_numpy(rows_GBT), rates)
        for number, one in moving.items():
            one.losses.append(losses[number])


def _run_alone(job: SideJob, setting: Setting) -> Result:
    try:
        return run_job(
            model_config=setting.model,
            inner=setting.inner,
            base_path=setting.base_path,
            shard_path=job.shard_path,
            shard=job.shard,
            token_budget=job.token_budget,
            seed=job.seed,
            progress_start=setting.progress[0],
            progress_end=setting.progress[1],
            hardware=setting.hardware,
            micro_batch=rows_per_batch(setting.model, setting.inner),
            on_step=lambda progress: progress.num_steps < job.last_step,
            moments=job.moments,
        )
    except TrainingDiverged as problem:
        return problem
