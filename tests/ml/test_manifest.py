import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml import manifest as manifests
from ml.config import CODECS, RULES, OuterConfig
from ml.files import sha256_file
from ml.manifest import Manifest, ManifestInvalid, remerge
from ml.trust import SenderTrust
from ml.weighing import WeightedDelta
from tests.ml.make_deltas import make_delta, make_tensors, make_weights_file
from tests.ml.make_merges import make_state_file, run_merge

Files = dict[str, Path]
"""By SHA-256, as the storage has them."""

TRUST = SenderTrust(sender=1, score=0.5, merge=3)


def make_manifest(
    folder: Path, deltas: list[WeightedDelta], *, outer: OuterConfig | None = None, state: Path | None = None
) -> tuple[Manifest, Files]:
    outer = outer or OuterConfig()
    result = run_merge(folder, deltas, outer=outer, state=state, progress=0.25)
    manifest = manifests.describe(
        experiment="sample",
        round_number=3,
        base_sha256=sha256_file(folder / "base"),
        outer_state_sha256=sha256_file(state) if state else None,
        outer=outer,
        progress=0.25,
        deltas=deltas,
        result=result,
    )
    paths = [folder / "base", *(delta.path for delta in deltas), *([state] if state else [])]
    return manifest, {sha256_file(path): path for path in paths}


@pytest.fixture
def both(tmp_path: Path) -> tuple[Manifest, Files]:
    make_weights_file(tmp_path / "base", make_tensors(seed=99, scale=1.0))
    deltas = [
        make_delta(tmp_path, seed=seed, weight=seed + 1.0, scale=2.0**-seed, num_tokens=100 + seed) for seed in range(3)
    ]
    return make_manifest(tmp_path, deltas, state=make_state_file(tmp_path / "momentum", make_tensors(seed=5)))


@pytest.fixture
def merged(both: tuple[Manifest, Files]) -> Manifest:
    return both[0]


@pytest.fixture
def files(both: tuple[Manifest, Files]) -> Files:
    return both[1]


def problems_of(manifest: Manifest, files: Files) -> str:
    verification = remerge(manifest, fetch=files.__getitem__)
    assert verification.equal == (not verification.problems)
    return "; ".join(verification.problems)


def with_delta(manifest: Manifest, index: int, **changes: Any) -> Manifest:
    deltas = list(manifest.deltas)
    deltas[index] = dataclasses.replace(deltas[index], **changes)
    return dataclasses.replace(manifest, deltas=tuple(deltas))


def with_weighing(manifest: Manifest, **changes: Any) -> Manifest:
    return dataclasses.replace(manifest, weighing=dataclasses.replace(manifest.weighing, **changes))


def test_remerge_finds_equal_bytes(merged: Manifest, files: Files) -> None:
    assert merged.weighing.clip is not None
    assert merged.step_sha256 is not None
    assert remerge(merged, fetch=files.__getitem__).equal


def test_remerge_finds_equal_bytes_without_a_state_and_without_a_step(tmp_path: Path) -> None:
    outer = OuterConfig(step_codec="none")
    manifest, files = make_manifest(tmp_path, [make_delta(tmp_path)], outer=outer)
    assert manifest.outer_state_sha256 is manifest.step_sha256 is None
    assert remerge(manifest, fetch=files.__getitem__).equal


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_and_rule_is_merged_again_and_a_tampered_delta_named(tmp_path: Path, codec: str, rule: str) -> None:
    deltas = [make_delta(tmp_path, seed=seed, codec=codec, scale=1e-3 * (1 + seed)) for seed in range(4)]
    outer = OuterConfig(rule=rule, delay=2, schedule="cosine")
    state = make_state_file(tmp_path / "momentum", make_tensors(seed=2))
    manifest, files = make_manifest(tmp_path, deltas, outer=outer, state=state)
    manifests.write(manifest, tmp_path / "manifest")
    manifest = manifests.read(tmp_path / "manifest")
    assert not problems_of(manifest, files)
    content = bytearray(deltas[2].path.read_bytes())
    content[-1] ^= 1
    deltas[2].path.write_bytes(content)
    assert problems_of(manifest, files).startswith("the delta of attempt 2 is not the file that was merged")


