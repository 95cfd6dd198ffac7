"""Merged rounds of a tiny experiment, as a coordinator keeps and announces them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ml import manifest as manifests
from ml.checkpoint import save_model
from ml.codec import DeltaLabel, encode, open_delta
from ml.config import ModelConfig, OuterConfig
from ml.delta_file import measure_norm
from ml.files import sha256_file
from ml.layout import parameter_shapes
from ml.merging import WeightedDelta, merge
from ml.model import initial_model
from ml.protocol import BlobRef, StepRef
from tests.fai.coordinator import Coordinator
from tests.fai.make import MODEL, make_experiment


@dataclass(kw_only=True)
class Round:
    """One merge, whose files the coordinator has."""

    number: int
    base: BlobRef
    result: BlobRef
    step: StepRef | None
    deltas: list[WeightedDelta]
    manifest_sha256: str

    def announced(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "state": "closed",
            "base_sha256": self.base.sha256,
            "result_sha256": self.result.sha256,
            "step_sha256": self.step.sha256 if self.step else None,
            "manifest_sha256": self.manifest_sha256,
        }


def make_rounds(
    coordinator: Coordinator,
    folder: Path,
    *,
    num_rounds: int = 3,
    num_deltas: int = 3,
    codec: str = "int8",
    model: ModelConfig = MODEL,
    outer: OuterConfig | None = None,
) -> list[Round]:
    """Merge so many rounds, one from the other."""
    folder.mkdir(parents=True, exist_ok=True)
    outer = outer or OuterConfig()
    base_path, state_path = folder / "base", None
    save_model(initial_model(model, 0), base_path)
    rounds = []
    for number in range(1, num_rounds + 1):
        base_sha256 = sha256_file(base_path)
        deltas = [
            _delta(folder, model, codec=codec, round_number=number, base_sha256=base_sha256, attempt_id=10 * number + i)
            for i in range(num_deltas)
        ]
        written = {name: folder / f"{name}-{number}" for name in ("result", "state", "step", "manifest")}
        merged = merge(
            base_path=base_path,
            base_sha256=base_sha256,
            deltas=deltas,
            outer=outer,
            progress=(number - 1) / num_rounds,
            outer_state_path=state_path,
            result_path=written["result"],
            result_state_path=written["state"],
            step_path=written["step"],
        )
        manifest = manifests.describe(
            experiment="tiny",
            round_number=number,
            base_sha256=base_sha256,
            outer_state_sha256=sha256_file(state_path) if state_path else None,
            outer=outer,
            progress=(number - 1) / num_rounds,
            deltas=deltas,
            result=merged,
        )
        manifests.write(manifest, written["manifest"])
        result, base = _put(coordinator, written["result"]), _put(coordinator, base_path)
        step = None
        if merged.step_sha256:
            blob = _put(coordinator, written["step"])
            step = StepRef(
                base_sha256=base.sha256, result_sha256=result.sha256, sha256=blob.sha256, size_bytes=blob.size_bytes
            )
        for path in (written["state"], *(delta.path for delta in deltas)):
            _put(coordinator, path)
        rounds.append(
            Round(
                number=number,
                base=base,
                result=result,
                step=step,
                deltas=deltas,
                manifest_sha256=_put(coordinator, written["manifest"]).sha256,
            )
        )
        base_path, state_path = written["result"], written["state"]
    coordinator.experiments["tiny"] = make_experiment()
    announce(coordinator, rounds)
    return rounds


def announce(coordinator: Coordinator, rounds: list[Round]) -> None:
    """Newest first, and one that is not merged yet."""
    latest = rounds[-1]
    open_round = {
        "number": latest.number + 1,
        "state": "open",
        "base_sha256": latest.result.sha256,
        "result_sha256": None,
        "step_sha256": None,
        "manifest_sha256": None,
    }
    coordinator.pages["experiments/tiny/rounds"] = [open_round, *(one.announced() for one in reversed(rounds))]


def _delta(
    folder: Path, model: ModelConfig, *, codec: str, round_number: int, base_sha256: str, attempt_id: int
) -> WeightedDelta:
    rng = np.random.default_rng(attempt_id)
    shapes = parameter_shapes(model)
    values = {name: np.float32(1e-2) * rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    label = DeltaLabel(
        experiment="tiny", round_number=round_number, base_sha256=base_sha256, codec=codec, attempt_id=attempt_id
    )
    path = folder / f"delta-{attempt_id}"
    sha256 = encode(values, label=label, tokens=640, path=path)
    norm = measure_norm(open_delta(path, shapes=shapes))
    return WeightedDelta(
        path=path, attempt_id=attempt_id, sender=attempt_id % 10, sha256=sha256, tokens=640, weight=640.0, norm=norm
    )


def _put(coordinator: Coordinator, path: Path) -> BlobRef:
    content = path.read_bytes()
    return BlobRef(sha256=coordinator.put_blob(content), size_bytes=len(content))
