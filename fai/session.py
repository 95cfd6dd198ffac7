"""One run of a volunteer's worker: everything that lives between its start and its goodbye."""

import contextlib
import dataclasses
import hashlib
import threading
from pathlib import Path

from celery.worker import state as celery_state

from fai.activity import Activity
from fai.cache import Cache, disk_errors
from fai.carryovers import Carryovers
from fai.client import FOREVER, Client, CoordinatorError, CoordinatorUnreachable
from fai.config import WorkerConfig
from fai.contact import ScreenContact
from fai.departure import Departure, exit_at_once
from fai.heartbeat import DeafnessWatch, Heart
from fai.joining import check_experiment
from fai.machine import be_modest
from fai.measuring import Measuring
from fai.messages import reason_sentence
from fai.outbox import Outbox
from fai.production import Production
from fai.runner import Runner
from fai.screen import Screen
from fai.speed import Speeds
from fai.stop import Stop
from fai.verdicts import Verdicts
from ml import hardware
from ml.locks import AlreadyLocked, exclusive
from ml.protocol import BrokerAccount, DeviceState, Directives, Heartbeat, Reason, Receipt

FIRST_CONTACT_SECONDS = 30.0
"""How long a coordinator that has never answered is waited for."""
OFFER_WAIT_SECONDS = 60.0
VERDICT_PATIENCE_SECONDS = 3.0


