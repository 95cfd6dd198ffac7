"""The record of a merge, by which anyone can repeat it and compare bytes."""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml import protocol
from ml.codec import open_delta
from ml.config import OuterConfig
from ml.delta_file import measure_norm
from ml.files import replacing, sha256_file
from ml.merging import MergeInvalid, MergeResult, find_weighing, in_order, merge
from ml.tensor_file import TensorFileInvalid, read_header
from ml.trust import SenderTrust
from ml.weighing import Clip, Weighing, WeightedDelta

NORM_TOLERANCE = 1e-9
"""Norms are measured in float64, whose sums differ in their last digits between machines."""

WEIGHING_TOLERANCE = 1e-6
"""Of shares, factors and scores, which rules find by iterating over such sums."""


class ManifestInvalid(ValueError):
    """A file that is no manifest; the message names the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MergedDelta:
    """One delta of a merge, and what it counted for."""

    attempt_id: int
    sender: int
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
    progress: float
    """Share of the experiment's rounds that were over."""
    deltas: tuple[MergedDelta, ...]
    """In the order in which they were summed."""
    weighing: Weighing
    """What each of them counted for under the rule."""
    result_sha256: str
    result_state_sha256: str
    step_sha256: str | None
    """What leads from the base to the result; null where it does not travel."""


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
    progress: float,
    deltas: Sequence[WeightedDelta],
    result: MergeResult,
) -> Manifest:
    """The manifest of a merge that was made of these inputs."""
    return Manifest(
        experiment=experiment,
        round_number=round_number,
        base_sha256=base_sha256,
        outer_state_sha256=outer_state_sha256,
        outer=outer,
        progress=progress,
        deltas=tuple(_merged(delta) for delta in in_order(deltas)),
        weighing=result.weighing,
        result_sha256=result.sha256,
        result_state_sha256=result.state_sha256,
        step_sha256=result.step_sha256,
    )


def _merged(delta: WeightedDelta) -> MergedDelta:
    return MergedDelta(
        attempt_id=delta.attempt_id,
        sender=delta.sender,
        sha256=delta.sha256,
        tokens=delta.tokens,
        weight=delta.weight,
        norm=delta.norm,
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

    Each file is hashed first, and the norms, which decide on clipping, are measured again. What the deltas count for is
    found again too; the merge takes the manifest's numbers for it, so that rounding here changes no byte.
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
    base_path, state_path = fetch(manifest.base_sha256), fetch(state) if state else None
    deltas = [WeightedDelta(path=fetch(delta.sha256), **dataclasses.asdict(delta)) for delta in manifest.deltas]
    try:
        yield from _wrong_norms(base_path, deltas)
        found = find_weighing(base_path=base_path, deltas=deltas, outer=manifest.outer, outer_state_path=state_path)
        yield from _wrong_weighing(manifest, found)
        with tempfile.TemporaryDirectory(dir=base_path.parent) as folder:
            result = merge(
                base_path=base_path,
                base_sha256=manifest.base_sha256,
                deltas=deltas,
                outer=manifest.outer,
                progress=manifest.progress,
                outer_state_path=state_path,
                result_path=Path(folder) / "result",
                result_state_path=Path(folder) / "state",
                step_path=None,
                weighing=manifest.weighing,
            )
    except (MergeInvalid, TensorFileInvalid) as error:
        yield f"the files cannot be merged: {error}"
        return
    for name, merged, told in [
        ("the weights", result.sha256, manifest.result_sha256),
        ("the outer state", result.state_sha256, manifest.result_state_sha256),
        ("the step", result.step_sha256, manifest.step_sha256),
    ]:
        if merged != told:
            yield f"merging gives {name} {merged}, the manifest says {told}"


def _wrong_norms(base_path: Path, deltas: Sequence[WeightedDelta]) -> Iterator[str]:
    with base_path.open("rb") as file:
        base = read_header(file, size_bytes=base_path.stat().st_size)
    shapes = {name: entry.shape for name, entry in base.entries.items()}
    for delta in deltas:
        norm = measure_norm(open_delta(delta.path, shapes=shapes))
        if not math.isclose(norm, delta.norm, rel_tol=NORM_TOLERANCE):
            yield f"the delta of attempt {delta.attempt_id} has the norm {norm}, the manifest says {delta.norm}"


def _wrong_weighing(manifest: Manifest, found: Weighing) -> Iterator[str]:
    told = manifest.weighing
    if not _is_close(found.clip, told.clip):
        yield f"deltas are clipped by {found.clip}, the manifest says {told.clip}"
    for name, counted in [("share", (found.shares, told.shares)), ("factor", (found.factors, told.factors))]:
        for delta, mine, theirs in zip(manifest.deltas, *counted, strict=False):
            if not _is_close(mine, theirs):
                yield f"the delta of attempt {delta.attempt_id} has the {name} {mine}, the manifest says {theirs}"
    if not _is_close(found.reference_factor, told.reference_factor):
        yield f"the momentum has the factor {found.reference_factor}, the manifest says {told.reference_factor}"
    if not _is_close(found.trust, told.trust):
        yield f"the trust in senders is {found.trust}, the manifest says {told.trust}"


def _is_close(found: Any, told: Any) -> bool:
    """Equal but for the last digits of floats, in values, tuples and dataclasses."""
    if isinstance(found, float) and isinstance(told, float):
        return math.isclose(found, told, rel_tol=WEIGHING_TOLERANCE, abs_tol=WEIGHING_TOLERANCE)
    if isinstance(found, Clip | SenderTrust) and type(found) is type(told):
        return _is_close(dataclasses.astuple(found), dataclasses.astuple(told))
    if isinstance(found, tuple) and isinstance(told, tuple):
        return len(found) == len(told) and all(map(_is_close, found, told))
    return bool(found == told)
