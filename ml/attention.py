"""What each token of a text attends to.

Shape suffixes as in ml.model; L layers.
"""

import contextlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ml.inspection import hooked, layers
from ml.model import GPT, RMSNorm, rotate, rotation_at


@torch.inference_mode()
def attention_maps(model: GPT, tokens: Sequence[int]) -> Tensor:
    """How much of each token (column) each token (row) takes in; a row's shares add up to 1.

    Computed from the queries and keys of the model's own forward pass: its fused attention shows no weights.
    Shapes: (L, H, T, T) float64 on the CPU, 0 above the diagonal.
    """
    model.eval()
    attentions = [block.self_attn for block in layers(model)]
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    with contextlib.ExitStack() as hooks:
        for attention in attentions:
            hooks.enter_context(hooked(attention.q_proj, queries.append))
            hooks.enter_context(hooked(attention.k_proj, keys.append))
        model.hidden(torch.tensor([tokens], device=model.device))
    rotation = rotation_at(torch.arange(len(tokens), device=model.device)[None], model.config)

    def turn(x_BTC: Tensor, norm: RMSNorm) -> Tensor:
        x_BTHE = norm(x_BTC.view(*x_BTC.shape[:2], -1, model.config.head_dim))
        return rotate(x_BTHE.transpose(1, 2), rotation)[0].cpu().double()

    return torch.stack(
        [
            _shares(turn(q_BTC, attention.q_norm), turn(k_BTC, attention.k_norm))
            for attention, q_BTC, k_BTC in zip(attentions, queries, keys, strict=True)
        ]
    )


def _shares(q_HTE: Tensor, k_KTE: Tensor) -> Tensor:
    num_heads, num_tokens, head_dim = q_HTE.shape
    k_HTE = k_KTE.repeat_interleave(num_heads // len(k_KTE), dim=0)
    scores_HTT = q_HTE @ k_HTE.transpose(1, 2) / math.sqrt(head_dim)
    is_later_TT = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    return torch.softmax(scores_HTT.masked_fill(is_later_TT, -math.inf), dim=-1)
