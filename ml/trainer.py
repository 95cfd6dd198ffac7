"""The inner optimizer: AdamW steps on batches of any size, in pieces as large as the device holds."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ml.config import InnerConfig
from ml.model import GPT


class TrainingDiverged(ArithmeticError):
    """A loss or a gradient that is no number any more; the weights are those before the step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"Training diverged at step {step}: the loss is not finite; lower learning_rate.")
        self.step = step


def learning_rate_at(
    step: int, *, inner: InnerConfig, num_steps: int, progress_start: float, progress_end: float
) -> float:
    """The rate of one step of a job: linear warm-up inside the job, times a cosine over the whole experiment.

    Units: progress is the share of the experiment's tokens trained before the job and after its round.
    """
    progress = progress_start + (progress_end - progress_start) * step / num_steps
    floor = inner.min_learning_rate_ratio
    cosine = floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    warmup = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    return inner.learning_rate * cosine * warmup


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; CUDA has a type for it, MPS and the CPU only a message."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


class Trainer:
    """AdamW on a model, whatever the memory: `micro_batch` rows at a time, halved whenever they do not fit."""

    def __init__(self, model: GPT, *, inner: InnerConfig, bf16: bool, micro_batch: int) -> None:
        self.model = model.train()
        self.micro_batch = micro_batch
        self._inner = inner
        self._bf16 = bf16
        self._num_steps = 0
        matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
        scales = [parameter for parameter in model.parameters() if parameter.dim() != 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": inner.weight_decay}, {"params": scales, "weight_decay": 0.0}],
            lr=inner.learning_rate,
            betas=(inner.beta1, inner.beta2),
            fused=True,
        )

    def step(self, batch: NDArray[np.int64], *, learning_rate: float) -> float:
        """Train on all rows of the batch as one optimizer step, and return their mean loss before it.

        Shapes: batch (B, T + 1), each row's inputs and, one further, its targets.
        Raises: TrainingDiverged; the device's own out-of-memory error where not even one row fits.
        """
        loss = self._accumulate(torch.from_numpy(batch).to(self.model.device))
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._inner.clip_norm)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            raise TrainingDiverged(self._num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._num_steps += 1
        return loss

    def _accumulate(self, batch: Tensor) -> float:
        while True:
            try:
                return self._backward(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.micro_batch == 1:
                    raise
            # Outside of the handler, whose traceback would keep the activations alive.
            self.micro_batch = max(1, self.micro_batch // 2)
            self._release_memory()

    def _backward(self, batch: Tensor) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.device)
        for rows in torch.split(batch, self.micro_batch):
            # A mean over the batch, not over pieces, the last of which may be smaller.
            share = len(rows) / len(batch)
            with torch.autocast(batch.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                loss = self.model.loss(rows[:, :-1], rows[:, 1:]) * share
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total.item()

    def _release_memory(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.model.device.type == "mps":
            torch.mps.empty_cache()
