"""Measuring the machine's speed when the coordinator names an experiment that it has not been measured for."""

import threading
from collections.abc import Callable

from fai.activity import Activity
from fai.client import Client, CoordinatorError, CoordinatorUnreachable
from fai.screen import Screen
from fai.speed import Speed, Speeds
from fai.stop import Stop
from ml.config import ConfigInvalid, InnerConfig, ModelConfig
from ml.protocol import DeviceState, Directives, Reason

ENDED_REASONS = (Reason.EXPERIMENT_FINISHED, Reason.EXPERIMENT_PAUSED, Reason.NO_EXPERIMENT)


class Measuring:
    """Starts a thread for each experiment to be measured; the heart beats on meanwhile."""

    def __init__(
        self,
        *,
        client: Client,
        speeds: Speeds,
        activity: Activity,
        screen: Screen,
        working: threading.Lock,
        on_stop: Callable[[Stop], None],
    ) -> None:
        self._client = client
        self._speeds = speeds
        self._activity = activity
        self._screen = screen
        self._working = working
        self._on_stop = on_stop
        self._thread: threading.Thread | None = None
        self._measured: str | None = None
        """Experiment whose speed the heartbeat carries."""

    @property
    def is_busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def consider(self, directives: Directives, *, wanted: str | None, is_idle: bool) -> None:
        """Measure the experiment that the directives name, or take any again when it has ended."""
        if wanted is None and self._measured is not None and directives.reason in ENDED_REASONS:
            self._measured = None
            self._activity.change(experiment=None, tokens_per_second=None)
            return
        slug = directives.experiment
        if slug is None or slug == self._measured or not is_idle or self.is_busy:
            return
        self._thread = threading.Thread(target=self._run, args=(slug,), name="fai-measuring", daemon=True)
        self._thread.start()

    def _run(self, slug: str) -> None:
        try:
            speed = self._speed_on(slug)
        except (CoordinatorUnreachable, CoordinatorError) as error:
            # The next heartbeat names the experiment again.
            self._screen.say("trouble", text=str(error))
        except Stop as stop:
            self._on_stop(stop)
        else:
            self._measured = slug
            self._activity.change(experiment=slug, tokens_per_second=speed.tokens_per_second)

    def _speed_on(self, slug: str) -> Speed:
        experiment = self._client.get(f"experiments/{slug}")
        try:
            model = ModelConfig.from_dict(experiment["model"])
            inner = InnerConfig.from_dict(experiment["inner"])
        except ConfigInvalid as error:
            raise CoordinatorError(status=200, code="unexpected_answer", detail=str(error)) from error
        return self._speeds.find(model, inner) or self._measure(slug, model, inner)

    def _measure(self, slug: str, model: ModelConfig, inner: InnerConfig) -> Speed:
        with self._working:
            self._screen.say("measuring", experiment=slug)
            self._screen.show(state=DeviceState.MEASURING, done=0, total=0)
            self._activity.change(state=DeviceState.MEASURING)
            try:
                speed = self._speeds.measure(model, inner)
            finally:
                self._screen.show(state=DeviceState.IDLE)
                self._activity.change(state=DeviceState.IDLE)
        self._screen.say("measured", tokens_per_second=speed.tokens_per_second, micro_batch=speed.micro_batch)
        return speed
