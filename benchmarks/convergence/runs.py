"""One run from a scenario and a seed to its record."""

import dataclasses
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convergence import baseline, results
from benchmarks.convergence.results import Point, Run
from benchmarks.convergence.scenario import Scenario
from benchmarks.convergence.simulation import Simulation
from benchmarks.convergence.sizes import SizesOnly
from benchmarks.convergence.text import Text
from benchmarks.convergence.training import RealWork
from benchmarks.convergence.work import Work
from ml import hardware
from ml.allocator import keep_freed_memory
from ml.codec import DeltaNotFinite
from ml.trainer import TrainingDiverged

MEMORY_FOLDER = Path("/dev/shm")
"""Where files that live for seconds cost least."""
SAY_SECONDS = 30.0
CLOCK_SHARDS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run to be made, and where it is recorded."""

    scenario: Scenario
    seed: int
    is_side_by_side: bool
    path: Path

    @property
    def label(self) -> str:
        return f"{self.scenario.name} {self.scenario.inner.learning_rate:g} seed {self.seed}"


def plan(scenario: Scenario, *, seed: int, text: Text | None, is_side_by_side: bool, folder: Path) -> Plan:
    """`text` is what the scenario is trained on; None where it is not trained."""
    path = results.path_of(
        scenario,
        seed=seed,
        text_sha256=text.sha256 if text else "",
        device=hardware.detect().device + (" side by side" if is_side_by_side else ""),
        folder=folder,
    )
    return Plan(scenario=scenario, seed=seed, is_side_by_side=is_side_by_side, path=path)


def make(plan: Plan, text: Text | None) -> Run:
    """Run it and record it, on one thread; says on standard error how far it is."""
    hardware.limit_threads(1)
    keep_freed_memory()
    recorder = Recorder(plan)
    try:
        _run(plan, text, recorder)
    except (TrainingDiverged, DeltaNotFinite) as problem:
        print(f"{plan.label}: {problem}", file=sys.stderr, flush=True)
        recorder.diverge()
    run = recorder.finish()
    results.write(run, plan.scenario, plan.path)
    print(f"{plan.label}: {run.loss:.4f} after {run.seconds:.0f} s", file=sys.stderr, flush=True)
    return run


def _run(plan: Plan, text: Text | None, recorder: "Recorder") -> None:
    scenario = plan.scenario
    if scenario.kind == "clock":
        _simulate(plan, SizesOnly(scenario), num_shards=CLOCK_SHARDS, recorder=recorder)
        return
    if text is None:
        raise ValueError(f"{scenario.name} is to be trained, and there is no text")
    machine = hardware.detect()
    if scenario.kind == "data_parallel":
        baseline.train(scenario, text=text, seed=plan.seed, hardware=machine, on_point=recorder.add)
        return
    with tempfile.TemporaryDirectory(prefix="fai-convergence-", dir=scratch()) as folder:
        work = RealWork(
            scenario,
            text=text,
            slug=f"convergence-{plan.seed}",
            seed=plan.seed,
            hardware=machine,
            folder=Path(folder),
            is_side_by_side=plan.is_side_by_side,
        )
        _simulate(plan, work, num_shards=len(text.shards), recorder=recorder)


def _simulate(plan: Plan, work: Work, *, num_shards: int, recorder: "Recorder") -> None:
    simulation = Simulation(plan.scenario, work=work, num_shards=num_shards, seed=plan.seed)
    recorder.simulation = simulation
    simulation.run(on_point=recorder.add)


class Recorder:
    """Takes up a run's points, and says now and then how many rounds are done, the last loss and the time left."""

    def __init__(self, plan: Plan) -> None:
        self.simulation: Simulation | None = None
        self._plan = plan
        self._points: list[Point] = []
        self._start = self._said = time.perf_counter()

    def add(self, point: Point) -> None:
        self._points.append(point)
        now = time.perf_counter()
        if now - self._said >= SAY_SECONDS and point.round_number:
            self._said = now
            self._say(point, now - self._start)

    def diverge(self) -> None:
        """The run ended early, with a loss that is no number."""
        self._points.append(dataclasses.replace(self._points[-1], loss=math.inf))

    def finish(self) -> Run:
        plan, simulation = self._plan, self.simulation
        return Run(
            name=plan.scenario.name,
            seed=plan.seed,
            learning_rate=plan.scenario.inner.learning_rate,
            num_devices=len(plan.scenario.devices),
            points=self._points,
            utilisations=simulation.utilisations() if simulation else [],
            outcomes=dict(simulation.outcomes) if simulation else {},
            seconds=time.perf_counter() - self._start,
        )

    def _say(self, point: Point, passed: float) -> None:
        num_rounds = self._plan.scenario.rules.num_rounds
        loss = next(one.loss for one in reversed(self._points) if one.loss is not None)
        minutes = passed * (num_rounds / point.round_number - 1) / 60
        print(
            f"{self._plan.label}: round {point.round_number} of {num_rounds}, loss {loss:.4f}, {minutes:.0f} min left",
            file=sys.stderr,
            flush=True,
        )


def scratch() -> Path | None:
    """A folder in memory; None: wherever temporary files are."""
    return MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
