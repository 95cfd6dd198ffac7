"""Models trained for a moment, so that what they predict is far from flat, and texts for them."""

from functools import cache

import torch

from ml.config import InnerConfig, ModelConfig
from ml.inference_model import InferenceModel
from ml.model import GPT, initial_model
from ml.trainer import Trainer
from tests.ml.make import make_config, make_tokens

NUM_STEPS = 80
ROWS = 8


@cache
@torch.inference_mode(mode=False)
def make_trained(*, n_kv_head: int = 2, block_size: int = 64, num_layers: int = 2) -> GPT:
    config = make_config(block_size=block_size, n_kv_head=n_kv_head, n_embd=64, n_layer=num_layers)
    model = initial_model(config, 0)
    trainer = Trainer(model, inner=InnerConfig(batch_tokens=ROWS * 32), precision="fp32", micro_batch=ROWS)
    tokens = torch.from_numpy(make_tokens(5_000, vocab_size=config.vocab_size).astype("int64"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(NUM_STEPS):
        starts = torch.randint(len(tokens) - 33, (ROWS, 1), generator=generator)
        trainer.step(tokens[starts + torch.arange(33)].numpy(), learning_rate=1e-2)
    return model.eval().requires_grad_(False)


def make_inference(config: ModelConfig | None = None, *, weight_format: str = "fp32") -> InferenceModel:
    return InferenceModel(make_trained() if config is None else initial_model(config, 0), weight_format=weight_format)


def make_prompt(length: int, *, seed: int = 0) -> list[int]:
    return [int(token) for token in make_tokens(length, seed=seed)]
