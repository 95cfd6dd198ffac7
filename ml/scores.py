"""How well a model predicts the validation documents of a dataset: per group, per language, per site and in all.

Every token of a group, the END_OF_TEXT of each document included, is predicted exactly once. A group is read with
END_OF_TEXT before it, in windows of block_size tokens that do not overlap, the last one shorter: a token is predicted
from those before it in its window, block_size / 2 of them on average, which may reach into the document before as they
do in training.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ml.data import Tokens
from ml.dataset import Group
from ml.evaluation import BATCH_TOKENS
from ml.model import GPT


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """What a model made of some text; scores of different texts add up."""

    documents: int = 0
    bytes: int = 0
    """UTF-8 of the text; END_OF_TEXT has none."""
    tokens: int = 0
    correct: int = 0
    """Tokens that the model held for the likeliest."""
    nats: float = 0.0
    """Negative log-likelihood of all tokens together."""

    def __add__(self, other: "Score") -> "Score":
        return Score(
            documents=self.documents + other.documents,
            bytes=self.bytes + other.bytes,
            tokens=self.tokens + other.tokens,
            correct=self.correct + other.correct,
            nats=self.nats + other.nats,
        )

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Infinite where it is more than a float holds."""
        return math.exp(self.loss) if self.loss < math.log(np.finfo(np.float64).max) else math.inf

    @property
    def bits_per_byte(self) -> float:
        """What the text would be compressed to: comparable between tokenizers. Infinite where there is none."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.inf

    @property
    def accuracy(self) -> float:
        return self.correct / self.tokens

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity: None stands for it."""
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "loss": _finite(self.loss),
            "perplexity": _finite(self.perplexity),
            "bits_per_byte": _finite(self.bits_per_byte),
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The score of every group of a dataset."""

    groups: list[tuple[Group, Score]]

    @property
    def total(self) -> Score:
        return _sum(score for _, score in self.groups)

    @property
    def languages(self) -> dict[str, Score]:
        return self._by(lambda group: group.language)

    @property
    def sites(self) -> dict[str, Score]:
        return self._by(lambda group: group.site)

    def to_dict(self) -> dict[str, Any]:
        return {
            "total": self.total.to_dict(),
            "languages": {name: score.to_dict() for name, score in self.languages.items()},
            "sites": {name: score.to_dict() for name, score in self.sites.items()},
            "groups": [
                {"site": group.site, "language": group.language} | score.to_dict() for group, score in self.groups
            ],
        }

    def _by(self, name_of: Callable[[Group], str]) -> dict[str, Score]:
        names = sorted({name_of(group) for group, _ in self.groups})
        return {name: _sum(score for group, score in self.groups if name_of(group) == name) for name in names}


def evaluate(
    model: GPT,
    tokens: Tokens,
    groups: Sequence[Group],
    *,
    end_of_text: int,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> Evaluation:
    """The model's score in every group of the validation tokens; `on_progress` hears of each piece's tokens."""
    was_training = model.training
    model.eval()
    scored = []
    for group in groups:
        if group.stop == group.start:
            continue
        total = Score(documents=group.documents, bytes=group.bytes)
        for score in _score_windows(model, tokens[group.start : group.stop], end_of_text=end_of_text):
            total += score
            on_progress(score.tokens)
        scored.append((group, total))
    model.train(was_training)
    return Evaluation(groups=scored)


def _score_windows(model: GPT, tokens: Tokens, *, end_of_text: int) -> Iterator[Score]:
    text = np.concatenate([[end_of_text], tokens]).astype(np.int64)
    width = model.config.block_size
    num_whole = len(tokens) // width
    rows = max(1, BATCH_TOKENS // width)
    for first in range(0, num_whole, rows):
        starts = np.arange(first, min(first + rows, num_whole)) * width
        yield _score(model, text[starts[:, None] + np.arange(width + 1)])
    if len(tokens) % width:
        yield _score(model, text[None, num_whole * width :])


@torch.inference_mode()
def _score(model: GPT, windows: NDArray[np.int64]) -> Score:
    """Shapes: windows (B, T + 1)."""
    batch = torch.from_numpy(windows).to(model.device)
    targets_N = batch[:, 1:].flatten()
    logits_NV = model(batch[:, :-1]).flatten(0, 1).float()
    nats: Tensor = F.cross_entropy(logits_NV, targets_N, reduction="none")
    return Score(
        tokens=len(targets_N),
        correct=int((logits_NV.argmax(dim=-1) == targets_N).sum().item()),
        nats=math.fsum(nats.tolist()),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _sum(scores: Iterable[Score]) -> Score:
    return sum(scores, Score())
