import math

import pytest
import torch
from torch import Tensor

from ml.attention import attention_maps
from ml.model import GPT
from tests.ml.make import make_config, make_model

TOKENS = [0, 7, 3, 9, 11, 7]


def plain_maps(model: GPT, tokens: list[int]) -> Tensor:
    """Attention by its definition in float64, from the model's weights and the textbook's rotation."""
    config, weights = model.config, {name: value.double() for name, value in model.state_dict().items()}
    num_tokens, size = len(tokens), config.head_dim

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight

    def turn(x_HTE: Tensor) -> Tensor:
        turned = x_HTE.clone()
        for place in range(num_tokens):
            for pair in range(size // 2):
                angle = place / config.rope_theta ** (2 * pair / size)
                a, b = x_HTE[:, place, pair], x_HTE[:, place, pair + size // 2]
                turned[:, place, pair] = a * math.cos(angle) - b * math.sin(angle)
                turned[:, place, pair + size // 2] = b * math.cos(angle) + a * math.sin(angle)
        return turned

    x = weights["model.embed_tokens.weight"][tokens]
    maps = []
    for layer in range(config.n_layer):
        w = {name.removeprefix(f"model.layers.{layer}."): value for name, value in weights.items()}
        y = norm(x, w["input_layernorm.weight"])

        def heads(name: str, y: Tensor = y, w: dict[str, Tensor] = w) -> Tensor:
            return (y @ w[f"self_attn.{name}.weight"].T).view(num_tokens, -1, size).transpose(0, 1)

        groups = config.n_head // config.n_kv_head
        q = turn(norm(heads("q_proj"), w["self_attn.q_norm.weight"]))
        k = turn(norm(heads("k_proj"), w["self_attn.k_norm.weight"])).repeat_interleave(groups, 0)
        v = heads("v_proj").repeat_interleave(groups, 0)
        scores = q @ k.transpose(1, 2) / math.sqrt(size)
        scores = scores.masked_fill(torch.ones(num_tokens, num_tokens).triu(1).bool(), -math.inf)
        maps.append(torch.softmax(scores, -1))
        x = x + (maps[-1] @ v).transpose(0, 1).flatten(1) @ w["self_attn.o_proj.weight"].T
        y = norm(x, w["post_attention_layernorm.weight"])
        gate = torch.nn.functional.silu(y @ w["mlp.gate_proj.weight"].T)
        x = x + (gate * (y @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return torch.stack(maps)


@pytest.mark.parametrize("n_kv_head", [4, 2, 1])
def test_the_maps_are_the_softmax_of_the_models_queries_and_keys(n_kv_head: int) -> None:
    model = make_model(make_config(n_kv_head=n_kv_head), scale=5.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    maps = attention_maps(model, TOKENS)
    assert maps.shape == (2, 4, 6, 6)
    torch.testing.assert_close(maps, plain_maps(model, TOKENS), rtol=0, atol=1e-5)


def test_a_row_adds_up_to_one_and_looks_at_nothing_later() -> None:
    maps = attention_maps(make_model(scale=5.0), TOKENS)
    torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not maps.triu(1).any()
    assert maps[0, 0].std() > 0.01
