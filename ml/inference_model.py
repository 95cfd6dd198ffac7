"""A trained GPT made ready to generate: few large products per layer, weights in a format that the machine reads fast.

With one text under way a token costs about as much for starting operations as for reading weights, so that operations
are counted here:

- queries, keys and values are one product, gate and up another;
- the norms' gains and the square roots of their widths are folded into the weights behind them: a norm is
  x / hypot(|x|, sqrt(width * eps));
- queries and keys are normed and turned together, their channels reordered so that a pair is one complex number: the
  products of queries and keys do not see an order that both share.

Shape suffixes as in ml.model; N new tokens of all texts, one after the other.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.config import ModelConfig
from ml.linears import Linear, make_linear
from ml.model import GPT, Attention, Block, rotation_at
from ml.slot_cache import SlotCache, Span

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Attention of one layer: its number, (N, H, E) queries, (N, K, E) keys and values -> (N, D), float32."""


class _Layer(NamedTuple):
    qkv: Linear
    o: Linear
    gate_up: Linear
    down: Linear
    qk_gain: Tensor
    """(H + K, E)"""


class InferenceModel:
    """Computes what the GPT does, up to its weight format's error, on texts in the slots of a SlotCache."""

    def __init__(self, model: GPT, *, weight_format: str) -> None:
        self.config: ModelConfig = model.config
        self.weight_format = weight_format
        self.device = model.device
        config = self.config
        with torch.no_grad():
            embedding = model.model.embed_tokens.weight
            self._embedding = embedding.detach().float()
            self._layers = [_layer(cast(Block, block), config, weight_format) for block in model.model.layers]
            norm = model.model.norm.weight * math.sqrt(config.n_embd)
            self._head = make_linear((embedding * norm).float(), weight_format=weight_format)
        positions = torch.arange(config.block_size, device=self.device)[None]
        cos, sin = (part[0, 0] for part in rotation_at(positions, config))
        self._rotation_LE = torch.complex(cos, sin)
        self._floor = torch.tensor(math.sqrt(config.n_embd * config.norm_eps), device=self.device)
        self._head_floor = torch.tensor(math.sqrt(config.head_dim * config.norm_eps), device=self.device)
        self._places_L = torch.arange(config.block_size, device=self.device)

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of keys and values: half precision on an accelerator; on a CPU float32, which it attends to faster."""
        if self.device.type == "cpu" or self.weight_format == "fp32":
            return torch.float32
        return torch.bfloat16 if self.weight_format == "bf16" else torch.float16

    def make_cache(self, num_slots: int) -> SlotCache:
        return SlotCache(self.config, num_slots=num_slots, device=self.device, dtype=self.kv_dtype)

    def decode(
        self, tokens_B: Tensor, positions_B: Tensor, cache: SlotCache, *, length: int, is_ragged: bool
    ) -> Tensor:
        """Logits after one more token in each of the slots 0 to B - 1, row b at positions_B[b] of slot b.

        `length` is at least the longest text's, the new token included; without `is_ragged` all are of that length.
        Depends on tensors alone, not on their values, so that a CUDA graph can hold it.

        Shapes: -> (B, V), float32.
        """
        rows = slice(0, tokens_B.shape[0])
        places = cache.places(rows, positions_B)
        stored = cache.read(rows, length)
        mask = self._mask(positions_B, length, stored[0].dtype) if is_ragged else None
        kv_dtype, is_whole = stored[0].dtype, stored[0].dtype == torch.float32
        grouped = (tokens_B.shape[0], self.config.n_kv_head, -1, self.config.head_dim)

        def attend(layer: int, q_BHE: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> Tensor:
            cache.write(layer, places, k_BKE, v_BKE)
            keys, values = stored[2 * layer], stored[2 * layer + 1]
            # The queries that share a key head are its rows, so that no head has to be repeated.
            q_BKGE = q_BHE.reshape(grouped)
            if is_whole:
                return F.scaled_dot_product_attention(q_BKGE, keys, values, attn_mask=mask).flatten(1)
            return F.scaled_dot_product_attention(q_BKGE.to(kv_dtype), keys, values, attn_mask=mask).flatten(1).float()

        return self._head(self._hidden(tokens_B, positions_B, attend))

    def prefill(
        self, tokens_N: Tensor, spans: Sequence[Span], cache: SlotCache, *, wanted: Tensor | slice | None = None
    ) -> Tensor:
        """Logits after new tokens of several texts, whatever their lengths, at the places `wanted` among them.

        Shapes: tokens_N the spans' tokens one after the other -> (wanted, V), float32; the spans' last by default.
        """
        positions = torch.cat([self._places_L[span.start : span.start + span.num_new] for span in spans])
        slots = torch.tensor([span.slot for span in spans for _ in range(span.num_new)], device=self.device)
        places = cache.places(slots, positions)
        masks = [self._span_mask(span, cache.store.dtype) for span in spans]

        def attend(layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
            cache.write(layer, places, k_NKE, v_NKE)
            pieces = torch.split(q_NHE, [span.num_new for span in spans])
            attended = (
                self._attend_span(cache.store[layer], span, q_THE, mask)
                for span, q_THE, mask in zip(spans, pieces, masks, strict=True)
            )
            return torch.cat(list(attended)).float()

        hidden_ND = self._hidden(tokens_N, positions, attend)
        if wanted is None:
            wanted = torch.tensor([span.num_new for span in spans], device=self.device).cumsum(0) - 1
        return self._head(hidden_ND[wanted])

    def _hidden(self, tokens_N: Tensor, positions_N: Tensor, attend: Attend) -> Tensor:
        config = self.config
        num_heads, num_turned = config.n_head, config.n_head + config.n_kv_head
        width = config.intermediate_size
        rotation_N1E = self._rotation_LE[positions_N][:, None]
        floor, head_floor = self._floor, self._head_floor
        x_ND = F.embedding(tokens_N, self._embedding).float()
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(_norm(x_ND, floor))
            heads = qkv.view(qkv.shape[0], -1, config.head_dim)
            qk = _norm(heads[:, :num_turned], head_floor) * layer.qk_gain
            qk = (qk.view(torch.complex64) * rotation_N1E).view(torch.float32)
            y_ND = attend(number, qk[:, :num_heads], qk[:, num_heads:], heads[:, num_turned:])
            x_ND = x_ND + layer.o(y_ND)
            gate_up = layer.gate_up(_norm(x_ND, floor))
            x_ND = x_ND + layer.down(F.silu(gate_up[:, :width]) * gate_up[:, width:])
        return _norm(x_ND, floor)

    def _attend_span(self, store: Tensor, span: Span, q_THE: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = store[:, span.slot : span.slot + 1, :, : span.start + span.num_new].unbind()
        y_HTE = F.scaled_dot_product_attention(
            q_THE.transpose(0, 1)[None].to(keys.dtype),
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and span.num_new > 1,
            enable_gqa=self.config.n_kv_head != self.config.n_head,
        )
        return y_HTE[0].transpose(0, 1).flatten(1)

    def _span_mask(self, span: Span, dtype: torch.dtype) -> Tensor | None:
        """None where the text begins with the span, or its last token is all of it."""
        if span.start == 0 or span.num_new == 1:
            return None
        end = span.start + span.num_new
        return self._mask(self._places_L[span.start : end], end, dtype)[:, 0, 0]

    def _mask(self, positions_B: Tensor, length: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores: 0 where a token may look. Shapes: (B,) -> (B, 1, 1, length)."""
        is_later = self._places_L[:length] > positions_B[:, None]
        mask = torch.zeros(is_later.shape, dtype=dtype, device=self.device)
        return mask.masked_fill_(is_later, -math.inf)[:, None, None]


