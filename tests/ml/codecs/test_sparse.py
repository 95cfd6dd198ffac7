"""What holds for every codec that keeps some values of each block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, CHUNK_VALUES
from tests.ml.codecs.make import (
    LARGE,
    SHAPES,
    decode,
    expected_places,
    make_content,
    make_source,
    make_sparse,
    make_values,
    whole,
)

NAMES = ("topk-64", "ternary-640")


@pytest.mark.parametrize("name", NAMES)
def test_small_parameters_arrive_whole(name: str) -> None:
    codec, delta = make_sparse(name), make_values()
    content = make_content(codec, delta)
    for parameter in ("scale", "tiny"):
        found = decode(codec, content, parameter, 0, codec.num_values[parameter])
        assert found.positions is None
        np.testing.assert_allclose(found.values, delta[parameter], rtol=2.0**-8)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_without_large_parameters_is_sent_whole(name: str) -> None:
    shapes = {"b": (7,), "a": (2, 3)}
    codec, delta = make_sparse(name, shapes), make_values(shapes=shapes)
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    assert codec.data_bytes == 2 * 13
    np.testing.assert_allclose(decode(codec, content, "b", 0, 7).values, delta["b"], rtol=2.0**-8)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("num_rest", [1, 2, 3, 5, 7, 63, 64, 65, 4_095])
@pytest.mark.parametrize(("name", "share"), [("topk-64", 64), ("ternary-512", 8)])
def test_a_short_block_keeps_its_share_and_at_least_one(name: str, share: int, num_rest: int, sign: int) -> None:
    codec = make_sparse(name, {"x": (BLOCK_VALUES + num_rest,)})
    assert codec.kept_of(BLOCK_VALUES + num_rest) == codec.num_kept + -(-num_rest // share)
    values_N = np.zeros(BLOCK_VALUES + num_rest, np.float32)
    values_N[-1] = sign
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    assert sign * whole(codec, content, "x")[-1] > 0


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_slice_is_a_part_of_the_whole(name: str, data: st.DataObject) -> None:
    codec = make_sparse(name)
    content = make_content(codec, make_values(seed=3))
    parameter = data.draw(st.sampled_from(sorted(SHAPES)))
    num_values = codec.num_values[parameter]
    start = BLOCK_VALUES * data.draw(st.integers(0, (num_values - 1) // BLOCK_VALUES))
    stop = data.draw(st.integers(start + 1, num_values))
    found = decode(codec, content, parameter, start, stop).densified(stop - start)
    np.testing.assert_array_equal(found, whole(codec, content, parameter)[start:stop])


@pytest.mark.parametrize("name", ["topk-128", "ternary-640"])
def test_slices_of_a_parameter_of_several_chunks_are_the_whole(name: str) -> None:
    shapes = {"x": (2 * CHUNK_VALUES + BLOCK_VALUES + 77,)}
    codec, values_N = make_sparse(name, shapes), make_values(shapes=shapes)["x"]
    content = make_content(codec, {"x": values_N})
    codec.check(make_source(codec, content))
    decoded_N = whole(codec, content, "x")
    assert np.flatnonzero(decoded_N).tolist() == expected_places(values_N, codec.num_kept)
    for start in range(0, len(values_N), CHUNK_VALUES):
        stop = min(start + CHUNK_VALUES, len(values_N))
        part_N = decode(codec, content, "x", start, stop).densified(stop - start)
        np.testing.assert_array_equal(part_N, decoded_N[start:stop])


# Of normal values the largest 1/64 carry 12% of the energy, the largest 1/16 32%. Signs leave 1 - (2 density(t))**2 /
# share of it, where the largest share lies beyond t; 0.516 and 0.454.
@pytest.mark.parametrize(
    ("name", "bound"), [("topk-64", 0.90), ("topk-256", 0.70), ("ternary-512", 0.54), ("ternary-640", 0.48)]
)
def test_what_is_sent_leaves_less_than_there_was(name: str, bound: float) -> None:
    codec, delta = make_sparse(name), make_values(seed=5)
    content = make_content(codec, delta)
    for parameter in LARGE:
        values_N = delta[parameter].reshape(-1).astype(np.float64)
        left = np.square(values_N - whole(codec, content, parameter)).sum() / np.square(values_N).sum()
        assert left < bound


@pytest.mark.parametrize(("name", "bound"), [("topk-256", 0.01), ("ternary-640", 0.002)])
def test_fed_back_errors_reach_every_value(name: str, bound: float) -> None:
    codec, gradient = make_sparse(name), make_values(seed=6)
    error = {parameter: np.zeros(shape, np.float32) for parameter, shape in SHAPES.items()}
    sent = {parameter: np.zeros(codec.num_values[parameter], np.float32) for parameter in LARGE}
    for _ in range(150):
        delta = {parameter: error[parameter] + gradient[parameter] for parameter in SHAPES}
        content = make_content(codec, delta)
        for parameter in LARGE:
            decoded_N = whole(codec, content, parameter)
            sent[parameter] += decoded_N
            error[parameter] = delta[parameter] - decoded_N.reshape(SHAPES[parameter])
    for parameter in LARGE:
        wanted_N = 150 * gradient[parameter].reshape(-1)
        assert (sent[parameter] != 0).mean() > 0.9
        assert np.square(sent[parameter] - wanted_N).sum() / np.square(wanted_N).sum() < bound


@pytest.mark.parametrize("name", NAMES)
def test_zeros_are_sent_as_zeros(name: str) -> None:
    codec = make_sparse(name)
    content = make_content(codec, {parameter: np.zeros(shape, np.float32) for parameter, shape in SHAPES.items()})
    codec.check(make_source(codec, content))
    assert not any(whole(codec, content, parameter).any() for parameter in LARGE)


@pytest.mark.parametrize(
    ("kind", "num_kept", "multiple"),
    [("topk", num_kept, 4) for num_kept in (0, 3, 66, BLOCK_VALUES + 4)]
    + [("ternary", num_kept, 8) for num_kept in (0, 4, 636, BLOCK_VALUES + 8)],
)
def test_a_number_that_does_not_fill_bytes_is_refused(kind: str, num_kept: int, multiple: int) -> None:
    with pytest.raises(ValueError, match=f"a multiple of {multiple}"):
        codec_for(f"{kind}-{num_kept}", SHAPES)
