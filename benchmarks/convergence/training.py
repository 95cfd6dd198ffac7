"""A simulation's work done for real, in files: the worker's and the merge task's own functions, no stand-ins."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.convergence.coordinator import Accepted, Job
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.text import Text
from benchmarks.convergence.volunteers import Base, Sent, Volunteers
from benchmarks.convergence.work import Handed, Task
from ml import checkpoint, delta_file, evaluation, merging, step_file
from ml.delta_file import DeltaInvalid
from ml.files import sha256_file
from ml.hardware import Hardware
from ml.merging import WeightedDelta
from ml.model import initial_model


class StepMismatch(Exception):
    """A step file does not lead to the checkpoint that was merged."""


class RealWork:
    """Training, encoding, checking and merging in `folder`; the open round's checkpoint is `base_path`."""

    def __init__(
        self,
        scenario: Scenario,
        *,
        text: Text,
        slug: str,
        seed: int,
        hardware: Hardware,
        folder: Path,
        is_side_by_side: bool = False,
    ) -> None:
        """slug: name of the experiment, from which the jobs' seeds follow; seed: of the untrained model."""
        self.base_path = folder / "model-0"
        self._scenario = scenario
        self._text = text
        self._hardware = hardware
        self._folder = folder
        self._state_path: Path | None = None
        self._sent: dict[int, Sent] = {}
        self._norms: dict[int, float] = {}
        self._volunteers = Volunteers(
            scenario,
            text=text,
            slug=slug,
            hardware=hardware,
            folder=folder,
            is_side_by_side=is_side_by_side,
        )
        checkpoint.save_model(initial_model(scenario.model, seed=seed), self.base_path)
        self.base_bytes = self.base_path.stat().st_size
        self._base_sha256 = sha256_file(self.base_path)

    def train(self, tasks: Sequence[Task], *, progress: tuple[float, float]) -> list[Handed]:
        base = Base(path=self.base_path, sha256=self._base_sha256, progress=progress)
        return [
            self._take(task.job, sent) for task, sent in zip(tasks, self._volunteers.train(tasks, base), strict=True)
        ]

    def check(self, job: Job) -> str:
        """As the coordinator's validation does."""
        sent = self._sent[job.attempt_id]
        model, inner = self._scenario.model, self._scenario.inner
        bound = delta_file.norm_bound(model=model, inner=inner, codec=self._scenario.codec, tokens=sent.tokens)
        try:
            facts = delta_file.check(sent.path, model=model, label=sent.label, token_budget=sent.tokens, max_norm=bound)
        except DeltaInvalid as problem:
            return problem.reason
        self._norms[job.attempt_id] = facts.norm
        return ""

    def settle(self, job: Job, *, counts: bool) -> None:
        self._volunteers.settle(job, counts=counts)
        if not counts:
            self._discard(job)

    def merge(self, deltas: Sequence[tuple[Accepted, float]], *, round_number: int, progress: float) -> int | None:
        paths = {kind: self._folder / f"{kind}-{round_number}" for kind in ("model", "state", "step")}
        result = merging.merge(
            base_path=self.base_path,
            base_sha256=self._base_sha256,
            deltas=[self._weighted(delta.job, weight) for delta, weight in deltas],
            outer=self._scenario.outer,
            progress=progress,
            outer_state_path=self._state_path,
            result_path=paths["model"],
            result_state_path=paths["state"],
            step_path=paths["step"],
        )
        step_bytes = self._follow(paths["step"], result.sha256) if result.step_sha256 else None
        self.base_path.unlink()
        if self._state_path:
            self._state_path.unlink()
        self.base_path, self._base_sha256, self._state_path = paths["model"], result.sha256, paths["state"]
        for delta, _ in deltas:
            self._discard(delta.job)
        return step_bytes

    def evaluate(self) -> float:
        model = checkpoint.load_model(self.base_path).to(self._hardware.device)
        return evaluation.validation_loss(
            model,
            self._text.held_out,
            block_size=self._scenario.model.block_size,
            max_tokens=self._scenario.validation_tokens,
        )

    def shard_bytes(self, shard: int) -> int:
        return self._text.shards[shard].ref.size_bytes

    def _take(self, job: Job, sent: Sent | None) -> Handed:
        if sent is None:
            return Handed(tokens=0, size_bytes=0)
        self._sent[job.attempt_id] = sent
        return Handed(tokens=sent.tokens, size_bytes=sent.path.stat().st_size)

    def _weighted(self, job: Job, weight: float) -> WeightedDelta:
        sent = self._sent[job.attempt_id]
        return WeightedDelta(
            path=sent.path,
            attempt_id=job.attempt_id,
            sender=job.device,
            sha256=sent.sha256,
            tokens=sent.tokens,
            weight=weight,
            norm=self._norms[job.attempt_id],
        )

    def _follow(self, step_path: Path, result_sha256: str) -> int:
        """Do once what every device that has the base does: apply the step, and compare. The step's bytes."""
        applied = step_path.with_name("applied")
        sha256 = step_file.apply_step(base_path=self.base_path, step_path=step_path, result_path=applied)
        if sha256 != result_sha256:
            raise StepMismatch(f"{step_path.name} leads from {self.base_path.name} to another checkpoint")
        size_bytes = step_path.stat().st_size
        applied.unlink()
        step_path.unlink()
        return size_bytes

    def _discard(self, job: Job) -> None:
        self._sent.pop(job.attempt_id).path.unlink()
        self._norms.pop(job.attempt_id, None)
