"""Checkpoints of a run: all that training needs to go on as if it had never stopped.

RUN/checkpoints/STEP/model.safetensors      the weights
RUN/checkpoints/STEP/optimizer.safetensors  the optimizers' moments, `<parameter>/<moment>`
RUN/checkpoints/STEP/state.json             TrainState: the data's position, randomness, the best so far
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ml.bad_input import BadInput
from ml.checkpoint import CheckpointInvalid, load_model, save_model
from ml.files import partial_beside, replacing
from ml.model import GPT
from ml.run import BEST_FOLDER, CHECKPOINTS_FOLDER, MODEL_FILE
from ml.tensor_file import TensorFileWriter, arrange
from ml.trainer import Trainer, TrainerState

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
NUM_KEPT = 2
GO_ON = "make room and add --resume to the same command, which goes on from the last checkpoint that is whole"
_STEP_DIGITS = 9
"""Names sort as their steps do."""
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64"}


class SaveFailed(BadInput):
    """A disk that does not take a checkpoint; those before it are whole."""

    page: ClassVar[str] = "checkpoint"


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Where a training stands, beside its weights and moments."""

    step: int = 0
    """Optimizer steps done: the data's position, for the batch of a step follows from seed and step alone."""
    tokens: int = 0
    """Trained so far."""
    seed: int = 0
    """Of the batches and of dropout, which follows from seed, step and rank: no generator's state outlives a step."""
    seconds: float = 0.0
    """Spent training, without pauses between a stop and a resume."""
    precision: str = "fp32"
    """What `auto` was resolved to when training began."""
    best_loss: float | None = None
    best_step: int = 0
    num_worse: int = 0
    """Evaluations since the best; early stopping counts them."""
    trainer: dict[str, float] = field(default_factory=dict)
    """Scalars of ml.trainer.TrainerState; among them the micro-batch, whose sums decide the last bits."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises: KeyError, TypeError."""
        return cls(**{entry.name: values[entry.name] for entry in dataclasses.fields(cls)})


def save_checkpoint(run: Path, *, state: TrainState, trainer: Trainer) -> Path:
    """Write RUN/checkpoints/STEP whole or not at all, and remove all but the newest NUM_KEPT.

    Raises: SaveFailed where the disk is full or does not allow it.
    """
    folder = run / CHECKPOINTS_FOLDER / f"{state.step:0{_STEP_DIGITS}d}"
    if (folder / STATE_FILE).is_file():
        return folder
    snapshot = trainer.state()
    state.trainer = snapshot.scalars
    with saving(folder), _whole_folder(folder, beside=run) as partial:
        save_model(trainer.model, partial / MODEL_FILE)
        _write_tensors(snapshot.tensors, partial / OPTIMIZER_FILE)
        _write_json(dataclasses.asdict(state), partial / STATE_FILE)
    for old in sorted((run / CHECKPOINTS_FOLDER).iterdir())[:-NUM_KEPT]:
        shutil.rmtree(old)
    return folder


def save_best(run: Path, *, state: TrainState, model: GPT) -> None:
    """Write RUN/best, the model of the lowest validation loss.

    Raises: SaveFailed.
    """
    folder = run / BEST_FOLDER
    with saving(folder):
        folder.mkdir(exist_ok=True)
        save_model(model, folder / MODEL_FILE)
        _write_json({"step": state.step, "validation_loss": state.best_loss}, folder / STATE_FILE)


def newest_checkpoint(run: Path) -> Path:
    """The folder to go on from.

    Raises: CheckpointInvalid where there is none.
    """
    found = sorted((run / CHECKPOINTS_FOLDER).glob(f"*/{STATE_FILE}"))
    if not found:
        raise CheckpointInvalid(
            f"{run} holds no checkpoint to go on from: begin again with `fai train DATA --out {run} --force`."
        )
    return found[-1].parent


def read_state(folder: Path) -> TrainState:
    """Raises: CheckpointInvalid."""
    path = folder / STATE_FILE
    try:
        return TrainState.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def load_weights(folder: Path) -> GPT:
    """The checkpoint's model on the CPU.

    Raises: CheckpointInvalid.
    """
    try:
        return load_model(folder / MODEL_FILE)
    except (OSError, CheckpointInvalid) as error:
        raise _damaged(folder / MODEL_FILE, error) from error


def load_optimizer(folder: Path, *, state: TrainState, trainer: Trainer) -> None:
    """Raises: CheckpointInvalid."""
    path = folder / OPTIMIZER_FILE
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        trainer.load_state(TrainerState(tensors=tensors, scalars=state.trainer))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> CheckpointInvalid:
    return CheckpointInvalid(
        f"{path} is damaged ({error}): remove the folder {path.parent}, then `--resume` goes on from the one before it."
    )


@contextmanager
def saving(path: Path, *, advice: str = GO_ON) -> Iterator[None]:
    """Raises: SaveFailed, naming `path`, where the disk refuses what is written inside."""
    try:
        yield
    except OSError as error:
        raise SaveFailed(f"{path} could not be written ({error.strerror}): {advice}.") from error


@contextmanager
def _whole_folder(folder: Path, *, beside: Path) -> Iterator[Path]:
    """An empty folder under `beside` that takes the name `folder` when the block ends well, and else is removed."""
    partial = partial_beside(beside / folder.name)
    try:
        partial.mkdir()
        yield partial
        folder.parent.mkdir(exist_ok=True)
        # One without its state is none: somebody took a part of it away.
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    entries = arrange({name: (_DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()})
    with replacing(path) as partial, partial.open("wb") as file:
        writer = TensorFileWriter(file, metadata={"format": "pt"}, entries=entries)
        for name in entries:
            tensor = tensors[name].detach().cpu()
            writer.append((tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy())
        writer.finish()


def _write_json(values: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
