"""Sparse deltas, outer steps and `fai verify` through real processes."""

import json
from pathlib import Path

import pytest

from fai.cli import main
from tests.e2e.conftest import Cluster, events, wait_for, working

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODEL = {"vocab_size": 400, "block_size": 32, "n_layer": 1, "n_head": 2, "n_kv_head": 2, "n_embd": 64}


def test_rounds_of_sparse_deltas_go_on_from_steps_and_can_be_verified_by_anybody(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create_experiment(
        "sparse", codec="topk-64", model=json.dumps(MODEL), round_tokens=20_000, job_seconds=2, rounds=3
    )
    volunteer = cluster.volunteer("sparse-1", "sparse")
    with working(volunteer):
        wait_for(lambda: cluster.closed_rounds("sparse") == 3, seconds=150, what="three rounds")
    steps = events(volunteer, "base_from_steps")
    assert len(steps) >= 2
    assert all(isinstance(step["saved_bytes"], int) and step["saved_bytes"] > 0 for step in steps)
    assert events(volunteer, "steps_useless") == events(volunteer, "not_kept") == []
    sql = """SELECT a.delta_size_bytes FROM training_attempt a JOIN training_round r ON r.id = a.merged_into_id
             JOIN training_experiment e ON e.id = r.experiment_id WHERE e.slug = 'sparse'"""
    uploaded = {size_bytes for (size_bytes,) in cluster.query(sql)}
    assert uploaded <= {event["upload_bytes"] for event in events(volunteer, "trained")}
    # The published ratio of the codec to float32 is 128, less what a tiny model's header and small tensors take.
    assert all(60 * event["upload_bytes"] < event["whole_bytes"] for event in events(volunteer, "upload_size"))
    monkeypatch.setenv("FAI_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("FAI_CACHE_DIR", str(tmp_path / "cache"))
    for number in ("1", "3"):
        assert main(["verify", "sparse", number, "--server", cluster.url, "--lang", "en"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"Equal: round {number} of sparse")
    _tamper(cluster)
    assert main(["verify", "sparse", "3", "--server", cluster.url, "--lang", "en"]) == 1
    assert "- the delta of attempt" in capsys.readouterr().out


def _tamper(cluster: Cluster) -> None:
    """Change one delta of the last round in the coordinator's storage."""
    sql = """SELECT a.delta_id FROM training_attempt a JOIN training_round r ON r.id = a.merged_into_id
             WHERE a.delta_id IS NOT NULL ORDER BY r.number DESC LIMIT 1"""
    sha256 = str(cluster.query(sql)[0][0])
    (path,) = [path for path in cluster.folder.rglob(sha256) if "volunteers" not in path.parts]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
