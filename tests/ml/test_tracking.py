import time
from pathlib import Path

import pytest

from ml.tracking import MetricsFile, MetricsInvalid, Tracking, read_metrics


def write_lines(run: Path, steps: list[int]) -> None:
    file = MetricsFile(run, step=0)
    for step in steps:
        file.write({"step": step, "loss": 0.1 + step})
    file.close()


def test_a_line_is_on_its_way_as_soon_as_it_is_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path, step=0)
    file.write({"step": 1, "loss": 0.1})
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8") == '{"step": 1, "loss": 0.1}\n'
    file.close()


def test_going_on_cuts_off_the_lines_of_later_steps(tmp_path: Path) -> None:
    write_lines(tmp_path, [1, 2, 2, 3, 4])
    kept = (tmp_path / "metrics.jsonl").read_bytes().split(b"\n")[:3]
    MetricsFile(tmp_path, step=2).close()
    assert (tmp_path / "metrics.jsonl").read_bytes().split(b"\n") == [*kept, b""]


def test_a_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    write_lines(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_tensorboard_gets_every_figure_and_redraws_after_a_resume(tmp_path: Path) -> None:
    accumulation = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in (0, 1):
        with Tracking(tmp_path, config={"seed": 1}, step=first, names=["tensorboard"]) as tracking:
            tracking.write({"step": first + 1, "loss": 2.5 - first, "learning_rate": 0.1, "tokens_per_second": 9.0})
            tracking.write({"step": first + 2, "loss": 2.0 - first, "learning_rate": 0.1, "tokens_per_second": 9.0})
            tracking.write({"step": first + 2, "validation_loss": 3.5})
    events = accumulation.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/training")] == [(1, 2.5), (2, 1.5), (3, 1.0)]
    assert [event.step for event in events.Scalars("loss/validation")] == [3]
    assert set(events.Tags()["scalars"]) == {"loss/training", "loss/validation", "learning_rate", "tokens_per_second"}


def test_wandb_offline_keeps_the_run_in_its_folder_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # Whatever it would reach for is not there.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for first in (0, 2):
        with Tracking(tmp_path, config={"seed": 1}, step=first, names=["wandb"]) as tracking:
            tracking.write({"step": first + 1, "loss": 2.5})
            tracking.write({"step": first + 2, "loss": 2.0})
            tracking.write({"step": first + 2, "validation_loss": 3.5})
    identity = (tmp_path / "wandb-id.txt").read_text(encoding="utf-8")
    stored = list((tmp_path / "wandb").glob(f"offline-run-*-{identity}/run-{identity}.wandb"))
    assert len(stored) == 2
    # wandb's own process writes the last block a moment after it said that it was done.
    deadline = time.monotonic() + 20
    while not all(b"validation_loss" in path.read_bytes() for path in stored):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("line", [b"\xff\n", b"{\n", b"{}\n", b"[1]\n", b"7\n"])
def test_a_damaged_line_says_what_to_remove(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "tokens": 8}\n' + line)
    with pytest.raises(MetricsInvalid, match=f"{tmp_path}/metrics.jsonl is damaged: remove it"):
        read_metrics(tmp_path)
