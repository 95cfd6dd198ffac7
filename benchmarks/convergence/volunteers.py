"""The devices' part of a simulation done for real: the worker's own functions, in a folder for each device."""

import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.convergence import attacks
from benchmarks.convergence.coordinator import Job
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.side_by_side import Result, Setting, SideJob, can_run_together, run_apart, run_together
from benchmarks.convergence.text import Text
from benchmarks.convergence.work import Task
from ml import codec
from ml.carryover import Carryover
from ml.codec import DeltaLabel, DeltaNotFinite
from ml.hardware import Hardware
from ml.local import LocalResult
from ml.seeds import job_seed
from ml.trainer import TrainingDiverged


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """What a round's jobs begin with."""

    path: Path
    sha256: str
    progress: tuple[float, float]
    """Share of the experiment before the round and after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """A delta on its way."""

    path: Path
    label: DeltaLabel
    sha256: str
    tokens: int


class Volunteers:
    """All devices of a scenario, honest ones and others, with what each carries over from job to job."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        text: Text,
        slug: str,
        hardware: Hardware,
        folder: Path,
        is_side_by_side: bool,
    ) -> None:
        """is_side_by_side: jobs that begin together are one computation; what comes out differs by rounding."""
        self._scenario = scenario
        self._text = text
        self._slug = slug
        self._hardware = hardware
        self._folder = folder
        self._is_side_by_side = is_side_by_side
        self._has_thieves = any(device.attack in attacks.THEFTS for device in scenario.devices)
        self._history: defaultdict[int, list[Path]] = defaultdict(list)
        """By device: copies of what it sent, oldest first, as long as an attack may hand them in again."""
        self._carryovers = [
            Carryover(folder / f"device-{number}", model=scenario.model, inner=scenario.inner, codec=scenario.codec)
            for number in range(len(scenario.devices))
        ]

    def train(self, tasks: Sequence[Task], base: Base) -> list[Sent | None]:
        """What each device sends after its job; None where training diverged."""
        return [
            self._send(task.job, result, base) for task, result in zip(tasks, self._results(tasks, base), strict=True)
        ]

    def settle(self, job: Job, *, counts: bool) -> None:
        """What the worker does with the verdict on a delta that it sent."""
        if counts:
            self._carryovers[job.device].forget(job.attempt_id)
        else:
            self._carryovers[job.device].put_back(job.attempt_id)

    def _results(self, tasks: Sequence[Task], base: Base) -> list[Result]:
        setting = Setting(
            model=self._scenario.model,
            inner=self._scenario.inner,
            base_path=base.path,
            progress=base.progress,
            hardware=self._hardware,
        )
        jobs = [self._side_job(task) for task in tasks]
        if self._is_side_by_side and can_run_together(jobs, setting):
            # A minute for each number of jobs: only the usual one is worth it.
            is_compiled = len(jobs) == len(self._scenario.devices)
            return run_together(jobs, setting, is_compiled=is_compiled)
        return run_apart(jobs, setting)

    def _side_job(self, task: Task) -> SideJob:
        shard = self._text.shards[task.job.shard]
        return SideJob(
            shard_path=shard.path,
            shard=shard.ref,
            token_budget=task.job.token_budget,
            seed=self._seed(task.job),
            last_step=task.last_step,
            moments=self._moments(task.job),
        )

    def _seed(self, job: Job) -> int:
        return job_seed(self._slug, round_number=job.round_number, index=job.index)

    def _moments(self, job: Job) -> dict[str, Tensor] | None:
        if not self._scenario.keep_moments:
            return None
        return self._carryovers[job.device].moments(round_number=job.round_number)

    def _send(self, job: Job, result: Result, base: Base) -> Sent | None:
        if isinstance(result, TrainingDiverged):
            return None
        if self._scenario.keep_moments:
            self._carryovers[job.device].keep_moments(result.moments, round_number=job.round_number)
        label = DeltaLabel(
            experiment=self._slug,
            round_number=job.round_number,
            base_sha256=base.sha256,
            codec=self._scenario.codec,
            attempt_id=job.attempt_id,
        )
        path = self._folder / f"delta-{job.attempt_id}"
        try:
            sha256 = self._encode(job, result, label, path)
        except DeltaNotFinite:
            return None
        self._remember(job.device, path)
        return Sent(path=path, label=label, sha256=sha256, tokens=result.report.tokens)

    def _encode(self, job: Job, result: LocalResult, label: DeltaLabel, path: Path) -> str:
        """Write the job's delta, or what an attacker hands in for it."""
        attack, tokens = self._scenario.devices[job.device].attack, result.report.tokens
        if attack in attacks.FORGERIES:
            forged = attacks.FORGERIES[attack](result.delta, job.attempt_id)
            return codec.encode(forged, label=label, tokens=tokens, path=path)
        if stolen := self._stolen(job, attack):
            return attacks.relabel(stolen, path, label=label, tokens=tokens)
        sha256 = self._carryovers[job.device].encode(result.delta, label=label, tokens=tokens, path=path)
        if attack == "nan":
            attacks.spoil(path)
        return sha256

    def _stolen(self, job: Job, attack: str) -> Path | None:
        """An older delta that an attacker hands in for its own; None where it has to wait for one."""
        if attack == "copied":
            others = [paths[-1] for device, paths in self._history.items() if device != job.device]
            return max(others, key=lambda path: path.stat().st_mtime_ns, default=None)
        own = self._history[job.device]
        return own[0] if attack == "stale" and len(own) == attacks.STALE_ROUNDS else None

    def _remember(self, device: int, path: Path) -> None:
        if not self._has_thieves:
            return
        paths = self._history[device]
        paths.append(path.with_name(f"old-{path.name}"))
        shutil.copyfile(path, paths[-1])
        if len(paths) > attacks.STALE_ROUNDS:
            paths.pop(0).unlink()
