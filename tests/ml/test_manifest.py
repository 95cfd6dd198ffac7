import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import manifest as manifests
from ml.config import OuterConfig
from ml.files import sha256_file
from ml.manifest import Manifest, ManifestInvalid, remerge
from ml.merging import merge
from tests.ml.make_deltas import make_delta, make_tensors, make_weights_file


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Base, outer state and three deltas by their SHA-256."""
    base = make_weights_file(tmp_path / "base", make_tensors(seed=99, scale=1.0))
    state = make_weights_file(tmp_path / "momentum", make_tensors(seed=5))
    return {sha256_file(path): path for path in (base, state)}


@pytest.fixture
def merged(tmp_path: Path, files: dict[str, Path]) -> Manifest:
    base_sha256, state_sha256 = files
    deltas = [
        make_delta(tmp_path, seed=seed, weight=seed + 1.0, scale=2.0**-seed, num_tokens=100 + seed) for seed in range(3)
    ]
    result = merge(
        base_path=files[base_sha256],
        deltas=deltas,
        outer=OuterConfig(),
        outer_state_path=files[state_sha256],
        result_path=tmp_path / "result",
        result_state_path=tmp_path / "result-state",
    )
    files.update({delta.sha256: delta.path for delta in deltas})
    return manifests.describe(
        experiment="sample",
        round_number=3,
        base_sha256=base_sha256,
        outer_state_sha256=state_sha256,
        outer=OuterConfig(),
        deltas=deltas,
        result=result,
    )


def problems_of(manifest: Manifest, files: dict[str, Path]) -> str:
    verification = remerge(manifest, fetch=files.__getitem__)
    assert verification.equal == (not verification.problems)
    return "; ".join(verification.problems)


def with_delta(manifest: Manifest, index: int, **changes: Any) -> Manifest:
    deltas = list(manifest.deltas)
    deltas[index] = dataclasses.replace(deltas[index], **changes)
    return dataclasses.replace(manifest, deltas=tuple(deltas))


def test_remerge_finds_equal_bytes(merged: Manifest, files: dict[str, Path]) -> None:
    assert merged.clip is not None
    assert remerge(merged, fetch=files.__getitem__).equal


def test_remerge_finds_equal_bytes_without_a_state(tmp_path: Path) -> None:
    base, delta = make_weights_file(tmp_path / "base", make_tensors(seed=9)), make_delta(tmp_path)
    result = merge(
        base_path=base,
        deltas=[delta],
        outer=OuterConfig(),
        outer_state_path=None,
        result_path=tmp_path / "result",
        result_state_path=tmp_path / "state",
    )
    manifest = manifests.describe(
        experiment="sample",
        round_number=0,
        base_sha256=sha256_file(base),
        outer_state_sha256=None,
        outer=OuterConfig(),
        deltas=[delta],
        result=result,
    )
    assert remerge(manifest, fetch={manifest.base_sha256: base, delta.sha256: delta.path}.__getitem__).equal


def test_a_manifest_comes_back_from_its_file(merged: Manifest, tmp_path: Path) -> None:
    manifests.write(merged, tmp_path / "manifest")
    assert manifests.read(tmp_path / "manifest") == merged


def test_the_order_of_arrival_leaves_no_trace_in_the_manifest(merged: Manifest) -> None:
    assert [delta.sha256 for delta in merged.deltas] == sorted(delta.sha256 for delta in merged.deltas)


def test_remerge_names_a_tampered_delta(merged: Manifest, files: dict[str, Path]) -> None:
    path = files[merged.deltas[1].sha256]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = problems_of(merged, files)
    assert found.startswith(f"the delta of attempt {merged.deltas[1].attempt_id} is not the file that was merged")
    assert ";" not in found


def test_remerge_names_a_tampered_base_and_state(merged: Manifest, files: dict[str, Path]) -> None:
    for sha256 in (merged.base_sha256, merged.outer_state_sha256):
        assert sha256 is not None
        path = files[sha256]
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = problems_of(merged, files)
    assert "the base is not" in found
    assert "the outer state is not" in found


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda manifest: with_delta(manifest, 0, weight=1.5), "merging gives the weights"),
        (lambda manifest: dataclasses.replace(manifest, deltas=manifest.deltas[1:]), "merging gives the weights"),
        (lambda manifest: with_delta(manifest, 2, norm=1e-3), "has the norm"),
        (lambda manifest: with_delta(manifest, 2, tokens=1_000_000), "deltas are clipped by"),
        (lambda manifest: dataclasses.replace(manifest, clip=None), "deltas are clipped by"),
        (lambda manifest: dataclasses.replace(manifest, outer_state_sha256=None), "merging gives the outer state"),
        (lambda manifest: dataclasses.replace(manifest, outer=OuterConfig(momentum=0.8)), "merging gives the weights"),
        (lambda manifest: dataclasses.replace(manifest, result_sha256="0" * 64), "the manifest says 000"),
        (lambda manifest: dataclasses.replace(manifest, result_state_sha256="0" * 64), "the manifest says 000"),
        (lambda manifest: dataclasses.replace(manifest, deltas=()), "cannot be merged: there is no delta"),
        (lambda manifest: with_delta(manifest, 0, weight=-1.0), "cannot be merged"),
    ],
)
def test_remerge_finds_a_manifest_that_does_not_tell_the_truth(
    merged: Manifest, files: dict[str, Path], change: Callable[[Manifest], Manifest], problem: str
) -> None:
    assert problem in problems_of(change(merged), files)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields.pop("clip"), "clip is missing"),
        (lambda fields: fields.update(deltas={}), "expected a list"),
        (lambda fields: fields["deltas"][1].pop("weight"), "MergedDelta.weight is missing"),
        (lambda fields: fields["deltas"][0].update(attempt_id="7"), "expected int"),
        (lambda fields: fields.update(outer={"learning_rate": -1}), "learning_rate must be above 0"),
    ],
)
def test_read_names_the_field_that_is_wrong(
    merged: Manifest, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    manifests.write(merged, tmp_path / "manifest")
    fields = json.loads((tmp_path / "manifest").read_text())
    edit(fields)
    (tmp_path / "manifest").write_text(json.dumps(fields))
    with pytest.raises(ManifestInvalid, match=message):
        manifests.read(tmp_path / "manifest")


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_read_refuses_what_is_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest").write_bytes(content)
    with pytest.raises(ManifestInvalid, match="no manifest of a merge"):
        manifests.read(tmp_path / "manifest")