class Session:
    """Wires the parts together and decides when the worker ends. Build in the main thread."""

    def __init__(self, config: WorkerConfig, screen: Screen) -> None:
        self.config = config
        self.screen = screen
        self.departure = Departure()
        self.stopped_by: Stop | None = None
        self.restart_wanted = threading.Event()
        """Set when the consumer should drop its connection and connect anew."""
        self._contact = ScreenContact(screen=screen, departure=self.departure)
        self._client = Client(server_url=config.server_url, api_key=config.api_key, contact=self._contact)
        self._deafness = DeafnessWatch(limit_seconds=OFFER_WAIT_SECONDS)
        self._locks = contextlib.ExitStack()
        self._machine = hardware.detect()
        self._heart: Heart | None = None

    def start(self) -> BrokerAccount:
        """Meet the coordinator, register, hand in what is left over; the account on its Redis.

        Raises: Stop where there is nothing to wait for; CoordinatorUnreachable when the volunteer left meanwhile.
        """
        self.departure.watch(on_first=self._finish, on_second=self._abandon)
        self._meet()
        be_modest(self.config.num_threads)
        folder = self._own_folder(contributor_id=self._contributor_id())
        self._lock(folder)
        account = self.register()
        self._build(folder)
        self._heart = Heart(
            client=self._client,
            contact=self._contact,
            activity=self.activity,
            device_id=self._device_id,
            interval_seconds=self._heartbeat_seconds,
            on_directives=self._obey,
            on_refusal=self._refused,
        )
        self._heart.start()
        self.runner.hand_in_leftovers()
        self.runner.ask_after_unsettled()
        return account

    def register(self) -> BrokerAccount:
        """A fresh account on the coordinator's Redis for this device.

        Raises: Stop, CoordinatorUnreachable.
        """
        described = {
            name: value
            for name, value in dataclasses.asdict(self._machine).items()
            if isinstance(value, str | int | float | bool | None)
        }
        try:
            account = self._client.register(name=self.config.device_name, hardware=described, patience_seconds=FOREVER)
        except CoordinatorError as error:
            raise error.as_stop() from error
        self._device_id = account.device_id
        self._heartbeat_seconds = float(account.heartbeat_seconds)
        self.screen.say("registered", device=account.name, url=self.config.server_url, device_id=account.device_id)
        return account.broker

    def stop(self, stop: Stop) -> None:
        """End the worker for a reason that waiting does not mend; the first reason counts."""
        if self.stopped_by is None:
            self.stopped_by = stop
        self.departure.leave()
        celery_state.should_stop = self.stopped_by.exit_code

    def close(self) -> None:
        """Wait a moment for the verdict on what was handed in, and say goodbye."""
        if self._heart is not None:
            self.verdicts.close(patience_seconds=VERDICT_PATIENCE_SECONDS)
            self._heart.close()
            self.screen.show(state=DeviceState.LEAVING)
        if self.stopped_by is None:
            self.screen.say("goodbye")
        self.screen.close()
        self._locks.close()

    def _meet(self) -> None:
        """Return once the coordinator has answered, the key is good and the experiment wanted."""
        patience_seconds = FOREVER if self.config.was_joined else FIRST_CONTACT_SECONDS
        try:
            self._client.check_server(patience_seconds=patience_seconds)
        except CoordinatorUnreachable as error:
            if self.departure.leaving.is_set():
                raise
            raise error.as_stop(self.config.server_url, exit_code=2) from error
        if self.config.experiment is not None:
            check_experiment(self._client, self.config.experiment, patience_seconds=FOREVER)

    def _build(self, folder: Path) -> None:
        self.activity = Activity(experiment=self.config.experiment)
        carryovers = Carryovers(folder / "carryover", screen=self.screen)
        self.verdicts = Verdicts(client=self._client, on_verdict=self._tell_verdict, settle=carryovers.settle)
        outbox = Outbox(folder / "outbox")
        speeds = Speeds(self.config.cache_dir / "speeds.json", machine=self._machine)
        production = Production(
            client=self._client,
            cache=Cache(self.config.cache_dir / "blobs", max_bytes=self.config.cache_max_bytes),
            outbox=outbox,
            carryovers=carryovers,
            speeds=speeds,
            machine=self._machine,
            activity=self.activity,
            screen=self.screen,
            departure=self.departure,
        )
        self.runner = Runner(
            client=self._client,
            production=production,
            outbox=outbox,
            carryovers=carryovers,
            activity=self.activity,
            screen=self.screen,
            departure=self.departure,
            verdicts=self.verdicts,
            on_stop=self.stop,
        )
        self._measuring = Measuring(
            client=self._client,
            speeds=speeds,
            activity=self.activity,
            screen=self.screen,
            working=self.runner.working,
            on_stop=self.stop,
        )

    def _contributor_id(self) -> int:
        """Who the key belongs to.

        Raises: Stop where it is refused.
        """
        try:
            return int(self._client.get("me", patience_seconds=FOREVER)["contributor_id"])
        except CoordinatorError as error:
            raise error.as_stop() from error

    def _own_folder(self, *, contributor_id: int) -> Path:
        """What belongs to this device of this contributor at this coordinator, whatever else shares the cache."""
        identity = f"{self.config.server_url}\n{contributor_id}\n{self.config.device_name}"
        return self.config.cache_dir / "devices" / hashlib.sha256(identity.encode()).hexdigest()[:16]

    def _lock(self, folder: Path) -> None:
        """Two workers under one device name would take the Redis account from each other for ever."""
        try:
            with disk_errors(folder):
                self._locks.enter_context(exclusive(folder / "lock", wait=False))
        except AlreadyLocked as error:
            raise Stop("already_running", device=self.config.device_name) from error

    def _obey(self, heartbeat: Heartbeat, directives: Directives) -> None:
        self.screen.show(
            available_credits=directives.available_credits,
            escrow_credits=directives.escrow_credits,
            pending_credits=directives.pending_credits,
            reason=directives.reason,
        )
        if directives.cancel_attempt and heartbeat.attempt_id is not None:
            self.runner.cancel(heartbeat.attempt_id, directives.reason or Reason.CANCELLED)
        if self._deafness.is_deaf(heartbeat, directives):
            self.screen.say("consumer_restarted")
            self.restart_wanted.set()
        if not self.departure.leaving.is_set():
            self._measuring.consider(
                directives, wanted=self.config.experiment, is_idle=heartbeat.state == DeviceState.IDLE
            )

    def _refused(self, error: CoordinatorError) -> None:
        if error.is_final_for_device:
            self.stop(error.as_stop())
        else:
            self.screen.say("refused", why=str(error))

    def _finish(self) -> None:
        """First Ctrl+C."""
        is_busy = self._heart is not None and self.runner.attempt_id is not None
        self.screen.say("finishing" if is_busy else "leaving_idle")
        celery_state.should_stop = 0

    def _abandon(self) -> None:
        """Second Ctrl+C: the training thread may be inside a long step, so the process ends without it."""
        attempt_id = None if self._heart is None else self.runner.attempt_id
        # Finished work that could not even be given back may still be wanted at the next start.
        if attempt_id is not None and self.runner.release(attempt_id, reason=Reason.RELEASED):
            self.runner.outbox.remove(attempt_id)
        self.screen.close()
        exit_at_once(0)

    def _tell_verdict(self, receipt: Receipt) -> None:
        if receipt.earned_credits is not None:
            self.screen.say("accepted", tokens=receipt.verified_tokens, credits=receipt.earned_credits)
            self.activity.wake()
        else:
            reason = reason_sentence(self.screen.language, receipt.reason or receipt.state)
            self.screen.say("not_accepted", attempt_id=receipt.attempt_id, reason=reason)
