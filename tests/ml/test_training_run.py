import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ml.bad_input import BadInput
from ml.checkpoint import CheckpointInvalid, load_model
from ml.config_file import ChoiceInvalid, Choices
from ml.data import open_shard, sample_places
from ml.dataset import DatasetInvalid
from ml.divergence import Diverged
from ml.evaluation import validation_loss
from ml.files import OutputExists
from ml.locks import FolderBusy, FolderUnusable, writing_in
from ml.run import RunInvalid, open_run
from ml.tracking import Metrics, read_metrics
from ml.train_state import SaveFailed
from ml.training_job import Outcome, Plan, Progress, Searching, Stopping
from ml.training_loop import EVALUATION_TOKENS, NotEnoughMemory
from ml.training_run import TrainingRefused, train
from tests.ml.make_training import SETTINGS, make_choices, make_dataset


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was never interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(data, out=out, choices=make_choices()).reason == "finished"
    return out


def figures(run: Path) -> list[Metrics]:
    """The metrics without what the clock says."""
    clock = {"seconds", "tokens_per_second"}
    return [{name: value for name, value in line.items() if name not in clock} for line in read_metrics(run)]


def steps_of(run: Path) -> list[int]:
    return [int(path.name) for path in sorted((run / "checkpoints").iterdir())]


def assert_same_run(left: Path, right: Path) -> None:
    assert figures(left) == figures(right)
    for name in ("checkpoints/000000012/model.safetensors", "checkpoints/000000012/optimizer.safetensors"):
        assert (left / name).read_bytes() == (right / name).read_bytes()
    assert (left / "best/model.safetensors").read_bytes() == (right / "best/model.safetensors").read_bytes()
    assert (left / "best/state.json").read_bytes() == (right / "best/state.json").read_bytes()


def signal_at(step: int, number: signal.Signals) -> Callable[[Progress], None]:
    def send(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), number)

    return send


def train_until_killed(data: Path, out: Path) -> None:
    torch.set_num_threads(1)
    train(data, out=out, choices=make_choices(), on_step=signal_at(8, signal.SIGKILL))


def test_a_run_holds_what_it_says(whole: Path, data: Path) -> None:
    assert steps_of(whole) == [10, 12]
    assert not list(whole.glob(".*"))
    stored = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    record = json.loads((data / "dataset.json").read_text(encoding="utf-8"))
    assert stored["data"] == record | {"folder": str(data)}
    assert (whole / "tokenizer.json").read_bytes() == (data / "tokenizer.json").read_bytes()
    state = json.loads((whole / "checkpoints/000000012/state.json").read_text(encoding="utf-8"))
    assert (state["step"], state["tokens"], state["seed"], state["trainer"]["micro_batch"]) == (12, 768, 0, 2)
    with safe_open(whole / "checkpoints/000000012/optimizer.safetensors", framework="pt") as file:
        assert "model.embed_tokens.weight/exp_avg" in file.keys()  # noqa: SIM118 - no mapping


def test_each_step_and_each_evaluation_is_a_line(whole: Path) -> None:
    lines = read_metrics(whole)
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line["tokens"] for line in steps] == list(range(64, 832, 64))
    assert [line["step"] for line in evaluations] == [4, 8, 12]
    names = {"step", "tokens", "loss", "learning_rate", "tokens_per_second", "seconds"}
    assert {name for line in steps for name in line} == names
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_best_is_the_model_of_the_lowest_validation_loss(whole: Path, data: Path) -> None:
    lowest = min(
        (line for line in read_metrics(whole) if "validation_loss" in line), key=lambda x: x["validation_loss"]
    )
    state = json.loads((whole / "best/state.json").read_text(encoding="utf-8"))
    assert state == {"step": lowest["step"], "validation_loss": lowest["validation_loss"]}
    model = load_model(whole / "best/model.safetensors")
    val = open_shard(data / "val.bin", "uint16")
    assert validation_loss(model, val, block_size=16, max_tokens=EVALUATION_TOKENS) == state["validation_loss"]


def test_the_run_opens_and_generates(whole: Path) -> None:
    assert open_run(whole).model.config.vocab_size == 300


def test_the_plan_comes_first_and_progress_after_each_step(data: Path, tmp_path: Path) -> None:
    seen: list[Any] = []
    choices = make_choices(max_steps=2, micro_batch=None)
    outcome = train(data, out=tmp_path / "run", choices=choices, on_step=seen.append, on_event=seen.append)
    searching, plan, first, second = seen
    assert isinstance(searching, Searching)
    assert isinstance(plan, Plan)
    assert (plan.first_step, plan.num_steps, plan.num_rows, plan.train_tokens) == (0, 2, 4, 2_000)
    assert 1 <= plan.micro_batch <= 4
    assert (first.step, second.step, second.tokens) == (1, 2, 128)
    assert first.validation_loss is None
    assert second.validation_loss == second.best_loss == outcome.best_loss
    assert second.eta_seconds == 0


