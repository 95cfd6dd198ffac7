import json

import pytest

from ml.config import PRESETS, ConfigInvalid, InnerConfig, ModelConfig, OuterConfig
from tests.ml.make import make_config


@pytest.mark.parametrize("config", [PRESETS["default"], InnerConfig(warmup_steps=3), OuterConfig(momentum=0.5)])
def test_a_config_survives_json(config: ModelConfig | InnerConfig | OuterConfig) -> None:
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("preset", "num_parameters"),
    [("tiny", 1_115_520), ("m4", 19_838_592), ("small", 109_531_392), ("default", 336_384_000)],
)
def test_a_preset_keeps_its_size(preset: str, num_parameters: int) -> None:
    """Checkpoints, credits and quotes of running experiments depend on it."""
    assert PRESETS[preset].num_parameters == num_parameters


def test_training_costs_six_flops_per_parameter_and_the_attention() -> None:
    tiny = PRESETS["tiny"]
    assert tiny.training_flops_per_token == 6 * tiny.num_parameters + 12 * 4 * 128 * 128
    assert tiny.replace(block_size=256).training_flops_per_token > tiny.training_flops_per_token


def test_the_inner_width_is_eight_thirds_rounded_up_to_64() -> None:
    assert [make_config(n_embd=width).intermediate_size for width in (96, 384, 768)] == [256, 1_024, 2_048]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a positive integer, not 0"),
        ({"n_layer": -1}, "n_layer"),
        ({"block_size": 1.5}, "block_size must be a positive integer, not 1.5"),
        ({"n_embd": 30}, "multiple of 2"),
        ({"n_embd": 36}, "multiple of 2"),
        ({"n_kv_head": 3}, "multiple of n_kv_head"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"rope_theta": 0.0}, "rope_theta"),
        ({"norm_eps": -1e-6}, "norm_eps"),
        ({"n_heads": 4}, "has no field 'n_heads': did you mean 'n_head'"),
        ({"dropout": "much"}, "ModelConfig"),
    ],
)
def test_a_model_that_cannot_be_is_refused_by_its_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        make_config(**changes)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigInvalid, match="n_embd"):
        ModelConfig.from_dict({"vocab_size": 1, "block_size": 1, "n_layer": 1, "n_head": 1, "n_kv_head": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"min_learning_rate_ratio": 1.1},
        {"batch_tokens": 0},
        {"batch_tokens": 512.0},
        {"warmup_steps": -1},
        {"warmup_steps": 0.5},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"clip_norm": 0.0},
    ],
)
def test_an_inner_optimizer_that_cannot_step_is_refused_by_its_field(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigInvalid, match=next(iter(changes))):
        InnerConfig(**changes)


@pytest.mark.parametrize("changes", [{"learning_rate": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_an_outer_optimizer_that_cannot_step_is_refused_by_its_field(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigInvalid, match=next(iter(changes))):
        OuterConfig(**changes)
