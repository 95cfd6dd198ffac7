"""Texts that one inference model continues together: some decode, others are being read in.

Text number b of `decoding` is in slot b, so that what decodes lies side by side in memory: where one ends, the last one
is copied into its slot. A prompt is read in a slot behind those, a piece at a time, and copied when it is whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ml.inference_model import InferenceModel
from ml.prefix_cache import MIN_PREFIX_TOKENS, PrefixCache, num_common
from ml.slot_cache import Span
from ml.static_decoding import StaticDecoding, record_cuda_graph

READ_TOKENS = 128
"""Of prompts, between two decoding steps: more would keep the texts under way waiting."""
NUM_READING = 8
"""Prompts that are read at the same time."""


@dataclass(eq=False, kw_only=True, slots=True)
class Text:
    """A prompt and what follows it; its owner appends to `tokens` what it chooses by the logits."""

    tokens: list[int]
    scores_prompt: bool = False
    """Whether the logits after each token of the prompt are wanted, and not only those after the last."""
    num_read: int = 0
    """Tokens whose keys and values are stored."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt that was read: the logits after its tokens, or after its last alone. Shapes: (n, V)."""

    text: Text
    logits: Tensor
    is_last: bool
    """Whether the prompt is read, and its text decodes from here on."""


@dataclass(eq=False, slots=True)
class _Reading:
    text: Text
    slot: int
    prompt: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.prompt = list(self.text.tokens)

    @property
    def num_left(self) -> int:
        return len(self.prompt) - self.text.num_read


@dataclass(frozen=True, slots=True)
class _Known:
    """What is stored of a prompt's beginning: how many tokens, and by a decoding text's slot or as taken from one."""

    length: int
    source: int | Tensor


class TextBatch:
    """At most `num_slots` texts. Every text's logits depend on its own tokens alone, up to rounding."""

    def __init__(self, model: InferenceModel, *, num_slots: int, prefixes: PrefixCache | None = None) -> None:
        self.decoding: list[Text] = []
        self.prefixes = PrefixCache() if prefixes is None else prefixes
        self._model = model
        self._num_slots = num_slots
        self._readings: list[_Reading] = []
        self._cache = model.make_cache(num_slots + NUM_READING)
        self._static: StaticDecoding | None = None
        if model.device.type == "cuda":
            self._static = StaticDecoding(model, self._cache, num_slots=num_slots, record=record_cuda_graph)

    @property
    def num_free(self) -> int:
        return self._num_slots - len(self.decoding) - len(self._readings)

    def admit(self, text: Text) -> bool:
        """Begin to read a prompt, after what other texts have in common with it.

        False where no place is free, or a prompt that begins alike is being read: its work is worth waiting for.
        """
        taken = {reading.slot for reading in self._readings}
        free = [slot for slot in range(self._num_slots, self._cache.num_slots) if slot not in taken]
        if not free or self.num_free <= 0:
            return False
        if not text.scores_prompt:
            known = self._known(text.tokens)
            if self._is_awaited(text.tokens, known):
                return False
            text.num_read = self._reuse(text.tokens, known, free[0])
        self._readings.append(_Reading(text, free[0]))
        return True

    def decode(self) -> Tensor:
        """Logits after the last token of every text in `decoding`. Shapes: (len(decoding), V)."""
        lengths = [len(text.tokens) for text in self.decoding]
        tokens = torch.tensor([text.tokens[-1] for text in self.decoding], device=self._model.device)
        positions = torch.tensor(lengths, device=self._model.device) - 1
        for text, length in zip(self.decoding, lengths, strict=True):
            text.num_read = length
        if self._static is not None:
            return self._static.decode(tokens, positions)
        longest = max(lengths)
        return self._model.decode(tokens, positions, self._cache, length=longest, is_ragged=min(lengths) < longest)

    def read(self) -> list[Piece]:
        """Read up to READ_TOKENS of the prompts on their way in, the oldest first."""
        chosen: list[tuple[_Reading, Span]] = []
        room = READ_TOKENS
        for reading in self._readings:
            num_new = min(reading.num_left, room)
            room -= num_new
            if num_new:
                chosen.append((reading, Span(reading.slot, reading.text.num_read, num_new)))
        return self._read(chosen) if chosen else []

    def remove(self, text: Text) -> None:
        """Free the text's place at once; what was computed of it is kept for texts that begin alike."""
        if text not in self.decoding:
            self._readings = [reading for reading in self._readings if reading.text is not text]
            return
        slot = self.decoding.index(text)
        if self.prefixes.is_worth_keeping(text.tokens[: text.num_read]):
            self.prefixes.keep(text.tokens[: text.num_read], self._cache.take(slot, length=text.num_read))
        last = self.decoding.pop()
        if last is not text:
            self.decoding[slot] = last
            self._cache.copy(len(self.decoding), slot, length=last.num_read)

    def _read(self, chosen: Sequence[tuple[_Reading, Span]]) -> list[Piece]:
        tokens = [token for reading, span in chosen for token in reading.prompt[span.start : span.start + span.num_new]]
        wanted: list[int] = []
        counts: list[int] = []
        end = 0
        for reading, span in chosen:
            end += span.num_new
            counts.append(span.num_new if reading.text.scores_prompt else 1)
            wanted += range(end - counts[-1], end)
        device = self._model.device
        logits = self._model.prefill(
            torch.tensor(tokens, device=device),
            [span for _, span in chosen],
            self._cache,
            wanted=torch.tensor(wanted, device=device),
        )
        return [
            self._finish(reading, span, part)
            for (reading, span), part in zip(chosen, torch.split(logits, counts), strict=True)
        ]

    def _finish(self, reading: _Reading, span: Span, logits: Tensor) -> Piece:
        text = reading.text
        text.num_read += span.num_new
        is_last = not reading.num_left
        if is_last:
            self._cache.copy(reading.slot, len(self.decoding), length=text.num_read)
            self._readings.remove(reading)
            self.decoding.append(text)
        return Piece(text, logits, is_last)

    def _is_awaited(self, tokens: Sequence[int], known: _Known) -> bool:
        """Whether a prompt that is being read has more in common with these tokens than what is known."""
        wanted = np.asarray(tokens, np.int64)
        shared = max((num_common(wanted, np.asarray(other.prompt, np.int64)) for other in self._readings), default=0)
        return shared >= MIN_PREFIX_TOKENS and shared > known.length

    def _known(self, tokens: Sequence[int]) -> _Known:
        """The longest of what is stored that these tokens begin with."""
        wanted = np.asarray(tokens, np.int64)
        stored = [
            (num_common(wanted, np.asarray(other.tokens[: other.num_read], np.int64)), slot)
            for slot, other in enumerate(self.decoding)
        ]
        length, slot = max(stored, default=(0, 0))
        kept, taken = self.prefixes.find(tokens)
        return _Known(kept, taken) if taken is not None and kept > length else _Known(length, slot)

    def _reuse(self, tokens: Sequence[int], known: _Known, slot: int) -> int:
        """Copy what is known of a prompt into a slot, all but its last token at most; returns how many tokens."""
        length = min(known.length, len(tokens) - 1)
        if length < MIN_PREFIX_TOKENS:
            return 0
        if isinstance(known.source, int):
            self._cache.copy(known.source, slot, length=length)
        else:
            self._cache.put(slot, known.source, length=length)
        return length
