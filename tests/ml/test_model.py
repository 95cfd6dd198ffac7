import math

import pytest
import torch

from ml.config import PRESETS
from ml.model import GPT, RMSNorm, initial_model, rotate, rotation_at
from tests.ml.make import make_config, make_model


def random_tokens(num_rows: int = 2, length: int = 16) -> torch.Tensor:
    return torch.randint(300, (num_rows, length), generator=torch.Generator().manual_seed(1))


def test_tensor_names_and_shapes_are_those_of_qwen3_without_lm_head() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in make_model(make_config(n_layer=1)).state_dict().items()}
    assert shapes == {
        "model.embed_tokens.weight": (300, 32),
        "model.layers.0.self_attn.q_proj.weight": (32, 32),
        "model.layers.0.self_attn.k_proj.weight": (16, 32),
        "model.layers.0.self_attn.v_proj.weight": (16, 32),
        "model.layers.0.self_attn.o_proj.weight": (32, 32),
        "model.layers.0.self_attn.q_norm.weight": (8,),
        "model.layers.0.self_attn.k_norm.weight": (8,),
        "model.layers.0.mlp.gate_proj.weight": (128, 32),
        "model.layers.0.mlp.up_proj.weight": (128, 32),
        "model.layers.0.mlp.down_proj.weight": (32, 128),
        "model.layers.0.input_layernorm.weight": (32,),
        "model.layers.0.post_attention_layernorm.weight": (32,),
        "model.norm.weight": (32,),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_the_number_of_parameters_is_what_the_config_says(preset: str) -> None:
    with torch.device("meta"):
        model = GPT(PRESETS[preset])
    assert sum(tensor.numel() for tensor in model.state_dict().values()) == PRESETS[preset].num_parameters


@torch.inference_mode()
def test_a_token_does_not_see_what_follows_it() -> None:
    model = make_model(scale=5.0).eval()
    tokens = random_tokens()
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 300
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10], rtol=0, atol=1e-5)
    assert (before[:, 10:] - after[:, 10:]).abs().amax(dim=(0, 2)).min() > 0.1


@torch.inference_mode()
def test_rows_do_not_see_each_other() -> None:
    model = make_model(scale=5.0).eval()
    tokens = random_tokens()
    torch.testing.assert_close(model(tokens)[1:], model(tokens[1:]), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_forward_pass_is_qwen3s() -> None:
    """Against the architecture written out anew, in float64 and without torch's fused kernels."""
    model = make_model(make_config(rope_theta=100.0), scale=5.0).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.3
    tokens = random_tokens(num_rows=1)
    expected = _qwen3_logits(model, tokens[0])
    torch.testing.assert_close(model(tokens)[0].double(), expected, rtol=1e-4, atol=1e-4)


def _qwen3_logits(model: GPT, tokens_T: torch.Tensor) -> torch.Tensor:
    config = model.config
    weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
    length, num_heads, dim = len(tokens_T), config.n_head, config.head_dim

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * weights[name]

    def rope(x_TE: torch.Tensor) -> torch.Tensor:
        turned = torch.empty_like(x_TE)
        for position in range(length):
            for pair in range(dim // 2):
                angle = position * config.rope_theta ** (-2 * pair / dim)
                pair_of = x_TE[position, pair].item() + 1j * x_TE[position, pair + dim // 2].item()
                value = pair_of * complex(math.cos(angle), math.sin(angle))
                turned[position, pair], turned[position, pair + dim // 2] = value.real, value.imag
        return turned

    x = weights["model.embed_tokens.weight"][tokens_T]
    for layer in range(config.n_layer):
        at = f"model.layers.{layer}."
        y = norm(x, at + "input_layernorm.weight")
        heads = []
        for head in range(num_heads):
            group = head * config.n_kv_head // num_heads
            rows, kv_rows = slice(head * dim, head * dim + dim), slice(group * dim, group * dim + dim)
            q = rope(norm(y @ weights[at + "self_attn.q_proj.weight"][rows].T, at + "self_attn.q_norm.weight"))
            k = rope(norm(y @ weights[at + "self_attn.k_proj.weight"][kv_rows].T, at + "self_attn.k_norm.weight"))
            v = y @ weights[at + "self_attn.v_proj.weight"][kv_rows].T
            scores = (q @ k.T / math.sqrt(dim)).masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + torch.cat(heads, dim=-1) @ weights[at + "self_attn.o_proj.weight"].T
        y = norm(x, at + "post_attention_layernorm.weight")
        gate = y @ weights[at + "mlp.gate_proj.weight"].T
        up = y @ weights[at + "mlp.up_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * up) @ weights[at + "mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ weights["model.embed_tokens.weight"].T


def test_rotation_makes_scores_depend_on_the_distance_alone() -> None:
    config = make_config(block_size=512)
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(q_position: int, k_position: int) -> float:
        rotations = [rotation_at(torch.tensor([[place]]), config) for place in (q_position, k_position)]
        return float((rotate(q, rotations[0]) * rotate(k, rotations[1])).sum())

    # Angles of up to 400 radians in float32 are good to 400 * 2**-24.
    assert score(7, 3) == pytest.approx(score(404, 400), abs=1e-3)
    assert abs(score(7, 3) - score(7, 5)) > 1e-2


def test_rms_norm_scales_to_unit_mean_square_in_the_type_that_came() -> None:
    x = torch.randn(4, 32, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0)) * 100
    y = RMSNorm(32, 1e-6)(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float().square().mean(-1), torch.ones(4), rtol=0.01, atol=0)


def test_an_untrained_model_knows_nothing() -> None:
    tokens = random_tokens(num_rows=8)
    loss = make_model().loss(tokens, torch.randint(300, (8, 16), generator=torch.Generator().manual_seed(5)))
    assert loss.item() == pytest.approx(math.log(300), abs=0.1)


def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (initial_model(make_config(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_initial_weights_are_smaller_where_they_write_into_the_residual_stream() -> None:
    state = initial_model(make_config(n_layer=8, n_embd=128), 0).state_dict()
    assert state["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.02)
    assert state["model.layers.3.mlp.down_proj.weight"].std().item() == pytest.approx(0.005, rel=0.02)
    assert state["model.layers.3.self_attn.o_proj.weight"].std().item() == pytest.approx(0.005, rel=0.02)
    assert (state["model.layers.3.self_attn.q_norm.weight"] == 1).all()


def test_dropout_acts_in_training_only() -> None:
    model = make_model(make_config(dropout=0.5))
    tokens = random_tokens()
    with torch.random.fork_rng():
        assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


@torch.inference_mode()
def test_a_bfloat16_model_stays_close_to_float32() -> None:
    model = make_model(scale=3.0).eval()
    exact = model(random_tokens())
    rounded = model.bfloat16()(random_tokens()).float()
    assert (rounded - exact).abs().max() < exact.std() * 0.2


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_gradient_checkpointing_changes_no_gradient(dropout: float) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = make_model(make_config(dropout=dropout), scale=3.0).train()
        model.gradient_checkpointing = is_checkpointed
        torch.manual_seed(3)
        model.loss(random_tokens(), random_tokens()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
def test_training_on_the_cpu_computes_what_evaluation_does(num_kv_heads: int) -> None:
    model = make_model(make_config(n_kv_head=num_kv_heads), scale=5.0)
    tokens = random_tokens()
    torch.testing.assert_close(model.train()(tokens), model.eval()(tokens), rtol=1e-4, atol=1e-4)
