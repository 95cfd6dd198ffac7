from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.convergence import attacks
from ml import codec, delta_file
from ml.config import CODECS
from ml.protocol import Reason
from tests.ml.make_deltas import MODEL, SHAPES, make_label, make_tensors


def make_torch_delta() -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in make_tensors().items()}


def norm_of(delta: attacks.Delta) -> float:
    return float(torch.stack([values.norm() for values in delta.values()]).norm())


@pytest.mark.parametrize(("attack", "factor"), [("sign_flip", 10), ("scaled", 100), ("zeros", 0), ("random", 1)])
def test_a_forgery_is_as_long_as_its_name_says(attack: str, factor: float) -> None:
    delta = make_torch_delta()
    forged = attacks.FORGERIES[attack](delta, 1)
    assert {name: values.shape for name, values in forged.items()} == SHAPES
    assert norm_of(forged) == pytest.approx(factor * norm_of(delta), rel=1e-5)


def test_a_flipped_sign_points_back_and_noise_nowhere() -> None:
    delta = make_torch_delta()
    name = max(SHAPES, key=lambda name: np.prod(SHAPES[name]))

    def cosine(attack: str) -> float:
        forged = attacks.FORGERIES[attack](delta, 1)[name].flatten()
        return float(torch.cosine_similarity(delta[name].flatten(), forged, dim=0))

    assert cosine("sign_flip") == pytest.approx(-1)
    assert abs(cosine("random")) < 0.1


@pytest.mark.parametrize("name", CODECS)
def test_a_spoilt_file_of_every_codec_is_refused_for_its_number(tmp_path: Path, name: str) -> None:
    path, label = tmp_path / "delta", make_label(codec=name)
    codec.encode(make_tensors(), label=label, tokens=100, path=path)
    attacks.spoil(path)
    with pytest.raises(delta_file.DeltaInvalid) as refused:
        delta_file.check(path, model=MODEL, label=label, token_budget=100, max_norm=1e9)
    assert refused.value.reason == Reason.NOT_FINITE


@pytest.mark.parametrize("name", CODECS)
def test_a_relabelled_file_passes_for_the_thiefs_own(tmp_path: Path, name: str) -> None:
    own = make_label(codec=name, attempt_id=8)
    codec.encode(make_tensors(), label=make_label(codec=name, attempt_id=7), tokens=100, path=tmp_path / "theirs")
    attacks.relabel(tmp_path / "theirs", tmp_path / "stolen", label=own, tokens=90)
    facts = delta_file.check(tmp_path / "stolen", model=MODEL, label=own, token_budget=90, max_norm=1e9)
    assert facts.tokens == 90
    theirs, stolen = (codec.open_delta(tmp_path / file, shapes=SHAPES) for file in ("theirs", "stolen"))
    for parameter in SHAPES:
        assert np.array_equal(theirs.tensor(parameter), stolen.tensor(parameter))