@pytest.mark.parametrize("rule", RULES)
def test_a_weighing_that_differs_by_rounding_gives_the_manifests_bytes(tmp_path: Path, rule: str) -> None:
    """Another machine sums norms and products in another order."""
    deltas = [make_delta(tmp_path, seed=seed, codec="topk-128") for seed in range(4)]
    outer, state = OuterConfig(rule=rule), make_state_file(tmp_path / "momentum", make_tensors(seed=2))
    found = run_merge(tmp_path, deltas, outer=outer, state=state, progress=0.25)
    factors = tuple(factor * (1 + 1e-7) for factor in found.weighing.factors)
    elsewhere = dataclasses.replace(found.weighing, factors=factors)
    result = run_merge(tmp_path, deltas, outer=outer, state=state, progress=0.25, weighing=elsewhere)
    assert result.sha256 != found.sha256
    manifest, files = make_manifest(tmp_path, deltas, outer=outer, state=state)
    manifest = dataclasses.replace(
        manifest,
        weighing=elsewhere,
        result_sha256=result.sha256,
        result_state_sha256=result.state_sha256,
        step_sha256=result.step_sha256,
    )
    assert not problems_of(manifest, files)


def test_a_manifest_comes_back_from_its_file(merged: Manifest, tmp_path: Path) -> None:
    manifests.write(merged, tmp_path / "manifest")
    assert manifests.read(tmp_path / "manifest") == merged


def test_the_order_of_arrival_leaves_no_trace_in_the_manifest(merged: Manifest) -> None:
    assert [delta.sha256 for delta in merged.deltas] == sorted(delta.sha256 for delta in merged.deltas)


def test_remerge_names_a_tampered_delta(merged: Manifest, files: Files) -> None:
    path = files[merged.deltas[1].sha256]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    found = problems_of(merged, files)
    assert found.startswith(f"the delta of attempt {merged.deltas[1].attempt_id} is not the file that was merged")
    assert ";" not in found


def test_remerge_names_a_tampered_base_and_state(merged: Manifest, files: Files) -> None:
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
        (lambda manifest: with_delta(manifest, 0, weight=1.5), "has the share"),
        (lambda manifest: with_delta(manifest, 2, norm=1e-3), "has the norm"),
        (lambda manifest: with_delta(manifest, 2, tokens=1_000_000), "deltas are clipped by"),
        (lambda manifest: dataclasses.replace(manifest, deltas=manifest.deltas[1:]), "2 deltas were weighed as 3"),
        (lambda manifest: dataclasses.replace(manifest, deltas=()), "cannot be merged: there is no delta"),
        (lambda manifest: with_delta(manifest, 0, weight=-1.0), "cannot be merged"),
        (lambda manifest: with_weighing(manifest, clip=None), "deltas are clipped by"),
        (lambda manifest: with_weighing(manifest, factors=(0.5, 0.25, 0.25)), "has the factor"),
        (lambda manifest: with_weighing(manifest, shares=(0.5, 0.25, 0.25)), "has the share"),
        (lambda manifest: with_weighing(manifest, reference_factor=0.5), "the momentum has the factor 0.0"),
        (lambda manifest: with_weighing(manifest, trust=(TRUST,)), "the trust in senders is ()"),
        (lambda manifest: dataclasses.replace(manifest, outer_state_sha256=None), "merging gives the outer state"),
        (lambda manifest: dataclasses.replace(manifest, outer=OuterConfig(momentum=0.8)), "merging gives the weights"),
        (lambda manifest: dataclasses.replace(manifest, outer=OuterConfig(rule="trust")), "the trust in senders"),
        (lambda manifest: dataclasses.replace(manifest, result_sha256="0" * 64), "the manifest says 000"),
        (lambda manifest: dataclasses.replace(manifest, result_state_sha256="0" * 64), "the manifest says 000"),
        (lambda manifest: dataclasses.replace(manifest, step_sha256=None), "merging gives the step"),
    ],
)
def test_remerge_finds_a_manifest_that_does_not_tell_the_truth(
    merged: Manifest, files: Files, change: Callable[[Manifest], Manifest], problem: str
) -> None:
    assert problem in problems_of(change(merged), files)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda fields: fields["weighing"].pop("clip"), "Weighing.clip is missing"),
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
