"""A base and deltas of it on disk, for the measurements of merging."""

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml.codec import DeltaLabel, encode, open_delta
from ml.config import PRESETS
from ml.delta_file import measure_norm
from ml.layout import model_layout, parameter_shapes
from ml.merging import WeightedDelta
from ml.tensor_file import TensorFileWriter

MODEL = PRESETS["m4"]
SHAPES = parameter_shapes(MODEL)
MODEL_BYTES = 4 * MODEL.num_parameters

NUM_CONTENTS = 16
"""Deltas of different content; those beyond are copies, each a file of its own with its own place in memory."""

TOKENS = 100

BASE_SHA256 = "0" * 64
"""By which deltas and steps name the base: nothing looks at it."""


def make_base(path: Path) -> None:
    """A checkpoint of normal values."""
    with path.open("wb") as file:
        writer = TensorFileWriter(file, metadata={}, entries=model_layout(SHAPES))
        writer.append(_series(0)[: MODEL.num_parameters] * np.float32(0.02))
        writer.finish()


def make_deltas(folder: Path, codec: str, num_deltas: int) -> list[WeightedDelta]:
    """Deltas of normal values, each another window of one random series, written through to the disk."""
    series_N = _series(1)
    deltas: list[WeightedDelta] = []
    for index in range(num_deltas):
        path = folder / f"delta-{index}"
        if index < NUM_CONTENTS:
            values_N = series_N[index : index + MODEL.num_parameters] * np.float32(1e-3)
            sha256 = encode(_split(values_N), label=_label(codec, index), tokens=TOKENS, path=path)
            norm = measure_norm(open_delta(path, shapes=SHAPES))
        else:
            original = deltas[index % NUM_CONTENTS]
            shutil.copyfile(original.path, path)
            sha256, norm = original.sha256, original.norm
        deltas.append(
            WeightedDelta(
                path=path,
                attempt_id=index,
                sender=index,
                sha256=sha256,
                tokens=TOKENS,
                weight=1.0 + index % 7,
                norm=norm,
            )
        )
    # What still has to be written would take its time from the measurement.
    os.sync()
    return deltas


def _series(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(MODEL.num_parameters + NUM_CONTENTS, dtype=np.float32)


def _label(codec: str, attempt_id: int) -> DeltaLabel:
    return DeltaLabel(
        experiment="benchmark", round_number=1, base_sha256=BASE_SHA256, codec=codec, attempt_id=attempt_id
    )


def _split(values_N: npt.NDArray[np.float32]) -> Mapping[str, npt.NDArray[np.float32]]:
    tensors, start = {}, 0
    for name, shape in SHAPES.items():
        stop = start + math.prod(shape)
        tensors[name] = values_N[start:stop].reshape(shape)
        start = stop
    return tensors
