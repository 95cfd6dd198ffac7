"""Names and shapes of a model's parameters, and where they stand in a file of float32. No torch here."""

from collections.abc import Mapping

from ml.config import ModelConfig
from ml.tensor_file import Entry, Shape, arrange


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


def model_layout(shapes: Mapping[str, Shape]) -> dict[str, Entry]:
    """Places of a checkpoint's tensors, and of the outer optimizer's state: float32 under the parameters' names."""
    return arrange({name: ("F32", shape) for name, shape in shapes.items()})
