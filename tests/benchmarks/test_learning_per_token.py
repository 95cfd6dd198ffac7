import functools

import numpy as np
import pytest

from benchmarks.learning_contenders import Contender, Ours, Rival
from benchmarks.learning_per_token import MODEL, search
from benchmarks.learning_runs import Outcome
from ml.config import PRESETS, InnerConfig, ModelConfig


def make_contender(kind: type[Ours] | type[Rival], model: ModelConfig = MODEL) -> Contender:
    return kind(model=model, inner=InnerConfig(), precision="fp32", seed=0)


def make_outcome(*, learning_rate: float, best: float) -> Outcome:
    return Outcome(
        name="a",
        learning_rate=learning_rate,
        seed=0,
        num_parameters=1,
        curve=[(1, abs(np.log2(learning_rate / best)))],
        seconds=0.0,
    )


@pytest.mark.parametrize("model", [MODEL, PRESETS["tiny"]])
def test_the_rival_is_at_most_one_percent_larger_and_never_smaller(model: ModelConfig) -> None:
    ours, rival = make_contender(Ours, model).num_parameters, make_contender(Rival, model).num_parameters
    assert ours <= rival <= 1.01 * ours


@pytest.mark.parametrize("kind", [Ours, Rival])
def test_a_contender_learns_a_batch_that_it_sees_again(kind: type[Ours] | type[Rival]) -> None:
    contender = make_contender(kind)
    batch = np.random.default_rng(0).integers(MODEL.vocab_size, size=(2, 17))
    losses = [contender.step(batch, learning_rate=1e-2) for _ in range(4)]
    assert losses[0] == pytest.approx(np.log(MODEL.vocab_size), rel=0.02)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("best", [1e-3 / 16, 1e-3, 1e-3 * 8])
def test_the_search_ends_with_a_worse_learning_rate_on_either_side_of_the_best(best: float) -> None:
    tried = search(functools.partial(make_outcome, best=best), start=1e-3)
    rates = [outcome.learning_rate for outcome in tried]
    assert rates == sorted(set(rates))
    assert best in rates[1:-1]
