import math
import subprocess
import sys

import pytest

from ml.config import PRESETS, ModelConfig
from ml.layout import model_layout, parameter_shapes
from tests.ml.make_deltas import MODEL


@pytest.mark.parametrize("config", [*PRESETS.values(), MODEL], ids=[*PRESETS, "small_test"])
def test_parameter_shapes_add_up_to_the_models_size(config: ModelConfig) -> None:
    assert sum(math.prod(shape) for shape in parameter_shapes(config).values()) == config.num_parameters


def test_parameter_shapes_have_the_names_of_qwen3() -> None:
    shapes = parameter_shapes(MODEL)
    assert [name for name in shapes if "layers" not in name] == ["model.embed_tokens.weight", "model.norm.weight"]
    assert {name.removeprefix("model.layers.1.") for name in shapes if name.startswith("model.layers.1.")} == {
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
        "self_attn.o_proj.weight",
        "self_attn.q_norm.weight",
        "self_attn.k_norm.weight",
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
        "mlp.down_proj.weight",
    }
    assert shapes["model.layers.0.self_attn.k_proj.weight"] == (24, 48)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (48, 128)


def test_a_model_lies_in_float32_without_gaps() -> None:
    entries = model_layout(parameter_shapes(MODEL))
    assert max(entry.stop for entry in entries.values()) == 4 * MODEL.num_parameters
    assert {entry.dtype for entry in entries.values()} == {"F32"}


@pytest.mark.parametrize("module", ["outer", "merging", "manifest"])
def test_the_coordinator_merges_without_torch(module: str) -> None:
    code = f"import sys, ml.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
