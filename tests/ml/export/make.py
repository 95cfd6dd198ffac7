"""A run to export, and what its model says."""

import json
import re
from pathlib import Path

import torch
from torch import Tensor

from ml.checkpoint import save_model
from ml.config import ModelConfig, TrainConfig
from ml.model import GPT
from ml.run import Run, open_run
from tests.ml.make import TEXT, make_config, make_model, make_tokenizer

PROMPT = "Dart는"
"""What the README's code continues."""
TEXTS = [
    PROMPT,
    "가족이 함께 배워요. 👨‍👩‍👧\r\n\t들여쓰기  12345년 l'été naïve",
    TEXT,
    "<|endoftext|>[QUESTION]\n무엇?\n[/QUESTION]\n[ANSWER]\n뷁 — かな 漢字 \u1112\u1161\u11ab e\u0301",
    "   \n\n  끝 ",
]
SHAPES = [(1, 1), (1, 7), (3, 2), (2, 40), (1, 64)]
"""Rows and lengths; the exporters follow the graph with another."""
DATA = {
    "train": {"tokens": 123_456},
    "val": {"groups": [{"site": "dart", "language": language} for language in ("ko", "en", "code")]},
}


def make_run(folder: Path, *, num_training_steps: int = 0, **changes: object) -> Run:
    """A run folder with a best model and a last checkpoint, which differ."""
    config = make_config(**({"block_size": 64, "dropout": 0.1} | changes))
    folder.mkdir(parents=True)
    stored = {"config": TrainConfig(model=config).to_dict(), "data": DATA}
    (folder / "config.json").write_text(json.dumps(stored), encoding="utf-8")
    make_tokenizer(vocab_size=config.vocab_size).save(str(folder / "tokenizer.json"))
    _save(make_model(config), folder / "checkpoints/000000012", {"step": 12})
    _save(_make_best(config, num_training_steps), folder / "best", {"step": 7, "validation_loss": 1.5})
    return open_run(folder)


def our_logits(run: Run, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return run.model.eval()(tokens_BT)


def our_continuation(run: Run, tokens: list[int], *, num_tokens: int) -> list[int]:
    """The likeliest token, again and again; up to and with the end of a document or of an answer."""
    text = list(tokens)
    while len(text) < len(tokens) + num_tokens:
        text.append(int(our_logits(run, torch.tensor([text]))[0, -1].argmax()))
        if text[-1] in {0, 4}:
            break
    return text[len(tokens) :]


def next_token_text(run: Run) -> str:
    """The likeliest token after PROMPT."""
    token = our_continuation(run, run.tokenizer.encode(PROMPT).ids, num_tokens=1)
    return str(run.tokenizer.decode(token, skip_special_tokens=False))


def make_inputs(run: Run) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(run.model.config.vocab_size, shape, generator=generator) for shape in SHAPES]


def readme_code(folder: Path) -> str:
    """The Python in an export's README."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def _save(model: GPT, folder: Path, state: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    save_model(model, folder / "model.safetensors")
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _make_best(config: ModelConfig, num_training_steps: int) -> GPT:
    """Far from flat logits, and norms that are not all ones; trained, it writes TEXT."""
    model = make_model(config, scale=6.0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    tokens = torch.tensor(make_tokenizer(vocab_size=config.vocab_size).encode(TEXT + "<|endoftext|>").ids)
    windows = tokens.unfold(0, 25, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(num_training_steps):
        batch = windows[torch.randint(len(windows), (32,), generator=generator)]
        optimizer.zero_grad()
        model.loss(batch[:, :-1], batch[:, 1:]).backward()
        optimizer.step()
    return model
