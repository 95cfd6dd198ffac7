"""Devices and a coordinator in simulated time, one event after the other; rounds may wait for all deltas or for one."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.convergence.clock import Clock
from benchmarks.convergence.coordinator import Coordinator, Idle, Job
from benchmarks.convergence.results import Point
from benchmarks.convergence.scenario import Device, Scenario
from benchmarks.convergence.work import Handed, Task, Work


@dataclass(kw_only=True)
class Simulated:
    """A device while the clock runs."""

    device: Device
    is_idle: bool = True
    is_away: bool = False
    """Its delta was lost or refused: not heard of before the next round, or the deadline of the open one."""
    is_proven: bool = False
    base_number: int | None = None
    """Round whose base it has; None: none yet."""
    shards: set[int] = field(default_factory=set)
    num_jobs: int = 0
    trained_tokens: int = 0
    busy_seconds: float = 0.0
    """Spent training, in jobs that are over."""
    uploaded_bytes: int = 0
    downloaded_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Begun:
    """A job under way."""

    task: Task
    tokens_per_second: float
    """Really, whatever the device measured before."""
    download_seconds: float
    is_lost: bool


class Simulation:
    """One run of a scenario; `run` leaves what happened in `points`, `devices` and `outcomes`."""

    def __init__(self, scenario: Scenario, *, work: Work, num_shards: int, seed: int) -> None:
        self.scenario = scenario
        self.clock = Clock()
        self.devices = [Simulated(device=device) for device in scenario.devices]
        self.points: list[Point] = []
        self.outcomes: Counter[str] = Counter()
        """How deltas ended: merged, late, lost, diverged, or the reason for which they were refused."""
        self._work = work
        self._seed = seed
        self._coordinator = Coordinator(scenario.rules, batch_tokens=scenario.inner.batch_tokens, num_shards=num_shards)
        self._step_bytes: dict[int, int | None] = {}
        """By the round that made the step."""
        self._unheard: list[Job] = []
        """Jobs of which the coordinator does not know yet that nothing will come of them."""
        self._is_merging = False
        self._is_over = False

    def run(self, *, on_point: Callable[[Point], None]) -> None:
        """Play all rounds; `on_point` is called at the start and after each round."""
        self._on_point = on_point
        self._record(num_deltas=0, is_measured=True)
        self._open_round()
        self.clock.run(until=lambda: self._is_over)

    def _open_round(self) -> None:
        self._is_merging = False
        if self._coordinator.round_number == self.scenario.rules.num_rounds:
            self._is_over = True
            return
        self._coordinator.open_next(now=self.clock.now)
        self._await_deadline()
        self._hear_of_all()
        self._go_on()

    def _at_deadline(self, round_number: int) -> None:
        """Every round_seconds while the round is open."""
        if round_number != self._coordinator.round_number or self._is_merging:
            return
        self._hear_of_all()
        self._go_on()
        self._await_deadline()

    def _await_deadline(self) -> None:
        number = self._coordinator.round_number
        self.clock.at(self.clock.now + self.scenario.rules.round_seconds, lambda: self._at_deadline(number))

    def _hear_of_all(self) -> None:
        for job in self._unheard:
            self._coordinator.forget(job)
            self.devices[job.device].is_away = False
        self._unheard.clear()

    def _go_on(self) -> None:
        """Whatever the coordinator has to do now: merge, or give out work."""
        if self._is_merging or self._is_over:
            return
        if self._coordinator.is_full(now=self.clock.now):
            self._merge()
            return
        idle = [
            Idle(device=number, tokens_per_second=one.device.tokens_per_second, is_proven=one.is_proven)
            for number, one in enumerate(self.devices)
            if one.is_idle and not one.is_away
        ]
        self._train(self._coordinator.offer(idle))

    def _train(self, jobs: Sequence[Job]) -> None:
        """Train the jobs now, and let what comes of them arrive when its time has come."""
        if not jobs:
            return
        all_begun = [self._begin(job) for job in jobs]
        all_handed = self._work.train([begun.task for begun in all_begun], progress=self._coordinator.progress)
        for begun, handed in zip(all_begun, all_handed, strict=True):
            device = self.devices[begun.task.job.device].device
            busy_seconds = handed.tokens / begun.tokens_per_second
            seconds = begun.download_seconds + busy_seconds + device.upload_seconds(handed.size_bytes)
            self.clock.at(self.clock.now + seconds, functools.partial(self._arrive, begun, handed, busy_seconds))

    def _begin(self, job: Job) -> Begun:
        one = self.devices[job.device]
        one.is_idle = False
        random = np.random.default_rng([self._seed, job.device, one.num_jobs])
        one.num_jobs += 1
        speed = one.device.tokens_per_second * math.exp(one.device.jitter * random.standard_normal())
        leaves, lost = random.random() < one.device.leave_share, random.random() < one.device.lost_share
        num_steps = self._num_steps(job, speed)
        last_step = int(random.integers(1, num_steps + 1)) if leaves else num_steps
        download_bytes = self._download_bytes(job, one)
        one.downloaded_bytes += download_bytes
        return Begun(
            task=Task(job=job, last_step=last_step),
            tokens_per_second=speed,
            download_seconds=one.device.download_seconds(download_bytes),
            is_lost=lost,
        )

    def _num_steps(self, job: Job, speed: float) -> int:
        """Steps of a job within the time box, at least one."""
        batch_tokens = self.scenario.inner.batch_tokens
        num_steps = max(1, job.token_budget // batch_tokens)
        boxed = self.scenario.rules.train_seconds * speed / batch_tokens
        return num_steps if boxed >= num_steps else max(1, math.ceil(boxed))

    def _download_bytes(self, job: Job, one: Simulated) -> int:
        """Of the base, or of the steps from the device's last one where they are fewer, and of a shard it lacks."""
        num_bytes = 0 if job.shard in one.shards else self._work.shard_bytes(job.shard)
        one.shards.add(job.shard)
        if one.base_number != job.round_number:
            num_bytes += self._base_bytes(one.base_number, job.round_number)
        one.base_number = job.round_number
        return num_bytes

    def _base_bytes(self, number: int | None, wanted: int) -> int:
        if number is None:
            return self._work.base_bytes
        chain = [self._step_bytes[made] for made in range(number, wanted)]
        steps = [size for size in chain if size is not None]
        return min(self._work.base_bytes, sum(steps)) if len(steps) == len(chain) else self._work.base_bytes

    def _arrive(self, begun: Begun, handed: Handed, busy_seconds: float) -> None:
        job = begun.task.job
        one = self.devices[job.device]
        one.is_idle = True
        one.busy_seconds += busy_seconds
        one.trained_tokens += handed.tokens
        one.uploaded_bytes += handed.size_bytes
        outcome = self._judge(job, handed, is_lost=begun.is_lost)
        self.outcomes[outcome or "accepted"] += 1
        if handed.tokens:
            self._work.settle(job, counts=not outcome)
        one.is_proven = one.is_proven or not outcome
        if outcome and outcome != "late":
            one.is_away = True
            self._unheard.append(job)
        closes_at = self._coordinator.closes_at
        if math.isfinite(closes_at):
            self.clock.at(closes_at, self._go_on)
        self._go_on()

    def _judge(self, job: Job, handed: Handed, *, is_lost: bool) -> str:
        """Why a delta does not count; empty where it does."""
        if not handed.tokens:
            return "diverged"
        if is_lost:
            return "lost"
        if refused := self._work.check(job):
            return refused
        return "" if self._coordinator.accept(job, tokens=handed.tokens, now=self.clock.now) else "late"

    def _merge(self) -> None:
        self._is_merging = True
        number = self._coordinator.round_number
        deltas = self._coordinator.take()
        progress, _ = self._coordinator.progress
        self._step_bytes[number] = self._work.merge(deltas, round_number=number, progress=progress)
        every, last = self.scenario.evaluate_every, self.scenario.rules.num_rounds

        def publish() -> None:
            self._record(num_deltas=len(deltas), is_measured=number % every == 0 or number == last)
            self._open_round()

        self.clock.at(self.clock.now + self.scenario.rules.merge_seconds, publish)

    def _record(self, *, num_deltas: int, is_measured: bool) -> None:
        point = Point(
            round_number=self._coordinator.round_number,
            num_deltas=num_deltas,
            tokens=_sum(self.devices, "trained_tokens"),
            uploaded_bytes=_sum(self.devices, "uploaded_bytes"),
            downloaded_bytes=_sum(self.devices, "downloaded_bytes"),
            seconds=self.clock.now,
            loss=self._work.evaluate() if is_measured else None,
        )
        self.points.append(point)
        self._on_point(point)

    def utilisations(self) -> list[float]:
        """Share of all the time that each device spent training."""
        return [one.busy_seconds / self.clock.now for one in self.devices]


def _sum(devices: Sequence[Simulated], name: str) -> int:
    return sum(getattr(one, name) for one in devices)
