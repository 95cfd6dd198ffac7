import numpy as np
import pytest
import torch

from ml.bad_input import CorpusInvalid
from ml.evaluation import _window_starts, validation_loss
from tests.ml.make import make_model, make_tokens

TOKENS = make_tokens(1_000)


def loss_of(num_tokens: int = 1_000, *, max_tokens: int = 10_000) -> float:
    return validation_loss(make_model(scale=5.0), TOKENS[:num_tokens], block_size=16, max_tokens=max_tokens)


def test_the_loss_is_the_mean_over_all_windows() -> None:
    model = make_model(scale=5.0)
    windows = [torch.from_numpy(TOKENS[start : start + 17].astype(np.int64))[None] for start in range(0, 999 - 15, 16)]
    expected = np.mean([model.loss(row[:, :-1], row[:, 1:]).item() for row in windows])
    assert len(windows) == 62
    assert loss_of() == pytest.approx(expected, rel=1e-5)


def test_it_does_not_depend_on_how_many_rows_are_evaluated_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loss_of()
    monkeypatch.setattr("ml.evaluation.BATCH_TOKENS", 48)
    assert loss_of() == pytest.approx(whole, rel=1e-6)


def test_the_same_windows_are_taken_every_time() -> None:
    assert loss_of(max_tokens=160) == loss_of(max_tokens=160)
    assert loss_of(max_tokens=160) != loss_of()


def test_the_windows_lie_evenly_and_apart() -> None:
    assert _window_starts(num_tokens=101, width=10, max_tokens=50).tolist() == [0, 20, 40, 60, 80]
    assert _window_starts(num_tokens=101, width=10, max_tokens=1_000).tolist() == list(range(0, 100, 10))
    assert _window_starts(num_tokens=100, width=10, max_tokens=1_000).tolist() == list(range(0, 90, 10))


def test_at_least_one_window_is_evaluated() -> None:
    assert _window_starts(num_tokens=101, width=10, max_tokens=1).tolist() == [0]


def test_a_shard_below_one_window_is_a_window_of_its_own() -> None:
    model = make_model(scale=5.0)
    row = torch.from_numpy(TOKENS[:9].astype(np.int64))[None]
    assert loss_of(9) == pytest.approx(model.loss(row[:, :-1], row[:, 1:]).item(), rel=1e-5)


def test_dropout_is_off_while_evaluating_and_the_mode_comes_back() -> None:
    model = make_model(scale=5.0)
    model.model.dropout.p = 0.5
    for mode in (True, False):
        model.train(mode)
        assert validation_loss(model, TOKENS, block_size=16, max_tokens=10_000) == loss_of()
        assert model.training == mode


@pytest.mark.parametrize("num_tokens", [0, 1])
def test_nothing_to_predict_is_an_invalid_corpus(num_tokens: int) -> None:
    with pytest.raises(CorpusInvalid, match="no token to predict"):
        loss_of(num_tokens)
