"""One process's share of a training: its copy of the model, its rows of each batch."""

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from ml import tokenizer as tokenizers
from ml.data import open_shard, sample_batch, sample_places
from ml.divergence import Diverged, describe
from ml.hardware import Hardware, resolve_precision, rows_per_batch
from ml.model import GPT, initial_model
from ml.run import TOKENIZER_FILE
from ml.tracking import Metrics
from ml.train_state import TrainState, load_optimizer, load_weights, newest_checkpoint, read_state
from ml.trainer import Trainer, TrainingDiverged, learning_rate_at, rank, world_size
from ml.training_job import Job, Plan, count_steps


class Rank:
    """Model, optimizer, data and state of one process; equal on all of them after every step."""

    def __init__(self, job: Job, *, hardware: Hardware) -> None:
        """Take up the newest checkpoint, or fresh weights.

        Raises: ml.checkpoint.CheckpointInvalid; the device's own out-of-memory error.
        """
        self.job = job
        self.train = open_shard(job.train_path, job.dtype)
        self.num_steps = count_steps(job.config, train_tokens=len(self.train))
        self._num_rows = rows_per_batch(job.config.model, job.config.optimizer)
        self._hardware = hardware
        if job.is_resumed:
            self._resume()
        else:
            self._begin()

    def step(self) -> Metrics:
        """Train one batch, and say how it went.

        Raises: Diverged; the device's own out-of-memory error where not even one row fits.
        """
        began_at = time.perf_counter()
        inner = self.job.config.optimizer
        rate = learning_rate_at(
            self.state.step, inner=inner, num_steps=self.num_steps, progress_start=0.0, progress_end=1.0
        )
        batch = self._batch()
        num_own = self._num_rows // world_size()
        try:
            loss = self.trainer.step(batch[rank() * num_own : (rank() + 1) * num_own], learning_rate=rate)
        except TrainingDiverged as error:
            raise self._divergence(batch) from error
        taken = time.perf_counter() - began_at
        num_tokens = self._num_rows * self.job.config.model.block_size
        self.state.step += 1
        self.state.tokens += num_tokens
        return {
            "step": self.state.step,
            "tokens": self.state.tokens,
            "loss": loss,
            "learning_rate": rate,
            "tokens_per_second": round(num_tokens / taken, 1),
        }

    def plan(self) -> Plan:
        return Plan(
            run=self.job.run,
            config=self.job.config,
            train_tokens=len(self.train),
            first_step=self.state.step,
            num_steps=self.num_steps,
            num_rows=self._num_rows,
            hardware=self._hardware,
            devices=self.job.devices,
            precision=self.state.precision,
            micro_batch=self.trainer.micro_batch,
        )

    def _begin(self) -> None:
        config = self.job.config
        self.state = TrainState(seed=config.seed, precision=resolve_precision(config.precision, self._hardware))
        micro_batch = from_first_rank(self.job.micro_batch or 1)
        self.trainer = self._make_trainer(initial_model(config.model, config.seed), micro_batch=micro_batch)

    def _resume(self) -> None:
        folder = newest_checkpoint(self.job.run)
        self.state = read_state(folder)
        self.trainer = self._make_trainer(load_weights(folder), micro_batch=1)
        load_optimizer(folder, state=self.state, trainer=self.trainer)

    def _make_trainer(self, model: GPT, *, micro_batch: int) -> Trainer:
        config = self.job.config
        model.gradient_checkpointing = config.gradient_checkpointing
        return Trainer(
            model.to(self._hardware.device),
            inner=config.optimizer,
            precision=self.state.precision,
            micro_batch=min(micro_batch, self._num_rows // world_size()),
            seed=config.seed,
        )

    def _batch(self) -> NDArray[np.int64]:
        config = self.job.config
        return sample_batch(
            self.train,
            seed=config.seed,
            step=self.state.step,
            num_rows=self._num_rows,
            block_size=config.model.block_size,
        )

    def _divergence(self, batch: NDArray[np.int64]) -> Diverged:
        config = self.job.config
        places = sample_places(
            self.train,
            seed=config.seed,
            step=self.state.step,
            num_rows=self._num_rows,
            block_size=config.model.block_size,
        )
        return describe(
            step=self.state.step,
            config=config,
            precision=self.state.precision,
            model=self.trainer.model,
            batch=batch,
            places=places,
            tokenizer=tokenizers.load(self.job.run / TOKENIZER_FILE),
            shard=self.job.train_path,
        )


def from_first_rank(value: int) -> int:
    """The first process's value, on all of them; each waits for it."""
    if world_size() == 1:
        return value
    # On the CPU, where gloo carries it whatever carries the gradients.
    message = torch.tensor(value)
    distributed.broadcast(message, src=0)
    return int(message)
