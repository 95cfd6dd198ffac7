"""Deltas as files: what a device encodes, and what the coordinator decodes a slice at a time. numpy only, no torch."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ml import protocol
from ml.codecs import codec_for
from ml.codecs.base import BLOCK_VALUES, CHUNK_VALUES, Codec, DeltaNotFinite, Floats, Slice, Source, chunks
from ml.config import ModelConfig
from ml.files import replacing
from ml.layout import parameter_shapes
from ml.tensor_file import Header, Shape, TensorFileInvalid, TensorFileWriter, format_header, read_header

__all__ = [
    "BLOCK_VALUES", "CHUNK_VALUES", "METADATA_KEYS", "DeltaLabel", "DeltaNotFinite", "DeltaReader", "Floats", "Slice",
    "chunks", "delta_size_bytes", "encode", "encoded_size_bytes", "max_header_bytes", "open_delta",
]  # fmt: skip

METADATA_KEYS = ("protocol", "experiment", "round", "base_sha256", "codec", "tokens", "attempt")
MAX_SLUG_LENGTH = 50
MAX_INTEGER = 2**63 - 1


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
    codec = codec_for(label.codec, {name: np.shape(values) for name, values in delta.items()})
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = TensorFileWriter(file, metadata=label.metadata(tokens=tokens), entries=codec.entries)
        for piece in codec.encode(delta):
            writer.append(piece)
        return writer.finish()


class DeltaReader:
    """A delta on disk, decoded slice by slice, so that memory grows neither with it nor with how many there are.

    The file is opened for each slice, unless `kept_open`: a round may have more deltas than a process may have open
    files.
    """

    def __init__(self, path: Path, header: Header, codec: Codec) -> None:
        self.path = path
        self.metadata = header.metadata
        self.codec = codec
        # All readers of a codec share its one layout.
        self._header = Header(header.metadata, codec.entries, header.data_start)
        self._open_source: Source | None = None

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of the parameters, by name."""
        return self.codec.shapes

    def slice(self, name: str, start: int, stop: int, *, out: Floats | None = None) -> Slice:
        """Values [start, stop) of the flattened parameter; `start` is a multiple of BLOCK_VALUES.

        Where all values are there, they are written to `out`, (stop - start,), if it is given. Threads may share a
        reader.
        Raises: TensorFileInvalid where the file was cut short.
        """
        if self._open_source:
            return self.codec.decode(self._open_source, name, start, stop, out=out)
        with self.opened() as source:
            return self.codec.decode(source, name, start, stop, out=out)

    def tensor(self, name: str) -> Floats:
        """A whole parameter as float32 in its own shape; zero where nothing was sent."""
        num_values = self.codec.num_values[name]
        return self.slice(name, 0, num_values).densified(num_values).reshape(self.shapes[name])

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the file open for the slices that are read in the block."""
        with self.opened() as source:
            self._open_source = source
            try:
                yield
            finally:
                self._open_source = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[Source]:
        """The file, open for what the codec decodes from it."""
        with self.path.open("rb", buffering=0) as file:
            yield Source(file, self._header)


def open_delta(path: Path, *, shapes: Mapping[str, Shape]) -> DeltaReader:
    """A reader of a file that was checked before: a delta, or whatever else a codec wrote for parameters of `shapes`.

    Raises: TensorFileInvalid where its tensors are not those of its codec.
    """
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
    try:
        codec = codec_for(header.metadata.get("codec", ""), shapes)
    except ValueError as error:
        raise TensorFileInvalid(f"{path.name} is no delta: {error}") from error
    if header.entries != codec.entries:
        raise TensorFileInvalid(f"{path.name} is no delta of this model")
    return DeltaReader(path, header, codec)


def max_header_bytes(codec: Codec) -> int:
    """Size of a delta's header with the longest metadata that a job can have."""
    integers = dict.fromkeys(METADATA_KEYS, str(MAX_INTEGER))
    longest = integers | {"experiment": "x" * MAX_SLUG_LENGTH, "base_sha256": "0" * 64, "codec": codec.name}
    return len(format_header(longest, codec.entries))


def delta_size_bytes(config: ModelConfig, codec: str) -> int:
    """Most bytes that a delta of this model can take as a file; at most a few dozen bytes above any real one."""
    bound = codec_for(codec, parameter_shapes(config))
    return max_header_bytes(bound) + bound.data_bytes


def encoded_size_bytes(config: ModelConfig, *, label: DeltaLabel, tokens: int) -> int:
    """Bytes of the file that `encode` writes, known before there is a delta: they depend on no value in it."""
    codec = codec_for(label.codec, parameter_shapes(config))
    return len(format_header(label.metadata(tokens=tokens), codec.entries)) + codec.data_bytes
