"""What an engine says of itself with every heartbeat: to the web process, the dashboard and the metrics."""

import dataclasses
import json
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One model of an engine."""

    name: str
    """An experiment's slug, or slug@round."""
    checkpoint_id: int
    sha256: str
    num_running: int
    """Requests that it works on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What went wrong, and lasts: a checkpoint that cannot be loaded, an upstream that does not answer."""

    subject: str
    message: str
    at: float
    """Units: seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStatus:
    """A living engine."""

    engine_id: str
    kind: str
    """The device that it computes on, or the address of the server that it asks."""
    started_at: float
    """Units: seconds since 1970, as `beat_at`."""
    beat_at: float
    num_slots: int
    """Texts that it continues together, of each model."""
    models: tuple[ServedModel, ...] = ()
    tokens_per_second: float = 0.0
    requests_per_second: float = 0.0
    """Finished ones, over the time in which there were any."""
    problems: tuple[Problem, ...] = ()

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, data: bytes | str) -> "EngineStatus":
        values = json.loads(data)
        models = tuple(ServedModel(**model) for model in values.pop("models"))
        problems = tuple(Problem(**problem) for problem in values.pop("problems"))
        return cls(**values, models=models, problems=problems)

    @property
    def model_names(self) -> list[str]:
        return [model.name for model in self.models]
