"""What a model and its training are made of, as plain data: no torch, so that the web process may read it."""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any, Self, cast

from ml.bad_input import BadInput

CODECS = ("dense", "int8", "int4", "topk-64", "topk-128", "topk-256", "ternary-512", "ternary-640")
"""How deltas travel; topk and ternary keep so many values of each block of 4,096."""
STEP_CODECS = ("none", "dense", "int8", "int4")
"""How the outer step travels to devices that have its base; none sends them whole checkpoints."""
OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")
OUTER_SCHEDULES = ("constant", "cosine", "linear")
MEANS = ("all", "senders")
RULES = ("clipped_mean", "trimmed_mean", "geometric_median", "centered_clipping", "trust")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


class ConfigInvalid(BadInput):
    """A configuration that cannot be trained; the message names the field and what it allows."""

    page = "configuration"


class _Config:
    """What configurations have in common: they are read from and written as plain data."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises: ConfigInvalid, naming the field."""
        known = {field.name for field in dataclasses.fields(cast(Any, cls))}
        unknown = sorted(set(values) - known)
        if unknown:
            nearest = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
            fields = ", ".join(sorted(known))
            raise ConfigInvalid(
                f"{cls.__name__} has no field {unknown[0]!r}: did you mean {nearest!r}? It has {fields}."
            )
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigInvalid(f"{cls.__name__}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(cast(Any, self))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigInvalid(message)


def _require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {value!r}")


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
    """A device's optimizer: warm-up inside each job, then a schedule over the whole experiment."""

    optimizer: str = "adamw"
    """adamw, or muon for the layers' matrices with AdamW for the embedding and the norms."""
    schedule: str = "cosine"
    """cosine; or wsd: constant, then straight down over the last decay_share."""
    learning_rate: float = 1e-3
    min_learning_rate_ratio: float = 0.1
    """Where the schedule ends, as a share of learning_rate."""
    decay_share: float = 0.2
    """Share of the whole over which wsd falls. Source: MiniCPM (arXiv 2404.06395)."""
    batch_tokens: int = 4_096
    """Tokens of one optimizer step; a device reaches it by accumulating micro-batches."""
    warmup_steps: int = 10
    """Steps of linear warm-up in a job whose moments start at zero; a device that has kept its moments needs none."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _require_one_of("optimizer", self.optimizer, OPTIMIZERS)
        _require_one_of("schedule", self.schedule, SCHEDULES)
        _require(self.learning_rate > 0, "learning_rate must be above 0")
        _require(0 < self.decay_share <= 1, "decay_share must lie in (0, 1]")
        for name in ("batch_tokens", "warmup_steps"):
            _require(isinstance(getattr(self, name), int), f"{name} must be an integer, not {getattr(self, name)!r}")
        _require(0 <= self.min_learning_rate_ratio <= 1, "min_learning_rate_ratio must lie in [0, 1]")
        _require(self.batch_tokens > 0, "batch_tokens must be above 0")
        _require(self.warmup_steps >= 0, "warmup_steps must not be negative")
        _require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1 and beta2 must lie in [0, 1)")
        _require(self.clip_norm > 0, "clip_norm must be above 0")
        _require(self.weight_decay >= 0, "weight_decay must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class OuterConfig(_Config):
    """The coordinator's optimizer over merged deltas, SGD with momentum, and the rule that merges them.

    FedAvg is learning_rate 1, momentum 0; SparseLoCo's that with mean "senders"; DiLoCo's is Nesterov momentum.
    Source: DiLoCo (arXiv 2311.08105), algorithm 1; SparseLoCo (arXiv 2508.15706), algorithm 1.
    """

    learning_rate: float = 0.7
    momentum: float = 0.9
    nesterov: bool = True
    delay: int = 1
    """Merges to one update of the momentum; above 1, for merges of few deltas as they arrive, Delayed Nesterov.
    Source: arXiv 2401.09135, algorithm 3."""
    schedule: str = "constant"
    """constant, cosine or linear: of learning_rate, over the experiment's rounds."""
    min_learning_rate_ratio: float = 0.1
    """Where cosine and linear end, as a share of learning_rate."""
    rule: str = "clipped_mean"
    """clipped_mean, trimmed_mean, geometric_median, centered_clipping or trust."""
    mean: str = "all"
    """Each coordinate of sparse deltas is divided by the weights of all of them, or of its senders alone."""
    trim_share: float = 0.25
    """Share of the deltas that trimmed_mean leaves out of each coordinate, half of it at either end, at least one."""
    step_codec: str = "int8"
    """Codec of the outer step for devices that have its base; none: every device fetches whole checkpoints."""

    def __post_init__(self) -> None:
        _require_one_of("outer schedule", self.schedule, OUTER_SCHEDULES)
        _require_one_of("outer rule", self.rule, RULES)
        _require_one_of("outer mean", self.mean, MEANS)
        _require_one_of("outer step_codec", self.step_codec, STEP_CODECS)
        _require(self.learning_rate > 0, "outer learning_rate must be above 0")
        _require(0 <= self.momentum < 1, "outer momentum must lie in [0, 1)")
        _require(_is_count(self.delay), f"outer delay must be a positive integer, not {self.delay!r}")
        _require(0 <= self.min_learning_rate_ratio <= 1, "outer min_learning_rate_ratio must lie in [0, 1]")
        _require(0 <= self.trim_share < 1, "outer trim_share must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(_Config):
    """A model trained alone, on one machine: `fai train`.

    Raises: ConfigInvalid.
    """

    model: ModelConfig
    optimizer: InnerConfig = field(default_factory=InnerConfig)
    epochs: float = 4.0
    """How often the training tokens are seen. Source: four cost next to nothing (arXiv 2305.16264)."""
    max_steps: int | None = None
    """Steps in all, instead of epochs."""
    seed: int = 0
    """Of the initial weights, the batches and dropout."""
    precision: str = "auto"
    """auto computes in bf16 where the hardware does it well, else in fp32."""
    micro_batch: int | None = None
    """Rows per forward pass; None finds the fastest that fits."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: less memory, more time."""
    evaluate_every_steps: int = 100
    save_every_steps: int = 500
    patience: int | None = None
    """Evaluations without a lower validation loss before training stops; None never stops."""

    def __post_init__(self) -> None:
        for name in ("evaluate_every_steps", "save_every_steps"):
            _require(_is_count(getattr(self, name)), f"{name} must be a positive integer, not {getattr(self, name)!r}")
        for name in ("max_steps", "micro_batch", "patience"):
            value = getattr(self, name)
            _require(value is None or _is_count(value), f"{name} must be a positive integer or absent, not {value!r}")
        _require(self.epochs > 0, "epochs must be above 0")
        _require(isinstance(self.seed, int) and self.seed >= 0, f"seed must be an integer from 0 on, not {self.seed!r}")
        _require_one_of("precision", self.precision, PRECISIONS)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises: ConfigInvalid, naming the field."""
        sections: dict[str, type[_Config]] = {"model": ModelConfig, "optimizer": InnerConfig}
        for name in sections:
            _require(isinstance(values.get(name, {}), dict), f"{name} must be a table of fields")
        parts = {name: section.from_dict(values[name]) for name, section in sections.items() if name in values}
        return super(TrainConfig, cls).from_dict(values | parts)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
