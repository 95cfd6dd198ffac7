"""Two GPTs of equal size that learn from equal batches: ours by `fai train`'s Trainer, transformers' GPT-2 by AdamW."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from ml.config import InnerConfig, ModelConfig
from ml.model import GPT, initial_model
from ml.trainer import AUTOCAST_DTYPES, Trainer, TrainingDiverged

MICRO_BATCH = 16


class Contender(Protocol):
    """A model that is being trained."""

    @property
    def num_parameters(self) -> int: ...

    def step(self, batch: NDArray[np.int64], *, learning_rate: float) -> float:
        """Train on a batch, and return its mean loss before.

        Shapes: (B, T + 1), each row's inputs and, one further, its targets.
        Raises: TrainingDiverged.
        """

    def logits(self, tokens_BT: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A contender before its learning rate and its seed are chosen."""

    name: str
    start: Callable[..., Contender]
    """Of model, inner, precision and seed."""
    optimizer: str
    schedule: str
    learning_rate: float
    """Where the search begins."""


class Ours:
    """What `fai train` trains, by the same Trainer."""

    def __init__(self, *, model: ModelConfig, inner: InnerConfig, precision: str, seed: int) -> None:
        self._model: GPT = initial_model(model, seed)
        self._trainer = Trainer(self._model, inner=inner, precision=precision, micro_batch=MICRO_BATCH)

    @property
    def num_parameters(self) -> int:
        return count_parameters(self._model)

    def step(self, batch: NDArray[np.int64], *, learning_rate: float) -> float:
        return self._trainer.step(batch, learning_rate=learning_rate)

    def logits(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self._model(tokens_BT)
        return logits_BTV


class Rival:
    """GPT2LMHeadModel with its own initial weights and tied embeddings, and AdamW that decays matrices only.

    Source: nanoGPT's recipe for GPT-2: no dropout where no text is seen twice, betas 0.9 and 0.95, gradients of norm 1.
    """

    def __init__(self, *, model: ModelConfig, inner: InnerConfig, precision: str, seed: int) -> None:
        torch.manual_seed(seed)
        self._model: Any = GPT2LMHeadModel(gpt2_config(model))
        self._inner = inner
        self._dtype = AUTOCAST_DTYPES[precision]
        self._num_steps = 0
        matrices = [parameter for parameter in self._model.parameters() if parameter.dim() == 2]
        vectors = [parameter for parameter in self._model.parameters() if parameter.dim() != 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": inner.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=inner.learning_rate,
            betas=(inner.beta1, inner.beta2),
            fused=True,
        )

    @property
    def num_parameters(self) -> int:
        return count_parameters(self._model)

    def step(self, batch: NDArray[np.int64], *, learning_rate: float) -> float:
        loss = 0.0
        self._optimizer.zero_grad()
        for rows_BT in torch.split(torch.from_numpy(batch), MICRO_BATCH):
            with torch.autocast("cpu", dtype=self._dtype, enabled=self._dtype != torch.float32):
                logits_BTV = self.logits(rows_BT[:, :-1])
                mean = F.cross_entropy(logits_BTV.flatten(0, 1).float(), rows_BT[:, 1:].flatten())
            share = mean * (len(rows_BT) / len(batch))
            share.backward()  # type: ignore[no-untyped-call]
            loss += share.item()
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._inner.clip_norm)
        if not np.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingDiverged(self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._num_steps += 1
        return loss

    def logits(self, tokens_BT: Tensor) -> Tensor:
        logits_BTV: Tensor = self._model(tokens_BT, use_cache=False).logits
        return logits_BTV


def gpt2_config(model: ModelConfig) -> GPT2Config:
    """GPT-2 as deep and as wide, its inner layer the narrowest that makes it no smaller."""
    narrow = _count_gpt2(_gpt2_config(model, inner=1))
    per_unit = model.n_layer * (2 * model.n_embd + 1)
    return _gpt2_config(model, inner=1 + -(-(model.num_parameters - narrow) // per_unit))


def _gpt2_config(model: ModelConfig, *, inner: int) -> GPT2Config:
    return GPT2Config(
        vocab_size=model.vocab_size,
        n_positions=model.block_size,
        n_embd=model.n_embd,
        n_layer=model.n_layer,
        n_head=model.n_head,
        n_inner=inner,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def _count_gpt2(config: GPT2Config) -> int:
    with torch.device("meta"):
        return count_parameters(GPT2LMHeadModel(config))


def count_parameters(model: nn.Module) -> int:
    """All of them, the tied embedding once."""
    return sum(parameter.numel() for parameter in model.parameters())
