"""Watches for newly published checkpoints and loads them beside the ones that are being served."""

import logging
import time

from django.db import OperationalError, close_old_connections

from inference import catalogue
from inference.runner import Runner
from ml.checkpoint import CheckpointInvalid, load_model
from ml.files import sha256_file
from ml.packed import pack
from training import blobs
from training.blobs import BlobCorrupt
from training.models import Checkpoint

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
RETRY_SECONDS = 60.0
"""A checkpoint that could not be loaded is not read again before that."""
MAX_MODELS = 4
"""The newest started experiments, where the engine is not kept to one."""


class Loader:
    """What of the catalogue this process has loaded."""

    def __init__(self, *, experiment: str | None, num_slots: int, device: str) -> None:
        self._experiment = experiment
        self._num_slots = num_slots
        self._device = device
        self._loaded: dict[str, str] = {}
        self._retry_at: dict[str, float] = {}

    def poll(self) -> list[tuple[str, Runner]]:
        """Runners for the checkpoints published since the last poll, by model.

        A database that is away, or a file that is damaged, is logged; what is served stays.
        """
        close_old_connections()
        try:
            wanted = list(self._wanted())
        except OperationalError as error:
            logger.warning("the database is away, no new checkpoint can be seen: %s", error)
            return []
        finally:
            close_old_connections()
        runners = []
        for checkpoint in wanted:
            runner = self._try_load(checkpoint)
            if runner is not None:
                self._loaded[checkpoint.experiment.slug] = checkpoint.blob_id
                runners.append((checkpoint.experiment.slug, runner))
        return runners

    def _wanted(self) -> list[Checkpoint]:
        served = catalogue.served()
        if self._experiment is not None:
            served = served.filter(experiment__slug=self._experiment)
        return [
            checkpoint
            for checkpoint in served[:MAX_MODELS]
            if self._loaded.get(checkpoint.experiment.slug) != checkpoint.blob_id
            and self._retry_at.get(checkpoint.blob_id, 0.0) <= time.monotonic()
        ]

    def _try_load(self, checkpoint: Checkpoint) -> Runner | None:
        try:
            return self._load(checkpoint)
        except (BlobCorrupt, CheckpointInvalid, OSError) as error:
            self._retry_at[checkpoint.blob_id] = time.monotonic() + RETRY_SECONDS
            logger.error("%s cannot be served: %s", checkpoint, error)  # noqa: TRY400 - the message is the cause
            return None

    def _load(self, checkpoint: Checkpoint) -> Runner:
        with blobs.local_path(checkpoint.blob) as path:
            if sha256_file(path) != checkpoint.blob_id:
                raise BlobCorrupt(f"{path} has other bytes than its name says: restore it from a copy")
            model = pack(load_model(path).to(self._device))
        return Runner(model, checkpoint_id=checkpoint.pk, sha256=checkpoint.blob_id, num_slots=self._num_slots)
