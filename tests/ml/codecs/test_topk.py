import numpy as np
import pytest

from ml.codecs.base import BLOCK_VALUES, DeltaNotFinite
from ml.codecs.packing import pack_12, unpack_2, unpack_12
from ml.codecs.selection import two_bits
from ml.codecs.topk import TopK
from ml.tensor_file import TensorFileInvalid
from tests.ml.codecs.make import decode, expected_places, make_content, make_source, make_topk, make_values, read, write

KEPT = {"half": 64 + 32, "odd": 64 + 17, "one": 64}
"""Of each large parameter under topk-64: 2048 and 1059 values follow a whole block."""


@pytest.mark.parametrize("num_kept", [4, 64, 256, BLOCK_VALUES])
def test_the_largest_of_each_block_arrive_as_their_codes_values(num_kept: int) -> None:
    codec, delta = make_topk(num_kept), make_values()
    content = make_content(codec, delta)
    codec.check(make_source(codec, content))
    for name in KEPT:
        values_N = delta[name].reshape(-1)
        places = expected_places(values_N, num_kept)
        found = decode(codec, content, name, 0, len(values_N))
        assert found.positions is not None
        assert found.positions.tolist() == places
        codes_K, table = two_bits(values_N[places])
        np.testing.assert_array_equal(found.values, table[codes_K])


def test_a_file_has_fourteen_bits_for_each_kept_value() -> None:
    codec = make_topk()
    assert {name: codec.kept_of(codec.num_values[name]) for name in KEPT} == KEPT
    sizes = {name: entry.stop - entry.start for name, entry in codec.entries.items()}
    assert sizes == {
        "tables": 3 * 4 * 4,
        "dense": 2 * (48 + 3),
        "codes": 96 // 4 + 21 + 64 // 4,
        "indices": 96 * 3 // 2 + 122 + 64 * 3 // 2,
    }
    assert codec.data_bytes == len(make_content(codec, make_values()))


def first_of(codec: TopK, name: str) -> int:
    """Where the indices of a parameter begin, in bytes."""
    before = [parameter for parameter in KEPT if parameter < name]
    return sum(-(-codec.kept_of(codec.num_values[parameter]) * 3 // 2) for parameter in before)


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([5, 5], "half has an index twice, or out of order"),
        ([6, 5], "half has an index twice, or out of order"),
        ([4_095, 0], "half has an index twice, or out of order"),
    ],
)
def test_indices_twice_or_out_of_order_are_refused(places: list[int], message: str) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    write(codec, content, "indices", first_of(codec, "half"), pack_12(np.array(places, np.uint16)))
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


def test_an_index_beyond_the_end_of_a_short_block_is_refused() -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    short_block = first_of(codec, "half") + 64 * 3 // 2
    write(codec, content, "indices", short_block, pack_12(np.array([*range(31), 2_047], np.uint16)))
    codec.check(make_source(codec, content))
    write(codec, content, "indices", short_block, pack_12(np.array([*range(31), 2_048], np.uint16)))
    with pytest.raises(TensorFileInvalid, match="half has an index beyond its last value"):
        codec.check(make_source(codec, content))


@pytest.mark.parametrize(
    ("entry", "message"),
    [("indices", "odd has bits set after its last in indices"), ("codes", "odd has bits set after")],
)
def test_bits_after_the_end_of_a_parameter_are_refused(entry: str, message: str) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    last = {"indices": first_of(codec, "odd") + 122 - 1, "codes": 24 + 21 - 1}[entry]
    byte = read(codec, content, entry, "u1")[last]
    write(codec, content, entry, last, np.array([byte | 0x80], "u1"))
    with pytest.raises(TensorFileInvalid, match=message):
        codec.check(make_source(codec, content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("entry", "dtype", "name"), [("tables", "<f4", "table of odd"), ("dense", "<u2", "scale")])
def test_tables_and_dense_values_that_are_not_finite_are_refused(
    entry: str, dtype: str, name: str, value: float
) -> None:
    codec = make_topk()
    content = make_content(codec, make_values())
    written = np.array([value], "<f4")
    write(codec, content, entry, 4, written if dtype == "<f4" else (written.view("<u4") >> 16).astype(dtype))
    with pytest.raises(DeltaNotFinite, match=f"{name} has a value that is not finite"):
        codec.check(make_source(codec, content))


def test_codes_and_indices_stand_in_order_of_name() -> None:
    codec, delta = make_topk(), make_values()
    content = make_content(codec, delta)
    indices, codes = read(codec, content, "indices", "u1"), read(codec, content, "codes", "u1")
    tables = read(codec, content, "tables", "<f4").reshape(3, 4)
    values_N = delta["odd"].reshape(-1)
    places = expected_places(values_N, 64)
    in_block = [place % BLOCK_VALUES for place in places]
    assert unpack_12(indices[144 : 144 + 122], 81).tolist() == in_block
    codes_K, table = two_bits(values_N[places])
    np.testing.assert_array_equal(unpack_2(codes[24 : 24 + 21], 81), codes_K)
    np.testing.assert_array_equal(tables[1], table)
