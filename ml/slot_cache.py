"""Keys and values of the texts that an engine generates, one slot per text.

Shape suffixes as in ml.model; N slots, L block_size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ml.config import ModelConfig


class Span(NamedTuple):
    """New tokens of one text in a pass: `num_new` after `start` that its slot holds already."""

    slot: int
    start: int
    num_new: int


class SlotCache:
    """Preallocated room for `num_slots` texts of up to block_size tokens each.

    What a slot holds is for its user to count. Memory that was never written costs nothing on Linux.
    """

    def __init__(self, config: ModelConfig, *, num_slots: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.n_layer, 2, num_slots, config.n_kv_head, config.block_size, config.head_dim)
        # Zeros, since an unwritten place is masked but still multiplied: 0 x NaN would be NaN.
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.stores = [store for layer in self.store.unbind() for store in layer.flatten(1, 3).unbind()]
        """Keys and values of each layer in turn, a row for each place of each head."""
        heads = torch.arange(num_slots * config.n_kv_head, device=device).view(num_slots, -1)
        self.first_places_NK = heads * config.block_size

    @property
    def num_slots(self) -> int:
        return self.store.shape[2]

    @property
    def block_size(self) -> int:
        return self.store.shape[4]

    def places(self, slots: Tensor | slice, positions: Tensor) -> Tensor:
        """Where `write` stores the heads of each token. Shapes: positions (B,) -> (B * K,)."""
        return (self.first_places_NK[slots] + positions[:, None]).flatten()

    def write(self, layer: int, places: Tensor, k_BKE: Tensor, v_BKE: Tensor) -> None:
        """Store keys and values of new tokens."""
        keys, values = self.stores[2 * layer : 2 * layer + 2]
        width = keys.shape[-1]
        if keys.dtype != k_BKE.dtype:
            k_BKE, v_BKE = k_BKE.to(keys.dtype), v_BKE.to(keys.dtype)
        keys.index_copy_(0, places, k_BKE.reshape(-1, width))
        values.index_copy_(0, places, v_BKE.reshape(-1, width))

    def copy(self, source: int, target: int, *, length: int) -> None:
        """Let slot `target` hold the first tokens of slot `source`."""
        self.store[:, :, target, :, :length] = self.store[:, :, source, :, :length]

    def take(self, slot: int, *, length: int) -> Tensor:
        """A copy of a slot's first tokens, for `put`. Shapes: (n_layer, 2, K, length, E)."""
        return self.store[:, :, slot, :, :length].clone()

    def put(self, slot: int, taken: Tensor, *, length: int) -> None:
        """Let a slot begin with the first tokens of what `take` gave."""
        self.store[:, :, slot, :, :length] = taken[:, :, :, :length]
