"""Small models, their checkpoints and their deltas as files."""

import hashlib
from pathlib import Path

import numpy as np

from ml.codec import DeltaLabel, Floats, encode, open_delta
from ml.config import ModelConfig
from ml.delta_file import measure_norm
from ml.layout import model_layout, parameter_shapes
from ml.tensor_file import TensorFileWriter
from ml.weighing import WeightedDelta

# 128 x 48 values are a block and a half: the embedding has a full block and a partial one.
MODEL = ModelConfig(vocab_size=128, block_size=16, n_layer=2, n_head=4, n_kv_head=2, n_embd=48)
SHAPES = parameter_shapes(MODEL)
BASE_SHA256 = hashlib.sha256(b"base").hexdigest()


def make_tensors(*, seed: int = 0, scale: float = 1e-3) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) * np.float32(scale) for name, shape in SHAPES.items()}


def make_label(*, codec: str = "int8", attempt_id: int = 7) -> DeltaLabel:
    return DeltaLabel(experiment="sample", round_number=3, base_sha256=BASE_SHA256, codec=codec, attempt_id=attempt_id)


def make_weights_file(path: Path, tensors: dict[str, Floats], *, metadata: dict[str, str] | None = None) -> Path:
    entries = model_layout({name: values.shape for name, values in tensors.items()})
    with path.open("wb") as file:
        writer = TensorFileWriter(file, metadata=metadata or {"model": "small"}, entries=entries)
        for name in entries:
            writer.append(tensors[name])
        writer.finish()
    return path


def make_delta(
    folder: Path,
    *,
    tensors: dict[str, Floats] | None = None,
    seed: int = 0,
    codec: str = "int8",
    weight: float = 1.0,
    scale: float = 1e-3,
    num_tokens: int = 100,
    sender: int | None = None,
) -> WeightedDelta:
    tensors = tensors or make_tensors(seed=seed, scale=scale)
    path = folder / f"delta-{codec}-{seed}"
    sha256 = encode(tensors, label=make_label(codec=codec, attempt_id=seed), tokens=num_tokens, path=path)
    norm = measure_norm(open_delta(path, shapes={name: values.shape for name, values in tensors.items()}))
    return WeightedDelta(
        path=path,
        attempt_id=seed,
        sender=seed if sender is None else sender,
        sha256=sha256,
        tokens=num_tokens,
        weight=weight,
        norm=norm,
    )
