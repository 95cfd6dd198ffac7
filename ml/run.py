"""A training run's folder, and the model in it: `open_run(path).generate(...)`.

RUN/config.json                     TrainConfig, and which dataset it was trained on
RUN/tokenizer.json                  a copy of the dataset's
RUN/metrics.jsonl                   one line a step, and one an evaluation
RUN/checkpoints/STEP/               model.safetensors, and what training needs to go on; newest last by name
RUN/best/model.safetensors          the lowest validation loss, with best/state.json saying step and loss
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer

from ml import tokenizer as tokenizers
from ml.bad_input import BadInput
from ml.checkpoint import load_model
from ml.config import TrainConfig
from ml.model import GPT

CONFIG_FILE = "config.json"
TOKENIZER_FILE = "tokenizer.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS_FOLDER = "checkpoints"
MODEL_FILE = "model.safetensors"
BEST_FOLDER = "best"


class RunInvalid(BadInput):
    """A folder that holds no run, or not the whole of one."""

    page: ClassVar[str] = "checkpoint"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A trained model with its tokenizer, on the CPU."""

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    """What dataset.json said when training began."""
    model: GPT
    tokenizer: Tokenizer
    checkpoint: Path
    """The model's file."""


def open_run(folder: Path, *, checkpoint: str = "best") -> Run:
    """The run's model: `best`, or `last`, the newest checkpoint.

    Raises: RunInvalid, ml.checkpoint.CheckpointInvalid, ml.tokenizer.TokenizerInvalid.
    """
    config, data = read_config(folder)
    path = find_checkpoint(folder, checkpoint)
    model = load_model(path)
    if model.config != config.model:
        raise RunInvalid(f"{path} holds a model of another shape than {folder / CONFIG_FILE} says: train anew.")
    return Run(
        folder=folder,
        config=config,
        data=data,
        model=model,
        tokenizer=tokenizers.load(folder / TOKENIZER_FILE),
        checkpoint=path,
    )


def read_config(folder: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """What the run trains, and on which dataset.

    Raises: RunInvalid, ml.config.ConfigInvalid.
    """
    path = folder / CONFIG_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        config, data = stored["config"], stored["data"]
    except FileNotFoundError:
        raise RunInvalid(f"{folder} holds no run: make one with `fai train DATA --out {folder}`.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise RunInvalid(f"{path} is damaged ({error}): train anew with `fai train DATA --out {folder}`.") from error
    return TrainConfig.from_dict(config), data


def find_checkpoint(folder: Path, name: str = "best") -> Path:
    """The model file of `best` or `last`; `best` is `last` where nothing was evaluated yet.

    Raises: RunInvalid.
    """
    best = folder / BEST_FOLDER / MODEL_FILE
    if name == "best" and best.exists():
        return best
    found = sorted((folder / CHECKPOINTS_FOLDER).glob(f"*/{MODEL_FILE}"))
    if not found:
        raise RunInvalid(f"{folder} holds no checkpoint yet: go on with `fai train DATA --out {folder} --resume`.")
    return found[-1]
