from typing import Any

from benchmarks.convergence.scenario import Device, Rules, Scenario
from ml.config import InnerConfig, ModelConfig, OuterConfig

MODEL = ModelConfig(vocab_size=300, block_size=16, n_layer=1, n_head=2, n_kv_head=2, n_embd=16)


def make_rules(**changes: Any) -> Rules:
    values = {
        "num_rounds": 3,
        "round_tokens": 4 * 128,
        "round_min_tokens": 128,
        "round_seconds": 60.0,
        "job_seconds": 1.0,
    }
    return Rules(**values | changes)


def make_device(**changes: Any) -> Device:
    """One that trains 128 tokens in a second."""
    return Device(**{"tokens_per_second": 128.0} | changes)


def make_scenario(**changes: Any) -> Scenario:
    """Four equal devices, jobs of four steps of 32 tokens."""
    values: dict[str, Any] = {
        "name": "made",
        "title": "made",
        "kind": "rounds",
        "model": MODEL,
        "inner": InnerConfig(batch_tokens=32, learning_rate=1e-2, warmup_steps=1),
        "outer": OuterConfig(),
        "codec": "int8",
        "rules": make_rules(),
        "devices": (make_device(),) * 4,
        "keep_moments": True,
        "evaluate_every": 1,
        "validation_tokens": 256,
        "num_seeds": 1,
    }
    return Scenario(**values | changes)
