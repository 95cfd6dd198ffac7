"""One attempt from its message to its delivery: claim, fetch, train, encode, hand in."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fai import delivery
from fai.activity import Activity
from fai.cache import Cache, disk_errors, require_space
from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.delivery import NotWanted
from fai.departure import Departure
from fai.messages import reason_sentence
from fai.outbox import DELTA_NAME, Entry, Outbox
from fai.screen import Screen
from fai.speed import Speed, Speeds, memory_errors
from fai.stop import Stop
from fai.verdicts import Verdicts
from ml import codec, local
from ml.codec import DeltaLabel, DeltaNotFinite
from ml.hardware import Hardware
from ml.local import LocalResult, Progress
from ml.protocol import BlobRef, DeviceState, JobSpec, Reason, ShardRef
from ml.trainer import TrainingDiverged

CLAIM_PATIENCE_SECONDS = 30.0
"""An offer expires soon; later than that there is nothing left to claim."""
MIN_OBSERVED_STEPS = 10
"""Steps of a job whose speed says something."""


class AttemptCancelled(Exception):
    """The attempt is no longer this device's; `reason` is a protocol.Reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LeftBeforeTraining(Exception):
    """The volunteer leaves and nothing has been trained yet."""


@dataclass(kw_only=True)
class Runner:
    """Runs the device's attempts, one at a time."""

    client: Client
    cache: Cache
    outbox: Outbox
    speeds: Speeds
    machine: Hardware
    activity: Activity
    screen: Screen
    departure: Departure
    verdicts: Verdicts
    on_stop: Callable[[Stop], None]
    """Called with what makes further work pointless."""
    working: threading.Lock = field(default_factory=threading.Lock)
    """Held while the machine trains or measures: both at once would measure nothing and slow both."""
    attempt_id: int | None = None
    _cancelled: dict[int, str] = field(default_factory=dict)

    def cancel(self, attempt_id: int, reason: str) -> None:
        """Have a running attempt stop at its next step or piece."""
        self._cancelled[attempt_id] = reason

    def run(self, attempt_id: int, nonce: str) -> None:
        """Do what the message offers; an offer that cannot be claimed is none."""
        if self.departure.leaving.is_set():
            return
        try:
            spec = self.client.claim(attempt_id, nonce, patience_seconds=CLAIM_PATIENCE_SECONDS)
        except CoordinatorUnreachable:
            return
        except CoordinatorError as error:
            if error.is_final_for_device:
                self.on_stop(error.as_stop())
            else:
                self.screen.say("offer_gone", reason=reason_sentence(self.screen.language, error.code))
            return
        self._work(spec)
        self.hand_in_leftovers()

    def hand_in_leftovers(self) -> None:
        """Deliver what was finished earlier but could not be handed in."""
        for entry in self.outbox.leftovers():
            if self.departure.leaving.is_set():
                return
            self.screen.say("leftover", attempt_id=entry.attempt_id)
            with self._holding(entry.attempt_id):
                self._hand_in(entry)

    def release(self, attempt_id: int, *, reason: Reason, detail: str = "") -> bool:
        """Give an attempt back, if the coordinator can be told within seconds; whether it is this device's no more."""
        try:
            self.client.release(attempt_id, reason=reason, detail=detail)
        except CoordinatorUnreachable:
            self.screen.say("not_released", attempt_id=attempt_id)
            return False
        except CoordinatorError:
            # It has ended meanwhile; there is nothing to give back.
            return True
        if reason == Reason.RELEASED:
            self.screen.say("released", attempt_id=attempt_id)
        return True

    @contextlib.contextmanager
    def _holding(self, attempt_id: int) -> Iterator[None]:
        """The time in which an attempt is this device's; one that ends by an unforeseen error is given back."""
        self.attempt_id = attempt_id
        self.activity.change(attempt_id=attempt_id)
        is_settled = False
        try:
            yield
            is_settled = True
        finally:
            if not is_settled:
                self.release(attempt_id, reason=Reason.CLIENT_ERROR, detail="unforeseen error")
            self.attempt_id = None
            self._cancelled.pop(attempt_id, None)
            is_leaving = self.departure.leaving.is_set()
            self.activity.rest(DeviceState.LEAVING if is_leaving else DeviceState.IDLE)
            self.screen.show(state=DeviceState.IDLE, attempt_id=None, done=0, total=0)

    def _work(self, spec: JobSpec) -> None:
        self.screen.say(
            "claimed",
            experiment=spec.experiment,
            round=spec.round_number,
            tokens=spec.token_budget,
            credits=spec.quoted_credits,
        )
        self.screen.show(
            experiment=spec.experiment,
            round_number=spec.round_number,
            attempt_id=spec.attempt_id,
            quoted_credits=spec.quoted_credits,
            loss=None,
        )
        # The heart keeps the lease while a measurement still has the machine.
        with self._holding(spec.attempt_id), self.working:
            try:
                entry = self._produce(spec)
            except LeftBeforeTraining:
                self.release(spec.attempt_id, reason=Reason.RELEASED)
            except AttemptCancelled as error:
                self._tell("cancelled", spec.attempt_id, error.reason)
            except CoordinatorUnreachable:
                self.screen.say("not_released", attempt_id=spec.attempt_id)
            except (TrainingDiverged, DeltaNotFinite) as error:
                self.screen.say("diverged", detail=str(error))
                self.release(spec.attempt_id, reason=Reason.CLIENT_ERROR, detail=str(error))
            except (CoordinatorError, ValueError) as error:
                # ValueError: the job asks for what this version of ml refuses, or names a file that is no such thing.
                self.screen.say("job_impossible", detail=str(error))
                self.release(spec.attempt_id, reason=Reason.CLIENT_ERROR, detail=str(error))
            except Stop as stop:
                self.release(spec.attempt_id, reason=Reason.CLIENT_ERROR, detail=str(stop))
                self.on_stop(stop)
            else:
                self._hand_in(entry)

    def _produce(self, spec: JobSpec) -> Entry:
        """The finished, or partly finished, attempt in the outbox."""
        base_path = self._fetch(spec.base, spec.attempt_id)
        shard_path = self._fetch(spec.shard, spec.attempt_id)
        speed = self.speeds.find(spec.model, spec.inner) or self._measure(spec)
        result = self._train(spec, base_path, shard_path, speed)
        self._raise_if_cancelled(spec.attempt_id)
        if result.report.num_steps >= MIN_OBSERVED_STEPS:
            self._observe(spec, result)
        return self._pack(spec, result)

    def _observe(self, spec: JobSpec, result: LocalResult) -> None:
        """Let the next jobs be sized by how fast this one really went."""
        observed = Speed(micro_batch=result.micro_batch, tokens_per_second=result.report.tokens_per_second)
        speed = self.speeds.observe(spec.model, spec.inner, observed)
        if self.activity.heartbeat.experiment == spec.experiment:
            self.activity.change(tokens_per_second=speed.tokens_per_second)

    def _fetch(self, file: BlobRef | ShardRef, attempt_id: int) -> Path:
        def on_bytes(num_bytes: int) -> None:
            self.screen.show(done=num_bytes)
            self._raise_if_cancelled(attempt_id)
            if self.departure.leaving.is_set():
                raise LeftBeforeTraining

        self._enter(DeviceState.DOWNLOADING, total=file.size_bytes)
        return self.cache.fetch(file, self.client, on_bytes=on_bytes)

    def _measure(self, spec: JobSpec) -> Speed:
        self._enter(DeviceState.MEASURING, total=0)
        return self.speeds.measure(spec.model, spec.inner)

    def _train(self, spec: JobSpec, base_path: Path, shard_path: Path, speed: Speed) -> LocalResult:
        def on_step(progress: Progress) -> bool:
            self.activity.progress(tokens=progress.tokens, loss=progress.loss)
            self.screen.show(done=progress.tokens, loss=progress.loss, tokens_per_second=progress.tokens_per_second)
            return not self.departure.leaving.is_set() and spec.attempt_id not in self._cancelled

        if self.departure.leaving.is_set():
            raise LeftBeforeTraining
        self._enter(DeviceState.TRAINING, total=spec.token_budget)
        with memory_errors():
            return local.run_job(
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
            )

    def _pack(self, spec: JobSpec, result: LocalResult) -> Entry:
        label = DeltaLabel(
            experiment=spec.experiment,
            round_number=spec.round_number,
            base_sha256=spec.base.sha256,
            codec=spec.codec,
            attempt_id=spec.attempt_id,
        )
        self.screen.say("trained", tokens=result.report.tokens)
        with disk_errors(self.outbox.folder, spec.max_delta_bytes):
            folder = self.outbox.prepare(spec.attempt_id)
            require_space(folder, spec.max_delta_bytes)
            sha256 = codec.encode(result.delta, label=label, tokens=result.report.tokens, path=folder / DELTA_NAME)
            return self.outbox.add(attempt_id=spec.attempt_id, sha256=sha256, report=result.report)

    def _hand_in(self, entry: Entry) -> None:
        def on_piece(offset: int) -> None:
            self.screen.show(done=offset)
            self._raise_if_cancelled(entry.attempt_id)

        self._enter(DeviceState.UPLOADING, total=entry.delta_path.stat().st_size)
        try:
            delivery.deliver(entry, client=self.client, outbox=self.outbox, on_piece=on_piece)
        except AttemptCancelled as error:
            self.outbox.remove(entry.attempt_id)
            self._tell("cancelled", entry.attempt_id, error.reason)
        except NotWanted as error:
            self._tell("not_accepted", entry.attempt_id, error.reason)
            self.release(entry.attempt_id, reason=Reason.CLIENT_ERROR, detail=error.reason)
        except CoordinatorUnreachable:
            self.screen.say("kept", path=entry.folder)
        except CoordinatorError as error:
            self.screen.say("kept", path=entry.folder)
            if error.is_final_for_device:
                self.on_stop(error.as_stop())
        else:
            self.screen.say("handed_in")
            self.verdicts.await_verdict(entry.attempt_id)

    def _enter(self, state: DeviceState, *, total: int) -> None:
        self.screen.show(state=state, done=0, total=total)
        self.activity.change(state=state)

    def _raise_if_cancelled(self, attempt_id: int) -> None:
        if attempt_id in self._cancelled:
            raise AttemptCancelled(self._cancelled[attempt_id])

    def _tell(self, key: str, attempt_id: int, reason: str) -> None:
        self.screen.say(key, attempt_id=attempt_id, reason=reason_sentence(self.screen.language, reason))
