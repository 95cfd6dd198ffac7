"""Decoding by CUDA graphs: one per batch size, since to start the operations costs more there than to run them.

A graph replays fixed operations on fixed memory, so that batches are padded to a few sizes and attend to all places.
Padding rows write to the first place of slots that nobody uses. Not tried on a GPU yet; tests run it without graphs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ml.inference_model import InferenceModel
from ml.slot_cache import SlotCache

NUM_WARM_UPS = 3

Work = Callable[[], Tensor]


@dataclass(frozen=True, slots=True)
class _Recorded:
    tokens: Tensor
    positions: Tensor
    run: Work
    """Returns the logits of what the tensors above hold."""


class StaticDecoding:
    """`InferenceModel.decode` for the first slots of a cache, recorded once per batch size."""

    def __init__(
        self, model: InferenceModel, cache: SlotCache, *, num_slots: int, record: Callable[[Work], Work]
    ) -> None:
        self._model = model
        self._cache = cache
        self._record = record
        powers = [1 << power for power in range(num_slots.bit_length())]
        self._sizes = sorted({*powers, num_slots})
        self._recorded: dict[int, _Recorded] = {}

    def decode(self, tokens_B: Tensor, positions_B: Tensor) -> Tensor:
        """Logits after one more token in each of the slots 0 to B - 1. Shapes: (B,) -> (B, V)."""
        num_rows = tokens_B.shape[0]
        size = next(size for size in self._sizes if size >= num_rows)
        tokens, positions = (torch.nn.functional.pad(given, (0, size - num_rows)) for given in (tokens_B, positions_B))
        recorded = self._recorded.get(size)
        if recorded is None:
            recorded = self._recorded[size] = self._make(tokens, positions)
        recorded.tokens.copy_(tokens)
        recorded.positions.copy_(positions)
        return recorded.run()[:num_rows]

    def _make(self, tokens_B: Tensor, positions_B: Tensor) -> _Recorded:
        # To record writes as well: only the step's own tokens and positions write what is written anyway.
        tokens_B, positions_B = tokens_B.clone(), positions_B.clone()

        def work() -> Tensor:
            return self._model.decode(tokens_B, positions_B, self._cache, length=self._cache.block_size, is_ragged=True)

        return _Recorded(tokens_B, positions_B, self._record(work))


def record_cuda_graph(work: Work) -> Work:
    """What replays the work's operations; its result is overwritten by the next run."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(NUM_WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Meanwhile another thread may load a checkpoint, whose allocations are no part of the graph.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
