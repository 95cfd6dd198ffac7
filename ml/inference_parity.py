"""Which weight format a model is served in: the fastest that this machine has and that answers as the model does."""

import math

import torch
from torch import Tensor

from ml import huge_pages
from ml.inference_model import InferenceModel
from ml.linears import formats_of
from ml.model import GPT
from ml.slot_cache import Span

MAX_DIVERGENCE = {"fp16_packed": 1e-5, "fp16": 1e-4, "bf16": 1e-2, "fp32": math.inf}
"""Mean Kullback-Leibler divergence from the model's own distribution that is taken. Units: nats per token."""
NUM_TEXTS = 4
NUM_TOKENS = 32


def prepare(model: GPT) -> InferenceModel:
    """The model ready to generate, on its device; what is not packed is shared with `model`.

    Weights beyond float16's range, or a model that amplifies rounding, are served in the next format.
    """
    made = _first_faithful(model)
    if made.device.type == "cpu":
        huge_pages.collapse()
    return made


def _first_faithful(model: GPT) -> InferenceModel:
    *others, exact = formats_of(model.device)
    for weight_format in others:
        made = InferenceModel(model, weight_format=weight_format)
        if divergence(model, made) <= MAX_DIVERGENCE[weight_format]:
            return made
    return InferenceModel(model, weight_format=exact)


@torch.inference_mode()
def divergence(model: GPT, made: InferenceModel, tokens_BT: Tensor | None = None) -> float:
    """Mean divergence of `made` from `model` over every token; of random ones by default. Units: nats per token."""
    if tokens_BT is None:
        shape = (NUM_TEXTS, min(NUM_TOKENS, model.config.block_size))
        tokens_BT = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    tokens_BT = tokens_BT.to(model.device)
    num_texts, length = tokens_BT.shape
    spans = [Span(slot, 0, length) for slot in range(num_texts)]
    exact = model.eval()(tokens_BT).flatten(0, 1).log_softmax(-1)
    logits = made.prefill(tokens_BT.flatten(), spans, made.make_cache(num_texts), wanted=slice(None))
    return float((exact.exp() * (exact - logits.log_softmax(-1))).sum(-1).mean())
