"""What a device keeps from one job of an experiment to the next: the error that its codec has not sent, and the inner
optimizer's moments.

Both are tensor files in one folder, each replaced as a whole. They are dropped where the device was away for more than
MAX_AWAY_ROUNDS, where the experiment's model, optimizer or codec is another than theirs, and where they are damaged: a
device may always begin without them.
"""

import contextlib
import json
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ml import codec
from ml.codec import DeltaLabel, DeltaReader
from ml.codecs import codec_for
from ml.config import InnerConfig, ModelConfig
from ml.files import replacing
from ml.layout import parameter_shapes
from ml.tensor_file import Array, TensorFileInvalid, TensorFileWriter, arrange, read_header, read_values

MAX_AWAY_ROUNDS = 50
"""After so many rounds the weights have gone on without what is kept; it would point back."""
ERROR_NAME, MOMENTS_NAME, SENT_PREFIX = "error", "moments", "sent-"


@dataclass(kw_only=True)
class _Kept:
    """One file of tensors."""

    tensors: dict[str, Tensor]
    origin: str
    """Model, inner optimizer and codec that they belong to."""
    round_number: int
    """In which they were made."""
    sent: frozenset[int] = frozenset()
    """Of an error: attempts that have no verdict and whose deltas it takes for arrived."""


class Unsettled:
    """The deltas in one folder that were sent, and of which nobody knows yet whether they count.

    A delta is copied to `sent-<attempt>` before the error that takes it for arrived is written, and before it is sent;
    the error names its attempt. So whatever a killed process leaves behind, a delta is put back once or not at all.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def unsettled(self) -> list[int]:
        """Attempts of which neither `forget` nor `put_back` has been told."""
        numbers = (path.name.removeprefix(SENT_PREFIX) for path in self.folder.glob(f"{SENT_PREFIX}*"))
        return sorted(int(number) for number in numbers if number.isdecimal())

    def forget(self, attempt_id: int) -> None:
        """The attempt's delta counts: what it held has arrived."""
        self._sent_path(attempt_id).unlink(missing_ok=True)

    def put_back(self, attempt_id: int) -> bool:
        """The attempt's delta does not count: what it held waits again with the error, where that still takes it.

        Whether it does. Raises: OSError; then the attempt is unsettled as before.
        """
        path = self._sent_path(attempt_id)
        error = _read(self.folder / ERROR_NAME)
        is_taken = path.exists() and error is not None and attempt_id in error.sent and _add(error, path)
        if error is not None and attempt_id in error.sent:
            error.sent -= {attempt_id}
            _write(self.folder / ERROR_NAME, error)
        path.unlink(missing_ok=True)
        return is_taken

    def drop(self) -> None:
        """Begin anew with the next job."""
        for name in (MOMENTS_NAME, ERROR_NAME, *(self._sent_path(number).name for number in self.unsettled())):
            (self.folder / name).unlink(missing_ok=True)

    def _sent_path(self, attempt_id: int) -> Path:
        return self.folder / f"{SENT_PREFIX}{attempt_id}"


