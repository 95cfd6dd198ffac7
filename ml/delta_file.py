"""What a device uploads, checked before anything else reads it. The file is hostile until `check` returns.

Every test is made while the file streams by, in memory that does not depend on it, and ends in one reason that the
volunteer can read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml.codec import (
    METADATA_KEYS,
    DeltaLabel,
    DeltaNotFinite,
    DeltaReader,
    chunks,
    delta_size_bytes,
    max_header_bytes,
)
from ml.codecs import codec_for
from ml.codecs.base import Source
from ml.config import InnerConfig, ModelConfig
from ml.layout import parameter_shapes
from ml.protocol import Reason
from ml.tensor_file import Entry, TensorFileInvalid, quote, read_header

COUNT = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
"""A whole number below 10**19, in the one way it can be written."""

NORM_HEADROOM = 2.0
"""What rounding by the codec and weight decay may add to a bound that is already far above real deltas."""


ERROR_HEADROOM = 20.0
"""Deltas of the longest steps that what a device sends may weigh, where what it could not send before comes with it.

Proven for topk, whose error decays by 0.95: it never grows by being sent in part, and 1 + 0.95 + 0.95**2 ... is 20.
Chosen, not proven, for ternary, whose error does not decay. What waits grows until a block's share of sent values keeps
up with it. Simulated with 512 and 640 kept, the longest steps in a direction that never changes reached 5 deltas where
they moved every value of a block, 5 where only one, less in between.
"""


class DeltaInvalid(Exception):
    """A delta that must not count; `detail` is a sentence for the volunteer, safe to show and to store."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaFacts:
    """What a checked delta says, and what was measured on it."""

    tokens: int
    norm: float
    """L2 norm of all decoded values."""
    size_bytes: int


def check(path: Path, *, model: ModelConfig, label: DeltaLabel, token_budget: int, max_norm: float) -> DeltaFacts:
    """Accept the file only where it is the delta that the job `label` can have produced.

    Raises: DeltaInvalid, and for no content of the file anything else.
    """
    codec = codec_for(label.codec, parameter_shapes(model))
    size_bytes = path.stat().st_size
    max_bytes = delta_size_bytes(model, label.codec)
    if size_bytes > max_bytes:
        raise DeltaInvalid(Reason.TOO_LARGE, f"the delta has {size_bytes} bytes; this model's has at most {max_bytes}")
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(file, size_bytes=size_bytes, max_header_bytes=max_header_bytes(codec))
            tokens = _check_metadata(header.metadata, label, token_budget)
            _check_tensors(header.entries, codec.entries)
            codec.check(Source(file, header))
        norm = measure_norm(DeltaReader(path, header, codec))
    except TensorFileInvalid as error:
        raise DeltaInvalid(Reason.MALFORMED, str(error)) from error
    except DeltaNotFinite as error:
        raise DeltaInvalid(Reason.NOT_FINITE, str(error)) from error
    if not math.isfinite(norm):
        raise DeltaInvalid(Reason.NOT_FINITE, "the delta has values that are not finite")
    if norm > max_norm:
        raise DeltaInvalid(Reason.NORM_OUT_OF_BOUNDS, f"the delta's norm is {norm:.4g}; at most {max_norm:.4g} can be")
    return DeltaFacts(tokens=tokens, norm=norm, size_bytes=size_bytes)


def norm_bound(*, model: ModelConfig, inner: InnerConfig, codec: str, tokens: int) -> float:
    """A norm that no honest job of `tokens` tokens can exceed; infinite where beta1**2 is not below beta2.

    One AdamW step moves a parameter by at most learning_rate * |m| / sqrt(v), which Cauchy-Schwarz bounds over all
    series of gradients; warm-up, cosine and epsilon only shorten it. Muon's steps, a quarter of learning_rate at the
    root mean square, stay below. A step takes batch_tokens in whole rows of block_size, at least one; the last may be
    a partial one. Errors that are fed back may make it ERROR_HEADROOM such deltas.
    Source: Adam (arXiv 1412.6980), section 2.1, where the bound is approximate.
    """
    ratio = inner.beta1**2 / inner.beta2 if inner.beta2 else math.inf
    if ratio >= 1:
        return math.inf
    longest_step = inner.learning_rate * math.sqrt((1 - inner.beta1) ** 2 / ((1 - inner.beta2) * (1 - ratio)))
    step_tokens = max(1, inner.batch_tokens // model.block_size) * model.block_size
    num_steps = -(-tokens // step_tokens)
    num_deltas = ERROR_HEADROOM if codec_for(codec, parameter_shapes(model)).error_decay else 1
    return NORM_HEADROOM * longest_step * num_steps * num_deltas * math.sqrt(model.num_parameters)


def measure_norm(reader: DeltaReader) -> float:
    """L2 norm of all decoded values, infinite or undefined where a value is; the same that `check` returns."""
    total = 0.0
    with reader.kept_open(), np.errstate(over="ignore", invalid="ignore"):
        for name, num_values in reader.codec.num_values.items():
            for start, stop in chunks(num_values):
                values_K = reader.slice(name, start, stop).values.astype(np.float64)
                total += float(values_K @ values_K)
    return math.sqrt(total)


def _check_metadata(metadata: Mapping[str, str], label: DeltaLabel, token_budget: int) -> int:
    if set(metadata) != set(METADATA_KEYS):
        raise DeltaInvalid(Reason.WRONG_METADATA, f"the metadata must have exactly {', '.join(METADATA_KEYS)}")
    if not COUNT.fullmatch(metadata["tokens"]):
        raise DeltaInvalid(Reason.WRONG_METADATA, f"tokens is {quote(metadata['tokens'])}, which is no whole number")
    tokens = int(metadata["tokens"])
    for key, expected in label.metadata(tokens=tokens).items():
        if metadata[key] != expected:
            reason = Reason.WRONG_BASE if key == "base_sha256" else Reason.WRONG_METADATA
            raise DeltaInvalid(reason, f"{key} is {quote(metadata[key])}, the job's is {quote(expected)}")
    if tokens == 0:
        raise DeltaInvalid(Reason.NO_TOKENS, "the delta was trained on no token")
    if tokens > token_budget:
        raise DeltaInvalid(Reason.TOO_MANY_TOKENS, f"the delta claims {tokens} tokens; the job had {token_budget}")
    return tokens


def _check_tensors(entries: Mapping[str, Entry], expected: Mapping[str, Entry]) -> None:
    for name in entries:
        if name not in expected:
            raise DeltaInvalid(Reason.WRONG_TENSORS, f"{quote(name)} is no tensor of this model's delta")
    for name, wanted in expected.items():
        if name not in entries:
            raise DeltaInvalid(Reason.WRONG_TENSORS, f"{name} is missing")
        found = entries[name]
        if found.dtype != wanted.dtype:
            raise DeltaInvalid(Reason.WRONG_TENSORS, f"{name} has dtype {found.dtype}, not {wanted.dtype}")
        if found.shape != wanted.shape:
            raise DeltaInvalid(Reason.WRONG_TENSORS, f"{name} has shape {list(found.shape)}, not {list(wanted.shape)}")
    if entries != expected:
        raise DeltaInvalid(Reason.MALFORMED, "the tensors do not lie in the order of the format")
