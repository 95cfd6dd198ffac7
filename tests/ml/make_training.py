"""A small dataset, and trainings on it that take a moment."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ml.config_file import Choices
from ml.data import write_shard
from ml.files import sha256_file
from tests.ml.make import make_tokenizer, make_tokens

SETTINGS: dict[str, Any] = {
    "model.block_size": 16,
    "model.n_layer": 2,
    "model.n_head": 4,
    "model.n_kv_head": 2,
    "model.n_embd": 32,
    "model.dropout": 0.1,
    "optimizer.batch_tokens": 64,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 2,
    "precision": "fp32",
    "micro_batch": 2,
    "max_steps": 12,
    "evaluate_every_steps": 4,
    "save_every_steps": 5,
}


def make_choices(**changes: Any) -> Choices:
    """SETTINGS with other top-level values."""
    return Choices(settings=SETTINGS | changes)


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


def make_dataset(folder: Path, *, num_tokens: int = 2_000, seed: int = 0) -> Path:
    """What `fai dataset` would write, of tokens in which something can be learned."""
    folder.mkdir(parents=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    parts = {}
    for part, size in {"train": num_tokens, "val": 200}.items():
        path = folder / f"{part}.bin"
        write_shard(make_tokens(size, seed=seed + len(part)).astype(np.uint16), path)
        parts[part] = {"file": path.name, "tokens": size, "documents": 1, "bytes": size, "sha256": sha256_file(path)}
    group = {"site": "s", "language": "en", "start": 0, "stop": 200, "bytes": 200, "documents": 1}
    record = {
        "format": 1,
        "dtype": "uint16",
        "vocab_size": 300,
        "tokenizer_sha256": sha256_file(folder / "tokenizer.json"),
        "train": parts["train"],
        "val": parts["val"] | {"groups": [group]},
    }
    (folder / "dataset.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
