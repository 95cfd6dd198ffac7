"""A trained GPT made ready to generate: few large products per layer, weights in a format that the machine reads fast.

With one text under way a token costs about as much for starting operations as for reading weights, so that operations
are counted here:

- queries, keys and values are one product, gate and up another;
- the norms' gains and the square roots of their widths are folded into the weights behind them: a norm is
  x / hypot(|x|, sqrt(width * eps));
- queries and keys are normed and turned together, their channels reordered so that a pair is one complex number: the
  products of queries and keys do not see an order that both share.

Shape suffixes as in ml.model; N new tokens of all texts, one after the other.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ml.config import ModelConfig
from ml.inference_layers import InferenceLayers, compiled, later_mask
from ml.model import GPT
from ml.slot_cache import SlotCache, Span


class InferenceModel:
    """Computes what the GPT does, up to its weight format's error, on texts in the slots of a SlotCache."""

    def __init__(self, model: GPT, *, weight_format: str) -> None:
        self.config: ModelConfig = model.config
        self.weight_format = weight_format
        self.device = model.device
        config = self.config
        with torch.no_grad():
            self._layers = InferenceLayers(model.model, config, weight_format).eval()
        self._decode = compiled(self._layers) if self.device.type == "cpu" else self._layers
        self._places_L = torch.arange(config.block_size, device=self.device)

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of keys and values: half precision on an accelerator; on a CPU float32, which it attends to faster."""
        if self.device.type == "cpu" or self.weight_format == "fp32":
            return torch.float32
        return torch.bfloat16 if self.weight_format == "bf16" else torch.float16

    def make_cache(self, num_slots: int) -> SlotCache:
        return SlotCache(self.config, num_slots=num_slots, device=self.device, dtype=self.kv_dtype)

    def decode(
        self, tokens_B: Tensor, positions_B: Tensor, cache: SlotCache, *, length: int, is_ragged: bool
    ) -> Tensor:
        """Logits after one more token in each of the slots 0 to B - 1, row b at positions_B[b] of slot b.

        `length` is at least the longest text's, the new token included; without `is_ragged` all are of that length.
        Depends on tensors alone, not on their values, so that a CUDA graph can hold it.

        Shapes: -> (B, V), float32.
        """
        logits: Tensor = self._decode(
            tokens_B, positions_B, cache.store, cache.stores, cache.first_places_NK, length, is_ragged
        )
        return logits

    def prefill(
        self, tokens_N: Tensor, spans: Sequence[Span], cache: SlotCache, *, wanted: Tensor | slice | None = None
    ) -> Tensor:
        """Logits after new tokens of several texts, whatever their lengths, at the places `wanted` among them.

        Shapes: tokens_N the spans' tokens one after the other -> (wanted, V), float32; the spans' last by default.
        """
        positions = torch.cat([self._places_L[span.start : span.start + span.num_new] for span in spans])
        slots = torch.tensor([span.slot for span in spans for _ in range(span.num_new)], device=self.device)
        places = cache.places(slots, positions)
        masks = [self._span_mask(span, cache.store.dtype) for span in spans]
        counts = [span.num_new for span in spans]
        rotation = self._layers.rotation_LE[positions][:, None]
        x_ND = self._layers.embed(tokens_N)
        for number, layer in enumerate(self._layers.layers):
            q_NHE, k_NKE, v_NKE = layer.project(x_ND, rotation)  # type: ignore[operator]
            cache.write(number, places, k_NKE, v_NKE)
            attended = (
                self._attend_span(cache.store[number], span, q_THE, mask)
                for span, q_THE, mask in zip(spans, torch.split(q_NHE, counts), masks, strict=True)
            )
            x_ND = layer.finish(x_ND, torch.cat(list(attended)).float())  # type: ignore[operator]
        if wanted is None:
            wanted = torch.tensor(counts, device=self.device).cumsum(0) - 1
        logits: Tensor = self._layers.unembed(x_ND[wanted])
        return logits

    def _attend_span(self, store: Tensor, span: Span, q_THE: Tensor, mask: Tensor | None) -> Tensor:
        keys, values = store[:, span.slot : span.slot + 1, :, : span.start + span.num_new].unbind()
        y_HTE = F.scaled_dot_product_attention(
            q_THE.transpose(0, 1)[None].to(keys.dtype),
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and span.num_new > 1,
            enable_gqa=self.config.n_kv_head != self.config.n_head,
        )
        return y_HTE[0].transpose(0, 1).flatten(1)

    def _span_mask(self, span: Span, dtype: torch.dtype) -> Tensor | None:
        """None where the text begins with the span, or its last token is all of it."""
        if span.start == 0 or span.num_new == 1:
            return None
        end = span.start + span.num_new
        return later_mask(self._places_L[span.start : end], end, dtype)[:, 0, 0]
