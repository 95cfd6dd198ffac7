"""How fast this machine trains a model, measured once and kept."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fai.cache import disk_errors
from fai.stop import Stop
from ml import hardware
from ml.config import InnerConfig, ModelConfig
from ml.files import replacing
from ml.hardware import Hardware
from ml.trainer import is_out_of_memory

OBSERVED_SHARE = 0.5
"""Weight of a finished job's speed against what was known: the volunteer's own programs come and go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What was measured for one model on one machine."""

    micro_batch: int
    """Sequences at a time."""
    tokens_per_second: float


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Raises: Stop where the device runs out of memory although everything was halved that can be."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise Stop("too_small") from error


class Speeds:
    """Measured speeds in one file, by model, device, threads and torch version. An unreadable file is begun anew."""

    def __init__(self, path: Path, *, machine: Hardware) -> None:
        self._path = path
        self._machine = machine

    def find(self, model: ModelConfig, inner: InnerConfig) -> Speed | None:
        values = self._read().get(self._key(model, inner))
        return None if values is None else Speed(**values)

    def measure(self, model: ModelConfig, inner: InnerConfig) -> Speed:
        """Try batch sizes, then time some steps; seconds to minutes.

        Raises: Stop where not even one row fits into memory.
        """
        with memory_errors():
            micro_batch = hardware.find_micro_batch(model, inner, self._machine)
            tokens_per_second = hardware.measure_tokens_per_second(model, inner, self._machine, micro_batch=micro_batch)
        speed = Speed(micro_batch=micro_batch, tokens_per_second=tokens_per_second)
        self._store(model, inner, speed)
        return speed

    def observe(self, model: ModelConfig, inner: InnerConfig, observed: Speed) -> Speed:
        """Blend in the speed of a finished job, and keep the number of rows that it ended with."""
        known = self.find(model, inner) or observed
        blended = OBSERVED_SHARE * observed.tokens_per_second + (1 - OBSERVED_SHARE) * known.tokens_per_second
        speed = Speed(micro_batch=min(known.micro_batch, observed.micro_batch), tokens_per_second=blended)
        self._store(model, inner, speed)
        return speed

    def _key(self, model: ModelConfig, inner: InnerConfig) -> str:
        facts = [
            model.to_dict(),
            inner.batch_tokens,
            dataclasses.asdict(self._machine),
            torch.get_num_threads(),
            torch.__version__,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def _store(self, model: ModelConfig, inner: InnerConfig, speed: Speed) -> None:
        data = self._read() | {self._key(model, inner): dataclasses.asdict(speed)}
        with disk_errors(self._path.parent), replacing(self._path) as temporary:
            temporary.write_text(json.dumps(data, indent=2), encoding="utf-8")

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}
