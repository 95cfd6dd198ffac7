import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml.codecs.base import BLOCK_VALUES
from ml.layout import model_layout
from ml.spans import spans

lengths = st.one_of(st.integers(0, 40), st.integers(0, 5 * BLOCK_VALUES))


@given(sizes=st.lists(lengths, max_size=8), num_blocks=st.integers(1, 3))
def test_spans_cover_every_value_once_and_in_order(sizes: list[int], num_blocks: int) -> None:
    entries = model_layout({f"{index:02}": (size,) for index, size in enumerate(sizes)})
    position, covered = 0, dict.fromkeys(entries, 0)
    for span in spans(entries, max_values=num_blocks * BLOCK_VALUES):
        assert 0 < span.num_values <= num_blocks * BLOCK_VALUES
        assert span.start == position
        offset = 0
        for piece in span.pieces:
            assert piece.start % BLOCK_VALUES == 0
            assert piece.start == covered[piece.name]
            assert piece.offset == offset
            assert entries[piece.name].start // 4 + piece.start == position + offset
            covered[piece.name], offset = piece.stop, piece.end
        assert offset == span.num_values
        position = span.stop
    assert covered == {name: entry.num_values for name, entry in entries.items()}


def test_small_parameters_share_a_span() -> None:
    entries = model_layout({f"{index:02}": (48,) for index in range(50)})
    assert [len(span.pieces) for span in spans(entries, max_values=BLOCK_VALUES)] == [50]


@pytest.mark.parametrize(("size", "expected"), [(BLOCK_VALUES, 1), (BLOCK_VALUES + 1, 2), (3 * BLOCK_VALUES, 3)])
def test_a_large_parameter_takes_several(size: int, expected: int) -> None:
    assert len(list(spans(model_layout({"w": (size,)}), max_values=BLOCK_VALUES))) == expected
