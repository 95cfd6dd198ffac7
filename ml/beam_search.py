"""The likeliest text that a search over several candidates at a time finds.

Source: Wu et al., Google's NMT (arXiv 1609.08144), section 7, with length normalisation num_tokens ** length_penalty.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ml.bad_input import BadInput
from ml.generation import Completion, check_prompt
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.sampling import penalise
from ml.text_stream import TextStream
from ml.tokenizer import end_of_text, token_bytes

MAX_BEAMS = 256
"""Each has keys and values of its own in memory."""


class BeamsInvalid(BadInput):
    """A search that cannot be made; the message names the number."""

    page = "generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamParams:
    """How one text is searched for.

    Raises: BeamsInvalid.
    """

    num_beams: int = 4
    """Candidates that are kept at every length."""
    length_penalty: float = 1.0
    """A candidate's score is its log-probability divided by num_tokens to this power: 0 favours short texts."""
    repetition_penalty: float = 1.0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.num_beams <= MAX_BEAMS:
            raise BeamsInvalid(f"num_beams must lie between 1 and {MAX_BEAMS}, not be {self.num_beams}")
        if self.max_tokens < 1:
            raise BeamsInvalid(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.length_penalty < float("inf"):
            raise BeamsInvalid(f"length_penalty must be 0 or above, not {self.length_penalty}")
        if not 0 < self.repetition_penalty < float("inf"):
            raise BeamsInvalid(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if not all(self.stop):
            raise BeamsInvalid("stop must not hold an empty text")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A continuation, whole or under way."""

    tokens: tuple[int, ...] = ()
    log_probability: float = 0.0
    """Of all its tokens, in nats."""
    slot: int = 0
    """Where the cache holds what it continues."""

    def score(self, length_penalty: float) -> float:
        return self.log_probability / float(max(1, len(self.tokens)) ** length_penalty)


def search(model: GPT, tokenizer: Tokenizer, prompt: Sequence[int], params: BeamParams) -> Completion:
    """The best candidate that ends before max_tokens or has as many.

    Raises: ml.generation.PromptInvalid.
    """
    start = time.perf_counter()
    best = search_tokens(model, tokenizer, prompt, params)
    stream = TextStream(tokenizer, stop=params.stop)
    has_end = best.tokens[-1] == end_of_text(tokenizer)
    text = "".join(stream.push(token) for token in best.tokens[: len(best.tokens) - has_end]) + stream.finish()
    return Completion(
        text=text,
        prompt_tokens=len(prompt),
        completion_tokens=len(best.tokens),
        finish_reason="stop" if has_end or stream.is_stopped else "length",
        seconds=time.perf_counter() - start,
    )


@torch.inference_mode()
def search_tokens(model: GPT, tokenizer: Tokenizer, prompt: Sequence[int], params: BeamParams) -> Candidate:
    """The best candidate, END_OF_TEXT or its stop text included.

    The search ends when no candidate under way can still outdo the best that has ended: exact for its beams.
    Raises: ml.generation.PromptInvalid.
    """
    check_prompt(model, prompt, max_tokens=params.max_tokens)
    model.eval()
    ends = _Ends(tokenizer, params.stop)
    cache = KVCache(model.config, num_slots=params.num_beams, device=model.device)
    hidden_BTD = model.hidden(torch.tensor([list(prompt)], device=model.device), cache=cache, slots=[0])
    alive, ended = [Candidate()], list[Candidate]()
    while True:
        log_probabilities_BV = _log_probabilities(model, hidden_BTD, prompt, alive, params)
        alive = _extend(alive, log_probabilities_BV, num_wanted=2 * params.num_beams)
        ended += [candidate for candidate in alive if ends.has_ended(candidate.tokens)]
        alive = [candidate for candidate in alive if not ends.has_ended(candidate.tokens)][: params.num_beams]
        if _is_over(alive, ended, params):
            break
        cache.reorder([candidate.slot for candidate in alive])
        tokens_B1 = torch.tensor([[candidate.tokens[-1]] for candidate in alive], device=model.device)
        hidden_BTD = model.hidden(tokens_B1, cache=cache, slots=range(len(alive)))
    return max(ended + alive, key=lambda candidate: candidate.score(params.length_penalty))


def _log_probabilities(
    model: GPT, hidden_BTD: Tensor, prompt: Sequence[int], alive: Sequence[Candidate], params: BeamParams
) -> Tensor:
    logits_BV = model.unembed(hidden_BTD[:, -1]).float()
    texts = [[*prompt, *candidate.tokens] for candidate in alive]
    return torch.log_softmax(penalise(logits_BV, [params.repetition_penalty] * len(alive), texts), dim=-1)


def _extend(alive: Sequence[Candidate], log_probabilities_BV: Tensor, *, num_wanted: int) -> list[Candidate]:
    """The likeliest candidates that are one token longer, likeliest first."""
    before_B1 = torch.tensor([[candidate.log_probability] for candidate in alive], device=log_probabilities_BV.device)
    total_N = (before_B1 + log_probabilities_BV).flatten()
    best = total_N.topk(min(num_wanted, len(total_N)))
    vocab_size = log_probabilities_BV.shape[1]
    return [
        Candidate(
            tokens=(*alive[place // vocab_size].tokens, place % vocab_size),
            log_probability=log_probability,
            slot=place // vocab_size,
        )
        for log_probability, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _is_over(alive: Sequence[Candidate], ended: Sequence[Candidate], params: BeamParams) -> bool:
    if not alive or len(alive[0].tokens) == params.max_tokens:
        return True
    if not ended:
        return False
    # A text only loses probability as it grows; its score is bounded by what the longest would divide that by.
    bound = max(candidate.log_probability for candidate in alive) / float(params.max_tokens**params.length_penalty)
    return max(candidate.score(params.length_penalty) for candidate in ended) >= bound


class _Ends:
    """What ends a text: END_OF_TEXT, or one of the stop texts, wherever its bytes fall on tokens."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._end = end_of_text(tokenizer)
        self._stop = [text.encode() for text in stop]

    def has_ended(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] == self._end:
            return True
        last = token_bytes(self._tokenizer, tokens[-1])
        return any(stop in self._tail(tokens, len(stop) + len(last)) for stop in self._stop)

    def _tail(self, tokens: Sequence[int], num_bytes: int) -> bytes:
        tail = b""
        for token in reversed(tokens):
            tail = token_bytes(self._tokenizer, token) + tail
            if len(tail) >= num_bytes:
                break
        return tail
