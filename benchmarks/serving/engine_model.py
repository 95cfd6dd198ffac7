"""Models that the engine's benchmark serves, as runs and in the rivals' formats; made once, kept in .state."""

import shutil
import time
from pathlib import Path

import ctranslate2.converters
import numpy as np
import torch
from tokenizers import Tokenizer

from ml import corpus, data, tokenizer
from ml.checkpoint import save_model
from ml.config import PRESETS, InnerConfig, ModelConfig, TrainConfig
from ml.export import gguf, hf
from ml.export.source import Source
from ml.model import GPT, initial_model
from ml.run import BEST_FOLDER, MODEL_FILE, write_config
from ml.trainer import Trainer

HOME = Path(".state/benchmarks/serving")
HELD_OUT_FILE = "held_out.npy"
TOKENIZER_TOKENS = 20_000
"""The sample has words for hardly more; the models keep their rows."""
ROWS = 4
LEARNING_RATE = 1e-3


def make(preset: str, *, corpus_folder: Path, train_seconds: float) -> Path:
    """The folder of a run with its exports: hf (fp32), gguf (fp16) and ctranslate2 (fp32) beside it."""
    home = HOME / f"{preset}-{corpus_folder.name}-{train_seconds:.0f}"
    if (home / "ctranslate2").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    config = PRESETS[preset]
    training, held_out = data.split_documents(corpus.read_documents(corpus_folder), validation_share=0.05)
    encoder = tokenizer.train(training, vocab_size=min(config.vocab_size, TOKENIZER_TOKENS))
    model = initial_model(config, 0)
    if train_seconds:
        train(model, data.encode_documents(training, tokenizer=encoder), seconds=train_seconds)
    write(home, model, encoder)
    np.save(home / HELD_OUT_FILE, data.encode_documents(held_out, tokenizer=encoder))
    return home


def train(model: GPT, tokens: data.Tokens, *, seconds: float) -> None:
    """So long, on random places of the text: enough for logits that are far from flat."""
    config = model.config
    trainer = Trainer(
        model, inner=InnerConfig(batch_tokens=ROWS * config.block_size), precision="bf16", micro_batch=ROWS
    )
    random = np.random.default_rng(0)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        starts = random.integers(len(tokens) - config.block_size, size=(ROWS, 1))
        batch = tokens[starts + np.arange(config.block_size + 1)].astype(np.int64)
        trainer.step(batch, learning_rate=LEARNING_RATE)


def write(home: Path, model: GPT, encoder: Tokenizer) -> None:
    config: ModelConfig = model.config
    (home / BEST_FOLDER).mkdir(parents=True)
    checkpoint = home / BEST_FOLDER / MODEL_FILE
    save_model(model, checkpoint)
    encoder.save(str(home / tokenizer.FILE_NAME))
    write_config(home, config=TrainConfig(model=config), data={"folder": ""})
    source = Source(name=home.name, checkpoint=checkpoint, config=config, tokenizer=encoder)
    for name in ("hf", "gguf"):
        (home / name).mkdir()
    hf.write(source, home / "hf", dtype="fp32")
    gguf.write(source, home / "gguf", dtype="fp16")
    ctranslate2.converters.TransformersConverter(str(home / "hf")).convert(str(home / "ctranslate2"))


def held_out(home: Path, *, rows: int, length: int) -> torch.Tensor:
    """Texts that the model has not seen. Shapes: (rows, length)."""
    tokens = np.load(home / HELD_OUT_FILE)
    starts = np.linspace(0, len(tokens) - length - 1, rows).astype(np.int64)[:, None]
    return torch.from_numpy(tokens[starts + np.arange(length)].astype(np.int64))