def _norm(x: Tensor, floor: Tensor) -> Tensor:
    """RMS norm over the last dimension, divided by the square root of its width."""
    return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)


def _layer(block: Block, config: ModelConfig, weight_format: str) -> _Layer:
    attention, mlp = block.self_attn, block.mlp
    before_attention = block.input_layernorm.weight * math.sqrt(config.n_embd)
    before_mlp = block.post_attention_layernorm.weight * math.sqrt(config.n_embd)
    q, k = (_paired(proj.weight, config.head_dim) for proj in (attention.q_proj, attention.k_proj))
    qkv = torch.cat((q, k, attention.v_proj.weight)) * before_attention
    gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * before_mlp
    weights = (qkv, attention.o_proj.weight, gate_up, mlp.down_proj.weight)
    made = [make_linear(weight.float(), weight_format=weight_format) for weight in weights]
    return _Layer(made[0], made[1], made[2], made[3], _qk_gain(attention, config))


def _qk_gain(attention: Attention, config: ModelConfig) -> Tensor:
    q, k = (_paired(norm.weight, config.head_dim) for norm in (attention.q_norm, attention.k_norm))
    rows = (q.expand(config.n_head, -1), k.expand(config.n_kv_head, -1))
    return torch.cat(rows).float().detach() * math.sqrt(config.head_dim)


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head in the order 0, E/2, 1, E/2 + 1, ...: RoPE's pairs side by side."""
    return weight.view(-1, 2, head_dim // 2, *weight.shape[1:]).transpose(1, 2).flatten(0, 2)
