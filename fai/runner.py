"""One attempt from its message to its delivery: claim, produce, hand in."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fai import delivery
from fai.activity import Activity
from fai.carryovers import Carryovers
from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.delivery import NotWanted
from fai.departure import Departure
from fai.messages import reason_sentence
from fai.outbox import Entry, Outbox
from fai.production import AttemptCancelled, LeftBeforeTraining, Production
from fai.screen import Screen
from fai.stop import Stop
from fai.verdicts import Verdicts
from ml.codec import DeltaNotFinite
from ml.protocol import DeviceState, JobSpec, Reason
from ml.trainer import TrainingDiverged

CLAIM_PATIENCE_SECONDS = 30.0
"""An offer expires soon; later than that there is nothing left to claim."""


@dataclass(kw_only=True)
class Runner:
    """Runs the device's attempts, one at a time."""

    client: Client
    production: Production
    outbox: Outbox
    carryovers: Carryovers
    activity: Activity
    screen: Screen
    departure: Departure
    verdicts: Verdicts
    on_stop: Callable[[Stop], None]
    """Called with what makes further work pointless."""
    working: threading.Lock = field(default_factory=threading.Lock)
    """Held while the machine trains or measures: both at once would measure nothing and slow both."""
    attempt_id: int | None = None

    def cancel(self, attempt_id: int, reason: str) -> None:
        """Have a running attempt stop at its next step or piece."""
        self.production.cancelled[attempt_id] = reason

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
        try:
            self._work(spec)
            self.hand_in_leftovers()
        finally:
            self.ask_after_unsettled()

    def hand_in_leftovers(self) -> None:
        """Deliver what was finished earlier but could not be handed in."""
        for entry in self.outbox.leftovers():
            if self.departure.leaving.is_set():
                return
            self.screen.say("leftover", attempt_id=entry.attempt_id)
            with self._holding(entry.attempt_id):
                self._hand_in(entry)

    def ask_after_unsettled(self) -> None:
        """Find out what became of deltas that are taken for arrived, however their attempts ended."""
        waiting = {entry.attempt_id for entry in self.outbox.leftovers()}
        for attempt_id in self.carryovers.unsettled():
            if attempt_id not in waiting:
                self.verdicts.ask_after(attempt_id)

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
            self.production.cancelled.pop(attempt_id, None)
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
                entry = self.production.produce(spec)
            except LeftBeforeTraining:
                self.release(spec.attempt_id, reason=Reason.RELEASED)
            except AttemptCancelled as error:
                self._tell("cancelled", spec.attempt_id, error.reason)
            except CoordinatorUnreachable:
                self.screen.say("not_released", attempt_id=spec.attempt_id)
            except (TrainingDiverged, DeltaNotFinite) as error:
                self.screen.say("diverged", detail=str(error))
                self.carryovers.drop(spec)
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

    def _hand_in(self, entry: Entry) -> None:
        def on_piece(offset: int) -> None:
            self.screen.show(done=offset)
            self.production.raise_if_cancelled(entry.attempt_id)

        self.production.enter(DeviceState.UPLOADING, total=entry.delta_path.stat().st_size)
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

    def _tell(self, key: str, attempt_id: int, reason: str) -> None:
        self.screen.say(key, attempt_id=attempt_id, reason=reason_sentence(self.screen.language, reason))
