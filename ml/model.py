"""The GPT: Qwen3's architecture under Hugging Face's tensor names, so that a checkpoint already is the export.

Shape suffixes: B rows, T new tokens, S tokens attended to, D n_embd, H heads, K key and value heads, E head_dim,
V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ml.block_attention import block_attention
from ml.config import ModelConfig
from ml.fused_norm import rms_norm, rotated_rms_norm
from ml.kv_cache import KVCache, KVRows
from ml.loss import linear_cross_entropy

INITIAL_STD = 0.02


class RMSNorm(nn.Module):
    """Scale to unit mean square, in fp32 whatever comes in; what comes out is in autocast's type where that is on."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        dtype = autocast_dtype(x)
        if _is_cpu_training(self, x):
            return rms_norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(dtype)


class Attention(nn.Module):
    """Causal attention with grouped key and value heads, QK-norm, and rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.is_grouped = config.n_kv_head != config.n_head
        kv_dim = config.n_kv_head * config.head_dim
        self.q_proj = _linear(config.n_embd, config.n_embd)
        self.k_proj = _linear(config.n_embd, kv_dim)
        self.v_proj = _linear(config.n_embd, kv_dim)
        self.o_proj = _linear(config.n_embd, config.n_embd)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, *, rotation: tuple[Tensor, Tensor], rows: KVRows | None, layer: int) -> Tensor:
        """
        x ─┬─ q_proj ─ q_norm ─ RoPE ───────────────┐
           ├─ k_proj ─ k_norm ─ RoPE ─ (cache) ─────┼─ attention ─ o_proj ─
           └─ v_proj ───────────────── (cache) ─────┘
        """
        q_BTHE, k_BTKE, v_BTKE = (self._heads(proj(x_BTD)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        if rows is None and _is_cpu_training(self, x_BTD):
            y_BHTE = self._attend_on_cpu(q_BTHE, k_BTKE, v_BTKE, rotation)
        else:
            q_BHTE = rotate(self.q_norm(q_BTHE).transpose(1, 2), rotation)
            k_BKSE = rotate(self.k_norm(k_BTKE).transpose(1, 2), rotation)
            v_BKSE = v_BTKE.transpose(1, 2)
            if rows is not None:
                k_BKSE, v_BKSE = rows.append(layer, k_BKSE, v_BKSE)
            y_BHTE = F.scaled_dot_product_attention(
                q_BHTE,
                k_BKSE,
                v_BKSE,
                attn_mask=None if rows is None else rows.mask,
                is_causal=rows is None or rows.is_causal,
                enable_gqa=self.is_grouped,
            )
        y_BTD: Tensor = self.o_proj(y_BHTE.transpose(1, 2).flatten(2))
        return y_BTD

    def _attend_on_cpu(self, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q_BHTE = rotated_rms_norm(q_BTHE, self.q_norm.weight, self.q_norm.eps, rotation)
        k_BKTE = rotated_rms_norm(k_BTKE, self.k_norm.weight, self.k_norm.eps, rotation)
        v_BKTE = v_BTKE.transpose(1, 2)
        if self.is_grouped:
            num_repeats = q_BHTE.shape[1] // k_BKTE.shape[1]
            k_BKTE, v_BKTE = (x.repeat_interleave(num_repeats, dim=1) for x in (k_BKTE, v_BKTE))
        return block_attention(q_BHTE, k_BKTE, v_BKTE)

    def _heads(self, x_BTC: Tensor) -> Tensor:
        return x_BTC.view(*x_BTC.shape[:2], -1, self.head_dim)


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config.n_embd, config.intermediate_size)
        self.up_proj = _linear(config.n_embd, config.intermediate_size)
        self.down_proj = _linear(config.intermediate_size, config.n_embd)

    def forward(self, x_BTD: Tensor) -> Tensor:
        y_BTD: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return y_BTD


class Block(nn.Module):
    """One layer.

    x ─┬─ input_layernorm ─ self_attn ─ dropout ─ (+) ─┬─ post_attention_layernorm ─ mlp ─ dropout ─ (+) ─
       └──────────────────────────────────────────┘    └───────────────────────────────────────────┘
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.n_embd, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, *, rotation: tuple[Tensor, Tensor], rows: KVRows | None, layer: int) -> Tensor:
        attention_BTD = self.self_attn(self.input_layernorm(x_BTD), rotation=rotation, rows=rows, layer=layer)
        x_BTD = x_BTD + self.dropout(attention_BTD)
        y_BTD: Tensor = x_BTD + self.dropout(self.mlp(self.post_attention_layernorm(x_BTD)))
        return y_BTD


