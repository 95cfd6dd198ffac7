"""One job from its spec to the delta in the outbox: fetch, train, encode."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from fai.activity import Activity
from fai.base import fetch_base
from fai.cache import Cache, File, disk_errors, require_space
from fai.carryovers import Carryovers
from fai.client import Client
from fai.departure import Departure
from fai.outbox import DELTA_NAME, Entry, Outbox
from fai.screen import Screen
from fai.sizes import Size
from fai.speed import Speed, Speeds, memory_errors
from fai.stop import Stop
from ml import codec, local
from ml.codec import DeltaLabel
from ml.hardware import Hardware
from ml.local import LocalResult, Progress
from ml.protocol import DeviceState, JobSpec

MIN_OBSERVED_STEPS = 10
"""Steps of a job whose speed says something."""

T = TypeVar("T")


class AttemptCancelled(Exception):
    """The attempt is no longer this device's; `reason` is a protocol.Reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LeftBeforeTraining(Exception):
    """The volunteer leaves and nothing has been trained yet."""


@dataclass(kw_only=True)
class Production:
    """What a device makes its deltas with."""

    client: Client
    cache: Cache
    outbox: Outbox
    carryovers: Carryovers
    speeds: Speeds
    machine: Hardware
    activity: Activity
    screen: Screen
    departure: Departure
    cancelled: dict[int, str] = field(default_factory=dict)
    """Attempts that are to stop at their next step or piece, and why."""

    def produce(self, spec: JobSpec) -> Entry:
        """The finished, or partly finished, attempt in the outbox.

        Raises: LeftBeforeTraining, AttemptCancelled; Stop; CoordinatorUnreachable, CoordinatorError;
        ml.trainer.TrainingDiverged, ml.codec.DeltaNotFinite; ValueError where the job cannot be done.
        """
        self._announce_upload(spec)
        base_path = fetch_base(
            spec, cache=self.cache, fetch=lambda file: self._fetch(file, spec.attempt_id), screen=self.screen
        )
        shard_path = self._fetch(spec.shard, spec.attempt_id)
        speed = self.speeds.find(spec.model, spec.inner) or self._measure(spec)
        result = self._train(spec, base_path, shard_path, speed)
        self.raise_if_cancelled(spec.attempt_id)
        if result.report.num_steps >= MIN_OBSERVED_STEPS:
            self._observe(spec, result)
        return self._pack(spec, result)

    def enter(self, state: DeviceState, *, total: int) -> None:
        self.screen.show(state=state, done=0, total=total)
        self.activity.change(state=state)

    def raise_if_cancelled(self, attempt_id: int) -> None:
        """Raises: AttemptCancelled."""
        if attempt_id in self.cancelled:
            raise AttemptCancelled(self.cancelled[attempt_id])

    def _announce_upload(self, spec: JobSpec) -> None:
        """Say how large the result of the whole job will be, to the byte: its codec and its model decide that."""
        num_rows, num_steps = local.plan_steps(spec.model, spec.inner, token_budget=spec.token_budget)
        tokens = num_rows * num_steps * spec.model.block_size
        upload_bytes = codec.encoded_size_bytes(spec.model, label=_label(spec), tokens=tokens)
        whole_bytes = Size(spec.base.size_bytes)
        self.screen.show(whole_bytes=whole_bytes)
        self.screen.say("upload_size", upload_bytes=Size(upload_bytes), whole_bytes=whole_bytes)

    def _observe(self, spec: JobSpec, result: LocalResult) -> None:
        """Let the next jobs be sized by how fast this one really went."""
        observed = Speed(micro_batch=result.micro_batch, tokens_per_second=result.report.tokens_per_second)
        speed = self.speeds.observe(spec.model, spec.inner, observed)
        if self.activity.heartbeat.experiment == spec.experiment:
            self.activity.change(tokens_per_second=speed.tokens_per_second)

    def _fetch(self, file: File, attempt_id: int) -> Path:
        def on_bytes(num_bytes: int) -> None:
            self.screen.show(done=num_bytes)
            self.raise_if_cancelled(attempt_id)
            if self.departure.leaving.is_set():
                raise LeftBeforeTraining

        self.enter(DeviceState.DOWNLOADING, total=file.size_bytes)
        return self._with_room(lambda: self.cache.fetch(file, self.client, on_bytes=on_bytes))

    def _measure(self, spec: JobSpec) -> Speed:
        self.enter(DeviceState.MEASURING, total=0)
        return self.speeds.measure(spec.model, spec.inner)

    def _train(self, spec: JobSpec, base_path: Path, shard_path: Path, speed: Speed) -> LocalResult:
        def on_step(progress: Progress) -> bool:
            self.activity.progress(tokens=progress.tokens, loss=progress.loss)
            self.screen.show(done=progress.tokens, loss=progress.loss, tokens_per_second=progress.tokens_per_second)
            if self.departure.leaving.is_set() or spec.attempt_id in self.cancelled:
                return False
            return not _is_time_over(spec, progress.tokens, progress.tokens_per_second)

        if self.departure.leaving.is_set():
            raise LeftBeforeTraining
        self.enter(DeviceState.TRAINING, total=spec.token_budget)
        moments = self.carryovers.moments(spec)
        with memory_errors():
            result = local.run_job(
                model_config=spec.model,
                inner=spec.inner,
                base_path=base_path,
                shard_path=shard_path,
                shard=spec.shard,
                token_budget=spec.token_budget,
                seed=spec.seed,
                progress_start=spec.progress_start,
                progress_end=spec.progress_end,
                hardware=self.machine,
                micro_batch=speed.micro_batch,
                on_step=on_step,
                moments=moments,
            )
        if result.report.partial and _is_time_over(spec, result.report.tokens, result.report.tokens_per_second):
            self.screen.say("time_over", seconds=spec.train_seconds)
        return result

    def _pack(self, spec: JobSpec, result: LocalResult) -> Entry:
        with disk_errors(self.outbox.folder, spec.max_delta_bytes):
            folder = self.outbox.prepare(spec.attempt_id)
            path = folder / DELTA_NAME
            self._with_room(lambda: require_space(folder, spec.max_delta_bytes))
            sha256 = self.carryovers.encode(
                spec, result.delta, label=_label(spec), tokens=result.report.tokens, path=path
            )
            entry = self.outbox.add(attempt_id=spec.attempt_id, sha256=sha256, report=result.report)
        self.carryovers.keep_moments(spec, result.moments)
        self.screen.say("trained", tokens=result.report.tokens, upload_bytes=Size(path.stat().st_size))
        return entry

    def _with_room(self, action: Callable[[], T]) -> T:
        """Result of `action`, tried again without what is kept between jobs where the disk is full.

        Raises: what `action` raises.
        """
        try:
            return action()
        except Stop as stop:
            if stop.key != "disk_full" or not self.carryovers.make_room():
                raise
            return action()


def _is_time_over(spec: JobSpec, tokens: int, tokens_per_second: float) -> bool:
    """Whether so many tokens at that speed, measured over all of the training so far, have taken the job's time."""
    return tokens >= spec.train_seconds * tokens_per_second


def _label(spec: JobSpec) -> DeltaLabel:
    return DeltaLabel(
        experiment=spec.experiment,
        round_number=spec.round_number,
        base_sha256=spec.base.sha256,
        codec=spec.codec,
        attempt_id=spec.attempt_id,
    )
