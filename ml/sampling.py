"""The next token, drawn from logits: each row by its own rules and its own seed.

Shape suffixes as in ml.model.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from torch import Tensor

from ml.bad_input import BadInput


class SamplingInvalid(BadInput):
    """A number that is out of its range; the message names the field."""

    page = "generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How one text goes on.

    Raises: SamplingInvalid.
    """

    temperature: float = 1.0
    """0 takes the likeliest token."""
    top_k: int | None = None
    """Draw among the k likeliest."""
    top_p: float = 1.0
    """Draw among the fewest likeliest that hold this share of the probability."""
    min_p: float = 0.0
    """Draw among tokens at least this share as likely as the likeliest."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that the text has already become less likely. Source: CTRL (arXiv 1909.05858), section 4.1."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit once for each time that it was generated; the prompt does not count."""
    presence_penalty: float = 0.0
    """Taken from a token's logit once it was generated at all; the prompt does not count."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Tokens, and what is added to their logits."""
    seed: int = 0
    """The same seed, prompt and model give the same text, whatever else is in the batch."""
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    """Texts that end the completion and are no part of it."""

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < float("inf"), f"temperature must be 0 or above, not {self.temperature}")
        _require(self.top_k is None or self.top_k >= 1, f"top_k must be at least 1, not {self.top_k}")
        _require(0 < self.top_p <= 1, f"top_p must lie in (0, 1], not be {self.top_p}")
        _require(0 <= self.min_p <= 1, f"min_p must lie in [0, 1], not be {self.min_p}")
        penalty = self.repetition_penalty
        _require(0 < penalty < float("inf"), f"repetition_penalty must be above 0, not {penalty}")
        for name in ("frequency_penalty", "presence_penalty"):
            _require(isfinite(getattr(self, name)), f"{name} must be finite, not {getattr(self, name)}")
        for token, bias in self.logit_bias:
            _require(token >= 0 and isfinite(bias), f"logit_bias must hold finite numbers, not {bias} for {token}")
        _require(self.max_tokens >= 1, f"max_tokens must be at least 1, not {self.max_tokens}")
        _require(all(self.stop), "stop must not hold an empty text")


def sample_next(
    logits_BV: Tensor,
    *,
    params: Sequence[SamplingParams],
    texts: Sequence[Sequence[int]],
    num_generated: Sequence[int] | None = None,
) -> list[int]:
    """One token for each row, whose text so far, prompt included, is texts[b].

    The last num_generated[b] tokens of it were generated; None: none were, so that nothing is penalised for that.
    The draw depends on the row's logits, seed and length alone: rows may join and leave a batch at any step.
    """
    if logits_BV.device.type == "mps":
        logits_BV = logits_BV.cpu()  # MPS has no float64.
    penalties = [row.repetition_penalty for row in params]
    logits_BV = penalise(logits_BV.float(), penalties, texts)
    logits_BV = _shift(logits_BV, params, texts, [0] * len(texts) if num_generated is None else num_generated)
    greedy_B = logits_BV.argmax(dim=-1)
    if all(row.temperature == 0 for row in params):
        return [int(token) for token in greedy_B.tolist()]
    drawn_B = _draw(_filter(logits_BV, params), params, texts)
    is_greedy_B = torch.tensor([row.temperature == 0 for row in params], device=logits_BV.device)
    return [int(token) for token in torch.where(is_greedy_B, greedy_B, drawn_B).tolist()]


def penalise(logits_BV: Tensor, penalties: Sequence[float], texts: Sequence[Sequence[int]]) -> Tensor:
    """The logits, where each row's penalty makes the tokens of its text less likely; 1 changes nothing."""
    penalised = [b for b, penalty in enumerate(penalties) if penalty != 1.0]
    if not penalised:
        return logits_BV
    logits_BV = logits_BV.clone()
    for b in penalised:
        seen = torch.tensor(sorted(set(texts[b])), device=logits_BV.device)
        kept = logits_BV[b, seen]
        logits_BV[b, seen] = torch.where(kept > 0, kept / penalties[b], kept * penalties[b])
    return logits_BV


