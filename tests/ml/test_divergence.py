import math
from pathlib import Path

import numpy as np
import torch

from ml.config_file import build_config
from ml.divergence import describe, find_rows
from tests.ml.make import TEXT, make_model, make_tokenizer
from tests.ml.make_training import make_choices

POISONED_TOKEN = 299


def make_batch(*, poisoned_rows: tuple[int, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    tokens = make_tokenizer().encode(TEXT, add_special_tokens=False).ids
    rows = np.array([[token for token in tokens if token != POISONED_TOKEN][:17]] * 8, dtype=np.int64)
    rows[list(poisoned_rows), 5] = POISONED_TOKEN
    return rows


def test_only_the_rows_whose_own_loss_is_not_finite_are_named() -> None:
    model = make_model()

    def poison(_module: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.masked_fill((inputs[0] == POISONED_TOKEN)[..., None], math.nan)

    model.model.embed_tokens.register_forward_hook(poison)
    batch = make_batch(poisoned_rows=(2, 6))
    assert find_rows(model, batch) == [2, 6]
    message = str(
        describe(
            step=41,
            config=build_config(make_choices(), vocab_size=300),
            precision="bf16",
            model=model,
            batch=batch,
            places=np.arange(8, dtype=np.int64) * 100,
            tokenizer=make_tokenizer(),
            shard=Path("data/train.bin"),
        )
    )
    assert "at step 42: the loss of row 2, 6 of 8 is no finite number" in message
    assert 'row 2, from token 200 of data/train.bin on, is "[QUESTION]' in message
    assert "or --set precision=fp32" in message


def test_where_no_row_stands_out_the_gradient_is_named() -> None:
    message = str(
        describe(
            step=0,
            config=build_config(make_choices(), vocab_size=300),
            precision="fp32",
            model=make_model(),
            batch=make_batch(poisoned_rows=()),
            places=np.zeros(8, dtype=np.int64),
            tokenizer=make_tokenizer(),
            shard=Path("train.bin"),
        )
    )
    assert "a gradient of the 8 rows is no finite number" in message
    assert "precision=fp32" not in message
