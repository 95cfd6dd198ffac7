"""What a hostile device hands in instead of its delta; each is a file that a real one could upload."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ml.codec import DeltaLabel
from ml.tensor_file import TensorFileWriter, read_header, read_values

Delta = Mapping[str, Tensor]
NOT_A_NUMBER = {"F32": b"\x00\x00\xc0\x7f", "BF16": b"\xc0\x7f"}
"""Little-endian."""
STALE_ROUNDS = 5
"""Age of the delta that `stale` hands in again."""


def _random(delta: Delta, seed: int) -> Delta:
    """Noise, each parameter as long as in the true delta."""
    generator = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(values.shape, generator=generator) for name, values in delta.items()}
    return {name: values * (delta[name].norm() / values.norm()) for name, values in noise.items()}


FORGERIES: dict[str, Callable[[Delta, int], Delta]] = {
    "sign_flip": lambda delta, seed: {name: -10 * values for name, values in delta.items()},
    "scaled": lambda delta, seed: {name: 100 * values for name, values in delta.items()},
    "zeros": lambda delta, seed: {name: torch.zeros_like(values) for name, values in delta.items()},
    "random": _random,
}
"""Values in place of the true delta's, of the delta and a seed."""
THEFTS = ("copied", "stale")
ATTACKS = (*FORGERIES, "nan", *THEFTS)
"""nan: the true delta, with one number in the file undefined. copied: another device's last delta under an own label.
stale: an own delta of STALE_ROUNDS rounds ago under a new label."""


def spoil(path: Path) -> None:
    """Make one number of a delta's file undefined: a value, a scale or an entry of a table, as its codec has it."""
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
    entry = next(entry for entry in header.entries.values() if entry.dtype in NOT_A_NUMBER and entry.num_values)
    with path.open("r+b") as file:
        file.seek(header.data_start + entry.start)
        file.write(NOT_A_NUMBER[entry.dtype])


def relabel(source: Path, path: Path, *, label: DeltaLabel, tokens: int) -> str:
    """Write the delta in `source` to `path` as if the job `label` had made it; the file's SHA-256."""
    with source.open("rb") as old, path.open("wb") as new:
        header = read_header(old, size_bytes=source.stat().st_size)
        writer = TensorFileWriter(new, metadata=label.metadata(tokens=tokens), entries=header.entries)
        for entry in header.entries.values():
            writer.append(read_values(old, header=header, entry=entry, start=0, stop=entry.num_values))
        return writer.finish()