def _shift(
    logits_BV: Tensor, params: Sequence[SamplingParams], texts: Sequence[Sequence[int]], num_generated: Sequence[int]
) -> Tensor:
    """The logits with each row's biases, less what the tokens that it generated are penalised by.

    Source: OpenAI's API reference, frequency and presence penalties.
    """
    shifts = [
        (b, token, shift)
        for b, row in enumerate(params)
        for token, shift in _shifts(row, texts[b], num_generated[b]).items()
    ]
    if not shifts:
        return logits_BV
    rows, tokens, values = zip(*shifts, strict=True)
    indexes = (torch.tensor(rows, device=logits_BV.device), torch.tensor(tokens, device=logits_BV.device))
    return logits_BV.index_put(indexes, torch.tensor(values, device=logits_BV.device), accumulate=True)


def _shifts(row: SamplingParams, text: Sequence[int], num_generated: int) -> dict[int, float]:
    """What is added to the logits of which tokens."""
    shifts = dict(row.logit_bias)
    if row.frequency_penalty or row.presence_penalty:
        for token, count in Counter(text[len(text) - num_generated :]).items():
            shifts[token] = shifts.get(token, 0.0) - count * row.frequency_penalty - row.presence_penalty
    return shifts


def _filter(logits_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Probabilities at the rows' temperatures, in float64, zero where top_k, top_p or min_p leave a token out.

    Each limit becomes a least probability, so the order of the vocabulary, and with it the draw, is not disturbed.
    """
    temperature_B1 = _column([row.temperature or 1.0 for row in params], logits_BV)
    # The likeliest one's is zero, which no temperature, however small, makes infinite.
    below_BV = logits_BV.double() - logits_BV.double().amax(dim=-1, keepdim=True)
    probabilities_BV = torch.softmax(below_BV / temperature_B1, dim=-1)
    least_B1 = probabilities_BV.amax(dim=-1, keepdim=True) * _column([row.min_p for row in params], logits_BV)
    if any(row.top_k is not None or row.top_p < 1 for row in params):
        least_B1 = torch.maximum(least_B1, _least_of_top(probabilities_BV, params))
    return torch.where(probabilities_BV >= least_B1, probabilities_BV, 0.0)


def _least_of_top(probabilities_BV: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    vocab_size = probabilities_BV.shape[-1]
    sorted_BV = probabilities_BV.sort(dim=-1, descending=True).values
    ranks_V = torch.arange(vocab_size, device=probabilities_BV.device)
    sorted_BV[ranks_V >= _column([row.top_k or vocab_size for row in params], probabilities_BV)] = 0.0
    before_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
    share_B1 = _column([row.top_p for row in params], probabilities_BV) * sorted_BV.sum(dim=-1, keepdim=True)
    is_in_BV = (sorted_BV > 0) & ((before_BV < share_B1) | (ranks_V == 0))
    return torch.where(is_in_BV, sorted_BV, 1.0).amin(dim=-1, keepdim=True)


def _draw(probabilities_BV: Tensor, params: Sequence[SamplingParams], texts: Sequence[Sequence[int]]) -> Tensor:
    cumulative_BV = probabilities_BV.cumsum(dim=-1)
    uniform = [_uniform(row.seed, len(text)) for row, text in zip(params, texts, strict=True)]
    target_B1 = _column(uniform, probabilities_BV) * cumulative_BV[:, -1:]
    token_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0]
    # Rounding may carry the target onto the total; the last token with any probability is meant then.
    last_B = (cumulative_BV < cumulative_BV[:, -1:]).sum(dim=-1)
    return torch.minimum(token_B, last_B)


def _uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits, the same everywhere for a seed and a position in the text."""
    bits = np.random.Philox(key=seed % 2**64, counter=[0, 0, 0, position]).random_raw()
    return float(int(bits) >> 11) * 2.0**-53


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)[:, None]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SamplingInvalid(message)
