"""The record of a merge, by which anyone can repeat it and compare bytes."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml import protocol
from ml.codec import open_delta
from ml.config import OuterConfig
from ml.delta_file import measure_norm
from ml.files import replacing, sha256_file
from ml.layout import delta_layouts
from ml.merging import Clip, MergeInvalid, MergeResult, WeightedDelta, merge
from ml.tensor_file import TensorFileInvalid, read_header

NORM_TOLERANCE = 1e-9
"""Norms are measured in float64, whose sums differ in their last digits between machines."""


class ManifestInvalid(ValueError):
    """A file that is no manifest; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedDelta:
    """One delta of a merge, and what it counted for."""

    attempt_id: int
    sha256: str
    tokens: int
    weight: float
    norm: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Inputs and outputs of one merge; files are named by SHA-256."""

    experiment: str
    round_number: int
    base_sha256: str
    outer_state_sha256: str | None
    """The optimizer's state before; null where its momentum began at zero."""
    outer: OuterConfig
    deltas: tuple[MergedDelta, ...]
    clip: Clip | None
    """What decided which deltas went too far; null where there were too few to tell."""
    result_sha256: str
    result_state_sha256: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What repeating a merge found, in sentences; nothing where all bytes are equal."""

    problems: tuple[str, ...]

    @property
    def equal(self) -> bool:
        return not self.problems


def describe(
    *,
    experiment: str,
    round_number: int,
    base_sha256: str,
    outer_state_sha256: str | None,
    outer: OuterConfig,
    deltas: Sequence[WeightedDelta],
    result: MergeResult,
) -> Manifest:
    """The manifest of a merge that was made of these inputs."""
    merged = [
        MergedDelta(
            attempt_id=delta.attempt_id,
            sha256=delta.sha256,
            tokens=delta.tokens,
            weight=delta.weight,
            norm=delta.norm,
        )
        for delta in deltas
    ]
    return Manifest(
        experiment=experiment,
        round_number=round_number,
        base_sha256=base_sha256,
        outer_state_sha256=outer_state_sha256,
        outer=outer,
        deltas=tuple(sorted(merged, key=lambda delta: (delta.sha256, delta.weight, delta.attempt_id))),
        clip=result.clip,
        result_sha256=result.sha256,
        result_state_sha256=result.state_sha256,
    )


def write(manifest: Manifest, path: Path) -> None:
    """The same manifest gives the same bytes."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True) + "\n", "utf-8")


def read(path: Path) -> Manifest:
    """Raises: ManifestInvalid."""
    try:
        return protocol.decode(Manifest, json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ManifestInvalid(f"{path.name} is no manifest of a merge: {error}") from error


def remerge(manifest: Manifest, *, fetch: Callable[[str], Path]) -> Verification:
    """Merge again from the files that `fetch` gives for a SHA-256, and compare every byte.

    Each file is hashed first, and the norms, which decide on clipping, are measured again.
    """
    problems = tuple(_wrong_inputs(manifest, fetch))
    return Verification(problems or tuple(_differences(manifest, fetch)))


def _wrong_inputs(manifest: Manifest, fetch: Callable[[str], Path]) -> Iterator[str]:
    named = [("the base", manifest.base_sha256)]
    if manifest.outer_state_sha256:
        named.append(("the outer state", manifest.outer_state_sha256))
    named += [(f"the delta of attempt {delta.attempt_id}", delta.sha256) for delta in manifest.deltas]
    for name, sha256 in named:
        found = sha256_file(fetch(sha256))
        if found != sha256:
            yield f"{name} is not the file that was merged: its SHA-256 is {found}, the manifest's {sha256}"


def _differences(manifest: Manifest, fetch: Callable[[str], Path]) -> Iterator[str]:
    state = manifest.outer_state_sha256
    deltas = [WeightedDelta(path=fetch(delta.sha256), **dataclasses.asdict(delta)) for delta in manifest.deltas]
    base_path = fetch(manifest.base_sha256)
    try:
        yield from _wrong_norms(base_path, deltas)
        with tempfile.TemporaryDirectory() as folder:
            result = merge(
                base_path=base_path,
                deltas=deltas,
                outer=manifest.outer,
                outer_state_path=fetch(state) if state else None,
                result_path=Path(folder) / "result",
                result_state_path=Path(folder) / "state",
            )
    except (MergeInvalid, TensorFileInvalid) as error:
        yield f"the files cannot be merged: {error}"
        return
    if result.clip != manifest.clip:
        yield f"deltas are clipped by {result.clip}, the manifest says {manifest.clip}"
    if result.sha256 != manifest.result_sha256:
        yield f"merging gives the weights {result.sha256}, the manifest says {manifest.result_sha256}"
    if result.state_sha256 != manifest.result_state_sha256:
        yield f"merging gives the outer state {result.state_sha256}, the manifest says {manifest.result_state_sha256}"


def _wrong_norms(base_path: Path, deltas: Sequence[WeightedDelta]) -> Iterator[str]:
    with base_path.open("rb") as file:
        base = read_header(file, size_bytes=base_path.stat().st_size)
    layouts = delta_layouts({name: entry.shape for name, entry in base.entries.items()})
    for delta in deltas:
        norm = measure_norm(open_delta(delta.path, layouts=layouts))
        if not math.isclose(norm, delta.norm, rel_tol=NORM_TOLERANCE):
            yield f"the delta of attempt {delta.attempt_id} has the norm {norm}, the manifest says {delta.norm}"
