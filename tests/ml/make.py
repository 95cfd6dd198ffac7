"""Small models, tokenizers and shards for the tests of ml."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from ml import tokenizer
from ml.checkpoint import save_model
from ml.config import InnerConfig, ModelConfig
from ml.data import Tokens, write_shard
from ml.files import sha256_file
from ml.hardware import Hardware
from ml.model import GPT, initial_model
from ml.protocol import ShardRef

TEXT = """[QUESTION]
`final`과 `const`는 언제 무엇을 골라야 하나요?
[/QUESTION]
[ANSWER]
## Summary
A `final` variable is set once; a `const` is known when the program is compiled. 👨‍👩‍👧 가족이 함께 배워요.

```dart
void main() {
  final names = <String>['하나', 'two'];
  for (final name in names) print('$name: ${name.length}');
}
```
[/ANSWER]
"""


def make_config(**changes: object) -> ModelConfig:
    values = {"vocab_size": 300, "block_size": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32}
    return ModelConfig.from_dict(values | changes)


def make_inner(**changes: object) -> InnerConfig:
    values = {"learning_rate": 1e-2, "batch_tokens": 128, "warmup_steps": 2}
    return InnerConfig.from_dict(values | changes)


def make_model(config: ModelConfig | None = None, *, seed: int = 0, scale: float = 1.0) -> GPT:
    """A model whose matrices are `scale` times their first values, so that attention and logits are far from flat."""
    model = initial_model(config or make_config(), seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= scale
    return model


def make_tokenizer(*, vocab_size: int = 300) -> Tokenizer:
    return tokenizer.train([TEXT], vocab_size=vocab_size)


def make_hardware() -> Hardware:
    return Hardware(device="cpu", name="test", memory_bytes=2**30, cores=1, bf16=False)


def make_tokens(num_tokens: int = 2_000, *, vocab_size: int = 300, seed: int = 0) -> Tokens:
    """A text with something to learn: mostly the last token plus one, sometimes any token."""
    random = np.random.default_rng(seed)
    jumps = np.where(random.random(num_tokens) < 0.9, 1, random.integers(vocab_size, size=num_tokens))
    return (np.cumsum(jumps) % vocab_size).astype(np.uint16)


def make_shard(folder: Path, tokens: Tokens | None = None) -> tuple[Path, ShardRef]:
    tokens = make_tokens() if tokens is None else tokens
    path = folder / "shard.bin"
    write_shard(tokens, path)
    return path, ShardRef(
        sha256=sha256_file(path), size_bytes=tokens.nbytes, num_tokens=len(tokens), dtype=tokens.dtype.name
    )


def make_base(folder: Path, config: ModelConfig | None = None) -> Path:
    path = folder / "base.safetensors"
    save_model(make_model(config), path)
    return path
