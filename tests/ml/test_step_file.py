import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.config import STEP_CODECS, OuterConfig
from ml.files import sha256_file
from ml.step_file import apply_step
from ml.tensor_file import TensorFileInvalid
from tests.ml.make_deltas import make_delta, make_tensors, make_weights_file
from tests.ml.make_merges import run_merge

CODECS = [codec for codec in STEP_CODECS if codec != "none"]


def make_step(folder: Path, codec: str = "int8") -> str:
    """A merge into `result` and `step`; the result's SHA-256."""
    deltas = [make_delta(folder, seed=seed) for seed in range(3)]
    return run_merge(folder, deltas, outer=OuterConfig(step_codec=codec)).sha256


def apply(folder: Path) -> str:
    return apply_step(base_path=folder / "base", step_path=folder / "step", result_path=folder / "applied")


@pytest.mark.parametrize("codec", CODECS)
def test_the_base_and_the_step_give_the_bytes_of_the_result(tmp_path: Path, codec: str) -> None:
    sha256 = make_step(tmp_path, codec)
    assert apply(tmp_path) == sha256 == sha256_file(tmp_path / "applied")
    assert (tmp_path / "applied").read_bytes() == (tmp_path / "result").read_bytes()


@pytest.mark.parametrize(("codec", "ratio"), [("dense", 2), ("int8", 3.9), ("int4", 7.5)])
def test_a_step_is_smaller_than_the_checkpoint(tmp_path: Path, codec: str, ratio: float) -> None:
    tensors = {"w": make_tensors()["model.embed_tokens.weight"].repeat(50)}
    make_weights_file(tmp_path / "base", tensors)
    run_merge(tmp_path, [make_delta(tmp_path, tensors=tensors)], outer=OuterConfig(step_codec=codec))
    assert (tmp_path / "result").stat().st_size > 0.995 * ratio * (tmp_path / "step").stat().st_size


def test_steps_follow_each_other(tmp_path: Path) -> None:
    make_step(tmp_path)
    (tmp_path / "result").replace(tmp_path / "base")
    sha256 = run_merge(tmp_path, [make_delta(tmp_path, seed=9)], outer=OuterConfig(step_codec="int4")).sha256
    assert apply(tmp_path) == sha256


def test_a_step_from_another_base_is_refused(tmp_path: Path) -> None:
    make_step(tmp_path)
    make_weights_file(tmp_path / "base", make_tensors(seed=98))
    with pytest.raises(TensorFileInvalid, match="no step from this base"):
        apply(tmp_path)
    assert not (tmp_path / "applied").exists()


def test_a_delta_is_no_step(tmp_path: Path) -> None:
    make_step(tmp_path)
    make_delta(tmp_path).path.replace(tmp_path / "step")
    with pytest.raises(TensorFileInvalid, match="no step from this base"):
        apply(tmp_path)


def test_a_step_of_another_model_is_refused(tmp_path: Path) -> None:
    make_step(tmp_path)
    make_weights_file(tmp_path / "base", {"w": make_tensors()["model.norm.weight"]})
    with pytest.raises(TensorFileInvalid, match="no delta of this model"):
        apply(tmp_path)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), codec=st.sampled_from(CODECS))
def test_a_damaged_step_is_refused_or_shows_in_the_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, codec: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged-{codec}"
    if not folder.exists():
        folder.mkdir()
        make_step(folder, codec)
        (folder / "step").rename(folder / "whole")
    content = bytearray((folder / "whole").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / "step").write_bytes(content[: data.draw(st.sampled_from([len(content), place]))])
    try:
        assert apply(folder) == hashlib.sha256((folder / "applied").read_bytes()).hexdigest()
    except TensorFileInvalid:
        return
