"""A small dataset and a run that was trained on it for a moment, for the tests of what is done with a trained model."""

import shutil
from pathlib import Path

import numpy as np
import torch

from ml import tokenizer
from ml.checkpoint import save_model
from ml.config import ModelConfig, TrainConfig
from ml.data import Tokens
from ml.dataset import make_dataset, open_dataset
from ml.model import GPT, initial_model
from ml.run import write_config
from tests.ml.make import make_config

QUESTIONS = {"ko": "{n}번째 위젯은 무엇을 그리나요?", "en": "What does widget number {n} draw?"}
ANSWERS = {"ko": "{n}번째 위젯은 가족의 이름을 그려요.", "en": "Widget number {n} draws the names of a family."}


def make_document(language: str, n: int) -> str:
    question, answer = QUESTIONS[language].format(n=n), ANSWERS[language].format(n=n)
    return f"[QUESTION]\n{question}\n[/QUESTION]\n[ANSWER]\n{answer}\n[/ANSWER]"


def make_data(folder: Path, *, num_documents: int = 60, vocab_size: int = 320) -> Path:
    """A folder with samples of two sites in two languages, their tokenizer and their dataset."""
    texts = []
    for n in range(num_documents):
        for language in QUESTIONS:
            site = "dart.dev" if n % 2 else "가족.kr"
            path = folder / "samples" / site / f"{language}-{n}.md.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            texts.append(make_document(language, n))
            path.write_text(texts[-1], encoding="utf-8")
    tokenizer.train(texts, vocab_size=vocab_size).save(str(folder / tokenizer.FILE_NAME))
    make_dataset(folder)
    return folder


def make_trained_run(folder: Path, data: Path, *, num_steps: int = 60, **changes: object) -> Path:
    """A run whose best model was trained on the dataset, and whose last is as it began."""
    dataset = open_dataset(data)
    shape = {"vocab_size": dataset.record["vocab_size"], "block_size": 96, "n_embd": 64}
    config = make_config(**(shape | changes))
    _save(initial_model(config, 0), folder / "checkpoints" / "000000001")
    _save(_trained(config, dataset.train, num_steps), folder / "best")
    write_config(
        folder, config=TrainConfig(model=config), data=dataset.record | {"folder": str(dataset.folder.resolve())}
    )
    shutil.copyfile(dataset.tokenizer_path, folder / tokenizer.FILE_NAME)
    return folder


def _trained(config: ModelConfig, tokens: Tokens, num_steps: int) -> GPT:
    model = initial_model(config, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    random = np.random.default_rng(0)
    for _ in range(num_steps):
        starts = random.integers(len(tokens) - config.block_size, size=8)
        batch = torch.from_numpy(tokens[starts[:, None] + np.arange(config.block_size + 1)].astype(np.int64))
        optimizer.zero_grad()
        model.loss(batch[:, :-1], batch[:, 1:]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def _save(model: GPT, folder: Path) -> None:
    folder.mkdir(parents=True)
    save_model(model, folder / "model.safetensors")
