"""What was computed of finished texts, kept for texts that begin alike: the next turn of a chat, a shared preface."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

MIN_PREFIX_TOKENS = 8
"""Shorter beginnings are computed again: to find and copy them would cost as much."""
MAX_PREFIX_BYTES = 2**28
MAX_TEXTS = 64


@dataclass(frozen=True, slots=True)
class _Text:
    tokens: NDArray[np.int64]
    taken: Tensor
    """As ml.slot_cache.SlotCache.take gives it."""


class PrefixCache:
    """Keys and values of the texts used last, up to `max_bytes` and MAX_TEXTS."""

    def __init__(self, *, max_bytes: int = MAX_PREFIX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._texts: OrderedDict[bytes, _Text] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    def find(self, tokens: Sequence[int]) -> tuple[int, Tensor | None]:
        """The most tokens that a kept text begins with in common with these, and what `take` gave of it."""
        wanted = np.asarray(tokens, np.int64)
        lengths = {key: num_common(wanted, text.tokens) for key, text in self._texts.items()}
        best = max(lengths, key=lengths.__getitem__, default=None)
        if best is None or lengths[best] < MIN_PREFIX_TOKENS:
            return 0, None
        self._texts.move_to_end(best)
        return lengths[best], self._texts[best].taken

    def is_worth_keeping(self, tokens: Sequence[int]) -> bool:
        """Whether the text is long enough, and no kept one begins with it."""
        if len(tokens) < MIN_PREFIX_TOKENS:
            return False
        wanted = np.asarray(tokens, np.int64)
        return all(num_common(wanted, text.tokens) < len(wanted) for text in self._texts.values())

    def keep(self, tokens: Sequence[int], taken: Tensor) -> None:
        """Keep a text, in place of those that it begins with; the ones used longest ago make room."""
        if taken.nbytes > self._max_bytes:
            return
        text = np.asarray(tokens, np.int64)
        for key, kept in list(self._texts.items()):
            if num_common(text, kept.tokens) == len(kept.tokens):
                self._forget(key)
        while self._texts and (self.num_bytes + taken.nbytes > self._max_bytes or len(self._texts) >= MAX_TEXTS):
            self._forget(next(iter(self._texts)))
        self._texts[text.tobytes()] = _Text(text, taken)
        self.num_bytes += taken.nbytes

    def _forget(self, key: bytes) -> None:
        self.num_bytes -= self._texts.pop(key).taken.nbytes


def num_common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length