class Decoder(nn.Module):
    """Embedding, layers and last norm; a module of its own because the names begin with `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # A tensor of its own, because nn.Embedding would draw its values from the global generator.
        self.embed_tokens = nn.Embedding(
            config.vocab_size, config.n_embd, _weight=torch.empty(config.vocab_size, config.n_embd)
        )
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)


class GPT(nn.Module):
    """A decoder-only transformer with tied embeddings; lm_head is embed_tokens and stands in no checkpoint.

    Its weights are not set: `initial_model` and `ml.checkpoint.load_model` make usable ones.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.gradient_checkpointing = False
        """Whether training keeps only what enters each layer, and computes the rest again in the backward pass."""

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def forward(self, tokens_BT: Tensor, *, cache: KVCache | None = None, slots: Sequence[int] | None = None) -> Tensor:
        """Logits of the token after each token.

        Shapes: tokens_BT (B, T) integers -> (B, T, V), and V is vocab_size; `cache` and `slots` as in `hidden`.
        """
        return self.unembed(self.hidden(tokens_BT, cache=cache, slots=slots))

    def hidden(self, tokens_BT: Tensor, *, cache: KVCache | None = None, slots: Sequence[int] | None = None) -> Tensor:
        """The normed residual stream, of which `unembed` makes logits.

        With a cache, row b continues the text of slot slots[b], which may be of any length, and is appended to it;
        without `slots`, row b is slot b.

        Shapes: (B, T) -> (B, T, D).
        Raises: ml.kv_cache.CacheFull where a text would outgrow block_size.
        """
        rows = None if cache is None else cache.rows(slots, num_new=tokens_BT.shape[1])
        rotation = self._rotation(tokens_BT, rows)
        x_BTD = self.model.dropout(self.model.embed_tokens(tokens_BT))
        is_checkpointed = self.gradient_checkpointing and self.training and rows is None
        for layer, block in enumerate(self.model.layers):
            run = partial(checkpoint, block, use_reentrant=False) if is_checkpointed else block
            x_BTD = run(x_BTD, rotation=rotation, rows=rows, layer=layer)
        if rows is not None:
            rows.commit()
        normed_BTD: Tensor = self.model.norm(x_BTD)
        return normed_BTD

    def unembed(self, x_BTD: Tensor) -> Tensor:
        """Logits, through the tied embedding."""
        return F.linear(x_BTD, self.model.embed_tokens.weight)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy in nats per token, computed in fp32; a scalar."""
        x_ND = self.hidden(tokens_BT).flatten(0, 1)
        return linear_cross_entropy(x_ND, self.model.embed_tokens.weight, targets_BT.flatten())

    def _rotation(self, tokens_BT: Tensor, rows: KVRows | None) -> tuple[Tensor, Tensor]:
        if rows is None:
            positions = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)[None]
        else:
            positions = rows.positions_BT
        return rotation_at(positions, self.config)


def rotation_at(positions_BT: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, for all heads.

    Shapes: (B, T) -> two of (B, 1, T, E / 2), float32.
    Source: RoFormer (arXiv 2104.09864), equation 15, in Hugging Face's layout: pair i is (x_i, x_{i + E/2}).
    """
    exponents = torch.arange(0, config.head_dim, 2, device=positions_BT.device, dtype=torch.float32) / config.head_dim
    angles = positions_BT[:, None, :, None].float() / config.rope_theta**exponents
    return angles.cos(), angles.sin()


def rotate(x_BHTE: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of channels by its position's angle."""
    cos, sin = rotation
    a, b = x_BHTE.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).type_as(x_BHTE)


def initial_model(config: ModelConfig, seed: int) -> GPT:
    """A model with the weights that training starts from: the same for the same seed, on the CPU.

    Projections into the residual stream start smaller by sqrt(2 n_layer), so that its variance does not grow with
    depth. Source: GPT-2.
    """
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    residual_std = INITIAL_STD / math.sqrt(2 * config.n_layer)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else INITIAL_STD
            nn.init.normal_(parameter, std=std, generator=generator)
    return model


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The type that autocast computes matrix products of x in; x's own where autocast is off."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _is_cpu_training(module: nn.Module, x: Tensor) -> bool:
    return module.training and x.device.type == "cpu"


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    # On no device first: the weights are about to be loaded or drawn, and nn.Linear would draw some of its own.
    return nn.Linear(num_inputs, num_outputs, bias=False, device="meta").to_empty(device=torch.get_default_device())
