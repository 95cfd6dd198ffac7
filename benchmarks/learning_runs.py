"""Training runs that are compared: the same tokens, batches and validation windows for each, and what came of them."""

import dataclasses
import hashlib
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.learning_contenders import Contender, Entry
from ml import corpus, data, tokenizer
from ml.config import InnerConfig, ModelConfig
from ml.files import replacing, sha256_file
from ml.trainer import TrainingDiverged, learning_rate_at

VALIDATION_SHARE = 0.02
VALIDATION_TOKENS = 32_768
VALIDATION_ROWS = 8
NUM_EVALUATIONS = 6
BATCH_SEED = 0
"""Of the batches, whatever the seed of the weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A corpus in tokens."""

    training: data.Tokens
    validation: data.Tokens
    sha256: str
    """Of the training tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What all runs have in common."""

    model: ModelConfig
    num_tokens: int
    """Trained on, in whole batches."""
    batch_tokens: int
    warmup_share: float
    """Of the steps."""
    precision: str

    @property
    def num_steps(self) -> int:
        return -(-self.num_tokens // self.batch_tokens)

    def inner(self, entry: Entry, learning_rate: float) -> InnerConfig:
        return InnerConfig(
            optimizer=entry.optimizer,
            schedule=entry.schedule,
            learning_rate=learning_rate,
            batch_tokens=self.batch_tokens,
            warmup_steps=math.ceil(self.warmup_share * self.num_steps),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What one run came to."""

    name: str
    learning_rate: float
    seed: int
    num_parameters: int
    curve: list[tuple[int, float]]
    """Validation loss in nats per token after so many tokens; infinite last where the run diverged."""
    seconds: float

    @property
    def loss(self) -> float:
        return self.curve[-1][1]

    @classmethod
    def read(cls, path: Path) -> Self:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return cls(**values["outcome"] | {"curve": [(tokens, loss) for tokens, loss in values["outcome"]["curve"]]})


def read_text(folder: Path, *, vocab_size: int, cache: Path) -> Text:
    """The folder's documents in tokens, made once for each folder and vocabulary: delete `cache` to read it anew.

    Raises: CorpusInvalid.
    """
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    home = cache / f"tokens-{place}-{vocab_size}"
    training, validation = home / "train.bin", home / "val.bin"
    if not training.exists():
        texts, held_out = data.split_documents(corpus.read_documents(folder), validation_share=VALIDATION_SHARE)
        bpe = tokenizer.train(texts, vocab_size=vocab_size)
        home.mkdir(parents=True, exist_ok=True)
        data.write_shard(data.encode_documents(held_out, tokenizer=bpe), validation)
        # Last, since its presence says that both are there.
        data.write_shard(data.encode_documents(texts, tokenizer=bpe), training)
    dtype = data.dtype_for(vocab_size)
    return Text(
        training=data.open_shard(training, dtype),
        validation=data.open_shard(validation, dtype),
        sha256=sha256_file(training),
    )


def run_once(entry: Entry, *, learning_rate: float, seed: int, setup: Setup, text: Text, cache: Path) -> Outcome:
    """One contender's training from start to end, or what it came to when it was run before."""
    inner = setup.inner(entry, learning_rate)
    means = {
        "name": entry.name,
        "setup": dataclasses.asdict(setup),
        "inner": inner.to_dict(),
        "seed": seed,
        "text": text.sha256,
        "validation": [VALIDATION_TOKENS, NUM_EVALUATIONS],
    }
    key = hashlib.sha256(json.dumps(means, sort_keys=True).encode()).hexdigest()[:12]
    path = cache / f"{entry.name}-{learning_rate:g}-{seed}-{key}.json"
    if not path.exists():
        start = time.perf_counter()
        contender = entry.start(model=setup.model, inner=inner, precision=setup.precision, seed=seed)
        outcome = Outcome(
            name=entry.name,
            learning_rate=learning_rate,
            seed=seed,
            num_parameters=contender.num_parameters,
            curve=train(contender, inner=inner, setup=setup, text=text),
            seconds=time.perf_counter() - start,
        )
        with replacing(path) as partial:
            partial.write_text(json.dumps({"means": means, "outcome": dataclasses.asdict(outcome)}, indent=1), "utf-8")
    outcome = Outcome.read(path)
    print(f"{entry.name}, learning rate {learning_rate:g}, seed {seed}: {outcome.loss:.4f}", file=sys.stderr)
    return outcome


def train(contender: Contender, *, inner: InnerConfig, setup: Setup, text: Text) -> list[tuple[int, float]]:
    """Validation losses at evenly spaced counts of tokens, the last at the end."""
    block_size = setup.model.block_size
    marks = {setup.num_steps * (mark + 1) // NUM_EVALUATIONS for mark in range(NUM_EVALUATIONS)}
    curve: list[tuple[int, float]] = []
    for step in range(setup.num_steps):
        batch = data.sample_batch(
            text.training,
            seed=BATCH_SEED,
            step=step,
            num_rows=setup.batch_tokens // block_size,
            block_size=block_size,
        )
        rate = learning_rate_at(step, inner=inner, num_steps=setup.num_steps, progress_start=0.0, progress_end=1.0)
        num_tokens = (step + 1) * setup.batch_tokens
        try:
            contender.step(batch, learning_rate=rate)
        except TrainingDiverged:
            return [*curve, (num_tokens, math.inf)]
        if step + 1 in marks:
            curve.append((num_tokens, validation_loss(contender, text.validation, block_size=block_size)))
    return curve


@torch.inference_mode()
def validation_loss(contender: Contender, tokens: data.Tokens, *, block_size: int) -> float:
    """Mean cross-entropy in nats per token, in float32, over windows that lie evenly over the tokens."""
    num_fitting = (len(tokens) - 1) // block_size
    num_windows = min(num_fitting, VALIDATION_TOKENS // block_size)
    starts = np.arange(num_windows) * num_fitting // num_windows * block_size
    windows = torch.from_numpy(tokens[starts[:, None] + np.arange(block_size + 1)].astype(np.int64))
    total = 0.0
    for rows_BT in torch.split(windows, VALIDATION_ROWS):
        logits_BTV = contender.logits(rows_BT[:, :-1])
        total += F.cross_entropy(logits_BTV.flatten(0, 1), rows_BT[:, 1:].flatten(), reduction="sum").item()
    return total / (num_windows * block_size)
