"""What this device keeps of each experiment from one job to the next, and what becomes of it as verdicts come."""

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from fai.cache import require_space
from fai.screen import Screen
from fai.stop import Stop
from ml import codec
from ml.carryover import Carryover, Unsettled
from ml.codec import DeltaLabel
from ml.files import remove_partials
from ml.protocol import SLUG, JobSpec, Reason, Receipt

UNUSED_SECONDS = 14 * 86_400
"""After so long without a job of an experiment, what is kept of it goes."""
COUNTED_STATES = ("accepted", "merged")
RUNAWAY_REASONS = (Reason.NOT_FINITE, Reason.NORM_OUT_OF_BOUNDS)
"""Such a delta, put back, would only come again, and larger."""


class Carryovers:
    """One folder for each experiment. Safe to use from any thread; a disk that is full costs what is kept, no job."""

    def __init__(self, folder: Path, *, screen: Screen) -> None:
        self._folder = folder
        self._screen = screen
        self._lock = threading.Lock()
        with self._telling():
            for one in self._all():
                remove_partials(one.folder)
            self._drop_unused()

    def moments(self, spec: JobSpec) -> dict[str, Tensor] | None:
        """The inner optimizer's after this device's last job of the experiment; None where it has to begin anew.

        Raises: ValueError where the experiment's name is none.
        """
        carryover = self._open(spec)
        with self._lock, self._telling():
            if carryover.folder.is_dir():
                os.utime(carryover.folder)
            self._drop_unused()
            return carryover.moments(round_number=spec.round_number)
        return None

    def keep_moments(self, spec: JobSpec, moments: Mapping[str, Tensor]) -> None:
        size_bytes = sum(tensor.nbytes for tensor in moments.values())
        with self._lock, self._telling():
            self._require_space(size_bytes)
            self._open(spec).keep_moments(moments, round_number=spec.round_number)

    def encode(self, spec: JobSpec, delta: Mapping[str, Tensor], *, label: DeltaLabel, tokens: int, path: Path) -> str:
        """Write the delta, and what waited to be sent where its account can be kept, to `path`; the file's SHA-256.

        Raises: ml.codec.DeltaNotFinite; OSError where `path` cannot be written.
        """
        carryover = self._open(spec)
        if carryover.error_decay:
            with self._lock, self._telling():
                self._require_space(sum(tensor.nbytes for tensor in delta.values()) + spec.max_delta_bytes)
                return carryover.encode(delta, label=label, tokens=tokens, path=path)
        return codec.encode(delta, label=label, tokens=tokens, path=path)

    def drop(self, spec: JobSpec) -> None:
        """Begin the next job of the experiment anew."""
        with self._lock, self._telling():
            self._open(spec).drop()

    def make_room(self) -> bool:
        """Drop all that is kept, of every experiment, for the sake of a job; whether there was anything."""
        with self._lock:
            folders = [one.folder for one in self._all()]
            for folder in folders:
                shutil.rmtree(folder, ignore_errors=True)
        if folders:
            self._tell(os.strerror(errno.ENOSPC))
        return bool(folders)

    def unsettled(self) -> list[int]:
        """Attempts whose deltas are taken for arrived, and of which no verdict has come."""
        with self._lock:
            return sorted(attempt_id for one in self._all() for attempt_id in one.unsettled())

    def settle(self, attempt_id: int, receipt: Receipt | None) -> None:
        """Take note of how an attempt has ended; None: its coordinator knows no such attempt."""
        with self._lock, self._telling():
            for one in self._all():
                if attempt_id in one.unsettled():
                    self._settle(one, attempt_id, receipt)

    def _settle(self, one: Unsettled, attempt_id: int, receipt: Receipt | None) -> None:
        if receipt is not None and receipt.state in COUNTED_STATES:
            one.forget(attempt_id)
        elif receipt is not None and receipt.reason in RUNAWAY_REASONS:
            one.drop()
        elif one.put_back(attempt_id):
            self._screen.say("put_back", attempt_id=attempt_id)

    def _open(self, spec: JobSpec) -> Carryover:
        if not SLUG.fullmatch(spec.experiment):
            raise ValueError(f"{spec.experiment[:60]!r} is no experiment's name")
        folder = self._folder / spec.experiment
        return Carryover(folder, model=spec.model, inner=spec.inner, codec=spec.codec)

    def _all(self) -> list[Unsettled]:
        if not self._folder.is_dir():
            return []
        return [Unsettled(folder) for folder in sorted(self._folder.iterdir()) if folder.is_dir()]

    def _drop_unused(self) -> None:
        oldest = time.time() - UNUSED_SECONDS
        for one in self._all():
            if one.folder.stat().st_mtime < oldest:
                shutil.rmtree(one.folder, ignore_errors=True)

    def _require_space(self, size_bytes: int) -> None:
        """Raises: OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            require_space(self._folder, size_bytes)
        except Stop as stop:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from stop

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Go on without what the disk does not take."""
        try:
            yield
        except OSError as error:
            self._tell(error.strerror or str(error))

    def _tell(self, why: str) -> None:
        self._screen.say("not_kept", why=why)
