"""Safetensors as a stream: a header that may be hostile, tensors read in slices, files written tensor by tensor.

The library loads a file's tensors together, and maps the file, so that one cut short under it kills the process. Here
every byte comes from a plain read, and memory is what the caller asks for at a time.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO
from typing import Any, BinaryIO, NoReturn

import numpy as np
import numpy.typing as npt

WIDTHS = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2,
    "F8_E5M2": 1, "F8_E4M3": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one value, by the format's names."""

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "BF16": np.dtype("<u2"), "I8": np.dtype("i1"), "U8": np.dtype("u1"),
}  # fmt: skip
"""How the types that are used here lie in memory; numpy has no bfloat16, so its bits are read as integers."""

MAX_HEADER_BYTES = 16 * 2**20
MAX_DIMENSIONS = 8
MAX_EXTENT = 2**48

Shape = tuple[int, ...]
InputFile = BufferedReader | FileIO
Array = npt.NDArray[Any]


class TensorFileInvalid(ValueError):
    """Bytes that are no safetensors file, or not the one that was expected."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file; `start` and `stop` are bytes from where the tensors begin."""

    dtype: str
    shape: Shape
    start: int
    stop: int

    @property
    def num_values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says before its tensors."""

    metadata: dict[str, str]
    entries: dict[str, Entry]
    data_start: int
    """Byte of the file at which the tensors begin."""


def arrange(specs: Mapping[str, tuple[str, Shape]]) -> dict[str, Entry]:
    """Places for tensors of the given type and shape: wide types first, then by name, as the library does it."""
    entries = {}
    stop = 0
    for name, (dtype, shape) in sorted(specs.items(), key=lambda item: (-WIDTHS[item[1][0]], item[0])):
        start, stop = stop, stop + math.prod(shape) * WIDTHS[dtype]
        entries[name] = Entry(dtype, shape, start, stop)
    return entries


def format_header(metadata: Mapping[str, str], entries: Mapping[str, Entry]) -> bytes:
    """All bytes before the tensors: the length and the JSON, padded so that the tensors begin at a multiple of 8."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    for name, entry in entries.items():
        fields[name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": (entry.start, entry.stop)}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_header(file: InputFile, *, size_bytes: int, max_header_bytes: int = MAX_HEADER_BYTES) -> Header:
    """Read the header of a file of `size_bytes` bytes, opened at its beginning.

    Its tensors fill the rest of the file without overlap, gap or remainder.
    Raises: TensorFileInvalid.
    """
    length = int.from_bytes(read_exactly(file, 8), "little")
    if length > max_header_bytes:
        raise TensorFileInvalid(f"the header announces {length} bytes; at most {max_header_bytes} are allowed")
    fields = _parse(read_exactly(file, length))
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise TensorFileInvalid("__metadata__ is not an object of strings")
    entries = {name: _parse_entry(name, value) for name, value in fields.items()}
    data_start = 8 + length
    _check_places(entries, size_bytes - data_start)
    return Header(metadata, entries, data_start)


def read_exactly(file: InputFile, size_bytes: int) -> bytes:
    """Raises: TensorFileInvalid where the file ends before."""
    data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise TensorFileInvalid("the file ends too early")
    return data


def read_values(
    file: InputFile, *, header: Header, entry: Entry, start: int, stop: int, out: Array | None = None
) -> Array:
    """Values [start, stop) of a tensor, flattened, as they lie in the file: bfloat16 comes as uint16.

    They are written to `out`, contiguous, of their number and width, where it is given.
    Raises: TensorFileInvalid where the file ends before.
    """
    dtype = NUMPY_DTYPES[entry.dtype]
    values = np.empty(stop - start, dtype) if out is None else out
    file.seek(header.data_start + entry.start + start * dtype.itemsize)
    if file.readinto(values.data.cast("B")) != values.nbytes:
        raise TensorFileInvalid("the file ends too early")
    return values


class TensorFileWriter:
    """Writes a file whose tensors were arranged before, piece by piece in their order, and hashes it on the way."""

    def __init__(self, file: BinaryIO, *, metadata: Mapping[str, str], entries: Mapping[str, Entry]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._left_bytes = max((entry.stop for entry in entries.values()), default=0)
        self._put(format_header(metadata, entries))

    def append(self, values: Array) -> None:
        """Add the next values, in the type of the tensor that they belong to."""
        self._left_bytes -= values.nbytes
        self._put(np.ascontiguousarray(values).data.cast("B"))

    def finish(self) -> str:
        """SHA-256 of the file, once all its tensors are there."""
        if self._left_bytes:
            raise TensorFileInvalid(f"{self._left_bytes} bytes of tensors are missing")
        return self._digest.hexdigest()

    def _put(self, data: bytes | memoryview) -> None:
        self._digest.update(data)
        self._file.write(data)


def quote(text: str) -> str:
    """A name out of a hostile file, fit for a log, a database and a screen."""
    return ascii(text[:80])


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise TensorFileInvalid("the header is not a JSON object")
    try:
        # What begins with a brace and is valid is an object.
        fields: dict[str, Any] = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise TensorFileInvalid(f"the header is not valid JSON: {str(error)[:80]}") from error
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise TensorFileInvalid("a name stands twice in one object")
    return fields


def _refuse_constant(constant: str) -> NoReturn:
    raise TensorFileInvalid(f"{constant} is not JSON")


def _parse_entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileInvalid(f"{quote(name)} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTHS:
        raise TensorFileInvalid(f"{quote(name)} has a dtype that the format does not know")
    if not _are_extents(shape) or len(shape) > MAX_DIMENSIONS:
        raise TensorFileInvalid(f"{quote(name)} has an impossible shape")
    if not _are_extents(offsets) or len(offsets) != 2:
        raise TensorFileInvalid(f"{quote(name)} has impossible data_offsets")
    entry = Entry(dtype, tuple(shape), offsets[0], offsets[1])
    if entry.stop - entry.start != entry.num_values * WIDTHS[dtype]:
        raise TensorFileInvalid(f"data_offsets of {quote(name)} do not fit its shape")
    return entry


def _are_extents(values: Any) -> bool:
    # `type` and not `isinstance`: true and 1.0 would pass for 1.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_EXTENT for value in values)


def _check_places(entries: Mapping[str, Entry], data_bytes: int) -> None:
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != position:
            fault = "overlaps another tensor" if entry.start < position else "leaves a gap before it"
            raise TensorFileInvalid(f"{quote(name)} {fault}")
        position = entry.stop
    if position > data_bytes:
        raise TensorFileInvalid("the file ends before its tensors do")
    if position < data_bytes:
        raise TensorFileInvalid(f"{data_bytes - position} bytes follow the last tensor")
