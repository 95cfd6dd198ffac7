"""How well a model predicts text that it was not trained on."""

import numpy as np
import torch

from ml.bad_input import CorpusInvalid
from ml.data import Tokens
from ml.model import GPT

BATCH_TOKENS = 2_048
"""Tokens evaluated at a time; bounds the memory of the logits."""


def validation_loss(model: GPT, shard: Tokens, *, block_size: int, max_tokens: int) -> float:
    """Mean cross-entropy in nats per token, over the same windows every time.

    The windows do not overlap and lie evenly over the shard; a shard that is shorter than one is a window of its own.
    Raises: CorpusInvalid where the shard has no token to predict.
    """
    if len(shard) < 2:
        raise CorpusInvalid("The validation text has no token to predict: add documents.")
    width = min(block_size, len(shard) - 1)
    starts = _window_starts(num_tokens=len(shard), width=width, max_tokens=max_tokens)
    num_rows = max(1, BATCH_TOKENS // width)
    was_training = model.training
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for first in range(0, len(starts), num_rows):
            chosen = starts[first : first + num_rows]
            windows = shard[chosen[:, None] + np.arange(width + 1)].astype(np.int64)
            batch = torch.from_numpy(windows).to(model.device)
            total += model.loss(batch[:, :-1], batch[:, 1:]).item() * len(chosen)
    model.train(was_training)
    return total / len(starts)


def _window_starts(*, num_tokens: int, width: int, max_tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    num_fitting = (num_tokens - 1) // width
    num_windows = min(num_fitting, max(1, max_tokens // width))
    return np.arange(num_windows) * num_fitting // num_windows * width
