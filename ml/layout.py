"""Names, shapes and sizes of what travels: a model's parameters and the tensors of its delta. No torch here."""

import math
from collections.abc import Mapping

from ml.config import CODECS, ModelConfig
from ml.tensor_file import Entry, Shape, arrange, format_header

BLOCK_VALUES = 4_096
"""Values of a flattened tensor that share one int8 scale."""

SCALE_SUFFIX = ".scale"
METADATA_KEYS = ("protocol", "experiment", "round", "base_sha256", "codec", "tokens", "attempt")
MAX_SLUG_LENGTH = 50
MAX_INTEGER = 2**63 - 1


def parameter_shapes(config: ModelConfig) -> dict[str, Shape]:
    """Every trained tensor of a model, under the names of Hugging Face's Qwen3; the output head is the embedding."""
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": (config.vocab_size, config.n_embd)}
    for layer in range(config.n_layer):
        for name, shape in _block_shapes(config).items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    shapes["model.norm.weight"] = (config.n_embd,)
    return shapes


def _block_shapes(config: ModelConfig) -> dict[str, Shape]:
    width, inner = config.n_embd, config.intermediate_size
    kv_dim = config.n_kv_head * config.head_dim
    return {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (kv_dim, width),
        "self_attn.v_proj": (kv_dim, width),
        "self_attn.o_proj": (width, width),
        "self_attn.q_norm": (config.head_dim,),
        "self_attn.k_norm": (config.head_dim,),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }


def num_blocks(num_values: int) -> int:
    """Scales that int8 needs for a tensor."""
    return -(-num_values // BLOCK_VALUES)


def model_layout(shapes: Mapping[str, Shape]) -> dict[str, Entry]:
    """Places of a checkpoint's tensors, and of the outer optimizer's state: float32 under the parameters' names."""
    return arrange({name: ("F32", shape) for name, shape in shapes.items()})


def expected_layout(shapes: Mapping[str, Shape], codec: str) -> dict[str, Entry]:
    """Places of a delta's tensors; there is one right file layout for given shapes and codec.

    `dense` holds each tensor in bfloat16. `int8` holds it in int8, and beside it, as `<name>.scale`, one float32 for
    each block of BLOCK_VALUES values of the flattened tensor.
    """
    if codec == "dense":
        return arrange({name: ("BF16", shape) for name, shape in shapes.items()})
    if codec == "int8":
        values = {name: ("I8", shape) for name, shape in shapes.items()}
        scales = {name + SCALE_SUFFIX: ("F32", (num_blocks(math.prod(shape)),)) for name, shape in shapes.items()}
        return arrange(values | scales)
    raise ValueError(f"there is no codec {codec!r}")


def delta_layouts(shapes: Mapping[str, Shape]) -> dict[str, dict[str, Entry]]:
    """The layout of a delta under each codec."""
    return {codec: expected_layout(shapes, codec) for codec in CODECS}


def max_header_bytes(shapes: Mapping[str, Shape], codec: str) -> int:
    """Size of a delta's header with the longest metadata that a job can have."""
    integers = dict.fromkeys(METADATA_KEYS, str(MAX_INTEGER))
    longest = integers | {"experiment": "x" * MAX_SLUG_LENGTH, "base_sha256": "0" * 64, "codec": codec}
    return len(format_header(longest, expected_layout(shapes, codec)))


def delta_size_bytes(config: ModelConfig, codec: str) -> int:
    """Most bytes that a delta of this model can take as a file; at most a few dozen bytes above any real one."""
    shapes = parameter_shapes(config)
    data_bytes = max(entry.stop for entry in expected_layout(shapes, codec).values())
    return max_header_bytes(shapes, codec) + data_bytes
