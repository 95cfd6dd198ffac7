"""Deltas as files: what a device encodes, and what the coordinator decodes a slice at a time. numpy only, no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ml import protocol
from ml.files import replacing
from ml.layout import BLOCK_VALUES, SCALE_SUFFIX, expected_layout, num_blocks
from ml.tensor_file import Entry, Header, TensorFileInvalid, TensorFileWriter, read_header, read_values

CHUNK_VALUES = 64 * BLOCK_VALUES
"""Values that are decoded at a time; a megabyte of float32 stays in a core's cache."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Below it float32 loses digits; such a block, all under 2e-36, is sent as zeros."""

Floats = npt.NDArray[np.float32]


class DeltaNotFinite(ValueError):
    """A delta with infinite or undefined values, or with values that its codec cannot hold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeltaLabel:
    """Which job a delta answers; both sides know it before the delta exists."""

    experiment: str
    round_number: int
    base_sha256: str
    codec: str
    attempt_id: int

    def metadata(self, *, tokens: int) -> dict[str, str]:
        """The label, and the tokens that were trained on, as they stand in the file."""
        return {
            "protocol": str(protocol.PROTOCOL_VERSION),
            "experiment": self.experiment,
            "round": str(self.round_number),
            "base_sha256": self.base_sha256,
            "codec": self.codec,
            "tokens": str(tokens),
            "attempt": str(self.attempt_id),
        }


def encode(delta: Mapping[str, npt.ArrayLike], *, label: DeltaLabel, tokens: int, path: Path) -> str:
    """Write `delta` (base - local: float32 arrays, or torch tensors on the CPU) to `path` and return its SHA-256.

    Raises: DeltaNotFinite; then there is no file.
    """
    shapes = {name: np.shape(values) for name, values in delta.items()}
    entries = expected_layout(shapes, label.codec)
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = TensorFileWriter(file, metadata=label.metadata(tokens=tokens), entries=entries)
        for name, entry in entries.items():
            writer.append(_encode_tensor(delta, name, entry))
        return writer.finish()


def _encode_tensor(delta: Mapping[str, npt.ArrayLike], name: str, entry: Entry) -> npt.NDArray[Any]:
    if name not in delta:
        return block_scales(_flat(delta, name.removesuffix(SCALE_SUFFIX)))
    values_N = _flat(delta, name)
    if entry.dtype == "I8":
        return quantize_int8(values_N, block_scales(values_N))
    bits_N = to_bfloat16(values_N)
    if not np.isfinite(from_bfloat16(bits_N)).all():
        raise DeltaNotFinite(f"{name} has values beyond bfloat16")
    return bits_N


def _flat(delta: Mapping[str, npt.ArrayLike], name: str) -> Floats:
    values_N = np.asarray(delta[name], np.float32).reshape(-1)
    if not np.isfinite(values_N).all():
        raise DeltaNotFinite(f"{name} has values that are not finite")
    return values_N


def _blocks(values_N: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N,) -> (K, BLOCK_VALUES), the last block filled up with zeros."""
    num_missing = -len(values_N) % BLOCK_VALUES
    padded = np.concatenate([values_N, np.zeros(num_missing, values_N.dtype)]) if num_missing else values_N
    return padded.reshape(-1, BLOCK_VALUES)


def block_scales(values_N: Floats) -> Floats:
    """Largest magnitude of each block over 127; zero where that would be under SMALLEST_SCALE.

    Shapes: (N,) -> (K,), K = ceil(N / BLOCK_VALUES).
    """
    blocks_KB = _blocks(values_N)
    scale_K = np.maximum(blocks_KB.max(axis=1), -blocks_KB.min(axis=1)) / np.float32(127)
    scale_K[scale_K < SMALLEST_SCALE] = 0
    return np.asarray(scale_K, np.float32)


