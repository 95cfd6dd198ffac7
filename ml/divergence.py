"""What to say of a step whose loss or gradient was no number any more."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ml.bad_input import BadInput
from ml.config import TrainConfig
from ml.model import GPT

EXCERPT_CHARACTERS = 60
MAX_NAMED_ROWS = 5


class Diverged(BadInput):
    """A training that stopped at a step whose numbers are not finite; names the step, its batch and what to try."""

    page: ClassVar[str] = "nan"


def describe(
    *,
    step: int,
    config: TrainConfig,
    precision: str,
    model: GPT,
    batch: NDArray[np.int64],
    places: NDArray[np.int64],
    tokenizer: Tokenizer,
    shard: Path,
) -> Diverged:
    """The error for `step`, the steps done before it.

    Shapes: batch (B, T + 1); places (B,), where each row begins in the shard.
    """
    rows = find_rows(model, batch)
    first = rows[0] if rows else 0
    excerpt = tokenizer.decode(batch[first].tolist(), skip_special_tokens=False)[:EXCERPT_CHARACTERS]
    named = ", ".join(str(row) for row in rows[:MAX_NAMED_ROWS]) + (" and more" if len(rows) > MAX_NAMED_ROWS else "")
    blame = f"the loss of row {named} of {len(batch)}" if rows else f"a gradient of the {len(batch)} rows"
    return Diverged(
        f"Training stopped at step {step + 1}: {blame} is no finite number any more; row {first}, from "
        f"token {places[first]} of {shard} on, is {json.dumps(excerpt, ensure_ascii=False)}; the checkpoint before "
        f"it is whole, and to get further train anew with {_advice(config, precision)}."
    )


def find_rows(model: GPT, batch: NDArray[np.int64]) -> list[int]:
    """The rows whose loss alone is not finite, with the weights as they are."""
    model.eval()
    found = []
    with torch.inference_mode():
        for row, tokens in enumerate(torch.from_numpy(batch).to(model.device)):
            if not torch.isfinite(model.loss(tokens[None, :-1], tokens[None, 1:])):
                found.append(row)
    return found


def _advice(config: TrainConfig, precision: str) -> str:
    inner = config.optimizer
    tries = [
        f"--set optimizer.learning_rate={inner.learning_rate / 3:.2g}",
        f"--set optimizer.warmup_steps={max(100, 2 * inner.warmup_steps)}",
    ]
    if precision != "fp32":
        tries.append("--set precision=fp32")
    return ", ".join(tries[:-1]) + f" or {tries[-1]}"