class Carryover(Unsettled):
    """One experiment's, on one device; its folder is nobody else's."""

    def __init__(self, folder: Path, *, model: ModelConfig, inner: InnerConfig, codec: str) -> None:
        super().__init__(folder)
        self._shapes = parameter_shapes(model)
        self._codec = codec
        self._origin = json.dumps([model.to_dict(), inner.to_dict(), codec], sort_keys=True)

    @property
    def error_decay(self) -> float:
        """What is left of the error from one delta to the next; 0 where the codec feeds nothing back."""
        return codec_for(self._codec, self._shapes).error_decay

    def moments(self, *, round_number: int) -> dict[str, Tensor] | None:
        """The inner optimizer's after the device's last job; None where it has to begin anew."""
        kept = self._fresh(MOMENTS_NAME, round_number)
        return None if kept is None else kept.tensors

    def keep_moments(self, moments: Mapping[str, Tensor], *, round_number: int) -> None:
        """Raises: OSError; then those before are kept."""
        self._keep(MOMENTS_NAME, _Kept(tensors=dict(moments), origin=self._origin, round_number=round_number))

    def encode(self, delta: Mapping[str, Tensor], *, label: DeltaLabel, tokens: int, path: Path) -> str:
        """Write `delta`, with the error that waits, to `path`; keep what the codec left out. The file's SHA-256.

        What is kept takes the delta for arrived until `put_back` says that it is not.
        Source: error feedback, SparseLoCo (arXiv 2508.15706), algorithm 1: a = decay e + delta, e = a - sent.
        Raises: ml.codec.DeltaNotFinite, OSError; then the error is as it was, and what is at `path` must not be sent.
        """
        if not self.error_decay:
            return codec.encode(delta, label=label, tokens=tokens, path=path)
        error = self._fresh(ERROR_NAME, label.round_number)
        waiting = error.tensors if error else {}
        whole = {name: _with(waiting.pop(name, None), self.error_decay, values) for name, values in delta.items()}
        sha256 = codec.encode(whole, label=label, tokens=tokens, path=path)
        sent = codec.open_delta(path, shapes=self._shapes)
        with sent.kept_open():
            left = {name: values.sub_(_tensor(sent, name)) for name, values in whole.items()}
        attempts = (error.sent if error else frozenset()) & set(self.unsettled()) | {label.attempt_id}
        kept = _Kept(tensors=left, origin=self._origin, round_number=label.round_number, sent=attempts)
        try:
            self._keep_sent(path, label.attempt_id)
            self._keep(ERROR_NAME, kept)
        except OSError:
            self.forget(label.attempt_id)
            raise
        return sha256

    def _fresh(self, name: str, round_number: int) -> _Kept | None:
        kept = _read(self.folder / name)
        if kept is None or kept.origin != self._origin or abs(round_number - kept.round_number) > MAX_AWAY_ROUNDS:
            return None
        return kept

    def _keep(self, name: str, kept: _Kept) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / name, kept)

    def _keep_sent(self, path: Path, attempt_id: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._sent_path(attempt_id)) as temporary:
            shutil.copyfile(path, temporary)


def _with(waiting: Tensor | None, decay: float, values: Tensor) -> Tensor:
    """decay waiting + values, in the memory of `waiting`."""
    return values.clone() if waiting is None else waiting.mul_(decay).add_(values)


def _add(error: _Kept, path: Path) -> bool:
    """Add the delta at `path` to the error, unless it is damaged or from too long ago; whether it was added."""
    shapes = {name: tuple(tensor.shape) for name, tensor in error.tensors.items()}
    try:
        sent = codec.open_delta(path, shapes=shapes)
        if error.round_number - int(sent.metadata["round"]) > MAX_AWAY_ROUNDS:
            return False
        with sent.kept_open():
            found = {name: _tensor(sent, name) for name in shapes}
    except (TensorFileInvalid, ValueError, KeyError):
        return False
    for name, values in found.items():
        error.tensors[name] += values
    return True


def _tensor(delta: DeltaReader, name: str) -> Tensor:
    return torch.from_numpy(delta.tensor(name))


def _write(path: Path, kept: _Kept) -> None:
    entries = arrange({name: ("F32", tuple(tensor.shape)) for name, tensor in kept.tensors.items()})
    arrays = {name: kept.tensors[name].detach().to("cpu", torch.float32).contiguous().numpy() for name in entries}
    metadata = {
        "origin": kept.origin,
        "round": str(kept.round_number),
        "sent": " ".join(str(attempt_id) for attempt_id in sorted(kept.sent)),
        "crc32": str(_checksum(arrays)),
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        writer = TensorFileWriter(file, metadata=metadata, entries=entries)
        for array in arrays.values():
            writer.append(array)
        writer.finish()


def _read(path: Path) -> _Kept | None:
    """What is kept at `path`; None where there is nothing, or nothing whole."""
    with contextlib.suppress(OSError, TensorFileInvalid, KeyError, ValueError), path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        arrays = {
            name: read_values(file, header=header, entry=entry, start=0, stop=entry.num_values).reshape(entry.shape)
            for name, entry in header.entries.items()
        }
        metadata = header.metadata
        if _checksum(arrays) != int(metadata["crc32"]):
            return None
        return _Kept(
            tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
            origin=metadata["origin"],
            round_number=int(metadata["round"]),
            sent=frozenset(int(number) for number in metadata["sent"].split()),
        )
    return None


def _checksum(arrays: Mapping[str, Array]) -> int:
    """Of names and values: a disk's fault must not become a delta."""
    checksum = zlib.crc32("\n".join(arrays).encode())
    for array in arrays.values():
        checksum = zlib.crc32(array.data.cast("B"), checksum)
    return checksum
