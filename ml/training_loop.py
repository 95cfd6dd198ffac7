"""The steps of a training until it ends, is worse for too long, or is interrupted; evaluated and saved on the way."""

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from ml.bad_input import BadInput
from ml.data import Tokens, open_shard
from ml.divergence import Diverged
from ml.evaluation import validation_loss
from ml.hardware import detect, find_micro_batch
from ml.tracking import Tracking
from ml.train_state import save_best, save_checkpoint
from ml.trainer import is_out_of_memory, rank
from ml.training_job import Job, Observer, Outcome, Progress
from ml.training_rank import Rank, from_first_rank

EVALUATION_TOKENS = 65_536
"""Of the validation text, the same each time; bounds what an evaluation costs."""


class NotEnoughMemory(BadInput):
    """A model of which not even one row can be trained here."""

    page: ClassVar[str] = "memory"


def run_loop(job: Job, observer: Observer) -> Outcome:
    """Train from the newest checkpoint, or from fresh weights, and save at the end, whatever ends it.

    Where torch.distributed is initialised, every process calls this; the first one alone evaluates, writes, and hears
    of a wish to stop.

    Raises: ml.divergence.Diverged, NotEnoughMemory, ml.train_state.SaveFailed, ml.checkpoint.CheckpointInvalid.
    """
    with _memory_errors(job):
        own = Rank(job, hardware=detect())
        if rank() == 0:
            return _lead(own, observer)
        while from_first_rank(0):
            own.step()
        return _outcome(own)


def needs_search(job: Job) -> bool:
    """Whether nothing says how many rows a forward pass takes: neither the configuration nor a checkpoint."""
    return job.micro_batch is None and not job.is_resumed


def with_micro_batch(job: Job) -> Job:
    """The job with the rows per forward pass that train fastest here, where it needs a search.

    Raises: NotEnoughMemory.
    """
    if not needs_search(job):
        return job
    config = job.config
    with _memory_errors(job):
        found = find_micro_batch(
            config.model,
            config.optimizer,
            detect(),
            precision=config.precision,
            gradient_checkpointing=config.gradient_checkpointing,
        )
    return dataclasses.replace(job, micro_batch=found)


@contextmanager
def _memory_errors(job: Job) -> Iterator[None]:
    """Raises: NotEnoughMemory, in place of the device's own error."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise NotEnoughMemory(
            f"Not even one row of {job.config.model.block_size} tokens fits into the memory of {detect().name}: choose "
            "a smaller --preset, or a lower model.block_size, or --set gradient_checkpointing=true."
        ) from error


def _lead(own: Rank, observer: Observer) -> Outcome:
    job = own.job
    val = open_shard(job.val_path, job.dtype)
    # Step 0 is saved too: from here on the run can be resumed, and the disk has shown that it takes a checkpoint.
    save_checkpoint(job.run, state=own.state, trainer=own.trainer)
    with Tracking(job.run, config=job.config.to_dict(), step=own.state.step, names=job.trackers) as tracking:
        observer.on_plan(own.plan())
        _train(own, observer, tracking=tracking, val=val)
        # The others wait in `from_first_rank`.
        from_first_rank(0)
        _save(own, tracking)
    return _outcome(own)


def _train(own: Rank, observer: Observer, *, tracking: Tracking, val: Tokens) -> None:
    config, state = own.job.config, own.state
    began_at, first_step, seconds_before = time.perf_counter(), state.step, state.seconds
    while not (_is_over(own) or observer.wants_stop()):
        from_first_rank(1)
        metrics = own.step()
        state.seconds = seconds_before + time.perf_counter() - began_at
        tracking.write(metrics | {"seconds": round(state.seconds, 3)})
        is_last = state.step == own.num_steps
        loss = None
        if is_last or state.step % config.evaluate_every_steps == 0:
            loss = _evaluate(own, val)
            state.seconds = seconds_before + time.perf_counter() - began_at
            figures = {"step": state.step, "tokens": state.tokens, "validation_loss": loss}
            tracking.write(figures | {"seconds": round(state.seconds, 3)})
        if state.step % config.save_every_steps == 0:
            _save(own, tracking)
        elapsed = time.perf_counter() - began_at
        observer.on_step(
            Progress(
                step=state.step,
                num_steps=own.num_steps,
                tokens=state.tokens,
                loss=metrics["loss"],
                learning_rate=metrics["learning_rate"],
                tokens_per_second=metrics["tokens_per_second"],
                eta_seconds=elapsed * (own.num_steps - state.step) / (state.step - first_step),
                validation_loss=loss,
                best_loss=state.best_loss,
            )
        )


def _evaluate(own: Rank, val: Tokens) -> float:
    """The validation loss; the model becomes the best where it never was lower.

    Raises: Diverged where it is no number.
    """
    config, state = own.job.config, own.state
    loss = validation_loss(own.trainer.model, val, block_size=config.model.block_size, max_tokens=EVALUATION_TOKENS)
    if not math.isfinite(loss):
        raise Diverged(
            f"Training stopped at step {state.step}: the loss on {own.job.val_path} is {loss}; the checkpoint "
            "before it is whole, and to get further train anew with a lower optimizer.learning_rate."
        )
    if state.best_loss is None or loss < state.best_loss:
        state.best_loss, state.best_step, state.num_worse = loss, state.step, 0
        save_best(own.job.run, state=state, model=own.trainer.model)
    else:
        state.num_worse += 1
    return loss


def _save(own: Rank, tracking: Tracking) -> None:
    tracking.sync()
    save_checkpoint(own.job.run, state=own.state, trainer=own.trainer)


def _is_over(own: Rank) -> bool:
    return own.state.step >= own.num_steps or _is_patience_over(own)


def _is_patience_over(own: Rank) -> bool:
    patience = own.job.config.patience
    return patience is not None and own.state.num_worse >= patience


def _outcome(own: Rank) -> Outcome:
    state = own.state
    unfinished = "patience" if _is_patience_over(own) else "interrupted"
    return Outcome(
        run=own.job.run,
        reason="finished" if state.step >= own.num_steps else unfinished,
        step=state.step,
        num_steps=own.num_steps,
        best_loss=state.best_loss,
        best_step=state.best_step,
        seconds=state.seconds,
    )