def quantize_int8(values_N: Floats, scale_K: Floats) -> npt.NDArray[np.int8]:
    """Nearest multiples of each block's scale.

    Error: at most scale / 2 for each value, up to float32 rounding; under 127 * SMALLEST_SCALE where the scale is 0.
    """
    blocks_KB = _blocks(values_N)
    divisor_K = np.where(scale_K > 0, scale_K, np.float32(np.inf))
    levels_KB = np.rint(blocks_KB / divisor_K[:, None]).clip(-127, 127)
    return levels_KB.astype(np.int8).reshape(-1)[: len(values_N)]


def dequantize_int8(levels_N: npt.NDArray[np.int8], scale_K: Floats) -> Floats:
    """Each level times the scale of its block; `levels_N` begins at the beginning of a block."""
    num_whole = len(levels_N) // BLOCK_VALUES
    whole_N, rest_N = np.split(levels_N, [num_whole * BLOCK_VALUES])
    values_N = np.empty(len(levels_N), np.float32)
    np.multiply(
        whole_N.reshape(-1, BLOCK_VALUES),
        scale_K[:num_whole, None],
        out=values_N[: len(whole_N)].reshape(-1, BLOCK_VALUES),
    )
    if len(rest_N):
        np.multiply(rest_N, scale_K[num_whole], out=values_N[len(whole_N) :])
    return values_N


def to_bfloat16(values_N: Floats) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even, as torch rounds; a finite value may become infinite.

    Error: relatively at most 2**-8 for each value that float32 holds with all its digits.
    """
    bits_N = values_N.view(np.uint32)
    return ((bits_N + np.uint32(0x7FFF) + ((bits_N >> 16) & np.uint32(1))) >> 16).astype(np.uint16)


def from_bfloat16(bits_N: npt.NDArray[np.uint16]) -> Floats:
    """float32 of the same values, exact."""
    return (bits_N.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True, slots=True)
class DeltaReader:
    """A delta on disk, decoded slice by slice, so that memory grows neither with it nor with how many there are.

    The file is opened for each read: a round may have more deltas than a process may have open files.
    """

    path: Path
    header: Header

    def chunk(self, name: str, start: int, stop: int) -> Floats:
        """Values [start, stop) of the flattened tensor as float32; `start` is a multiple of BLOCK_VALUES.

        Raises: TensorFileInvalid where the file was cut short.
        """
        entry = self.header.entries[name]
        with self.path.open("rb", buffering=0) as file:
            stored_N = read_values(file, header=self.header, entry=entry, start=start, stop=stop)
            if entry.dtype != "I8":
                return from_bfloat16(stored_N)
            scale_entry = self.header.entries[name + SCALE_SUFFIX]
            first, last = start // BLOCK_VALUES, num_blocks(stop)
            scale_K = read_values(file, header=self.header, entry=scale_entry, start=first, stop=last)
        return dequantize_int8(stored_N, scale_K)

    def tensor(self, name: str) -> Floats:
        """A whole tensor as float32 in its own shape."""
        entry = self.header.entries[name]
        return self.chunk(name, 0, entry.num_values).reshape(entry.shape)


def open_delta(path: Path, *, layouts: Mapping[str, dict[str, Entry]]) -> DeltaReader:
    """A reader of a file that was checked before; all readers share the one layout of their codec.

    Raises: TensorFileInvalid where its tensors are not those of `layouts`, which maps each codec to its layout.
    """
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
    entries = layouts.get(header.metadata.get("codec", ""))
    if header.entries != entries:
        raise TensorFileInvalid(f"{path.name} is no delta of this model")
    return DeltaReader(path, Header(header.metadata, entries, header.data_start))


def chunks(num_values: int) -> Iterator[tuple[int, int]]:
    """Slices [start, stop) of at most CHUNK_VALUES that cover a flattened tensor; each begins with a block."""
    for start in range(0, num_values, CHUNK_VALUES):
        yield start, min(start + CHUNK_VALUES, num_values)
