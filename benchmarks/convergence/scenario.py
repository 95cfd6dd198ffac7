"""A scenario: devices with speeds, links and faults, and the experiment that they train, as a TOML file says it."""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.convergence.attacks import ATTACKS
from ml.config import CODECS, ConfigInvalid, InnerConfig, ModelConfig, OuterConfig

FOLDER = Path(__file__).resolve().parent / "scenarios"
KINDS = ("rounds", "data_parallel", "clock")
BITS_PER_MEGABIT = 1_000_000


class ScenarioInvalid(ValueError):
    """A file that is no scenario; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """When the coordinator offers what, and when it merges; the names and meanings of an experiment's fields."""

    num_rounds: int
    round_tokens: int
    round_min_tokens: int
    """With so many accepted tokens a round may merge: `grace_seconds` later, or when `round_seconds` are over."""
    round_seconds: float
    job_seconds: float
    """A job is sized to last so long on its device."""
    job_tokens: int = 0
    """Above 0: every job has so many, however fast its device is."""
    grace_seconds: float = math.inf
    train_seconds: float = math.inf
    """Time box: a device stops with the first step after it, and hands in what it has."""
    staleness_percent: int = 50
    max_staleness: int = 1
    merge_seconds: float = 0.0
    """Between the last delta that a round waits for and the next round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One simulated device."""

    tokens_per_second: float
    up_mbps: float = 20.0
    down_mbps: float = 100.0
    latency_ms: float = 20.0
    """One way, for each transfer."""
    lost_share: float = 0.0
    """Of its deltas, lost at random after they were sent."""
    leave_share: float = 0.0
    """Of its jobs, ended at a random step; what is done is handed in."""
    jitter: float = 0.0
    """Standard deviation of the logarithm of a job's real speed over the measured one."""
    attack: str = ""
    """Empty: an honest device. Else one of attacks.ATTACKS."""

    def upload_seconds(self, size_bytes: int) -> float:
        return self.latency_ms / 1e3 + 8 * size_bytes / (self.up_mbps * BITS_PER_MEGABIT)

    def download_seconds(self, size_bytes: int) -> float:
        return self.latency_ms / 1e3 + 8 * size_bytes / (self.down_mbps * BITS_PER_MEGABIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What one run needs beside a corpus and a seed."""

    name: str
    """The file's, without its ending."""
    title: str
    kind: str
    """rounds; data_parallel: its baseline, a batch of all devices' in each step; clock: rounds without training."""
    model: ModelConfig
    inner: InnerConfig
    outer: OuterConfig
    codec: str
    rules: Rules
    devices: tuple[Device, ...]
    keep_moments: bool
    """Whether a device begins a job with the inner moments of its last one, as the worker does."""
    evaluate_every: int
    """Rounds between two measurements of the validation loss; the last round is always measured."""
    validation_tokens: int
    num_seeds: int

    @property
    def num_tokens(self) -> int:
        """Trained in all where nothing goes wrong."""
        return self.rules.num_rounds * self.rules.round_tokens

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read(path: Path) -> Scenario:
    """The scenario of a file. One that `extends` another takes over all that it does not say itself.

    `[[devices]]` are groups of `count` equal devices; a file that has any has all of its devices.
    Raises: ScenarioInvalid, OSError.
    """
    table = _read_table(path)
    try:
        return _build(path.stem, table)
    except (TypeError, KeyError, ConfigInvalid, ScenarioInvalid) as problem:
        raise ScenarioInvalid(f"{path.name}: {problem}") from problem


def read_all(names: list[str] | None = None) -> list[Scenario]:
    """The repository's own, all or those named, in the order of their names."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if unknown := sorted(set(names or ()) - set(known)):
        raise ScenarioInvalid(f"there is no scenario {', '.join(unknown)}; there are {', '.join(known)}")
    return [read(known[name]) for name in (names or [name for name in known if not name.startswith("_")])]


def _read_table(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as problem:
        raise ScenarioInvalid(f"{path.name}: {problem}") from problem
    if parent := table.pop("extends", None):
        return _merged(_read_table(path.parent / f"{parent}.toml"), table)
    return table


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _build(name: str, table: dict[str, Any]) -> Scenario:
    inner = InnerConfig.from_dict(table.pop("inner", {}))
    devices = tuple(device for group in table.pop("devices") for device in _group(group))
    scenario = Scenario(
        name=name,
        title=table.pop("title", name),
        kind=table.pop("kind", "rounds"),
        model=ModelConfig.from_dict(table.pop("model")),
        inner=inner,
        outer=OuterConfig.from_dict(table.pop("outer", {})),
        codec=table.pop("codec", "int8"),
        rules=Rules(**table.pop("rules")),
        devices=devices,
        keep_moments=table.pop("keep_moments", True),
        evaluate_every=table.pop("evaluate_every", 5),
        validation_tokens=table.pop("validation_tokens", 65_536),
        num_seeds=table.pop("num_seeds", 3),
    )
    _require(not table, f"unknown {', '.join(table)}")
    _check(scenario)
    return scenario


def _group(table: dict[str, Any]) -> list[Device]:
    count = table.pop("count", 1)
    return [Device(**table)] * count


def _check(scenario: Scenario) -> None:
    rules = scenario.rules
    _require(scenario.kind in KINDS, f"kind must be one of {', '.join(KINDS)}")
    _require(scenario.codec in CODECS, f"codec must be one of {', '.join(CODECS)}")
    _require(len(scenario.devices) > 0, "there is no device")
    _require(rules.num_rounds > 0, "num_rounds must be above 0")
    _require(0 < rules.round_min_tokens <= rules.round_tokens, "round_min_tokens must lie in (0, round_tokens]")
    _require(rules.round_tokens >= scenario.inner.batch_tokens, "round_tokens must pay for one batch")
    _require(0 < rules.staleness_percent <= 100, "staleness_percent must lie in (0, 100]")
    _require(scenario.evaluate_every > 0, "evaluate_every must be above 0")
    for device in scenario.devices:
        _require(min(device.tokens_per_second, device.up_mbps, device.down_mbps) > 0, "speeds must be above 0")
        _require(0 <= device.lost_share < 1 and 0 <= device.leave_share <= 1, "shares must lie in [0, 1)")
        _require(device.attack in ("", *ATTACKS), f"attack must be one of {', '.join(ATTACKS)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ScenarioInvalid(message)
