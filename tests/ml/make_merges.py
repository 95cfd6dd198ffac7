"""Merges of small models, and what came out of them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ml.codec import Floats, open_delta
from ml.config import OuterConfig
from ml.files import sha256_file
from ml.merging import MergeResult, merge
from ml.weighing import Weighing, WeightedDelta
from tests.ml.make_deltas import SHAPES, make_tensors, make_weights_file

FEDAVG = OuterConfig(learning_rate=1.0, momentum=0.0, step_codec="none", mean="senders")


def run_merge(
    folder: Path,
    deltas: Sequence[WeightedDelta],
    *,
    outer: OuterConfig = FEDAVG,
    state: Path | None = None,
    progress: float = 0.0,
    weighing: Weighing | None = None,
) -> MergeResult:
    """Merge into `result`, `state` and `step` in the folder, from the `base` there or one of seed 99."""
    base = folder / "base"
    if not base.exists():
        make_weights_file(base, make_tensors(seed=99, scale=1.0))
    return merge(
        base_path=base,
        base_sha256=sha256_file(base),
        deltas=deltas,
        outer=outer,
        progress=progress,
        outer_state_path=state,
        result_path=folder / "result",
        result_state_path=folder / "state",
        step_path=folder / "step",
        weighing=weighing,
    )


def run_two_merges(folder: Path, deltas: Sequence[WeightedDelta], *, outer: OuterConfig) -> MergeResult:
    """The second has a momentum, which some rules look at; `state-1` is what it began with."""
    run_merge(folder, deltas, outer=outer)
    state = (folder / "state").replace(folder / "state-1")
    return run_merge(folder, deltas, outer=outer, state=state)


def steps(folder: Path) -> dict[str, Floats]:
    """What the merge subtracted from the weights of seed 99, up to their rounding."""
    base, result = make_tensors(seed=99, scale=1.0), load_file(folder / "result")
    return {name: base[name] - result[name] for name in SHAPES}


def decoded(delta: WeightedDelta) -> dict[str, Floats]:
    reader = open_delta(delta.path, shapes=SHAPES)
    return {name: reader.tensor(name) for name in SHAPES}


def sent(delta: WeightedDelta) -> dict[str, Floats]:
    """1 where the delta has a value, 0 where it has none."""
    reader, masks = open_delta(delta.path, shapes=SHAPES), {}
    for name, shape in SHAPES.items():
        mask_N = np.zeros(math.prod(shape), np.float32)
        positions = reader.slice(name, 0, len(mask_N)).positions
        mask_N[slice(None) if positions is None else positions] = 1
        masks[name] = mask_N.reshape(shape)
    return masks


def flat(tensors: dict[str, Floats]) -> Floats:
    """All values in order of name."""
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


def load_state(path: Path, prefix: str = "momentum/") -> dict[str, Floats]:
    return {name.removeprefix(prefix): values for name, values in load_file(path).items() if name.startswith(prefix)}


def make_state_file(path: Path, tensors: dict[str, Floats]) -> Path:
    metadata = {"content": "outer state", "merges": "3", "trust": "[]"}
    return make_weights_file(path, {f"momentum/{name}": values for name, values in tensors.items()}, metadata=metadata)


def make_weighted(norm: float, *, weight: float = 1.0, tokens: int = 100) -> WeightedDelta:
    """A delta without a file."""
    return WeightedDelta(
        path=Path("delta"), attempt_id=1, sender=1, sha256="ab", tokens=tokens, weight=weight, norm=norm
    )
