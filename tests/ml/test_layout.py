import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codec import DeltaLabel, encode
from ml.config import CODECS, PRESETS, ModelConfig
from ml.layout import (
    BLOCK_VALUES,
    MAX_INTEGER,
    MAX_SLUG_LENGTH,
    delta_size_bytes,
    expected_layout,
    num_blocks,
    parameter_shapes,
)
from tests.ml.make_deltas import MODEL, SHAPES, make_tensors


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


def test_int8_takes_a_byte_a_value_and_a_float_a_block() -> None:
    stop = max(entry.stop for entry in expected_layout(SHAPES, "int8").values())
    num_scales = sum(num_blocks(math.prod(shape)) for shape in SHAPES.values())
    assert stop == MODEL.num_parameters + 4 * num_scales
    assert num_blocks(BLOCK_VALUES) == 1
    assert num_blocks(BLOCK_VALUES + 1) == 2


def test_expected_layout_refuses_an_unknown_codec() -> None:
    with pytest.raises(ValueError, match="no codec 'pickle'"):
        expected_layout(SHAPES, "pickle")


labels = st.builds(
    DeltaLabel,
    experiment=st.from_regex(rf"[-a-zA-Z0-9_]{{1,{MAX_SLUG_LENGTH}}}", fullmatch=True),
    round_number=st.integers(0, MAX_INTEGER),
    base_sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    codec=st.sampled_from(CODECS),
    attempt_id=st.integers(0, MAX_INTEGER),
)


@settings(max_examples=50, deadline=None)
@given(label=labels, tokens=st.integers(0, MAX_INTEGER))
def test_no_encoded_delta_exceeds_its_announced_size(
    tmp_path_factory: pytest.TempPathFactory, label: DeltaLabel, tokens: int
) -> None:
    path: Path = tmp_path_factory.getbasetemp() / "delta"
    encode(make_tensors(), label=label, tokens=tokens, path=path)
    limit = delta_size_bytes(MODEL, label.codec)
    assert limit - 150 <= path.stat().st_size <= limit


@pytest.mark.parametrize("module", ["layout", "delta_file", "codec", "outer", "merging", "manifest", "files"])
def test_the_coordinator_reads_deltas_without_torch(module: str) -> None:
    code = f"import sys, ml.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
