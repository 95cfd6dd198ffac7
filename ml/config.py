"""What a model and its training are made of, as plain data: no torch, so that the web process may read it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self, cast

CODECS = ("dense", "int8")


class ConfigInvalid(ValueError):
    """A configuration that cannot be trained; the message names the field and what it allows."""


class _Config:
    """What configurations have in common: they are read from and written as plain data."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises: ConfigInvalid, naming the field."""
        known = {field.name for field in dataclasses.fields(cast(Any, cls))}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigInvalid(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigInvalid(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(cast(Any, self))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigInvalid(message)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(_Config):
    """Shape of a decoder-only GPT, exportable unchanged as Hugging Face's Qwen3.

    Raises: ConfigInvalid where the numbers cannot make a model.
    """

    vocab_size: int
    """Rows of the tied embedding."""
    block_size: int
    """Longest context in tokens."""
    n_layer: int
    n_head: int
    n_kv_head: int
    """Key and value heads; fewer than n_head is grouped-query attention."""
    n_embd: int
    """Width of the residual stream; a multiple of 2 * n_head."""
    dropout: float = 0.0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd"):
            value = getattr(self, name)
            _require(isinstance(value, int) and value > 0, f"{name} must be a positive integer, not {value!r}")
        _require(self.n_embd % (2 * self.n_head) == 0, "n_embd must be a multiple of 2 * n_head")
        _require(self.n_head % self.n_kv_head == 0, "n_head must be a multiple of n_kv_head")
        _require(0.0 <= self.dropout < 1.0, "dropout must lie in [0, 1)")
        _require(self.rope_theta > 0 and self.norm_eps > 0, "rope_theta and norm_eps must be above 0")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def intermediate_size(self) -> int:
        """Width of the SwiGLU layer: 8/3 of n_embd, rounded up to a multiple of 64."""
        return -(-(8 * self.n_embd // 3) // 64) * 64

    @property
    def num_parameters(self) -> int:
        kv_dim = self.n_kv_head * self.head_dim
        attention = 2 * self.n_embd * self.n_embd + 2 * self.n_embd * kv_dim + 2 * self.head_dim
        block = attention + 3 * self.n_embd * self.intermediate_size + 2 * self.n_embd
        return self.vocab_size * self.n_embd + self.n_layer * block + self.n_embd

    @property
    def training_flops_per_token(self) -> int:
        """Forward and backward, attention at full context included.

        Source: PaLM (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T.
        """
        return 6 * self.num_parameters + 12 * self.n_layer * self.n_embd * self.block_size

    def replace(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(vocab_size=2_048, block_size=128, n_layer=4, n_head=4, n_kv_head=4, n_embd=128),
    "m4": ModelConfig(vocab_size=24_000, block_size=256, n_layer=6, n_head=6, n_kv_head=6, n_embd=384),
    "small": ModelConfig(vocab_size=32_000, block_size=1_024, n_layer=12, n_head=12, n_kv_head=12, n_embd=768),
    "default": ModelConfig(vocab_size=32_000, block_size=1_024, n_layer=24, n_head=16, n_kv_head=16, n_embd=1_024),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class InnerConfig(_Config):
    """A device's optimizer: AdamW, warm-up inside each job, cosine over the whole experiment."""

    learning_rate: float = 1e-3
    min_learning_rate_ratio: float = 0.1
    """Where the cosine ends, as a share of learning_rate."""
    batch_tokens: int = 4_096
    """Tokens of one optimizer step; a device reaches it by accumulating micro-batches."""
    warmup_steps: int = 10
    """Steps of linear warm-up in each job, whose AdamW moments start at zero."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "learning_rate must be above 0")
        for name in ("batch_tokens", "warmup_steps"):
            _require(isinstance(getattr(self, name), int), f"{name} must be an integer, not {getattr(self, name)!r}")
        _require(0 <= self.min_learning_rate_ratio <= 1, "min_learning_rate_ratio must lie in [0, 1]")
        _require(self.batch_tokens > 0, "batch_tokens must be above 0")
        _require(self.warmup_steps >= 0, "warmup_steps must not be negative")
        _require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1 and beta2 must lie in [0, 1)")
        _require(self.clip_norm > 0, "clip_norm must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterConfig(_Config):
    """The coordinator's optimizer over merged deltas: SGD with momentum; FedAvg is learning_rate 1, momentum 0.

    Source: DiLoCo (arXiv 2311.08105), algorithm 1.
    """

    learning_rate: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True

    def __post_init__(self) -> None:
        _require(self.learning_rate > 0, "outer learning_rate must be above 0")
        _require(0 <= self.momentum < 1, "outer momentum must lie in [0, 1)")
