import argparse
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from fai.cli import main
from fai.learner.train import add_arguments, resume_command
from ml.tracking import read_metrics
from tests.ml.make_training import SETTINGS, as_arguments, make_dataset

SETS = as_arguments(SETTINGS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("train") / "data")


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    folder = data.parent / "run"
    assert main(["train", str(data), "--out", str(folder), *SETS]) == 0
    return folder


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one sentence of a command that cannot be done."""
    assert main(["train", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    sentence, more = captured.err.splitlines()
    assert sentence.startswith("fai train: ")
    assert more.startswith("More: docs/faq/")
    return sentence


def test_train_says_what_it_trains_and_what_comes_next(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "told"
    assert main(["train", str(data), "--out", str(out), *SETS, "--tensorboard"]) == 0
    captured = capsys.readouterr()
    assert "12 steps of 64 tokens are 768 tokens, 0.4 times the 2,000 of the dataset." in captured.err
    assert "step 12/12 (100%)" in captured.err
    best = json.loads((out / "best/state.json").read_text(encoding="utf-8"))
    assert (
        f"Best validation loss {best['validation_loss']:.4f} at step {best['step']}, in {out / 'best'}." in captured.out
    )
    assert f"fai evaluate {out}" in captured.out
    assert list((out / "tensorboard").iterdir())


def press_ctrl_c_after_some_lines(metrics: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size > 1_000):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_saves_says_how_to_resume_and_exits_with_130(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "interrupted"
    settings = as_arguments(SETTINGS | {"max_steps": 1_000_000, "save_every_steps": 100_000})
    finger = threading.Thread(target=press_ctrl_c_after_some_lines, args=(out / "metrics.jsonl",))
    finger.start()
    assert main(["train", str(data), "--out", str(out), *settings]) == 130
    finger.join()
    captured = capsys.readouterr()
    assert "Stopping: the present step is finished and saved." in captured.err
    step = read_metrics(out)[-1]["step"]
    assert f"Saved at step {step:,} of 1,000,000." in captured.out
    assert f"Go on with: fai train {data} --out {out} --resume" in captured.out
    assert (out / f"checkpoints/{step:09d}/state.json").exists()


def test_the_command_to_resume_with_has_what_the_run_does_not_hold() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["my data", "--out", "run", "--preset", "tiny", "--devices", "2", "--wandb", "--set", "seed=1"]
    assert resume_command(parser.parse_args(words)) == "fai train 'my data' --out run --resume --devices 2 --wandb"


def test_a_missing_dataset_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path / "none") in refuse(capsys, tmp_path / "none", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", ["dataset.json", "train.bin", "val.bin", "tokenizer.json"])
def test_a_half_written_dataset_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / file).write_bytes((broken / file).read_bytes()[:-10])
    assert str(broken) in refuse(capsys, broken, "--out", tmp_path / "run")
    (broken / file).unlink()
    assert str(broken) in refuse(capsys, broken, "--out", tmp_path / "run")


def test_a_tokenizer_of_another_dataset_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    with (other / "tokenizer.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    assert "another tokenizer" in refuse(capsys, other, "--out", tmp_path / "run")


def test_a_dataset_smaller_than_the_block_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = make_dataset(tmp_path / "data", num_tokens=100)
    sentence = refuse(capsys, small, "--out", tmp_path / "run", "--preset", "tiny")
    assert f"{small / 'train.bin'} holds 100 tokens, and training needs 129" in sentence


def test_a_run_that_stands_there_is_kept(run: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    sentence = refuse(capsys, data, "--out", run, *SETS)
    assert f"{run} holds a run already: go on with it by --resume, or replace it by --force." in sentence
    assert len(read_metrics(run)) == 15


def test_nothing_to_resume_is_one_sentence(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no run" in refuse(capsys, data, "--out", tmp_path / "run", "--resume")


def test_resuming_with_a_changed_setting_is_one_sentence(
    run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    sentence = refuse(capsys, data, "--out", run, "--resume", "--set", "optimizer.learning_rate=1")
    assert "optimizer.learning_rate 0.01, not 1.0 as --set says" in sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--preset", "tinny"], "did you mean 'tiny'?"),
        (["--set", "learning_rat=1"], "did you mean 'optimizer.learning_rate'?"),
        (["--set", "seed=x"], "seed must be a whole number"),
        (["--set", "seed"], "KEY=VALUE"),
        (["--config", "none.toml"], "none.toml does not exist"),
        (["--devices", "0"], "--devices 0 is not possible"),
        (["--set", "model.n_embd=100"], "model.n_embd must be a multiple of"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert expected in refuse(capsys, data, "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_damaged_configuration_is_named_with_line_and_column(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "설정.json"
    path.write_text('{\n  "seed" 1\n}', encoding="utf-8")
    sentence = refuse(capsys, data, "--out", tmp_path / "run", "--config", path)
    assert f"{path}: it is damaged at line 2, column 10" in sentence


def test_divergence_points_at_its_page(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = as_arguments(SETTINGS | {"optimizer.learning_rate": 1e30})
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *settings]) == 2
    errors = capsys.readouterr().err
    assert "is no finite number any more" in errors
    assert errors.endswith("More: docs/faq/nan.md\n")
