"""A volunteer in this process: a runner and all that it needs, against real HTTP."""

from pathlib import Path

from fai.activity import Activity
from fai.cache import Cache
from fai.carryovers import Carryovers
from fai.client import Client
from fai.contact import ScreenContact
from fai.departure import Departure
from fai.outbox import Outbox
from fai.production import Production
from fai.runner import Runner
from fai.speed import Speed, Speeds
from fai.stop import Stop
from fai.verdicts import Verdicts
from ml import hardware
from tests.fai.coordinator import API_KEY, Coordinator
from tests.fai.make import INNER, MODEL, WIDE, RecordingScreen


class Volunteer:
    """A runner and all that it needs."""

    def __init__(self, coordinator: Coordinator, folder: Path) -> None:
        self.screen = RecordingScreen()
        self.departure = Departure()
        self.stops: list[Stop] = []
        contact = ScreenContact(screen=self.screen, departure=self.departure)
        self.client = Client(server_url=coordinator.url, api_key=API_KEY, contact=contact)
        self.machine = hardware.detect()
        self.speeds = Speeds(folder / "speeds.json", machine=self.machine)
        for model in (MODEL, WIDE):
            self.speeds.observe(model, INNER, Speed(micro_batch=2, tokens_per_second=1_000.0))
        self.activity = Activity(experiment="tiny")
        self.outbox = Outbox(folder / "outbox")
        self.cache = Cache(folder / "blobs", max_bytes=10**9)
        self.carryovers = Carryovers(folder / "carryover", screen=self.screen)
        self.verdicts = Verdicts(
            client=self.client,
            on_verdict=lambda receipt: self.screen.say(receipt.state),
            settle=self.carryovers.settle,
        )
        production = Production(
            client=self.client,
            cache=self.cache,
            outbox=self.outbox,
            carryovers=self.carryovers,
            speeds=self.speeds,
            machine=self.machine,
            activity=self.activity,
            screen=self.screen,
            departure=self.departure,
        )
        self.runner = Runner(
            client=self.client,
            production=production,
            outbox=self.outbox,
            carryovers=self.carryovers,
            activity=self.activity,
            screen=self.screen,
            departure=self.departure,
            verdicts=self.verdicts,
            on_stop=self.stops.append,
        )

    def close(self) -> None:
        self.verdicts.close(patience_seconds=0)
        self.client.close()
