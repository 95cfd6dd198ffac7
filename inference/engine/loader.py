"""Watches for checkpoints that are published or asked for, and loads them beside the ones that are being served."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from weakref import WeakValueDictionary

from django.db import OperationalError, close_old_connections

from inference import catalogue
from inference.engine import metrics
from inference.engine.runner import Runner
from inference.status import Problem
from ml.checkpoint import load_model
from ml.inference_parity import prepare
from training import blobs
from training.models import Checkpoint

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
RETRY_SECONDS = 60.0
"""A checkpoint that could not be loaded is not read again before that."""
MAX_MODELS = 4
"""The newest started experiments, where the engine is not kept to one."""
WANTED_SECONDS = 600.0
"""An older checkpoint that nobody asked for in that time gives its place to another one."""
Change = tuple[str, Runner | None]
"""A model's name and what serves it from then on; None: nothing."""


class Loader:
    """What of the catalogue this process has loaded: one checkpoint for each experiment, and some older ones."""

    def __init__(self, *, experiment: str | None, num_slots: int, device: str, max_extra_models: int) -> None:
        self._experiment = experiment
        self._num_slots = num_slots
        self._device = device
        self._max_extra_models = max_extra_models
        self._loaded: dict[str, str] = {}
        self._extras: list[str] = []
        self._runners: WeakValueDictionary[str, Runner] = WeakValueDictionary()
        self._retry_at: dict[str, float] = {}
        self._problems: dict[str, Problem] = {}

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(self._problems.copy().values())

    def poll(
        self, *, wanted: Sequence[str] = (), is_idle: Callable[[str], bool] = lambda name: True
    ) -> Iterator[Change]:
        """What changes, each as it does: experiments that are displaced, new checkpoints, and `wanted` older ones.

        Of the latter, the last asked for comes first, and one leaves only where `is_idle` says that nobody reads from
        it. A database that is away, or a checkpoint that cannot be loaded, is logged and stays among the problems; what
        is served stays.
        """
        close_old_connections()
        try:
            newest = self._newest()
            yield from self._leave_all_but(name for name, _ in newest)
            yield from self._load_all(newest)
            yield from self._load_extras(wanted, is_idle)
        except OperationalError as error:
            if "database" not in self._problems:
                self.note("database", f"It is away, so that no new checkpoint can be seen: {error}")
            return
        finally:
            close_old_connections()
        for subject in ("database", "loader"):
            self._problems.pop(subject, None)

    def note(self, subject: str, message: str) -> None:
        """Log the error that is being handled, and keep it among the problems."""
        logger.exception("%s: %s", subject, message)
        self._problems[subject] = Problem(subject=subject, message=message, at=time.time())

    def _newest(self) -> list[tuple[str, Checkpoint]]:
        served = catalogue.served()
        if self._experiment is not None:
            served = served.filter(experiment__slug=self._experiment)
        return [(checkpoint.experiment.slug, checkpoint) for checkpoint in served[:MAX_MODELS]]

    def _leave_all_but(self, names: Iterable[str]) -> Iterator[Change]:
        """An experiment that newer ones have displaced is left to other engines, and not served from an old round."""
        for name in self._loaded.keys() - set(names) - set(self._extras):
            del self._loaded[name]
            self._problems.pop(name, None)
            yield name, None

    def _load_all(self, models: Iterable[tuple[str, Checkpoint]]) -> Iterator[Change]:
        for name, checkpoint in models:
            is_due = self._retry_at.get(checkpoint.blob_id, 0.0) <= time.monotonic()
            if self._loaded.get(name) == checkpoint.blob_id or not is_due:
                continue
            runner = self._try_load(name, checkpoint)
            if runner is not None:
                self._loaded[name] = checkpoint.blob_id
                yield name, runner

    def _load_extras(self, wanted: Sequence[str], is_idle: Callable[[str], bool]) -> list[Change]:
        """Load one, or take one away: the place of the latter is used by the next poll, once its memory is free."""
        wanted = [name for name in wanted if self._may_serve(name)][: self._max_extra_models]
        for name in [name for name in self._problems if catalogue.is_pinned(name) and name not in wanted]:
            del self._problems[name]
        for name in wanted:
            if name in self._extras:
                continue
            if len(self._extras) >= self._max_extra_models:
                return self._retire(wanted, is_idle)
            changes = self._load_extra(name)
            if changes:
                return changes
        return []

    def _may_serve(self, name: str) -> bool:
        return self._experiment is None or name.partition("@")[0] == self._experiment

    def _load_extra(self, name: str) -> list[Change]:
        try:
            checkpoint = catalogue.find(name)
        except (catalogue.ModelNotFound, catalogue.ModelNotReady):
            return []
        changes = list(self._load_all([(name, checkpoint)]))
        self._extras += [changed for changed, _ in changes]
        return changes

    def _retire(self, wanted: Sequence[str], is_idle: Callable[[str], bool]) -> list[Change]:
        for name in self._extras:
            if name not in wanted and is_idle(name):
                self._extras.remove(name)
                del self._loaded[name]
                return [(name, None)]
        return []

    def _try_load(self, name: str, checkpoint: Checkpoint) -> Runner | None:
        try:
            runner = self._runners.get(checkpoint.blob_id) or self._load(checkpoint)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one checkpoint, the others are served
            self._retry_at[checkpoint.blob_id] = time.monotonic() + RETRY_SECONDS
            metrics.LOAD_FAILURES.labels(str(checkpoint)).inc()
            self.note(name, f"{checkpoint} cannot be served: {error}")
            return None
        self._runners[checkpoint.blob_id] = runner
        self._problems.pop(name, None)
        return runner

    def _load(self, checkpoint: Checkpoint) -> Runner:
        with blobs.verified_path(checkpoint.blob) as path:
            model = prepare(load_model(path).to(self._device))
        return Runner(model, checkpoint_id=checkpoint.pk, sha256=checkpoint.blob_id, num_slots=self._num_slots)
