"""Tensor files that are read and written in pieces at any place, by several threads."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from ml.codecs.base import Floats, Source
from ml.files import replacing
from ml.tensor_file import WIDTHS, Array, Entry, Header, TensorFileInvalid, format_header, read_header


class WeightsReader:
    """An open file of float32 tensors: a checkpoint, or an outer state."""

    def __init__(self, file: FileIO, header: Header) -> None:
        self.metadata = header.metadata
        self.entries = header.entries
        self._source = Source(file, header)

    def read(self, name: str, start: int, num_values: int) -> Floats:
        """Values of the flattened tensor `name` from `start`, and on into the tensors that follow it in the file."""
        return self._source.read(name, start, start + num_values)


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator[WeightsReader]:
    """Raises: TensorFileInvalid where the file is not in float32."""
    with FileIO(path) as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        if any(entry.dtype != "F32" for entry in header.entries.values()):
            raise TensorFileInvalid(f"{path.name} is not in float32")
        yield WeightsReader(file, header)


class PlacedWriter:
    """Writes a file whose tensors were arranged before, in any order."""

    def __init__(self, file: FileIO, *, header: Header) -> None:
        self._file = file
        self._header = header
        self._left_bytes = max((entry.stop for entry in header.entries.values()), default=0)
        self._lock = threading.Lock()

    def put(self, name: str, start: int, values: Array) -> None:
        """Write values of the flattened tensor `name` from `start`, and on into the tensors that follow it."""
        entry = self._header.entries[name]
        with self._lock:
            self._file.seek(self._header.data_start + entry.start + start * WIDTHS[entry.dtype])
            write_all(self._file, np.ascontiguousarray(values).data.cast("B"))
            self._left_bytes -= values.nbytes

    def finish(self) -> None:
        """Raises: TensorFileInvalid where something was not written."""
        if self._left_bytes:
            raise TensorFileInvalid(f"{self._left_bytes} bytes of tensors are missing")


@dataclass(frozen=True, slots=True)
class PlacedFile:
    """A file in the making: what writes it, and what reads from it what is there."""

    writer: PlacedWriter
    source: Source
    path: Path


@contextlib.contextmanager
def placing(path: Path, *, metadata: Mapping[str, str], entries: dict[str, Entry]) -> Iterator[PlacedFile]:
    """A file that takes the place of `path` when the block ends well, and all its tensors are there."""
    start = format_header(metadata, entries)
    header = Header(dict(metadata), entries, len(start))
    with replacing(path) as temporary, FileIO(temporary, "w") as file, FileIO(temporary) as reread:
        write_all(file, memoryview(start))
        writer = PlacedWriter(file, header=header)
        yield PlacedFile(writer, Source(reread, header), temporary)
        writer.finish()


def write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) or 0 :]
