"""Keys and values of texts in progress, one slot per text, for continuous batching.

Shape suffixes as in ml.model; L block_size, N slots.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ml.config import ModelConfig


class CacheFull(ValueError):
    """A text that would become longer than block_size."""


class KVCache:
    """Preallocated room for `num_slots` texts of up to block_size tokens each.

    A slot is free when its length is 0; `clear` frees it. Rows of one forward pass may have different lengths.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        num_slots: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        shape = (config.n_layer, num_slots, config.n_kv_head, config.block_size, config.head_dim)
        # Zeros, since an unwritten place is masked but still multiplied: 0 x NaN would be NaN.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * num_slots

    @property
    def block_size(self) -> int:
        return self.keys.shape[3]

    def clear(self, slot: int) -> None:
        """Free a slot."""
        self.lengths[slot] = 0

    def reorder(self, parents: Sequence[int]) -> None:
        """Let slot i go on from what slot parents[i] held; a slot may be the parent of several, or of none."""
        chosen = torch.tensor(list(parents), device=self.keys.device)
        num_kept = max(self.lengths)
        for store in (self.keys, self.values):
            store[:, : len(chosen), :, :num_kept] = store[:, chosen, :, :num_kept]
        self.lengths[: len(parents)] = [self.lengths[parent] for parent in parents]

    def rows(self, slots: Sequence[int] | None, *, num_new: int) -> "KVRows":
        """The slots as the rows of one forward pass that appends num_new tokens to each.

        Raises: CacheFull, ValueError where a slot stands twice.
        """
        chosen = list(range(len(self.lengths))) if slots is None else list(slots)
        if len(set(chosen)) != len(chosen):
            raise ValueError(f"a slot stands twice in {chosen}")
        longest = max(self.lengths[slot] for slot in chosen) + num_new
        if longest > self.block_size:
            raise CacheFull(f"{longest} tokens do not fit in a block_size of {self.block_size}")
        return KVRows(self, chosen, num_new)


class KVRows:
    """Some slots of a cache during one forward pass."""

    def __init__(self, cache: KVCache, slots: list[int], num_new: int) -> None:
        self._cache = cache
        self._slots = slots
        self._num_new = num_new
        device = cache.keys.device
        lengths = [cache.lengths[slot] for slot in slots]
        self._num_attended = max(lengths) + num_new
        self.positions_BT = torch.tensor(lengths, device=device)[:, None] + torch.arange(num_new, device=device)
        self._slots_B1 = torch.tensor(slots, device=device)[:, None]
        # Neighbouring slots are read in place; others have to be gathered, which copies them.
        is_run = slots == list(range(slots[0], slots[0] + len(slots)))
        self._read: slice | Tensor = slice(slots[0], slots[-1] + 1) if is_run else self._slots_B1[:, 0]
        self.is_causal = max(lengths) == 0 and num_new > 1
        self.mask = None if self.is_causal or (num_new == 1 and len(set(lengths)) == 1) else self._attended()

    def append(self, layer: int, k_BKTE: Tensor, v_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values, and return all that the rows hold.

        Shapes: (B, K, T, E) -> (B, K, S, E); what lies beyond a row's own length is for `mask` to hide.
        """
        stored = []
        for store, new in ((self._cache.keys[layer], k_BKTE), (self._cache.values[layer], v_BKTE)):
            store[self._slots_B1, :, self.positions_BT] = new.transpose(1, 2).to(store.dtype)
            stored.append(store[self._read, :, : self._num_attended].to(new.dtype))
        return stored[0], stored[1]

    def commit(self) -> None:
        """Count the new tokens, once every layer has stored them."""
        for slot in self._slots:
            self._cache.lengths[slot] += self._num_new

    def _attended(self) -> Tensor:
        """Shapes: (B, 1, T, S), true where a token may look."""
        places_S = torch.arange(self._num_attended, device=self.positions_BT.device)
        return places_S <= self.positions_BT[:, None, :, None]