def test_epochs_decide_the_number_of_steps(data: Path, tmp_path: Path) -> None:
    choices = make_choices(max_steps=None, epochs=0.1)
    assert train(data, out=tmp_path / "run", choices=choices).step == math.ceil(0.1 * 2_000 / 64)


def test_ctrl_c_saves_and_resuming_gives_the_same_bytes(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    events: list[Any] = []
    outcome = train(data, out=out, choices=make_choices(), on_step=signal_at(7, signal.SIGINT), on_event=events.append)
    assert (outcome.reason, outcome.step) == ("interrupted", 7)
    assert isinstance(events[-1], Stopping)
    assert steps_of(out) == [5, 7]
    outcome = train(data, out=out, existing="resume")
    assert (outcome.reason, outcome.step) == ("finished", 12)
    assert_same_run(out, whole)


def test_a_killed_process_is_resumed_to_the_same_bytes(data: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = multiprocessing.get_context("spawn").Process(target=train_until_killed, args=(data, out))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert steps_of(out) == [0, 5]
    assert read_metrics(out)[-1]["step"] == 8
    (out / ".000000010.0123456789abcdef.tmp").mkdir()
    (out / ".loss.png.0123456789abcdef.tmp").touch()
    (out / "best" / ".model.safetensors.0123456789abcdef.tmp").touch()
    with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 9, "tok')
    train(data, out=out, existing="resume")
    assert_same_run(out, whole)
    assert not list(out.rglob(".*"))


def test_resuming_with_muon_and_bf16_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    choices = make_choices(**{"optimizer.optimizer": "muon", "optimizer.schedule": "wsd", "precision": "bf16"})
    train(data, out=tmp_path / "one", choices=choices)
    train(data, out=tmp_path / "two", choices=choices, on_step=signal_at(7, signal.SIGTERM))
    train(data, out=tmp_path / "two", existing="resume")
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_a_second_ctrl_c_leaves_at_once_with_the_checkpoints_whole(data: Path, tmp_path: Path) -> None:
    def send_twice(progress: Progress) -> None:
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(data, out=tmp_path / "run", choices=make_choices(), on_step=send_twice)
    assert steps_of(tmp_path / "run") == [0, 5]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_resumes_to_its_end(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert train(data, out=out, existing="resume").reason == "finished"
    assert_same_run(out, whole)


@pytest.mark.parametrize("limit_bytes", [500, 20_000])
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays_whole(
    data: Path, whole: Path, tmp_path: Path, limit_bytes: int
) -> None:
    """A limit on the size of files is refused by the same call as a full disk; 500 bytes stop the metrics' line."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))

    try:
        with pytest.raises(SaveFailed, match="make room and add --resume"):
            train(data, out=tmp_path / "run", choices=make_choices(), on_step=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "run").glob(".*"))
    train(data, out=tmp_path / "run", existing="resume")
    assert_same_run(tmp_path / "run", whole)


def test_patience_stops_and_stays_stopped(data: Path, tmp_path: Path) -> None:
    """A rate far too high makes the loss rise soon."""
    choices = make_choices(
        **{"patience": 2, "evaluate_every_steps": 1, "max_steps": 50, "optimizer.learning_rate": 3.0}
    )
    outcome = train(data, out=tmp_path / "run", choices=choices)
    assert outcome.reason == "patience"
    losses = [line["validation_loss"] for line in read_metrics(tmp_path / "run") if "validation_loss" in line]
    assert len(losses) == outcome.step == outcome.best_step + 2
    assert min(losses) == outcome.best_loss
    assert train(data, out=tmp_path / "run", existing="resume") == outcome


def test_divergence_names_step_batch_and_what_to_try(data: Path, tmp_path: Path) -> None:
    choices = make_choices(**{"optimizer.learning_rate": 1e30, "optimizer.warmup_steps": 0, "save_every_steps": 1})
    with pytest.raises(Diverged) as error:
        train(data, out=tmp_path / "run", choices=choices)
    assert error.value.page == "nan"
    message = str(error.value)
    step = read_metrics(tmp_path / "run")[-1]["step"] + 1
    places = sample_places(open_shard(data / "train.bin", "uint16"), seed=0, step=step - 1, num_rows=4, block_size=16)
    assert f"stopped at step {step}" in message
    assert f"row 0, from token {places[0]} of {data / 'train.bin'}" in message
    assert "--set optimizer.learning_rate=3.3e+29" in message
    assert steps_of(tmp_path / "run")[-1] == step - 1
    weights = load_file(tmp_path / "run" / f"checkpoints/{step - 1:09d}/model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_model_that_does_not_fit_is_one_sentence_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    choices = make_choices(**{"model.n_embd": 2**24, "micro_batch": None})
    with pytest.raises(NotEnoughMemory, match="smaller --preset"):
        train(data, out=tmp_path / "run", choices=choices)
    assert not (tmp_path / "run").exists()


def refused(expected: type[BadInput], data: Path, **arguments: Any) -> str:
    with pytest.raises(expected) as error:
        train(data, **arguments)
    message = str(error.value)
    assert message.count("\n") == 0
    return message


def test_a_run_is_neither_overwritten_nor_mixed_with_other_files(whole: Path, data: Path, tmp_path: Path) -> None:
    before = figures(whole)
    assert "--resume" in refused(OutputExists, data, out=whole, choices=make_choices())
    assert figures(whole) == before
    assert "no run" in refused(OutputExists, data, out=data, choices=make_choices(), existing="replace")
    file = tmp_path / "file"
    file.touch()
    assert "is a file" in refused(OutputExists, data, out=file, choices=make_choices())


def test_force_replaces_a_run_and_leaves_other_files(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    (out / "loss.png").touch()
    train(data, out=out, choices=make_choices(max_steps=1), existing="replace")
    assert steps_of(out) == [0, 1]
    assert not (out / "loss.png").exists()
    assert [line["step"] for line in read_metrics(out)] == [1, 1]
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_nothing_is_replaced_for_a_configuration_that_is_refused(whole: Path, data: Path) -> None:
    refused(ChoiceInvalid, data, out=whole, choices=make_choices(epochs=-1.0), existing="replace")
    assert steps_of(whole) == [10, 12]


def test_there_is_nothing_to_resume(data: Path, whole: Path, tmp_path: Path) -> None:
    assert "holds no run" in refused(RunInvalid, data, out=tmp_path / "none", existing="resume")
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "checkpoints")
    assert "no checkpoint" in refused(CheckpointInvalid, data, out=out, existing="resume")


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(whole: Path, data: Path, tmp_path: Path, file: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    path = out / "checkpoints/000000012" / file
    path.write_bytes(path.read_bytes()[:-9])
    assert str(path) in refused(CheckpointInvalid, data, out=out, existing="resume")
    shutil.rmtree(path.parent)
    assert train(data, out=out, existing="resume").step == 12


def test_resuming_takes_what_was_chosen_only_where_it_is_the_runs(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    assert train(data, out=out, choices=make_choices(), existing="resume").step == 12
    message = refused(TrainingRefused, data, out=out, choices=make_choices(seed=1), existing="resume")
    assert "trained with seed 0, not 1 as --set says" in message
    message = refused(TrainingRefused, data, out=out, choices=Choices(preset="tiny"), existing="resume")
    assert "--preset tiny" in message


def test_resuming_on_another_dataset_names_what_differs(whole: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "data", seed=5)
    assert "another train.bin" in refused(TrainingRefused, other, out=whole, existing="resume")


def test_resuming_with_another_tokenizer_names_it(whole: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "data"
    shutil.copytree(data, other)
    with (other / "tokenizer.json").open("a", encoding="utf-8") as file:
        file.write("\n")
    refused(DatasetInvalid, other, out=whole, existing="resume")
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "tokenizer.json").unlink()
    assert str(run / "tokenizer.json") in refused(RunInvalid, data, out=run, existing="resume")


def test_a_dataset_smaller_than_the_block_is_refused(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "data", num_tokens=16)
    assert "holds 16 tokens, and training needs 17" in refused(
        TrainingRefused, data, out=tmp_path / "run", choices=make_choices()
    )
    assert not (tmp_path / "run").exists()


def test_gradient_checkpointing_changes_no_loss(data: Path, whole: Path, tmp_path: Path) -> None:
    train(data, out=tmp_path / "run", choices=make_choices(gradient_checkpointing=True, max_steps=12))
    losses = [[line["loss"] for line in read_metrics(run) if "loss" in line] for run in (tmp_path / "run", whole)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_dry_outcome_says_where_it_ended(whole: Path, data: Path, tmp_path: Path) -> None:
    outcome = train(data, out=tmp_path / "run", choices=Choices(settings=SETTINGS))
    evaluations = [line for line in read_metrics(whole) if "validation_loss" in line]
    assert isinstance(outcome, Outcome)
    assert outcome.best_loss == min(line["validation_loss"] for line in evaluations)
    assert outcome.num_steps == 12


def test_two_trainings_never_write_in_one_run(whole: Path, data: Path, tmp_path: Path) -> None:
    with writing_in(whole):
        message = refused(FolderBusy, data, out=whole, existing="resume")
    assert message == f"Another `fai` command is writing in {whole}: wait until it has ended, and run this one again."
    with writing_in(tmp_path / "run"):
        refused(FolderBusy, data, out=tmp_path / "run", choices=make_choices())


def test_a_dataset_that_is_older_than_its_samples_is_refused(data: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(data, tmp_path / "data"))
    record = json.loads((older / "dataset.json").read_text(encoding="utf-8"))
    (older / "dataset.json").write_text(json.dumps(record | {"report_sha256": "0" * 64}), encoding="utf-8")
    (older / "prepare-report.json").write_text("{}")
    message = refused(DatasetInvalid, older, out=tmp_path / "run", choices=make_choices())
    assert f"{older}/dataset.json is older than {older}/samples" in message
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_one_sentence(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refused(FolderUnusable, data, out=tmp_path / "file" / "run", choices=make_choices())
    assert message.endswith("run cannot be written (Not a directory): name another folder.")
