"""Causal attention for training on the CPU: a few large matrix products instead of torch's small ones.

torch's own kernel computes 32 queries by 512 keys at a time, in products too small for the CPU's bf16 units; its
backward pass takes three times as long as this one. Memory grows with the length of a text, not with its square:
the backward pass computes each block's probabilities again where they would be many.

Shape suffixes: M texts times heads, T tokens, Q queries of a block, S keys up to the block's end, E head_dim.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_QUERIES = 128
KEPT_TOKENS = 256
"""Up to this length the probabilities are kept, which are few beside what the rest of a layer keeps."""


def block_attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v, each token attending to itself and what stands before it.

    Shapes: three of (B, H, T, E), of one type -> (B, H, T, E).
    """
    y_MTE: Tensor = _BlockAttention.apply(*(x.flatten(0, 1) for x in (q_BHTE, k_BHTE, v_BHTE)))  # type: ignore[no-untyped-call]
    return y_MTE.view(q_BHTE.shape)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_MTE: Tensor, k_MTE: Tensor, v_MTE: Tensor) -> Tensor:
        kept = []
        y_MTE = torch.empty_like(q_MTE)
        for block, past in _blocks(q_MTE.shape[1]):
            p_MQS = _probabilities(q_MTE[:, block], k_MTE[:, past])
            y_MTE[:, block] = torch.bmm(p_MQS, v_MTE[:, past])
            if q_MTE.shape[1] <= KEPT_TOKENS:
                kept.append(p_MQS)
        ctx.save_for_backward(q_MTE, k_MTE, v_MTE, *kept)
        return y_MTE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_MTE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_MTE, k_MTE, v_MTE, *kept = ctx.saved_tensors
        scale = 1 / math.sqrt(q_MTE.shape[2])
        grad_q_MTE = torch.empty_like(q_MTE)
        # In float32, because every later block adds to them.
        grad_k_MTE = torch.zeros(k_MTE.shape, dtype=torch.float32)
        grad_v_MTE = torch.zeros(v_MTE.shape, dtype=torch.float32)
        for block, past in _blocks(q_MTE.shape[1]):
            p_MQS = kept.pop(0) if kept else _probabilities(q_MTE[:, block], k_MTE[:, past])
            grad_MQE = grad_MTE[:, block]
            grad_p_MQS = torch.bmm(grad_MQE, v_MTE[:, past].mT)
            grad_scores_MQS = torch._softmax_backward_data(grad_p_MQS, p_MQS, -1, p_MQS.dtype)
            grad_v_MTE[:, past] += torch.bmm(p_MQS.mT, grad_MQE)
            grad_q_MTE[:, block] = torch.bmm(grad_scores_MQS, k_MTE[:, past]).mul_(scale)
            grad_k_MTE[:, past] += torch.bmm(grad_scores_MQS.mT, q_MTE[:, block]).mul_(scale)
        return grad_q_MTE, grad_k_MTE.to(k_MTE.dtype), grad_v_MTE.to(v_MTE.dtype)


def _blocks(length: int) -> Iterator[tuple[slice, slice]]:
    """Each block of queries, and the keys it may look at."""
    for start in range(0, length, BLOCK_QUERIES):
        end = min(start + BLOCK_QUERIES, length)
        yield slice(start, end), slice(0, end)


def _probabilities(q_MQE: Tensor, k_MSE: Tensor) -> Tensor:
    """Shapes: (M, Q, E) and (M, S, E), the last Q of S tokens asking -> (M, Q, S)."""
    num_queries, num_keys = q_MQE.shape[1], k_MSE.shape[1]
    future_QS = torch.full((num_queries, num_keys), -math.inf, dtype=q_MQE.dtype).triu(num_keys - num_queries + 1)
    scores_MQS = torch.baddbmm(future_QS, q_MQE, k_MSE.mT, alpha=1 / math.sqrt(q_MQE.shape[2]))
    return torch.softmax(scores_MQS, dim=-1)
