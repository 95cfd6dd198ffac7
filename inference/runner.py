"""One loaded model and the texts that it continues together: continuous batching on a ragged KV cache."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from inference.wire import ChoiceTokens
from ml.kv_cache import KVCache
from ml.model import GPT
from ml.sampling import SamplingParams, sample_next


@dataclass(kw_only=True, slots=True)
class Choice:
    """One text under way: prompt and generated tokens together in `text`."""

    request_id: str
    index: int
    text: list[int]
    params: SamplingParams
    stop_tokens: frozenset[int]
    num_generated: int = 0

    def append(self, token: int) -> ChoiceTokens:
        """The choice goes on by one token; what is to be told of it."""
        offset = self.num_generated
        self.text.append(token)
        self.num_generated += 1
        reason = None
        if token in self.stop_tokens:
            reason = "stop"
        elif self.num_generated == self.params.max_tokens:
            reason = "length"
        return ChoiceTokens(index=self.index, offset=offset, tokens=(token,), finish_reason=reason)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """One step of one choice."""

    choice: Choice
    event: ChoiceTokens


class RequestInvalid(ValueError):
    """A request that the model cannot continue; it would end the engine if it were tried."""


class Runner:
    """A model with `num_slots` places; choices beyond that wait in order."""

    def __init__(self, model: GPT, *, checkpoint_id: int, sha256: str, num_slots: int) -> None:
        self.checkpoint_id = checkpoint_id
        self.sha256 = sha256
        self._model = model.eval()
        self._cache = KVCache(model.config, num_slots=num_slots, device=model.device)
        self._slots: list[Choice | None] = [None] * num_slots
        self._waiting: deque[Choice] = deque()

    @property
    def num_free(self) -> int:
        """Places that nobody waits for."""
        return max(0, self._slots.count(None) - len(self._waiting))

    @property
    def is_idle(self) -> bool:
        return not self._waiting and self._slots.count(None) == len(self._slots)

    def add(self, choices: Sequence[Choice]) -> None:
        """Continue all of the choices, or none.

        Raises: RequestInvalid.
        """
        config = self._model.config
        for choice in choices:
            if not choice.text or len(choice.text) + choice.params.max_tokens > config.block_size:
                raise RequestInvalid(f"a prompt of {len(choice.text)} tokens does not fit the model's context")
            if not 0 <= min(choice.text) <= max(choice.text) < config.vocab_size:
                raise RequestInvalid("a prompt holds tokens that the model does not know")
        self._waiting.extend(choices)

    def drop(self, is_dropped: Callable[[Choice], bool]) -> None:
        """Stop the choices that nobody wants any more; their places are free at once."""
        self._waiting = deque(choice for choice in self._waiting if not is_dropped(choice))
        for slot, choice in enumerate(self._slots):
            if choice is not None and is_dropped(choice):
                self._free(slot)

    @torch.inference_mode()
    def step(self) -> list[Generated]:
        """One token for every choice in a place; one that waits is admitted at most, so that the others go on."""
        active = [slot for slot, choice in enumerate(self._slots) if choice is not None]
        generated = self._decode(active) if active else []
        if self._waiting and None in self._slots:
            generated.append(self._admit(self._waiting.popleft()))
        return generated

    def _admit(self, choice: Choice) -> Generated:
        slot = self._slots.index(None)
        self._slots[slot] = choice
        return self._forward([slot], [choice.text])[0]

    def _decode(self, slots: list[int]) -> list[Generated]:
        return self._forward(slots, [choice.text[-1:] for slot in slots if (choice := self._slots[slot])])

    def _forward(self, slots: list[int], new_tokens: list[list[int]]) -> list[Generated]:
        choices = [choice for slot in slots if (choice := self._slots[slot])]
        tokens = torch.tensor(new_tokens, device=self._model.device)
        hidden = self._model.hidden(tokens, cache=self._cache, slots=slots)
        next_tokens = sample_next(
            self._model.unembed(hidden[:, -1]),
            params=[choice.params for choice in choices],
            texts=[choice.text for choice in choices],
        )
        generated = []
        for slot, choice, token in zip(slots, choices, next_tokens, strict=True):
            event = choice.append(token)
            if event.finish_reason is not None:
                self._free(slot)
            generated.append(Generated(choice=choice, event=event))
        return generated

    def _free(self, slot: int) -> None:
        self._slots[slot] = None
        self._cache.clear(slot)
