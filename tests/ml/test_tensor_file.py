import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from ml.tensor_file import (
    Entry,
    Header,
    TensorFileInvalid,
    TensorFileWriter,
    arrange,
    format_header,
    quote,
    read_header,
    read_values,
)

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.scale": np.ones(3, np.float32),
    "a": np.arange(5, dtype=np.int8),
}
SPECS = {"b": ("F32", (2, 3)), "a.scale": ("F32", (3,)), "a": ("I8", (5,))}


def read(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file, size_bytes=path.stat().st_size)


def write_raw(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def write_fields(path: Path, fields: dict[str, Any], data: bytes = b"") -> Path:
    return write_raw(path, json.dumps(fields).encode(), data)


def entry(shape: Any, offsets: Any, dtype: Any = "I8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_tensors_lie_as_the_library_lays_them(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "library", metadata={"key": "value"})
    header = read(tmp_path / "library")
    assert header.entries == arrange(SPECS)
    assert list(header.entries) == list(arrange(SPECS))
    assert header.metadata == {"key": "value"}


def test_the_library_reads_what_the_writer_wrote(tmp_path: Path) -> None:
    entries = arrange(SPECS)
    with (tmp_path / "file").open("wb") as file:
        writer = TensorFileWriter(file, metadata={"key": "값"}, entries=entries)
        for name in entries:
            writer.append(TENSORS[name])
        sha256 = writer.finish()
    assert sha256 == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    with safe_open(tmp_path / "file", framework="np") as library:
        assert library.metadata() == {"key": "값"}
        assert set(library.keys()) == set(TENSORS)
        for name, values in TENSORS.items():
            np.testing.assert_array_equal(library.get_tensor(name), values)


def test_tensors_begin_at_a_multiple_of_eight() -> None:
    for length in range(16):
        assert len(format_header({"key": "x" * length}, arrange(SPECS))) % 8 == 0


def test_finish_refuses_a_file_that_lacks_values(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        writer = TensorFileWriter(file, metadata={}, entries=arrange(SPECS))
        writer.append(TENSORS["b"])
        with pytest.raises(TensorFileInvalid, match="17 bytes"):
            writer.finish()


def test_read_values_gives_a_slice_of_the_flattened_tensor(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file")
    header = read(tmp_path / "file")
    with (tmp_path / "file").open("rb") as file:
        values = read_values(file, header=header, entry=header.entries["b"], start=2, stop=5)
    assert values.tolist() == [2, 3, 4]


def test_read_values_refuses_a_file_cut_short_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file(TENSORS, path)
    header = read(path)
    path.write_bytes(path.read_bytes()[:-1])
    with path.open("rb") as file, pytest.raises(TensorFileInvalid, match="too early"):
        read_values(file, header=header, entry=header.entries["a"], start=0, stop=5)


@pytest.mark.parametrize(
    ("fields", "data_bytes", "message"),
    [
        ({"a": entry([2], [0, 2]), "b": entry([2], [1, 3])}, 3, "overlaps"),
        ({"a": entry([2], [0, 2]), "b": entry([2], [0, 2])}, 2, "overlaps"),
        ({"a": entry([2], [0, 2]), "b": entry([2], [3, 5])}, 5, "gap"),
        ({"a": entry([2], [1, 3])}, 3, "gap"),
        ({"a": entry([2], [0, 2])}, 3, "1 bytes follow"),
        ({"a": entry([2], [0, 2])}, 1, "ends before"),
        ({"a": entry([3], [0, 2])}, 2, "do not fit"),
        ({"a": entry([2], [2, 0])}, 2, "do not fit"),
        ({"a": entry([2], [0, 2], dtype="I4")}, 2, "dtype"),
        ({"a": entry([2], [0, 2], dtype=["I8"])}, 2, "dtype"),
        ({"a": entry([-2, -1], [0, 2])}, 2, "shape"),
        ({"a": entry([2.0], [0, 2])}, 2, "shape"),
        ({"a": entry([True, 2], [0, 2])}, 2, "shape"),
        ({"a": entry([10**4000, 0], [0, 0])}, 0, "shape"),
        ({"a": entry([1] * 9, [0, 1])}, 1, "shape"),
        ({"a": entry("2", [0, 2])}, 2, "shape"),
        ({"a": entry([2], [0, 2, 2])}, 2, "data_offsets"),
        ({"a": entry([2], None)}, 2, "data_offsets"),
        ({"a": {"dtype": "I8", "shape": [2]}}, 2, "nothing else"),
        ({"a": entry([2], [0, 2]) | {"extra": 1}}, 2, "nothing else"),
        ({"a": [1]}, 0, "nothing else"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        ({"__metadata__": ["a"]}, 0, "__metadata__"),
    ],
)
def test_read_header_refuses_impossible_tensors(
    tmp_path: Path, fields: dict[str, Any], data_bytes: int, message: str
) -> None:
    with pytest.raises(TensorFileInvalid, match=message):
        read(write_fields(tmp_path / "file", fields, b"\0" * data_bytes))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'  {"a": 1}', "not a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, "not valid JSON"),
        (b'{"a":' + b'{"a":' * 100_000, "not valid JSON"),
        (b'{"\xff": 1}', "not valid JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b'{"a": Infinity}', "not JSON"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
        (b'{"__metadata__": {"a": "1", "a": "2"}}', "twice"),
        (b'{"__metadata__": {}, "__metadata__": {}}', "twice"),
        (b"{} x", "not valid JSON"),
    ],
)
def test_read_header_refuses_what_is_no_json_object(tmp_path: Path, header: bytes, message: str) -> None:
    with pytest.raises(TensorFileInvalid, match=message):
        read(write_raw(tmp_path / "file", header))


def test_read_header_does_not_read_a_header_above_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes((2**63).to_bytes(8, "little"))
    with pytest.raises(TensorFileInvalid, match="at most"):
        read(path)


@pytest.mark.parametrize("size_bytes", [0, 7, 8, 20])
def test_read_header_refuses_a_file_that_ends_in_it(tmp_path: Path, size_bytes: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(format_header({}, arrange(SPECS))[:size_bytes])
    with pytest.raises(TensorFileInvalid, match="too early"):
        read(path)


def test_quote_is_safe_for_a_database_and_short() -> None:
    assert quote("a\0\ud800\x1b") == "'a\\x00\\ud800\\x1b'"
    assert len(quote("\0" * 10**6)) < 400


def test_an_entry_counts_its_values() -> None:
    assert Entry("F32", (2, 3), 0, 24).num_values == 6
    assert Entry("F32", (), 0, 4).num_values == 1
