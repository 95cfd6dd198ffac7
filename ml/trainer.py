"""The inner optimizer's steps on batches of any size, in pieces as large as the device holds."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from ml import allocator
from ml.bad_input import BadInput
from ml.config import InnerConfig
from ml.model import GPT
from ml.optimizer import make_optimizers, read_moments, write_moments

AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MIN_LOSS_SCALE = 2.0**-10
"""Gradients that overflow fp16 even so scaled are no longer a matter of scale."""


class TrainingDiverged(BadInput):
    """A loss or a gradient that is no number any more; the weights are those before the step."""

    page: ClassVar[str] = "nan"

    def __init__(self, step: int) -> None:
        super().__init__(
            f"Training diverged at step {step}: the loss or a gradient is not finite; "
            "go on from an earlier checkpoint with a lower learning_rate or a longer warmup_steps."
        )
        self.step = step


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerState:
    """What a Trainer needs, besides the model's weights, to go on as if it had never stopped."""

    tensors: dict[str, Tensor]
    """The optimizers' moments, `<parameter>/<moment>`; they are the Trainer's own, not copies."""
    scalars: dict[str, float]
    """Steps done, rows that fit, and fp16's loss scale; JSON holds them exactly."""


def learning_rate_at(
    step: int, *, inner: InnerConfig, num_steps: int, progress_start: float, progress_end: float
) -> float:
    """The rate of one step of a job: linear warm-up inside the job, times the schedule over the whole experiment.

    Units: progress is the share of the experiment's tokens trained before the job and after its round.
    """
    progress = min(progress_start + (progress_end - progress_start) * step / num_steps, 1.0)
    if inner.schedule == "cosine":
        height = (1 + math.cos(math.pi * progress)) / 2
    else:
        height = min(1.0, (1 - progress) / inner.decay_share)
    floor = inner.min_learning_rate_ratio
    warmup = min(1.0, (step + 1) / inner.warmup_steps) if inner.warmup_steps else 1.0
    return inner.learning_rate * (floor + (1 - floor) * height) * warmup


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; CUDA has a type for it, MPS and the CPU only a message."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


class Trainer:
    """Optimizer steps on a model, whatever the memory: `micro_batch` rows at a time, halved whenever they do not fit.

    Where torch.distributed is initialised, every rank steps on rows of its own, as many as each other's, from the same
    weights; gradients and losses are averaged over the ranks once a step. Ranks halve their rows each for itself.
    """

    def __init__(self, model: GPT, *, inner: InnerConfig, precision: str, micro_batch: int, seed: int = 0) -> None:
        """
        precision: fp32, bf16 or fp16; the weights stay in float32.
        seed: of dropout, which follows from seed, step and rank alone and so needs no state.
        """
        if model.device.type == "cpu":
            allocator.keep_freed_memory()
        self.model = model.train()
        self.micro_batch = micro_batch
        self.num_steps = 0
        self._inner = inner
        self._seed = seed
        self._dtype = AUTOCAST_DTYPES[precision]
        self._optimizers = make_optimizers(model, inner)
        self._scaler = torch.amp.GradScaler(model.device.type, enabled=precision == "fp16")

    def step(self, batch: NDArray[np.int64], *, learning_rate: float) -> float:
        """Train on all rows of the batch as one optimizer step, and return their mean loss before it.

        In fp16 a step whose gradients overflow changes nothing but the loss scale.

        Shapes: batch (B, T + 1), each row's inputs and, one further, its targets.
        Raises: TrainingDiverged; the device's own out-of-memory error where not even one row fits.
        """
        loss = self._average_over_ranks(self._accumulate(torch.from_numpy(batch).to(self.model.device)))
        for optimizer in self._optimizers:
            self._scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._inner.clip_norm)
        is_finite = bool(torch.isfinite(norm))
        if not math.isfinite(loss) or not (is_finite or self._can_scale_down()):
            raise TrainingDiverged(self.num_steps)
        for optimizer in self._optimizers if is_finite else ():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            self._scaler.step(optimizer)
        self._scaler.update()
        self.num_steps += 1
        return loss

    def moments(self) -> dict[str, Tensor]:
        """What the optimizers remember, `<parameter>/<moment>`; the Trainer's own tensors, not copies."""
        return read_moments(self.model, self._optimizers)

    def load_moments(self, moments: dict[str, Tensor]) -> None:
        """Go on with moments of an earlier Trainer of the same model and configuration.

        Raises: KeyError, ValueError where they are of another.
        """
        write_moments(moments, model=self.model, optimizers=self._optimizers)

    def state(self) -> TrainerState:
        """What `load_state` of a Trainer with the same model and configuration takes."""
        scalars = {"num_steps": self.num_steps, "micro_batch": self.micro_batch}
        scaling = {f"loss_scale/{name}": value for name, value in self._scaler.state_dict().items()}
        return TrainerState(tensors=self.moments(), scalars=scalars | scaling)

    def load_state(self, state: TrainerState) -> None:
        """Go on where `state` was taken; the model's weights are loaded by whoever has them.

        Raises: KeyError, ValueError where the state is of another model or configuration.
        """
        self.load_moments(state.tensors)
        self.num_steps = int(state.scalars["num_steps"])
        self.micro_batch = int(state.scalars["micro_batch"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(
                {name: state.scalars[f"loss_scale/{name}"] for name in self._scaler.state_dict()}
            )

    def _can_scale_down(self) -> bool:
        return self._scaler.is_enabled() and self._scaler.get_scale() > MIN_LOSS_SCALE

    def _accumulate(self, batch: Tensor) -> Tensor:
        while True:
            try:
                return self._backward(batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.micro_batch == 1:
                    raise
            # Outside of the handler, whose traceback would keep the activations alive.
            self.micro_batch = max(1, self.micro_batch // 2)
            self._release_memory()

    def _backward(self, batch: Tensor) -> Tensor:
        self._zero_gradients()
        self._seed_dropout()
        total = torch.zeros((), device=batch.device)
        for rows in torch.split(batch, self.micro_batch):
            # A mean over the batch, not over pieces, the last of which may be smaller.
            share = len(rows) / len(batch)
            with torch.autocast(batch.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
                loss = self.model.loss(rows[:, :-1], rows[:, 1:]) * share
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _seed_dropout(self) -> None:
        number = int(np.random.SeedSequence((self._seed, self.num_steps, rank())).generate_state(1)[0])
        if self.model.device.type == "cpu":
            # torch.manual_seed words a stack trace for each kind of accelerator that is not there: a millisecond.
            torch.default_generator.manual_seed(number)
        else:
            torch.manual_seed(number)

    def _average_over_ranks(self, loss: Tensor) -> float:
        if world_size() > 1:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            # One message: the loss travels with the gradients.
            flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss[None]]) / world_size()
            distributed.all_reduce(flat)
            *means, mean_loss = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view_as(gradient))
            loss = mean_loss
        return loss.item()

    def _zero_gradients(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _release_memory(self) -> None:
        self._zero_gradients()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.model.device.type == "mps":
            torch.mps.empty_cache()


def world_size() -> int:
    """Processes that train together; 1 without torch.distributed."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if _is_distributed() else 0


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
