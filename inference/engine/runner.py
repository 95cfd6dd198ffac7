"""One loaded model and the texts that it continues together: continuous batching on a ragged KV cache."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inference.wire import ChoiceTokens, PromptLogprobs
from ml.inference_model import InferenceModel
from ml.logprobs import score_tokens
from ml.prefix_cache import PrefixCache
from ml.sampling import SamplingParams, sample_next
from ml.text_batch import Piece, Text, TextBatch
from ml.token_logprobs import TokenLogprobs


@dataclass(eq=False, kw_only=True, slots=True)
class Choice:
    """One text under way: prompt and generated tokens together in `text`."""

    request_id: str
    index: int
    text: list[int]
    params: SamplingParams
    stop_tokens: frozenset[int]
    prompt: int = 0
    """Which of the request's prompts this is."""
    num_logprobs: int | None = None
    """How many of the likeliest tokens are told with each generated one; None: no log-probabilities."""
    has_prompt_logprobs: bool = False
    """Whether the prompt's tokens are scored before the first generated one; for one choice of each prompt."""
    num_generated: int = 0
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken as the model has it."""
        params = self.params
        changes_logits = params.logit_bias or params.frequency_penalty or params.presence_penalty
        return params.temperature == 0 and params.repetition_penalty == 1.0 and not changes_logits

    def append(self, token: int, *, logprobs: tuple[TokenLogprobs, ...] | None = None) -> ChoiceTokens:
        """The choice goes on by one token; what is to be told of it."""
        offset = self.num_generated
        self.text.append(token)
        self.num_generated += 1
        reason = None
        if token in self.stop_tokens:
            reason = "stop"
        elif self.num_generated == self.params.max_tokens:
            reason = "length"
        return ChoiceTokens(index=self.index, offset=offset, tokens=(token,), finish_reason=reason, logprobs=logprobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One step of one choice, or what was asked about its prompt."""

    choice: Choice
    event: ChoiceTokens | PromptLogprobs


class RequestInvalid(ValueError):
    """A request that the model cannot continue; it would end the engine if it were tried."""


class Runner:
    """A model with `num_slots` places; choices beyond that wait in order."""

    def __init__(
        self,
        model: InferenceModel,
        *,
        checkpoint_id: int,
        sha256: str,
        num_slots: int,
        prefixes: PrefixCache | None = None,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.sha256 = sha256
        self.num_reused_tokens = 0
        """Of prompts that begin as others did; whoever counts them sets it back."""
        self._config = model.config
        self._num_slots = num_slots
        self._batch = TextBatch(model, num_slots=num_slots, prefixes=prefixes)
        self._waiting: deque[Choice] = deque()
        self._choices: dict[Text, Choice] = {}
        """In the order in which they were admitted."""

    @property
    def num_free(self) -> int:
        """Places that nobody waits for."""
        return max(0, self._num_slots - len(self._choices) - len(self._waiting))

    @property
    def is_idle(self) -> bool:
        return not self._waiting and not self._choices

    def add(self, choices: Sequence[Choice]) -> None:
        """Continue all of the choices, or none.

        Raises: RequestInvalid.
        """
        config = self._config
        for choice in choices:
            if not choice.text or len(choice.text) + choice.params.max_tokens > config.block_size:
                raise RequestInvalid(f"a prompt of {len(choice.text)} tokens does not fit the model's context")
            if not 0 <= min(choice.text) <= max(choice.text) < config.vocab_size:
                raise RequestInvalid("a prompt holds tokens that the model does not know")
            if any(not 0 <= token < config.vocab_size for token, _ in choice.params.logit_bias):
                raise RequestInvalid("logit_bias names tokens that the model does not know")
        self._waiting.extend(choices)

    def drop(self, is_dropped: Callable[[Choice], bool]) -> None:
        """Stop the choices that nobody wants any more; their places are free at once."""
        self._waiting = deque(choice for choice in self._waiting if not is_dropped(choice))
        for text, choice in list(self._choices.items()):
            if is_dropped(choice):
                self._remove(text)

    @torch.inference_mode()
    def step(self) -> list[Generated]:
        """One token for every choice that decodes, and a piece of the prompts that wait, so that the others go on."""
        generated = self._decode() if self._batch.decoding else []
        self._admit()
        for piece in self._batch.read():
            generated += self._take_piece(piece)
        return generated

    def _admit(self) -> None:
        while self._waiting:
            choice = self._waiting[0]
            text = Text(tokens=choice.text, scores_prompt=choice.has_prompt_logprobs)
            if not self._batch.admit(text):
                return
            self._waiting.popleft()
            self._choices[text] = choice
            self.num_reused_tokens += text.num_read

    def _decode(self) -> list[Generated]:
        texts = list(self._batch.decoding)
        return self._go_on(texts, self._batch.decode())

    def _take_piece(self, piece: Piece) -> list[Generated]:
        choice = self._choices[piece.text]
        generated = []
        if choice.has_prompt_logprobs:
            self._score_prompt(choice, piece)
        if piece.is_last:
            if choice.has_prompt_logprobs:
                event = PromptLogprobs(prompt=choice.prompt, logprobs=tuple(choice.prompt_logprobs))
                generated.append(Generated(choice=choice, event=event))
            generated += self._go_on([piece.text], piece.logits[-1:])
        return generated

    def _score_prompt(self, choice: Choice, piece: Piece) -> None:
        """The piece's logits are of the tokens after its own; the prompt's last one has none yet."""
        start = len(choice.prompt_logprobs)
        following = choice.text[start : start + len(piece.logits)]
        num_top = [choice.num_logprobs or 0] * len(following)
        choice.prompt_logprobs += score_tokens(piece.logits[: len(following)], following, num_top)

    def _go_on(self, texts: Sequence[Text], logits: Tensor) -> list[Generated]:
        """The next token of each text, by its row of logits. Shapes: (B, V)."""
        choices = [self._choices[text] for text in texts]
        tokens = _next_tokens(logits, choices)
        scores = _scores(logits, choices, tokens)
        generated = []
        for text, choice, token in zip(texts, choices, tokens, strict=True):
            event = choice.append(token, logprobs=scores.get(choice))
            generated.append(Generated(choice=choice, event=event))
            if event.finish_reason is not None:
                self._remove(text)
        return generated

    def _remove(self, text: Text) -> None:
        self._batch.remove(text)
        del self._choices[text]


def _next_tokens(logits: Tensor, choices: Sequence[Choice]) -> list[int]:
    if all(choice.is_greedy for choice in choices):
        if logits.device.type == "cpu":
            # torch's argmax over rows takes five times as long as numpy's.
            return [int(token) for token in logits.numpy().argmax(-1)]
        return [int(token) for token in logits.argmax(-1).tolist()]
    return sample_next(
        logits,
        params=[choice.params for choice in choices],
        texts=[choice.text for choice in choices],
        num_generated=[choice.num_generated for choice in choices],
    )


def _scores(
    logits: Tensor, choices: Sequence[Choice], tokens: Sequence[int]
) -> dict[Choice, tuple[TokenLogprobs, ...]]:
    """Of the tokens whose choices ask for it."""
    asked = [(row, choice.num_logprobs) for row, choice in enumerate(choices) if choice.num_logprobs is not None]
    if not asked:
        return {}
    rows = [row for row, _ in asked]
    scores = score_tokens(logits[rows], [tokens[row] for row in rows], [num_top for _, num_top in asked])
    return {choices[row]: (score,) for row, score in zip(rows, scores, strict=True)}
