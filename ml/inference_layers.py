"""The layers of an InferenceModel, as TorchScript can compile them.

Compiled, one call decodes a token through all layers. Between products that stream the weights through the caches, the
interpreter's work is cold, and cost as much as the products themselves (docs/experiments.md, "Serving: the engine").

Shape suffixes as in ml.inference_model.
"""

import math
import warnings
from typing import List, Optional, Tuple, cast  # noqa: UP035 - TorchScript reads these

import torch
from torch import Tensor, nn

from ml.config import ModelConfig
from ml.linears import make_linear
from ml.model import Attention, Block, Decoder, rotation_at


class InferenceLayer(nn.Module):
    """A Block in four products."""

    qk_gain: Tensor
    floor: Tensor
    head_floor: Tensor

    def __init__(self, block: Block, config: ModelConfig, weight_format: str) -> None:
        super().__init__()
        self.num_heads = config.n_head
        self.num_turned = config.n_head + config.n_kv_head
        self.head_dim = config.head_dim
        self.width = config.intermediate_size
        attention, mlp = block.self_attn, block.mlp
        before_attention = block.input_layernorm.weight * math.sqrt(config.n_embd)
        before_mlp = block.post_attention_layernorm.weight * math.sqrt(config.n_embd)
        q, k = (_paired(proj.weight, config.head_dim) for proj in (attention.q_proj, attention.k_proj))
        qkv = torch.cat((q, k, attention.v_proj.weight)) * before_attention
        gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * before_mlp
        self.qkv = make_linear(qkv.float(), weight_format=weight_format)
        self.o = make_linear(attention.o_proj.weight.float(), weight_format=weight_format)
        self.gate_up = make_linear(gate_up.float(), weight_format=weight_format)
        self.down = make_linear(mlp.down_proj.weight.float(), weight_format=weight_format)
        self.register_buffer("qk_gain", _qk_gain(attention, config))
        self.register_buffer("floor", _floor(config.n_embd, config, block))
        self.register_buffer("head_floor", _floor(config.head_dim, config, block))

    def project(self, x_ND: Tensor, rotation_N1E: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        """Shapes: -> (N, H, E) queries, (N, K, E) keys and values."""
        heads = self.qkv(norm(x_ND, self.floor)).view(x_ND.shape[0], -1, self.head_dim)
        qk = norm(heads[:, : self.num_turned], self.head_floor) * self.qk_gain
        pairs = torch.view_as_complex(qk.view(x_ND.shape[0], self.num_turned, -1, 2))
        qk = torch.view_as_real(pairs * rotation_N1E).flatten(2)
        return qk[:, : self.num_heads], qk[:, self.num_heads :], heads[:, self.num_turned :]

    def finish(self, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        """The residual stream behind the layer; y_ND is what attention gave."""
        x_ND = x_ND + self.o(y_ND)
        gate_up = self.gate_up(norm(x_ND, self.floor))
        gate, up = gate_up[:, : self.width], gate_up[:, self.width :]
        return x_ND + self.down(torch.ops.aten.silu(gate) * up)  # type: ignore[no-any-return]


class InferenceLayers(nn.Module):
    """Embedding, layers and unembedding."""

    embedding: Tensor
    floor: Tensor
    rotation_LE: Tensor

    def __init__(self, decoder: Decoder, config: ModelConfig, weight_format: str) -> None:
        super().__init__()
        self.num_kv_heads = config.n_kv_head
        self.head_dim = config.head_dim
        embedding = decoder.embed_tokens.weight.detach()
        self.register_buffer("embedding", embedding.float())
        self.layers = nn.ModuleList(
            InferenceLayer(cast(Block, block), config, weight_format) for block in decoder.layers
        )
        gain = decoder.norm.weight * math.sqrt(config.n_embd)
        self.head = make_linear((embedding * gain).float(), weight_format=weight_format)
        self.register_buffer("floor", _floor(config.n_embd, config, decoder))
        cos, sin = rotation_at(torch.arange(config.block_size, device=embedding.device)[None], config)
        self.register_buffer("rotation_LE", torch.complex(cos[0, 0], sin[0, 0]))

    def embed(self, tokens_N: Tensor) -> Tensor:
        return torch.embedding(self.embedding, tokens_N)

    def unembed(self, x_ND: Tensor) -> Tensor:
        return self.head(norm(x_ND, self.floor))  # type: ignore[no-any-return]

    def forward(
        self,
        tokens_B: Tensor,
        positions_B: Tensor,
        store: Tensor,
        stores: List[Tensor],  # noqa: UP006
        first_places_NK: Tensor,
        length: int,
        is_ragged: bool,
    ) -> Tensor:
        """Logits after one more token of each row, row b in slot b of a SlotCache, whose tensors these are.

        As `InferenceModel.decode`. Shapes: -> (B, V).
        """
        x_BD = self.embed(tokens_B)
        num_rows = x_BD.shape[0]
        rotation_B1E = self.rotation_LE[positions_B].unsqueeze(1)
        places = (first_places_NK[:num_rows] + positions_B.unsqueeze(1)).flatten()
        held = store.flatten(0, 1)[:, :num_rows, :, :length].unbind()
        mask: Optional[Tensor] = None  # noqa: UP045
        if is_ragged:
            mask = later_mask(positions_B, length, store.dtype)
        for number, layer in enumerate(self.layers):
            q_BHE, k_BKE, v_BKE = layer.project(x_BD, rotation_B1E)  # type: ignore[operator]
            stores[2 * number].index_copy_(0, places, k_BKE.reshape(-1, self.head_dim).to(store.dtype))
            stores[2 * number + 1].index_copy_(0, places, v_BKE.reshape(-1, self.head_dim).to(store.dtype))
            # The queries that share a key head are its rows, so that no head has to be repeated.
            q_BKGE = q_BHE.reshape(num_rows, self.num_kv_heads, -1, self.head_dim).to(store.dtype)
            y_BKGE = torch.ops.aten.scaled_dot_product_attention(q_BKGE, held[2 * number], held[2 * number + 1], mask)
            x_BD = layer.finish(x_BD, y_BKGE.reshape(num_rows, -1).to(x_BD.dtype))  # type: ignore[operator]
        return self.unembed(x_BD)


def later_mask(positions_B: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: 0 where a token may look. Shapes: (B,) -> (B, 1, 1, length)."""
    is_later = torch.arange(length, device=positions_B.device) > positions_B.unsqueeze(1)
    mask = torch.zeros(is_later.shape, dtype=dtype, device=positions_B.device)
    return mask.masked_fill_(is_later, -math.inf).unsqueeze(1).unsqueeze(1)


def norm(x: Tensor, floor: Tensor) -> Tensor:
    """RMS norm over the last dimension, divided by the square root of its width."""
    return x / torch.hypot(torch.ops.aten.linalg_vector_norm(x, 2, [-1], True), floor)


def compiled(layers: InferenceLayers) -> nn.Module:
    """The layers as TorchScript, which computes the same."""
    with warnings.catch_warnings():
        # torch 2.13, to which FAI is bound, says that another way will come; for packed weights there is none yet.
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        return torch.jit.script(layers)


def _floor(width: int, config: ModelConfig, like: nn.Module) -> Tensor:
    return torch.tensor(math.sqrt(width * config.norm_eps), device=next(like.parameters()).device)


def _qk_gain(attention: Attention, config: ModelConfig) -> Tensor:
    q, k = (_paired(norm.weight, config.head_dim) for norm in (attention.q_norm, attention.k_norm))
    rows = (q.expand(config.n_head, -1), k.expand(config.n_kv_head, -1))
    return torch.cat(rows).float().detach() * math.sqrt(config.head_dim)


def _paired(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of each head in the order 0, E/2, 1, E/2 + 1, ...: RoPE's pairs side by side."""
    return weight.view(-1, 2, head_dim // 2, *weight.shape[1:]).transpose(1, 2).flatten(0, 2)
