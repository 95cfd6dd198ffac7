import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ml.distributed
from ml.config import TrainConfig
from ml.config_file import build_config
from ml.distributed import DevicesUnavailable, RankDied, check_devices, run_ranks
from ml.hardware import Hardware
from ml.tracking import read_metrics
from ml.training_job import Job, Outcome, Progress
from ml.training_run import train
from tests.ml.make_training import make_choices, make_dataset

CHOICES = make_choices(
    **{"model.dropout": 0.0, "max_steps": 100_000, "evaluate_every_steps": 5, "save_every_steps": 1_000}
)


OUTCOME = Outcome(run=Path("run"), reason="finished", step=7, num_steps=7, best_loss=1.0, best_step=7, seconds=1.0)


def losses(run: Path, *, num_steps: int) -> list[float]:
    lines = [line for line in read_metrics(run) if line["step"] <= num_steps]
    return [line.get("loss", line.get("validation_loss", 0.0)) for line in lines]


def interrupt_at(step: int) -> Callable[[Progress], None]:
    def interrupt(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return interrupt


def make_job(devices: int, config: TrainConfig | None = None) -> Job:
    return Job(
        run=Path("run"),
        config=config or build_config(make_choices(), vocab_size=300),
        train_path=Path("train.bin"),
        val_path=Path("val.bin"),
        dtype="uint16",
        devices=devices,
        trackers=(),
        is_resumed=False,
        micro_batch=1,
    )


def make_cpu(cores: int) -> Hardware:
    return Hardware(device="cpu", name="test", memory_bytes=2**30, cores=cores, bf16=False)


def test_two_processes_train_as_one_and_end_together(tmp_path: Path) -> None:
    """Both halves of a life: Ctrl+C saves, and the death of a rank ends the other with a sentence."""
    data = make_dataset(tmp_path / "data")
    one, two = tmp_path / "one", tmp_path / "two"
    train(data, out=one, choices=CHOICES, on_step=interrupt_at(10))
    outcome = train(data, out=two, choices=CHOICES, devices=2, on_step=interrupt_at(10))
    assert outcome.reason == "interrupted"
    assert outcome.step >= 10
    # Some roundings of float32: the rows are added up in another order.
    assert losses(two, num_steps=10) == pytest.approx(losses(one, num_steps=10), rel=1e-5)
    assert not multiprocessing.active_children()

    state = json.loads((two / f"checkpoints/{outcome.step:09d}/state.json").read_text(encoding="utf-8"))
    assert state["step"] == outcome.step
    first_steps: list[int] = []

    def kill_the_second_rank(progress: Progress) -> None:
        first_steps.append(progress.step)
        if len(first_steps) == 1:
            second = max(multiprocessing.active_children(), key=lambda child: child.pid or 0)
            os.kill(second.pid or 0, signal.SIGKILL)

    with pytest.raises(RankDied, match=r"Process 2 of 2 was ended by SIGKILL.*--resume"):
        train(data, out=two, existing="resume", devices=2, on_step=kill_the_second_rank)
    assert first_steps[0] == outcome.step + 1
    assert not multiprocessing.active_children()


def end_then_abort(job: Job, number: int, folder: Path, num_threads: int, connection: Any) -> None:
    if number == 0:
        connection.send(OUTCOME)
    os.abort()


def test_a_rank_that_aborts_after_all_is_saved_does_not_undo_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ml.distributed, "_run_rank", end_then_abort)
    outcome = run_ranks(make_job(1), on_plan=print, on_step=print, wish=threading.Event())
    assert outcome == OUTCOME
    assert not multiprocessing.active_children()


def test_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(DevicesUnavailable, match="has 2 CPU cores: give --devices 1 to 2"):
        check_devices(make_job(3), make_cpu(2))
    with pytest.raises(DevicesUnavailable, match="--devices 0 is not possible"):
        check_devices(make_job(0), make_cpu(2))
    check_devices(make_job(1), make_cpu(1))
    check_devices(make_job(2), make_cpu(2))


def test_a_batch_that_devices_cannot_share_evenly_is_refused_with_one_that_they_can() -> None:
    with pytest.raises(DevicesUnavailable, match="share the 4 rows of 16 tokens") as error:
        check_devices(make_job(3), make_cpu(4))
    assert "--set optimizer.batch_tokens=96" in str(error.value)
    config = build_config(make_choices(**{"optimizer.batch_tokens": 96}), vocab_size=300)
    check_devices(make_job(3, config), make_cpu(4))
