"""How likely a model finds tokens, and which are the likeliest: of its own distribution, whatever a sampler does to it.

Shape suffixes as in ml.model. Units: nats.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ml.token_logprobs import TokenLogprobs


def score_tokens(logits_BV: Tensor, tokens: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs]:
    """Of tokens[b], by row b, with the num_top[b] likeliest; in float32, whatever the logits are in."""
    if not tokens:
        return []
    logprobs_BV = torch.log_softmax(logits_BV.float(), dim=-1)
    tokens_B1 = torch.tensor(tokens, device=logits_BV.device)[:, None]
    of_token = logprobs_BV.gather(-1, tokens_B1)[:, 0].tolist()
    tops = _tops(logprobs_BV, num_top)
    return [
        TokenLogprobs(token=token, logprob=logprob, top=top)
        for token, logprob, top in zip(tokens, of_token, tops, strict=True)
    ]


def _tops(logprobs_BV: Tensor, num_top: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    most = min(max(num_top), logprobs_BV.shape[-1])
    if most == 0:
        return [()] * len(num_top)
    values_BK, tokens_BK = logprobs_BV.topk(most, dim=-1)
    values, tokens = values_BK.tolist(), tokens_BK.tolist()
    return [
        tuple(zip(row_tokens[:n], row_values[:n], strict=True))
        for n, row_tokens, row_values in zip(num_top, tokens, values, strict=True)
    ]
