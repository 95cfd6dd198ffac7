import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ml.checkpoint import CONFIG_KEY, CheckpointInvalid, load_model, metadata_for, read_config, save_model
from tests.ml.make import make_config, make_model


def test_a_saved_model_loads_with_the_same_weights_and_can_be_trained(tmp_path: Path) -> None:
    model = make_model(seed=3)
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    loaded.loss(tokens, tokens).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_the_same_weights_make_the_same_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for path in paths:
        save_model(make_model(), path)
    assert len({path.read_bytes() for path in paths}) == 1


def test_the_file_says_its_format_and_its_model(tmp_path: Path) -> None:
    save_model(make_model(), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata()["format"] == "pt"
        assert "lm_head.weight" not in set(file.keys())
    assert read_config(tmp_path / "model.safetensors") == make_config()


def test_weights_are_stored_in_float32_whatever_the_model_computes_in(tmp_path: Path) -> None:
    save_model(make_model().bfloat16(), tmp_path / "model.safetensors")
    assert load_model(tmp_path / "model.safetensors").model.norm.weight.dtype == torch.float32


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    save_model(make_model(seed=1), tmp_path / "model.safetensors")
    save_model(make_model(seed=2), tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors").state_dict()
    assert torch.equal(loaded["model.embed_tokens.weight"], make_model(seed=2).model.embed_tokens.weight)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", (2**40).to_bytes(8, "little") + b"{}"])
def test_other_bytes_are_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=r"model\.safetensors is no checkpoint"):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {CONFIG_KEY: "{"}, {CONFIG_KEY: json.dumps({"vocab_size": 0})}]
)
def test_tensors_without_a_model_are_no_checkpoint(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=metadata)
    with pytest.raises(CheckpointInvalid, match=r"model\.safetensors is no checkpoint"):
        read_config(tmp_path / "model.safetensors")


def test_tensors_of_another_model_than_the_header_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = dict(make_model().state_dict())
    save_file(tensors, path, metadata=metadata_for(make_config(n_layer=3)))
    with pytest.raises(CheckpointInvalid, match="does not hold the tensors"):
        load_model(path)
    save_file(tensors | {"model.norm.weight": torch.ones(1)}, path, metadata=metadata_for(make_config()))
    with pytest.raises(CheckpointInvalid, match=r"model\.norm\.weight has shape \(1,\)"):
        load_model(path)
