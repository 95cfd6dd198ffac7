"""Models as safetensors files that say what model they are."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ml.bad_input import BadInput
from ml.config import ConfigInvalid, ModelConfig
from ml.files import replacing
from ml.model import GPT
from ml.tensor_file import TensorFileWriter, arrange

CONFIG_KEY = "model_config"
"""Metadata key; its value is the ModelConfig as JSON."""


class CheckpointInvalid(BadInput):
    """A file that holds no model of this project."""

    page = "checkpoint"


def metadata_for(config: ModelConfig) -> dict[str, str]:
    """What a checkpoint's header says beside its tensors; transformers asks for the format."""
    return {"format": "pt", CONFIG_KEY: json.dumps(config.to_dict(), sort_keys=True)}


def save_model(model: GPT, path: Path) -> None:
    """Write the weights in fp32: the same bytes for the same weights, and never half a file."""
    state = model.state_dict()
    entries = arrange({name: ("F32", tuple(tensor.shape)) for name, tensor in state.items()})
    with replacing(path) as partial, partial.open("wb") as file:
        writer = TensorFileWriter(file, metadata=metadata_for(model.config), entries=entries)
        for name in entries:
            writer.append(state[name].to("cpu", torch.float32).numpy())
        writer.finish()


def read_config(path: Path) -> ModelConfig:
    """The model that a checkpoint holds.

    Raises: CheckpointInvalid.
    """
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        config: ModelConfig = ModelConfig.from_dict(json.loads(metadata[CONFIG_KEY]))
    except (SafetensorError, KeyError, json.JSONDecodeError, ConfigInvalid) as error:
        raise CheckpointInvalid(f"{path.name} is no checkpoint of a model: {error}") from error
    return config


def load_model(path: Path) -> GPT:
    """The model on the CPU, in fp32, ready to train; one tensor beside the model is held in memory.

    Raises: CheckpointInvalid.
    """
    with torch.device("meta"):
        model = GPT(read_config(path))
    model.to_empty(device="cpu")
    state = model.state_dict()
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(state):
            raise CheckpointInvalid(f"{path.name} does not hold the tensors of its own configuration")
        for name, tensor in state.items():
            stored = file.get_tensor(name)
            if stored.shape != tensor.shape:
                raise CheckpointInvalid(f"{path.name}: {name} has shape {tuple(stored.shape)}")
            tensor.copy_(stored)
    return model
